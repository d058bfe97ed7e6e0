r"""From raw videos to records to train on, in as many processes as there are: `vidgen prepare`.

    films and captions -> cut by shots -> clips -> shards -> manifest.json
                                    \-> rejected.jsonl          (an Apache Beam pipeline)

Only names and counts pass between the workers, because Beam's own runner keeps all that passes
between steps in memory. Clips lie in files under the output folder, which all workers must see.
Shards get their names, and the manifest is written, when the pipeline has ended. After a stop at
any moment, the same command resumes with the videos that are not yet cut.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import glob
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vidgen import paths
from vidgen.data.sources.array_records import read_record
from vidgen.data.sources.captions import MISSING_CAPTIONS, listed_files
from vidgen.data.sources.clip_records import (
    MANIFEST,
    ClipRecord,
    Shard,
    ShardsManifest,
    captions_file,
    write_shard,
)
from vidgen.data.video.files import VIDEO_SUFFIXES
from vidgen.precompute.clip_cutting import (
    ClipCutter,
    Counts,
    Cut,
    SourceVideo,
    cut_video,
    described,
    rejected,
)

REJECTED = "rejected.jsonl"

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepare:
    """The run; calling it writes a folder of records (data/sources/clip_records.py).

    Attributes:
      videos: a folder of captioned videos (data/sources/folder.py), or a pattern: "films/*/*.mp4".
      output: folder to write.
      cutter: how videos become clips.
      shards: files that the clips are spread over, by their keys.
      missing_captions: "skip" rejects videos without a caption; "empty" keeps their clips.
      runner: the runner of Beam: "DirectRunner" works on this machine.
      pipeline_args: further flags of Beam and of the runner, such as
        ("--direct_running_mode=multi_processing", "--direct_num_workers=8").

    Raises:
      ValueError: a setting is wrong, Beam is not installed, or the output is finished already.
      FileNotFoundError: there are no videos.
    """

    videos: str
    output: str
    cutter: ClipCutter
    shards: int = 8
    missing_captions: str = "skip"
    runner: str = "DirectRunner"
    pipeline_args: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.missing_captions not in MISSING_CAPTIONS:
            value = self.missing_captions
            raise ValueError(f"Prepare.missing_captions is {value!r}; choose skip or empty.")
        if not 1 <= self.shards <= 99_999:
            raise ValueError(f"Prepare.shards is {self.shards}; it must be 1 to 99999.")
        if not str(self.output):
            raise ValueError("RECORDS is empty; name a folder for the records.")
        for name in ("videos", "output"):
            object.__setattr__(self, name, os.path.expanduser(os.fspath(getattr(self, name))))
        if pathlib.Path(self.output, MANIFEST).exists():
            raise ValueError(
                f"{self.output} holds finished records ({MANIFEST}); name another folder."
            )
        _beam()
        _ = self.films  # so that a wrong folder is reported when it is configured

    @functools.cached_property
    def films(self) -> tuple[SourceVideo, ...]:
        """The videos, in sorted order."""
        root = self.videos
        while re.search(r"[*?\[]", root):
            root = os.path.dirname(root) or "."
        rows = listed_files(root, VIDEO_SUFFIXES, "video")
        if root != self.videos:
            wanted = {os.path.normpath(path) for path in glob.glob(self.videos, recursive=True)}
            rows = [row for row in rows if os.path.normpath(row[0]) in wanted]
        if not rows:
            raise FileNotFoundError(f"{self.videos}: there is no video of that name.")
        if self.missing_captions == "skip" and not any(captions for _, captions in rows):
            raise FileNotFoundError(
                f"{self.videos}: {len(rows)} videos have no caption; write clip.txt beside "
                "clip.mp4, captions.jsonl or captions.csv, or set Prepare.missing_captions='empty'."
            )
        names = [pathlib.Path(path).relative_to(root).as_posix() for path, _ in rows]
        return tuple(
            SourceVideo(path=os.path.abspath(path), name=name, captions=captions)
            for name, (path, captions) in zip(names, rows, strict=True)
        )

    def __call__(self) -> None:
        """Run the pipeline, give its files their names, and log the statistics."""
        mark = hashlib.sha256(f"{self.cutter.mark} {self.missing_captions}".encode()).hexdigest()
        work = pathlib.Path(os.path.abspath(self.output), f".work-{mark[:16]}")
        shutil.rmtree(work / "shards", ignore_errors=True)
        (work / "shards").mkdir(parents=True)
        rows = [json.dumps(dataclasses.asdict(film)) for film in self.films]
        paths.write(work / "films.jsonl", "\n".join(rows).encode())
        with _quiet():
            self._run(str(work))
        self._publish(work)

    def _run(self, work: str) -> None:
        """Run the pipeline, which leaves its statistics in `work`/summary.json."""
        beam = _beam()
        from apache_beam.options.pipeline_options import PipelineOptions

        options = PipelineOptions([f"--runner={self.runner}", *self.pipeline_args])
        with beam.Pipeline(options=options) as pipeline:
            films = pipeline | "list" >> beam.Create([work]) | beam.FlatMap(_listed)
            skip = self.missing_captions == "skip"
            cut = films | beam.Reshuffle() | "cut" >> beam.Map(_cut, self.cutter, work, skip)
            every = pipeline | "every shard" >> beam.Create([(n, None) for n in range(self.shards)])
            places = cut | "place" >> beam.FlatMap(_places, self.shards)
            by_shard = (every, places) | beam.Flatten() | beam.GroupByKey()
            shards = by_shard | "write" >> beam.Map(_write, self.shards, work)
            counts = cut | "count" >> beam.Map(_counts) | beam.CombineGlobally(_added)
            bad = cut | "reject" >> beam.FlatMap(_reasons)
            as_list = beam.pvalue.AsList
            _ = (
                pipeline
                | "end" >> beam.Create([work])
                | beam.Map(_sum_up, as_list(shards), beam.pvalue.AsSingleton(counts), as_list(bad))
            )

    def _publish(self, work: pathlib.Path) -> None:
        """Give the shards their names, and last of all write the manifest."""
        summary = json.loads((work / "summary.json").read_bytes())
        counts: Counts = collections.Counter(
            {tuple(row[:-1]): row[-1] for row in summary["counts"]}
        )
        shape = self.cutter.shape
        statistics = described(counts, shape.fps)
        bad = sum(statistics.get("rejected films", {}).values())
        os.replace(work / REJECTED, pathlib.Path(self.output, REJECTED))
        if statistics["clips"]:
            shards = [Shard(**shard) for shard in summary["shards"]]
            for shard in shards:
                for path in (shard.file, captions_file(shard.file)):
                    os.replace(work / "shards" / path, pathlib.Path(self.output, path))
            clip = {"height": shape.height, "width": shape.width, "fps": shape.fps}
            ShardsManifest(shards=shards, clip=clip, statistics=statistics).write(self.output)
        for old in pathlib.Path(self.output).glob(".work-*"):
            shutil.rmtree(old, ignore_errors=True)
        if not statistics["clips"]:
            raise ValueError(f"no clip came of {bad} videos; {self.output}/{REJECTED} says why.")
        text = "%d clips (%.0f s, %.1f MB) of %d videos are in %s; %d videos were rejected (%s)"
        clips, seconds, size = (statistics[name] for name in ("clips", "seconds", "bytes"))
        used = statistics["films"] - bad
        log.info(text, clips, seconds, size / 1e6, used, self.output, bad, REJECTED)


# What the workers do: functions of the module, so that they can be sent to other processes. -------


def _listed(work: str) -> Iterator[SourceVideo]:
    with pathlib.Path(work, "films.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            film = json.loads(line)
            yield SourceVideo(**film | {"captions": tuple(film["captions"])})


def _cut(film: SourceVideo, cutter: ClipCutter, work: str, skip: bool) -> Cut:
    if skip and not film.captions:
        return rejected(film, "has no caption")
    cut = cut_video(film, cutter, os.path.join(work, "films"))
    log.info("%s: %s", film.name, cut.reason or f"{len(cut.keys)} clips")
    return cut


def _places(cut: Cut, shards: int) -> Iterator[tuple[int, tuple]]:
    """Say where each clip is, for its shard; sorted, these are in the order of the shard."""
    for number, key in enumerate(cut.keys):
        yield int(key, 16) % shards, (not cut.captioned, key, cut.records, number)


def _write(group: tuple[int, Iterable[tuple | None]], shards: int, work: str) -> Shard:
    number, places = group
    in_order = sorted(place for place in places if place is not None)
    clips = (ClipRecord.unpack(read_record(records, row)) for *_, records, row in in_order)
    return write_shard(os.path.join(work, "shards"), number, shards, clips)


def _counts(cut: Cut) -> Counts:
    return cut.counts


def _added(counts: Iterable[Counts]) -> Counts:
    total: Counts = collections.Counter()
    for some in counts:
        total.update(some)
    return total


def _reasons(cut: Cut) -> Iterator[tuple[str, str]]:
    if cut.reason:
        yield cut.film, cut.reason


def _sum_up(
    work: str, shards: Sequence[Shard], counts: Counts, bad: Sequence[tuple[str, str]]
) -> None:
    """Write the summary when all shards are complete."""
    lines = [json.dumps({"file": file, "reason": reason}) + "\n" for file, reason in sorted(bad)]
    paths.write(pathlib.Path(work, REJECTED), "".join(lines).encode())
    summary = {
        "shards": [dataclasses.asdict(s) for s in sorted(shards, key=lambda shard: shard.file)],
        "counts": [[*key, count] for key, count in counts.items()],
    }
    paths.write(pathlib.Path(work, "summary.json"), json.dumps(summary).encode())


def _beam() -> Any:
    try:
        with _quiet():
            import apache_beam
    except ImportError as error:
        raise ValueError(
            'vidgen prepare needs Apache Beam; install it with pip install "vidgen[beam]".'
        ) from error
    return apache_beam


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Beam's warnings of cloud packages that are not needed."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
