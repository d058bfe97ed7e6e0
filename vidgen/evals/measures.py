"""What is computed of each clip, or of each pair of clips: rows from which metrics are made.

A measure takes a batch of clips and returns an array with a row a clip; a row depends on nothing
but the clip (and its partner, and its caption), so rows can be kept, and made on any number of
devices and processes. `key` names all that they depend on besides the clips, hashes of weights
included.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float

from vidgen.evals.clips import digest
from vidgen.evals.networks import FeatureNetwork
from vidgen.sprites import probe
from vidgen.sprites.sprites import Sprites

MADE, REAL, PAIR = "made", "real", "pair"
PROBE = ("subject", "motion", "background", "all", "error")


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some clips.

    Attributes:
      video: those that are measured.
      real: the truth, of a pair.
      captions: one a clip.
    """

    video: Float[np.ndarray, "b t h w c"]
    real: Float[np.ndarray, "b t h w c"] | None
    captions: Sequence[str]


@runtime_checkable
class Measure(Protocol):
    """See the module docstring."""

    @property
    def side(self) -> str:
        """Whose clips: MADE, REAL, or PAIR for made ones beside the truth."""
        ...

    @property
    def key(self) -> str:
        """What the rows depend on, besides the clips."""
        ...

    def __call__(self, batch: Batch) -> np.ndarray:
        """A row a clip."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """Features of a network, on all devices of this process: "b d", or "b t d" of frames.

    Attributes:
      network: which.
      side: MADE or REAL.
      batch_size: clips that are computed at a time, at most; the last are filled up to as many, so
        that one program is compiled.
    """

    network: FeatureNetwork
    side: str
    batch_size: int = 8

    @property
    def key(self) -> str:
        """The protocol of the network."""
        return self._key

    @functools.cached_property
    def _key(self) -> str:
        return digest(self.network.protocol)

    def __call__(self, batch: Batch) -> np.ndarray:
        """float32 features."""
        params, mesh = _on_devices(self.network)
        ways = mesh.devices.size
        size = -(-min(self.batch_size, len(batch.video)) // ways) * ways
        rows = []
        for start in range(0, len(batch.video), size):
            part = batch.video[start : start + size]
            full = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            placed = jax.device_put(full, NamedSharding(mesh, PartitionSpec("clips")))
            found = _program(self.network)(params, placed)
            rows.append(np.asarray(found, np.float32)[: len(part)])
        return np.concatenate(rows)


@functools.lru_cache(maxsize=8)
def _on_devices(network: FeatureNetwork) -> tuple[Any, jax.sharding.Mesh]:
    """Parameters, a copy on every device of this process, and these devices."""
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("clips",))
    return jax.device_put(network.load(), NamedSharding(mesh, PartitionSpec())), mesh


@functools.lru_cache(maxsize=8)
def _program(network: FeatureNetwork) -> Callable[..., Any]:
    return jax.jit(network.features)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """A comparison with the truth: a value a clip.

    Attributes:
      name: of the comparison.
      compare: (made, real) to values, of evals/pictures.py or a perceptual distance.
      identity: of its weights, where it has some.
      skip: frames at the beginning that are not compared: those that a prediction was given.
    """

    name: str
    compare: Callable[[Any, Any], Any]
    identity: str = ""
    skip: int = 0
    side: str = PAIR

    @property
    def key(self) -> str:
        """Its name, and the weights."""
        return digest(self.name, self.identity, self.skip)

    def __call__(self, batch: Batch) -> np.ndarray:
        """float64 values."""
        assert batch.real is not None
        video = np.clip(batch.video, -1, 1)[:, self.skip :]
        pairs = zip(video, batch.real[:, self.skip :], strict=True)
        return np.concatenate([np.asarray(self.compare(a[None], b[None])) for a, b in pairs])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alone:
    """Something about a clip by itself: a value a clip."""

    name: str
    measure: Callable[[Any], Any]
    side: str

    @property
    def key(self) -> str:
        """Its name."""
        return digest(self.name)

    def __call__(self, batch: Batch) -> np.ndarray:
        """float64 values."""
        return np.asarray(self.measure(np.clip(batch.video, -1, 1)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """Whether a clip of a sprite shows what its caption says: columns PROBE, 1 for right.

    Attributes:
      sprites: what could be shown, and how captions are read.
      pixels: sides of what is looked at, since reading is by synthesis and slow.
    """

    sprites: Sprites
    pixels: int = 32
    frames: int = 8
    side: str = MADE

    @property
    def key(self) -> str:
        """What could be shown, and at which size it is looked at."""
        return digest("sprite probe", self.sprites, self.pixels, self.frames)

    def __call__(self, batch: Batch) -> np.ndarray:
        """float64 rows."""
        rows = []
        for clip, caption in zip(batch.video, batch.captions, strict=True):
            wanted = self.sprites.parse_caption(caption)
            small = probe.smaller(clip, self.pixels, self.frames)
            reading = probe.read(small, self.sprites)
            right = [a == b for a, b in zip(reading.triple, wanted, strict=True)]
            rows.append([*right, all(right), reading.error])
        return np.asarray(rows, np.float64)
