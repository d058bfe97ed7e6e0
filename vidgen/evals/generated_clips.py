"""The clips that a model makes for an evaluation, as a set of clips like any other.

    FOLDER/FINGERPRINT/000064.npy     uint8 "b t h w c": the clips 64 ...
    FOLDER/FINGERPRINT/000064.json    their captions, so that no true clip is read for its words

They are made block by block when they are asked for, and kept: an evaluation that was stopped goes
on, and other metrics of the same clips make none anew.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vidgen import paths
from vidgen.data.video.transforms import to_float, to_uint8
from vidgen.evals import collect
from vidgen.evals.clips import ClipSet, digest
from vidgen.evals.tasks import EvalTask
from vidgen.types import VideoShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeClips:
    """The clips that a maker makes for those of a set; they are stored in 8 bits, as in a file.

    Attributes:
      maker: makes them.
      given: one or several are made for each of these.
      samples: how many.
      folder: where they are kept, block by block.
      title: for people.
    """

    maker: EvalTask
    given: ClipSet
    samples: int
    folder: Path
    title: str
    names: None = None

    def __post_init__(self) -> None:
        if self.maker.shape.thwc != self.given.shape.thwc:
            raise ValueError(
                f"the model makes {self.maker.shape}, and the data has {self.given.shape} (frames "
                "x height x width); read the data at the model's size."
            )

    @property
    def name(self) -> str:
        """For people."""
        return self.title

    @property
    def shape(self) -> VideoShape:
        """Of every clip."""
        return self.maker.shape

    @property
    def fingerprint(self) -> str:
        """Of the maker, and of what it is given."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return digest(self.maker.task, self.maker.identity, self.given.fingerprint, self.samples)

    def __len__(self) -> int:
        return len(self.given) * self.samples

    def read(self, number: int) -> tuple[Float[np.ndarray, "t h w c"], str]:
        """A clip, and the caption of the given one; its block is made if it is not there."""
        start = number // collect.BLOCK * collect.BLOCK
        if not self.path(start).exists():
            self.make(start)
        video = np.load(self.path(start), mmap_mode="r")[number - start]
        captions = json.loads(self.path(start).with_suffix(".json").read_text(encoding="utf-8"))
        return to_float(np.asarray(video)), captions[number - start]

    def path(self, start: int) -> Path:
        """The file of a block."""
        return self.folder / self.fingerprint / f"{start:06}.npy"

    def missing(self) -> list[int]:
        """Blocks that are not there yet."""
        return [s for s in range(0, len(self), collect.BLOCK) if not self.path(s).exists()]

    def make(self, start: int) -> None:
        """Makes a block."""
        numbers = range(start, min(start + collect.BLOCK, len(self)))
        pairs = [self.given.read(number // self.samples) for number in numbers]
        truth = np.stack([video for video, _ in pairs])
        captions = [caption for _, caption in pairs]
        made = self.maker(list(numbers), truth, captions)
        if not np.isfinite(made).all():
            raise ValueError(
                f"{self.title}: a clip holds values that are no numbers: the weights are broken."
            )
        # The clips come last: where they are, all of the block is.
        paths.write(self.path(start).with_suffix(".json"), json.dumps(captions).encode())
        collect.save(self.path(start), to_uint8(made))
