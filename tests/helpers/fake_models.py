"""Models for tests of what uses models: each says only what its test looks at."""

import dataclasses

from vidgen.model import SampledModel, TokenizerModel
from vidgen.types import VideoShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class FakeSampled(SampledModel):
    """A model that is never trained or planned; a test says how it generates."""

    name: str = "base"
    shape: VideoShape = VideoShape(frames=2, height=4, width=4, fps=4.0)

    def init(self, key, batch):
        raise NotImplementedError

    def loss(self, params, frozen, batch, key, *, train):
        raise NotImplementedError

    def batch_spec(self, batch_size, text_length, text_dim, *, captions_per_clip=1):
        raise NotImplementedError

    @property
    def evaluations(self):
        return self.sampler.steps

    def step_spec(self, params, batch_size, text_length, text_dim):
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FakeTokenizer(TokenizerModel):
    """A tokenizer that is never trained; a test says how it encodes."""

    name: str = "tokenizer"
    shape: VideoShape = VideoShape(frames=5, height=8, width=8)
    codes: int = 4

    def init(self, key, batch):
        raise NotImplementedError

    def loss(self, params, frozen, batch, key, *, train):
        raise NotImplementedError

    def batch_spec(self, batch_size, text_length, text_dim, *, captions_per_clip=1):
        raise NotImplementedError

    def grid(self, frames, height, width):
        raise NotImplementedError

    def frames_of(self, steps):
        return 1 + (steps - 1) * 2

    def encode(self, params, video):
        raise NotImplementedError

    def decode(self, params, tokens):
        raise NotImplementedError
