"""Measurements of every clip of a set, computed block by block, kept on disk, shared by processes.

A `Measurement` turns a batch of clips into an array with one row per clip. A row depends on nothing
but its clip (and the true clip beside it, and the caption), so rows can be kept, and computed on
any number of devices and processes:

    FOLDER/KEY/000064.npy      rows of the clips 64 ... of one measurement of one set of clips
    FOLDER/KEY/all-5000.npy    all rows, once they are complete

A block whose file exists is not computed again, so that re-running the same command resumes, and
another metric of the same network and clips is done at once. Process p of P computes the blocks p,
p + P, ...; all processes share the folder and read each other's blocks from it.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from vidgen import paths
from vidgen.evals.clips import ClipSet, digest

BLOCK = 32  # clips per file


@dataclasses.dataclass(frozen=True)
class ClipBatch:
    """A few clips, with what a measurement may look at beside them.

    Attributes:
      video: the clips that are measured, in [-1, 1].
      real: the true clips beside them; None unless the measurement compares pairs.
      captions: one caption per clip; "" where a clip has none.
    """

    video: Float[np.ndarray, "b t h w c"]
    real: Float[np.ndarray, "b t h w c"] | None
    captions: Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is computed of each clip, or of each pair of a clip and the truth.

    Attributes:
      side: whose clips are measured: the "generated" ones, the "real" ones, or "pair" for generated
        clips beside the real ones of the same number.
      key: names all that the rows depend on besides the clips, hashes of weights included.
      compute: turns a `ClipBatch` into an array with one row per clip.
    """

    side: Literal["generated", "real", "pair"]
    key: str
    compute: Callable[[ClipBatch], np.ndarray] = dataclasses.field(compare=False)


def collect(
    measurements: Sequence[Measurement],
    generated: ClipSet,
    real: ClipSet | None,
    folder: Path,
    *,
    process: tuple[int, int] = (0, 1),
    wait: Callable[[], None] = lambda: None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> list[np.ndarray]:
    """Compute the rows of several measurements, reading every clip once for all of them.

    Args:
      measurements: what to compute; those of equal side and key are computed once.
      generated: the clips that are judged.
      real: the clips that they are compared with, where there are such.
      folder: where rows are kept.
      process: number of this process, and how many there are.
      wait: returns when all processes have reached this point.
      on_block: is called with (blocks done, blocks in all).

    Returns:
      For each measurement its rows, "n ...", in the order of the clips.
    """
    sets = {"generated": [generated], "real": [real], "pair": [generated, real]}
    lengths = {"generated": len(generated), "real": len(real or ()), "pair": len(generated)}
    folders = {
        m: folder / digest(m.key, [clips and clips.fingerprint for clips in sets[m.side]])
        for m in dict.fromkeys(measurements)
    }
    work = [(s, i) for s, n in lengths.items() for i in range(0, n, BLOCK) if _of(s, folders)]
    share = work[process[0] :: process[1]]
    for done, (side, start) in enumerate(share):
        missing = {m: _block(folders[m], start) for m in _of(side, folders)}
        missing = {m: path for m, path in missing.items() if not path.exists()}
        if missing:
            batch = _read(side, start, generated, real)
            for measurement, path in missing.items():
                save(path, measurement.compute(batch))
        on_block(done + 1, len(share))
    wait()
    rows = {m: _all_rows(path, lengths[m.side]) for m, path in folders.items()}
    return [rows[measurement] for measurement in measurements]


def save(path: Path, rows: np.ndarray) -> None:
    """Write an array to a file that is either complete or absent.

    Args:
      path: an .npy file; its folder is made if need be.
      rows: what to write.
    """
    data = io.BytesIO()
    np.save(data, rows)
    paths.write(path, data.getvalue())


def _of(side: str, measurements: dict[Measurement, Path]) -> list[Measurement]:
    return [m for m in measurements if m.side == side]


def _block(folder: Path, start: int) -> Path:
    return folder / f"{start:06}.npy"


def _read(side: str, start: int, generated: ClipSet, real: ClipSet | None) -> ClipBatch:
    """Read the clips of a block."""
    clips = real if side == "real" and real is not None else generated
    numbers = range(start, min(start + BLOCK, len(clips)))
    pairs = [clips.read(number) for number in numbers]
    truth = None
    if side == "pair" and real is not None:
        truth = np.stack([real.read(number)[0] for number in numbers])
    return ClipBatch(np.stack([video for video, _ in pairs]), truth, [text for _, text in pairs])


def _all_rows(folder: Path, length: int) -> np.ndarray:
    """Map all rows from one file: those of a large set take no memory until they are read."""
    first = np.load(_block(folder, 0))
    if length <= BLOCK:
        return first
    whole = folder / f"all-{length}.npy"
    if not whole.exists():
        partial = folder / f"all-{length}.{os.getpid()}.partial"
        shape = (length, *first.shape[1:])
        rows = np.lib.format.open_memmap(partial, "w+", first.dtype, shape)
        for start in range(0, length, BLOCK):
            rows[start : start + BLOCK] = np.load(_block(folder, start))
        rows.flush()
        del rows
        partial.replace(whole)
    return np.load(whole, mmap_mode="r")
