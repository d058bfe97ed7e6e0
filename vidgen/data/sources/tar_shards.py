"""Captioned videos or images in tar files, as WebDataset, img2dataset and video2dataset write them.

    00012.tar:  000120007.mp4   000120007.txt   000120007.json      one sample, by its name
                000120008.jpg   000120008.txt   ...                 without suffix
                clip.v1.mp4     clip.v1.txt
                view.front.mp4  view.json                           (the only video of key "view")

The caption is the .txt or, if that is blank or missing, a value of the .json: a text, or a list of
texts, one of which is drawn at each visit.

Tars are read in place, in any order, by an index (data/sources/tar_index.py). Shards and indices
may be in an object store (vidgen/paths.py), where a member is read by its range of bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import posixpath
import re
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from vidgen import paths
from vidgen.data.source import BadExample, Example, Source, captioned
from vidgen.data.sources.caption_text import captions_in, parsed, unique
from vidgen.data.sources.captions import warn_once
from vidgen.data.sources.files import Packed
from vidgen.data.sources.images import KINDS, packed_shape, read_content
from vidgen.data.sources.tar_index import counted, has_caption, read_index, samples_of
from vidgen.types import VideoShape

_SIDE_BY_SIDE = 16  # [guess] shards in an object store that are indexed at the same time

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TarShards(Source):
    """The samples of some tar files, shard by shard.

    Attributes:
      path: a tar, a folder of them, or a pattern: "laion/*.tar", "laion/{00000..00199}.tar", where
        all that braces name must be there.
      shape: the shape of an example; for images its frames become 1.
      kind: "videos" or "images", what to take of each sample.
      missing_captions: "skip" leaves out samples without a caption (they are counted in a warning);
        "empty" trains on them as unconditional examples with the caption "".
      caption_key: the key of the caption in a .json, which is read where there is no .txt, or a
        blank one.
      index_dir: folder of the indices; "" is ~/.cache/vidgen/shards.

    Raises:
      FileNotFoundError: no such shard, or nothing usable in any.
      ValueError: a setting is wrong, or a file is no tar.
    """

    path: str
    shape: VideoShape
    kind: str = "videos"
    missing_captions: str = "skip"
    caption_key: str = "caption"
    index_dir: str = ""

    def __post_init__(self) -> None:
        shape = packed_shape("TarShards", self.shape, self.kind, self.missing_captions)
        object.__setattr__(self, "shape", shape)
        _ = self._ends  # so that wrong shards are reported when they are configured

    @functools.cached_property
    def shards(self) -> tuple[str, ...]:
        """The tar files."""
        return tuple(_expanded(paths.expanded(self.path)))

    @property
    def stored_files(self) -> Sequence[str]:
        """The tar files."""
        return self.shards

    @functools.cached_property
    def _counts(self) -> np.ndarray:
        """What each shard holds, one row a shard; see `tar_index.counted`."""
        stats = _stats(self.path, self.shards)
        return counted(self.shards, stats, self._folder, self.kind, self._all_rows)

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """How many samples each shard and those before it have together."""
        counts, unused = self._counts, int(self._counts["unused"].sum())
        ends = np.cumsum(counts["samples" if self.missing_captions == "empty" else "captioned"])
        without = int((counts["samples"] - counts["captioned"]).sum())
        if without:
            done = "skipped" if self.missing_captions == "skip" else 'used with the caption ""'
            log.warning("%d samples in %s have no caption (%s)", without, self.path, done)
        sample = (
            f"a sample is KEY{KINDS[self.kind][0]} beside KEY.txt or KEY.json with a "
            f"{self.caption_key!r}"
        )
        words = self._passed_over(unused) if unused else ""
        if not ends[-1]:
            raise FileNotFoundError(
                f"{self.path}: {len(self.shards)} shard(s) hold no {self.kind} with a caption: "
                f"{'; '.join(filter(None, (sample, words)))}."
            )
        if words:
            warn_once(f"{words}; {sample}")
        return ends

    def _passed_over(self, unused: int) -> str:
        """Say how many files of the shards are no part of a sample, with the first of them."""
        number = int(self._counts["unused"].argmax())
        name = self._rows(number)["key"][-1].decode(errors="replace")
        return f"{unused} files in {self.path} are passed over, e.g. {self.shards[number]}/{name}"

    def __len__(self) -> int:
        return int(self._ends[-1])

    def captions(self) -> Iterator[str]:
        """List the captions of all samples but those that cannot be read (`load` reports them).

        See `Source.captions`.
        """
        for number, shard in enumerate(self.shards):
            for row in self._used(number):
                with contextlib.suppress(BadExample):
                    yield from self._captions(shard, shard, row) or ("",)

    def file(self, index: int) -> Packed:
        """Read the video or image of a sample out of its shard; see `Source.file`."""
        shard, row = self._sample(index)
        name = self._name(shard, row)
        return Packed(name, _bytes(shard, name, int(row["offset"]), int(row["size"])))

    def left_out(self) -> Iterator[tuple[str, str]]:
        """List the samples that have no caption, and an example of what is no part of a sample.

        See `Source.left_out`.
        """
        for number, shard in enumerate(self.shards):
            rows = self._rows(number)
            samples = samples_of(rows)
            if self.missing_captions == "skip":
                for row in samples[~has_caption(samples)]:
                    yield self._name(shard, row), "it has no caption"
            if len(rows) > len(samples):
                example = f"{shard}/{rows['key'][-1].decode(errors='replace')}"
                yield example, f"no part of a sample, as {rows['size'][-1]} file(s) here"

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """Read a clip from a random place of a sample's video, or its image; see `Source.load`."""
        file = self.file(index)
        shard, row = self._sample(index)
        captions = self._captions(shard, file.name, row)
        return captioned(read_content(file, self.kind, self.shape, rng), captions, rng)

    def _sample(self, index: int) -> tuple[str, np.void]:
        """Return the shard of a sample, and its row in the index of it."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        row = self._used(number)[index - (self._ends[number - 1] if number else 0)]
        return self.shards[number], row

    def _name(self, shard: str, row: np.void) -> str:
        """Name a sample's content, for messages."""
        return f"{shard}/{row['key'].decode(errors='replace')}{KINDS[self.kind][row['suffix']]}"

    def _captions(self, shard: str, name: str, row: np.void) -> tuple[str, ...]:
        """Return the captions of a sample; () if it has none and needs none."""
        captions: tuple[str, ...] = ()
        try:
            if row["text_size"]:
                data = _bytes(shard, name, int(row["text_offset"]), int(row["text_size"]))
                captions = unique([data.decode("utf-8-sig")])
            if not captions and row["json_size"]:
                data = _bytes(shard, name, int(row["json_offset"]), int(row["json_size"]))
                captions = captions_in(self._value(parsed(data.decode("utf-8-sig"))))
        except ValueError as error:
            raise BadExample(name, f"its caption cannot be read ({str(error)[:120]})") from error
        if not captions and self.missing_captions == "skip":
            raise BadExample(name, "its caption is blank")
        return captions

    def _value(self, content: Any) -> Any:
        """Return the caption in the content of a .json."""
        if not isinstance(content, dict):
            return content
        if self.caption_key not in content:
            raise ValueError(f"its .json has no {self.caption_key!r}")
        return content[self.caption_key]

    def _used(self, number: int) -> np.ndarray:
        """Return the samples of a shard that are examples; where all are, only counts are read."""
        rows, counts = samples_of(self._rows(number)), self._counts[number]
        if len(rows) == counts["samples"] == counts["captioned"]:
            return rows
        return rows if self.missing_captions == "empty" else rows[has_caption(rows)]

    def _rows(self, number: int) -> np.ndarray:
        """Return the index of a shard, read from its file when it is needed."""
        shard = self.shards[number]
        return read_index(shard, paths.version(shard), self.kind, self._folder)

    def _all_rows(self) -> Iterator[np.ndarray]:
        """Yield the indices of all shards, in order."""
        if not paths.is_remote(self.shards[0]):
            yield from map(self._rows, range(len(self.shards)))
            return
        with futures.ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            for start in range(0, len(self.shards), _SIDE_BY_SIDE):
                end = min(start + _SIDE_BY_SIDE, len(self.shards))
                yield from pool.map(self._rows, range(start, end))

    @property
    def _folder(self) -> str:
        return paths.expanded(self.index_dir) or paths.cache_folder("shards")


def _expanded(path: str) -> list[str]:
    """List the shards that a path or a pattern names, in order."""
    braces = re.search(r"\{(\d+)\.\.(\d+)\}", path)
    if braces:
        first, last = braces.groups()
        names = [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
        shards = [path[: braces.start()] + name + path[braces.end() :] for name in names]
    elif paths.is_folder(path):
        shards = sorted(
            paths.join(path, name)
            for name in paths.names_in(path)
            if name.endswith(".tar") and not name.startswith(".")
        )
    else:
        shards = paths.glob(path)
    if not shards:
        raise FileNotFoundError(f"{path}: there is no tar of that name, and none in such a folder.")
    return shards


def _stats(path: str, shards: Sequence[str]) -> list[paths.Stat]:
    """Look up size and mark of all shards; a folder is listed once, not asked for each.

    Raises:
      FileNotFoundError: a shard that the braces of `path` name is not there.
    """
    folder, listed = posixpath.dirname(shards[0]), {}
    if all(posixpath.dirname(shard) == folder for shard in shards):
        with contextlib.suppress(OSError):  # a web server need not have listings
            listed = paths.stats_in(folder)
    stats, missing = [], []
    for shard in shards:
        try:
            stats.append(listed.get(shard.rpartition("/")[2]) or paths.stat(shard))
        except (FileNotFoundError, IsADirectoryError):
            missing.append(shard)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{path}: there is no shard {missing[0]}{more}.")
    return stats


def _bytes(shard: str, name: str, offset: int, size: int) -> bytes:
    """Read a part of a shard."""
    try:
        data = paths.read(shard, offset, size)
    except OSError as error:
        raise BadExample(name, f"its shard cannot be read ({error.strerror})") from error
    if len(data) != size:
        raise BadExample(name, "its shard is shorter than when it was indexed")
    return data
