"""Measures over whole sets of clips: by blocks, kept on disk, shared among processes.

    FOLDER/KEY/000064.npy      rows of the clips 64 ... of the measure and sets that KEY stands for
    FOLDER/KEY/all-5000.npy    all of them, once they are there

A block that is there is not computed again, so an evaluation that was stopped goes on, and another
one with the same network and clips is done at once. Process p of P makes the blocks p, p + P, ...;
all read the others' from the folder, which they share.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidgen import paths
from vidgen.evals.clips import ClipSet, digest
from vidgen.evals.measures import MADE, PAIR, REAL, Batch, Measure

BLOCK = 32  # clips in a file


def collect(
    measures: Mapping[str, Measure],
    made: ClipSet,
    real: ClipSet | None,
    folder: Path,
    *,
    process: tuple[int, int] = (0, 1),
    wait: Callable[[], None] = lambda: None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, np.ndarray]:
    """Rows of every measure, in the order of the clips.

    Args:
      measures: what to compute, by name.
      made: clips that are judged.
      real: those that they are compared with.
      folder: where rows are kept.
      process: number of this process, and of all of them.
      wait: returns when all processes have come here.
      on_block: is told of (blocks done, blocks in all).
    """
    work = [
        (side, start, found)
        for side in (MADE, REAL, PAIR)
        for start in range(0, _length(side, made, real), BLOCK)
        if (found := {n: m for n, m in measures.items() if m.side == side})
    ]
    paths = {name: folder / _key(measure, made, real) for name, measure in measures.items()}
    own = work[process[0] :: process[1]]
    for done, (side, start, found) in enumerate(own):
        missing = {n: m for n, m in found.items() if not _block(paths[n], start).exists()}
        if missing:
            batch = _read(side, start, made, real)
            for name, measure in missing.items():
                save(_block(paths[name], start), measure(batch))
        on_block(done + 1, len(own))
    wait()
    lengths = {name: _length(measure.side, made, real) for name, measure in measures.items()}
    return {name: _rows(paths[name], lengths[name]) for name in measures}


def captions(clips: ClipSet) -> list[str]:
    """Of all clips."""
    return [clips.read(number)[1] for number in range(len(clips))]


def save(path: Path, rows: Any) -> None:
    """Writes an array so that it is there whole, or not at all."""
    data = io.BytesIO()
    np.save(data, np.asarray(rows))
    paths.write(path, data.getvalue())


def _length(side: str, made: ClipSet, real: ClipSet | None) -> int:
    return len(made) if side != REAL else len(real or ())


def _key(measure: Measure, made: ClipSet, real: ClipSet | None) -> str:
    sets: Sequence[ClipSet | None] = {MADE: [made], REAL: [real], PAIR: [made, real]}[measure.side]
    return digest(measure.key, [clips and clips.fingerprint for clips in sets])


def _block(folder: Path, start: int) -> Path:
    return folder / f"{start:06}.npy"


def _read(side: str, start: int, made: ClipSet, real: ClipSet | None) -> Batch:
    """The clips of a block."""
    clips = real if side == REAL and real is not None else made
    numbers = range(start, min(start + BLOCK, len(clips)))
    pairs = [clips.read(number) for number in numbers]
    truth = None
    if side == PAIR and real is not None:
        truth = np.stack([real.read(number)[0] for number in numbers])
    return Batch(np.stack([video for video, _ in pairs]), truth, [text for _, text in pairs])


def _rows(folder: Path, length: int) -> np.ndarray:
    """All rows, mapped from one file: those of a large set take no memory until they are read."""
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
