"""The clips that a model makes for an evaluation, as a set of clips like any other.

    FOLDER/FINGERPRINT/000064.npy     uint8 "b t h w c": the clips 64 ...
    FOLDER/FINGERPRINT/000064.json    their captions, so that no true clip is read for its words

They are made block by block when they are asked for, and kept: re-running the same command resumes,
and other metrics of the same clips make none anew.
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
class GeneratedClips:
    """The clips that a task makes for those of a data set, stored in 8 bits, as in a file.

    Attributes:
      task: makes the clips.
      real: the set for whose clips they are made.
      samples: how many are made for each of them.
      folder: where they are kept.
      name: a description for reports.
    """

    task: EvalTask
    real: ClipSet
    samples: int
    folder: Path
    name: str
    names: None = None

    def __post_init__(self) -> None:
        if self.task.shape.thwc != self.real.shape.thwc:
            raise ValueError(
                f"the model makes {self.task.shape}, and the data has {self.real.shape} (frames "
                "x height x width); read the data at the model's size."
            )

    @property
    def shape(self) -> VideoShape:
        """The size of every clip."""
        return self.task.shape

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the task, and of the clips that it is given."""
        return digest(self.task.task, self.task.identity, self.real.fingerprint, self.samples)

    def __len__(self) -> int:
        return len(self.real) * self.samples

    def read(self, number: int) -> tuple[Float[np.ndarray, "t h w c"], str]:
        """Read a clip and its caption; a block that is not there is made. See `ClipSet.read`."""
        start = number // collect.BLOCK * collect.BLOCK
        if not self.path(start).exists():
            self.make(start)
        video = np.load(self.path(start), mmap_mode="r")[number - start]
        captions = json.loads(self.path(start).with_suffix(".json").read_text(encoding="utf-8"))
        return to_float(np.asarray(video)), captions[number - start]

    def path(self, start: int) -> Path:
        """Return the file of a block.

        Args:
          start: number of its first clip.

        Returns:
          A path in a folder that is named by the fingerprint; nothing need be there.
        """
        return self.folder / self.fingerprint / f"{start:06}.npy"

    def missing(self) -> list[int]:
        """Return the first clips of the blocks that have not been made."""
        return [s for s in range(0, len(self), collect.BLOCK) if not self.path(s).exists()]

    def make(self, start: int) -> None:
        """Make the clips of a block, and store them and their captions.

        Args:
          start: number of its first clip, a multiple of `collect.BLOCK`.

        Raises:
          ValueError: a clip contains NaN or inf.
        """
        numbers = range(start, min(start + collect.BLOCK, len(self)))
        pairs = [self.real.read(number // self.samples) for number in numbers]
        captions = [caption for _, caption in pairs]
        videos = self.task(list(numbers), np.stack([video for video, _ in pairs]), captions)
        if not np.isfinite(videos).all():
            raise ValueError(f"{self.name}: a clip contains NaN or inf: the weights are broken.")
        # The clips come last: where they are, all of the block is.
        paths.write(self.path(start).with_suffix(".json"), json.dumps(captions).encode())
        collect.save(self.path(start), to_uint8(videos))
