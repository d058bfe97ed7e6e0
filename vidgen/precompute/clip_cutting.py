"""One film into clips: cut by shots, resized, at another frame rate, as records.

    film    |------- shot 0 -------|- 1 -|-------------- shot 2 --------------|
    clips   |--- LONGEST ---|-- rest --|   too short   |--- LONGEST ---|-- rest --|

The film is decoded once, and no more than a few frames and one encoded clip are in memory. What a
film gave is kept in a file of records beside which lies a summary, so that a run that was stopped
need not cut it again.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
import itertools
import json
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import av.error
import numpy as np

from vidgen import paths
from vidgen.data.source import BadExample
from vidgen.data.sources.array_records import SUFFIX, write_records
from vidgen.data.sources.clip_records import ClipRecord
from vidgen.data.video.files import shrink
from vidgen.data.video.frames import StreamedFrame, at_rate, stream_frames
from vidgen.data.video.sinks import AvSink
from vidgen.precompute.shots import (
    THUMBNAIL,
    CutDetector,
    by_detection,
    by_list,
    read_shots,
    shots_file,
)
from vidgen.types import VideoShape

Counts = collections.Counter[tuple[str, ...]]  # (what, which of it): how many
_KIND = ".mp4"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipCutter:
    """How videos become clips.

    Attributes:
      shape: height, width and frame rate of the clips, and how many frames they have at least.
      longest: seconds of a clip at most; a longer shot becomes several.
      detector: finds the cuts of films beside which no shots are given.
      quality: the setting of the H.264 encoder (crf): 0 loses nothing, 18 is hard to tell from it,
        51 is worst.
    """

    shape: VideoShape
    longest: float = 10.0
    detector: CutDetector = dataclasses.field(default_factory=CutDetector)
    # [guess] That of `write_video`: a clip is encoded a second time here, and should not show it.
    quality: int = 16

    def __post_init__(self) -> None:
        if self.shape.channels != 3:
            raise ValueError(f"clips are RGB; shape.channels is {self.shape.channels}, set 3.")
        if self.most < self.shape.frames:
            raise ValueError(
                f"clips of at most {self.longest:g} s at {self.shape.fps:g} fps have {self.most} "
                f"frames, {self.shape} needs {self.shape.frames}; raise the longest."
            )
        if not 0 <= self.quality <= 51:
            raise ValueError(f"quality is {self.quality}; it is 0 (best) to 51.")

    @property
    def most(self) -> int:
        """The number of frames of the longest clip."""
        return int(self.longest * self.shape.fps + 1e-6)

    @property
    def mark(self) -> str:
        """A fingerprint of the settings: clips cut in another way have another."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceVideo:
    """A video file to cut.

    Attributes:
      path: where it is.
      name: what it is called in keys and reports, the same wherever the folder lies.
      captions: the captions of all its clips, each of which has all of them.
    """

    path: str
    name: str
    captions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """The result of cutting one video.

    Attributes:
      film: its name.
      counts: for the statistics.
      reason: why there are no clips; "" where there are.
      records: file with its clips.
      keys: the keys of the clips, in the order of the records.
      captioned: whether they have a caption.
    """

    film: str
    counts: Counts
    reason: str = ""
    records: str = ""
    keys: tuple[str, ...] = ()
    captioned: bool = False


def cut_video(film: SourceVideo, cutter: ClipCutter, folder: str) -> Cut:
    """Cut a video, or read the result of an earlier run.

    A film that cannot be used gives no clip, and says why; it raises nothing.

    Args:
      film: what to cut.
      cutter: how.
      folder: for its records, one for each `cutter`.

    Returns:
      Where its clips are, or why there are none.
    """
    mark = _mark(film)
    stem = pathlib.Path(folder, mark[:2], mark)
    summary, records = stem.with_suffix(".json"), stem.with_suffix(SUFFIX)
    if summary.is_file():
        return _read(summary)
    stem.parent.mkdir(parents=True, exist_ok=True)
    counts: Counts = collections.Counter({("films",): 1})
    keys: list[str] = []

    def packed() -> Iterator[bytes]:
        for clip in _clips(film, cutter, counts):
            keys.append(clip.key)
            yield clip.pack()

    try:
        write_records(records, packed(), compressed=False)
        if not keys:
            records.unlink()
            raise BadExample(film.path, f"no shot of it has {cutter.shape.frames} frames")
        cut = Cut(
            film=film.name,
            records=str(records),
            keys=tuple(keys),
            captioned=bool(film.captions),
            counts=counts,
        )
    except BadExample as error:
        cut = rejected(film, error.reason)
    except av.error.FFmpegError as error:  # frames that can be decoded, but neither shown nor kept
        cut = rejected(film, f"cannot be used ({error.strerror})")
    rows = [[*key, count] for key, count in cut.counts.items()]
    paths.write(summary, json.dumps(dataclasses.asdict(cut) | {"counts": rows}).encode())
    return cut


def rejected(film: SourceVideo, reason: str) -> Cut:
    """Make the result for a video that gives no clips.

    Args:
      film: the video.
      reason: a clause; what stands before ":" or "(" is counted, the rest differs from film to
        film.

    Returns:
      The result.
    """
    kind = re.split(r" *[:(]", reason)[0]  # without what differs from film to film
    counts = collections.Counter({("films",): 1, ("rejected films", kind): 1})
    return Cut(film=film.name, counts=counts, reason=reason)


def _mark(film: SourceVideo) -> str:
    """Return a fingerprint of a video and its shots, by sizes and times of the files."""
    stats = []
    for path in (pathlib.Path(film.path), shots_file(film.path)):
        stat = path.stat() if path.is_file() else None
        stats.append((stat.st_size, stat.st_mtime_ns) if stat else None)
    return hashlib.sha256(repr((film, stats)).encode()).hexdigest()[:32]


def _read(summary: pathlib.Path) -> Cut:
    fields = json.loads(summary.read_bytes())
    counts = collections.Counter({tuple(row[:-1]): row[-1] for row in fields["counts"]})
    return Cut(**fields | {"keys": tuple(fields["keys"]), "counts": counts})


def described(counts: Counts, fps: float | int) -> dict[str, Any]:
    """Make a table of the statistics.

    Args:
      counts: the statistics of all videos.
      fps: the frame rate of the clips, for their length in seconds.

    Returns:
      what -> count, or what -> which -> count.
    """
    table: dict[str, Any] = {what: 0 for what in ("films", "shots", "clips", "frames", "bytes")}
    for (what, *which), count in sorted(counts.items(), key=_order):
        if which:
            table.setdefault(what, {})[which[0]] = count
        else:
            table[what] = count
    return table | {"seconds": round(table["frames"] / fps, 3)}


def _order(item: tuple[tuple[str, ...], int]) -> tuple:
    """Return the key that sorts numbers by their size."""
    return tuple((float(part), part) if part.isdigit() else (0.0, part) for part in item[0])


def _clips(film: SourceVideo, cutter: ClipCutter, counts: Counts) -> Iterator[ClipRecord]:
    """Cut the clips of a video, in order."""
    for _, shot in itertools.groupby(_in_shots(film, cutter), key=lambda numbered: numbered[0]):
        counts["shots",] += 1
        frames = at_rate((frame for _, frame in shot), cutter.shape.fps)
        for first in frames:
            rest = itertools.islice(frames, cutter.most - 1)
            clip = _clip(film, cutter, itertools.chain([first], rest))
            if clip.metadata["frames"] < cutter.shape.frames:
                counts["rejected clips", f"fewer than {cutter.shape.frames} frames"] += 1
                continue
            _count(counts, clip, cutter.shape.fps)
            yield clip


def _in_shots(film: SourceVideo, cutter: ClipCutter) -> Iterator[tuple[int, StreamedFrame]]:
    """Read the frames of a video as (number of the shot, frame)."""
    frames = stream_frames(film.path)
    shots_given = shots_file(film.path)
    if not shots_given.is_file():
        yield from by_detection(frames, lambda frame: frame.thumbnail(*THUMBNAIL), cutter.detector)
        return
    try:
        shots = read_shots(shots_given)
    except (ValueError, OSError) as error:
        raise BadExample(film.path, str(error).rstrip(".")) from error
    yield from by_list(frames, shots)


def _clip(film: SourceVideo, cutter: ClipCutter, frames: Iterable[StreamedFrame]) -> ClipRecord:
    """Encode frames into a record while they come."""
    shape, buffer, first, last, count = cutter.shape, io.BytesIO(), None, None, 0
    # One thread: Beam runs many of these, and the same film gives the same bytes on any machine.
    options = {"crf": str(cutter.quality), "threads": "1"}
    size = shape.height, shape.width
    sink = AvSink(buffer, shape.fps, size, kind=_KIND, growing=False, **options)
    pixels = np.zeros((0,))
    for frame in frames:
        if last is None or frame.number != last.number:
            pixels = shrink(frame, shape)
        first, last, count = first or frame, frame, count + 1
        sink.write(pixels[None])
    sink.close()
    assert first is not None and last is not None
    height, width = first.size
    return ClipRecord(
        key=hashlib.sha256(f"{film.name}\n{first.number}".encode()).hexdigest()[:32],
        caption=film.captions[0] if film.captions else "",
        other_captions=film.captions[1:],
        suffix=_KIND,
        content=buffer.getvalue(),
        metadata={
            "film": film.name,
            "first_frame": first.number,
            "last_frame": last.number,
            "start": first.time,
            "frames": count,
            "film_height": height,
            "film_width": width,
            "film_fps": 1 / first.step,
        },
    )


def _count(counts: Counts, clip: ClipRecord, fps: float) -> None:
    """Add a clip to the statistics."""
    metadata = clip.metadata
    counts["clips",] += 1
    counts["frames",] += metadata["frames"]
    counts["bytes",] += len(clip.content)
    counts["seconds of a clip", str(int(metadata["frames"] / fps))] += 1
    for caption in clip.captions or ("",):
        counts["words of a caption", str(len(caption.split()))] += 1
    counts["size of the film", f"{metadata['film_height']}x{metadata['film_width']}"] += 1
    counts["fps of the film", f"{metadata['film_fps']:.3g}"] += 1
