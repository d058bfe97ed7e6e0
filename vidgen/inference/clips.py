"""One clip of a run: its prompt, its file, and the key of its noise.

A clip depends on (seed, prompt, number of the sample, models, settings, given video) and on
nothing else: its key

    key = fold_in(fold_in(fold_in(key(seed), h₀), h₁), sample),   h₀ h₁ = SHA-256(prompt)[:8]

is the same alone or among others, and samplers draw noise for each example by itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Key


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip to make: its prompt, the number of the sample, and its file."""

    prompt: str
    sample: int
    path: Path

    def path_of(self, stage: str) -> Path:
        """Name the file of an intermediate video: out.mp4 becomes out.base.mp4.

        Args:
          stage: name of the stage that made it.

        Returns:
          A file beside `path`.
        """
        return self.path.with_name(f"{self.path.stem}.{stage}{self.path.suffix}")


def check_finite(stage: str, what: str, video: np.ndarray) -> None:
    """Check that frames can be shown.

    Args:
      stage: name of the stage that made it, for the message.
      what: which clip or film they are of, for the message.
      video: the frames, of any shape.

    Raises:
      ValueError: they contain NaN or inf.
    """
    if not np.isfinite(video).all():
        raise ValueError(
            f"{what} of stage {stage} contains NaN or inf: the weights in this checkpoint are "
            f"broken; use an earlier one (--step={stage}=N)."
        )


def check_folder(folder: Path) -> None:
    """Make the folder and try to write there, before anything long begins.

    Args:
      folder: where files will be written.

    Raises:
      OSError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write there ({error.strerror}); choose another --output", folder
        ) from error


def clip_key(seed: int, prompt: str, sample: int) -> Key[Array, ""]:
    """Derive the random key of one clip; see the module docstring.

    Args:
      seed: the seed of the run, in [0, 2³²).
      prompt: its text, as it was written.
      sample: number of the clip among those of its prompt, from 0.

    Returns:
      A key that depends on nothing else.
    """
    digest = hashlib.sha256(prompt.encode()).digest()
    key = jax.random.key(seed)
    for part in (digest[:4], digest[4:8]):
        key = jax.random.fold_in(key, np.uint32(int.from_bytes(part, "little")))
    return jax.random.fold_in(key, sample)
