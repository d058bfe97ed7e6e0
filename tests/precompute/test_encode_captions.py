"""`vidgen encode`: killed at any moment it goes on, and training on it gives the same numbers."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from places import HELPERS, PYTHONPATH

from vidgen.data.cache import text_cache
from vidgen.data.cache.cache_folders import CacheError
from vidgen.data.source import Example, Source
from vidgen.data.video.encode import write_video
from vidgen.precompute.encode_captions import Encode
from vidgen.text.byte_encoder import ByteEncoder
from vidgen.text.encoder import CachedEncoder
from vidgen.train.batches import encode_captions
from vidgen.types import VideoShape

pytestmark = pytest.mark.usefixtures("kept_programs", "shared_steps")

SCRIPT = HELPERS / "encode_to_kill.py"


class Says(Source):
    """A source of captions."""

    shape = VideoShape(frames=1, height=2, width=2)

    def __init__(self, captions):
        self.all = captions

    def __len__(self):
        return len(self.all)

    def load(self, index, rng):
        return Example(video=np.zeros(self.shape.thwc, np.uint8), caption=self.all[index])

    def captions(self):
        return iter(self.all)


class Mute(Says):
    captions = Source.captions


CAPTIONS = [f"caption {i}" for i in range(50)]


def encode(folder, captions=CAPTIONS, **settings):
    given = {"text_encoder": CachedEncoder(encoder=ByteEncoder(dim=4, length=8)), "batch_size": 4}
    return Encode(**given | {"source": Says(captions), "output": str(folder)} | settings)


def test_encodes_each_caption_once(tmp_path, monkeypatch):
    asked = []
    real = ByteEncoder.__call__

    def counted(self, prompts):
        asked.extend(p for p in prompts if p)
        return real(self, prompts)

    monkeypatch.setattr(ByteEncoder, "__call__", counted)
    encode(tmp_path, CAPTIONS * 2, shard_size=9)()
    assert asked == CAPTIONS
    encode(tmp_path, shard_size=9)()  # nothing is left to do
    encode(tmp_path, [*CAPTIONS, "one more"], shard_size=9)()
    assert asked == [*CAPTIONS, "one more"]


def test_an_empty_caption_has_no_tokens_in_the_table(tmp_path):
    """Nor where a table of before holds what the encoder made of it."""
    encoder = Marked(dim=4, length=8)
    encode(tmp_path / "new", ["a", ""], text_encoder=encoder)()
    stored = text_cache.EncodedText(path=str(tmp_path / "new"), encoder=encoder)
    assert stored(["a", ""]).mask.any(-1).tolist() == [True, False]
    old = tmp_path / "old"
    encode(old, ["a"], text_encoder=encoder)()
    text_cache.TextShards(old).add(0, 1, [""], encoder([""]), dtype="float32")
    stored = text_cache.EncodedText(path=str(old), encoder=encoder)
    assert stored([""]).mask.any()
    assert encode_captions(["a", ""], stored).mask.any(-1).tolist() == [True, False]


class Marked(ByteEncoder):
    """Marks the end, so that the empty prompt has a token."""

    def __call__(self, prompts):
        return super().__call__([f"{prompt}." for prompt in prompts])


def test_wrong_settings(tmp_path):
    with pytest.raises(ValueError, match="dtype is 'int8'; .*float32, bfloat16"):
        encode(tmp_path, dtype="int8")
    with pytest.raises(ValueError, match="shard_size is 0"):
        encode(tmp_path, shard_size=0)
    with pytest.raises(ValueError, match="TEXT_CACHE is empty"):
        encode("")
    mute = Says(CAPTIONS)
    mute.captions = None
    with pytest.raises(ValueError, match="Mute .*TEXT_ENCODER"):
        encode(tmp_path, source=Mute(CAPTIONS))()
    encode(tmp_path)()
    with pytest.raises(CacheError, match="dtype 'float32', .*'bfloat16';"):
        encode(tmp_path, dtype="bfloat16")()


def test_killed_at_any_moment(tmp_path):
    """kill -9 three times, then to the end: nothing twice, nothing lost."""
    folder = tmp_path / "cache"
    command = [sys.executable, str(SCRIPT), str(folder)]
    env = os.environ | {"PYTHONPATH": PYTHONPATH}
    for wanted in (2, 5, 9):
        process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while text_cache.TextShards(folder).count(0) < wanted and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert text_cache.TextShards(folder).count(0) >= wanted
        assert not (folder / "part_00000.json").exists()
    subprocess.run(command, env=env, check=True, stderr=subprocess.DEVNULL)
    keys = list(text_cache.TextShards(folder).keys_of(0))
    wanted = {text_cache.key_of(f"caption {i}") for i in range(120)}
    assert len(keys) == 120 and set(keys) == wanted


BYTES = """# Defines: Requires: Often overridden:
from __gin__ import dynamic_registration
from vidgen.text import encoder
from vidgen.text import byte_encoder as bytes_of
TEXT_ENCODER = @encoder.CachedEncoder()
encoder.CachedEncoder.encoder = @bytes_of.ByteEncoder()
bytes_of.ByteEncoder.dim = 8
bytes_of.ByteEncoder.length = 12
"""


@pytest.mark.cli
def test_training_from_it_gives_the_same_numbers(tmp_path, vidgen):
    for name, brightness in (("a", 0.0), ("b", 0.5), ("c", -0.5)):
        path = tmp_path / "videos" / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(path, np.full((12, 16, 16, 3), brightness, np.float32), 8, min_side=0)
        path.with_suffix(".txt").write_text(f"a clip called {name}")
    (tmp_path / "bytes.gin").write_text(BYTES)
    data = ["--gin_file=experiments/imagen_ssr1_tiny.gin", "--gin_file=data/folder.gin"]
    data += ["--gin_file=bytes.gin", "--gin.DATA_DIR='videos'"]
    told = vidgen("encode", *data, "--gin.TEXT_CACHE='captions'")
    assert told.status == 0 and "3 captions are in captions, 3 of them new" in told.err
    short = ["--gin.TRAIN_STEPS=3", "--gin.Train.log_every=1", "--gin.BATCH_SIZE=2"]
    cached = ["--gin_file=text/encoded.gin", "--gin.TEXT_CACHE='captions'"]
    assert vidgen("train", *data, *short, "--gin.MODEL_DIR='online'").status == 0
    assert vidgen("train", *data, *cached, *short, "--gin.MODEL_DIR='offline'").status == 0
    losses = [
        [json.loads(x)["loss"] for x in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("online", "offline")
    ]
    assert losses[0] == losses[1] and len(set(losses[0])) == 3
    longer = ["--gin.bytes_of.ByteEncoder.length=13", "--gin.MODEL_DIR='refused'"]
    told = vidgen("train", *data, *cached, *short, *longer)
    told.assert_sentence("captions were encoded by bytes-8-12-0", "this run has bytes-8-13-0")
