"""Encodes 120 captions in shards of 4, slowly; run by test_encode_captions.py, which kills it."""

import sys
import time

from vidgen.data.source import Source
from vidgen.precompute.encode_captions import Encode
from vidgen.text.byte_encoder import ByteEncoder
from vidgen.types import VideoShape


class Slow(ByteEncoder):
    """A quarter of a shard takes five thousandths of a second."""

    def __call__(self, prompts):
        time.sleep(0.005)
        return super().__call__(prompts)


class Says(Source):
    shape = VideoShape(frames=1, height=2, width=2)

    def __len__(self):
        return 120

    def load(self, index, rng):
        raise AssertionError

    def captions(self):
        return (f"caption {i}" for i in range(120))


if __name__ == "__main__":
    encoder = Slow(dim=4, length=8)
    Encode(source=Says(), text_encoder=encoder, output=sys.argv[1], batch_size=1, shard_size=4)()
