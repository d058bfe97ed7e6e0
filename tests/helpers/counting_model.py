"""A model that counts frames, and a stage that needs no folder, for tests of stories."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from fake_models import FakeSampled

from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.inference.stages import Stage
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=11, height=16, width=16, fps=8.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    steps: int = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counter(FakeSampled):
    """Each frame's brightness is a step above the one before; `calls` keeps what it was given."""

    name: str = "maskgit"
    shape: VideoShape = SHAPE
    input_shape: VideoShape | None = None
    sampler: Decoding = Decoding()
    guidance: GuidanceSpec = GuidanceSpec(weight=1.0)
    patch_time: int = 2
    calls: list = dataclasses.field(default_factory=list, compare=False, repr=False)
    stop_at: int = dataclasses.field(default=10**9, repr=False)

    def generate(self, params, text, low_res, keys, *, on_step=None, known=None):
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append((text, keys, known, self))
        mask = np.asarray(known.mask)[0, :, 0, 0, 0]
        given = np.asarray(known.video)[0, mask]
        level = given[-1, 0, 0, 0] if len(given) else -1.0
        new = level + params * (1 + np.arange(SHAPE.frames - len(given)))
        new = np.broadcast_to(new[:, None, None, None], (len(new), *SHAPE.thwc[1:]))
        for step in range(self.sampler.steps):
            on_step(step + 1, self.sampler.steps, lambda: None)
        return jnp.asarray(np.concatenate([given, new])[None], jnp.float32)


class Ready(Stage):
    """Needs no folder."""

    def check(self, step=None):
        pass

    def load(self, step=None, mesh=None):
        return np.float32(1 / 64)
