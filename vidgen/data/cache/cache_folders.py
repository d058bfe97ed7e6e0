"""The folders that `vidgen encode` fills, here or in an object store (vidgen/paths.py).

    FOLDER/manifest.json                  what the folder holds; parts, records of a shard
           part_00003.json                part 3 is finished; a summary of it
           NAME-00003-000012.array_record the records of shard 12 of part 3
           NAME-00003-000012.npy          their keys, for records that are found by a key

Each of the processes that encode writes a part of its own, shard by shard. A shard gets its name
when it is complete, so one that was being written when a process was killed is written again. A
folder is begun with a manifest, and resumed only by a run with the same manifest.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any, ClassVar, TypeVar

import numpy as np

from vidgen import paths
from vidgen.data.sources.array_records import SUFFIX, read_all, read_record, write_records

MANIFEST = "manifest.json"

M = TypeVar("M", bound="CacheManifest")


class CacheError(ValueError):
    """A cache is unfinished, incomplete, or holds something else than is asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheManifest:
    """What a cache holds; a kind of cache adds fields.

    Attributes:
      parts: how many processes write, or wrote, the cache.
      shard_size: records of a full shard.
      version: the version of the layout of the files.
    """

    holds: ClassVar[str]  # "captions", for messages

    parts: int
    shard_size: int
    version: int = 1

    @classmethod
    def read(cls: type[M], folder: str | os.PathLike) -> M:
        """Read the manifest of a folder.

        Args:
          folder: the folder of a cache, here or in an object store.

        Returns:
          The manifest; it says nothing of whether the parts are finished.

        Raises:
          CacheError: the folder has none, or one of another version or kind.
        """
        path = path_in(folder, MANIFEST)
        if not paths.is_file(path):
            raise CacheError(f"{folder} is no cache of {cls.holds}: there is no {MANIFEST} in it.")
        values: dict[str, Any] = {  # JSON has lists, not tuples
            name: tuple(value) if isinstance(value, list) else value
            for name, value in json.loads(paths.read(path)).items()
        }
        if values.get("version") != cls.version:
            raise CacheError(
                f"{path} is of version {values.get('version')}, this vidgen reads {cls.version}; "
                f"encode the {cls.holds} again."
            )
        if set(values) != {field.name for field in dataclasses.fields(cls)}:
            raise CacheError(f"{folder} is a cache of something else than {cls.holds}.")
        return cls(**values)

    def agree(self, folder: str | os.PathLike) -> None:
        """Write the manifest to a new folder, or check that the folder has the same.

        Args:
          folder: the folder of a cache, here or in an object store.

        Raises:
          CacheError: the folder has another; the message names the first field that differs.
        """
        path = path_in(folder, MANIFEST)
        if not paths.is_file(path):
            paths.write(path, json.dumps(dataclasses.asdict(self), indent=1).encode())
            return
        stored = dataclasses.asdict(type(self).read(folder))
        for name, value in dataclasses.asdict(self).items():
            if value != stored[name]:
                raise CacheError(
                    f"{folder} was begun with {name} {stored[name]!r}, not {value!r}; name another "
                    "folder."
                )


@dataclasses.dataclass(frozen=True)
class CacheShards:
    """The shards in the folder of a cache; a kind of cache says what their records are."""

    name: ClassVar[str]  # what the names of shards begin with
    keyed: ClassVar[bool] = False  # whether a table of keys lies beside the records of a shard

    folder: str | os.PathLike

    def path(self, part: int, number: int) -> str:
        """Name the file of the records of a shard.

        Args:
          part: number of the part.
          number: the number of the shard in its part.

        Returns:
          A path in the folder; nothing need be there.
        """
        return path_in(self.folder, f"{self.name}-{part:05}-{number:06}{SUFFIX}")

    def list_names(self) -> set[str]:
        """List the names of all files in the folder.

        Returns:
          Names without the folder; none where the folder is absent.
        """
        return paths.names_in(paths.expanded(self.folder))

    def count(self, part: int, names: Set[str] | None = None) -> int:
        """Count the complete shards 0, 1, ... of a part up to the first that is missing.

        Args:
          part: number of the part.
          names: what is in the folder, where the caller has listed it; None lists it.

        Returns:
          How many there are, which is the number of the shard to write next.
        """
        names, number = self.list_names() if names is None else names, 0
        while self._files(part, number) <= names:
            number += 1
        return number

    def write(
        self, part: int, number: int, records: Iterable[bytes], keys: Sequence[bytes] = ()
    ) -> None:
        """Write one complete shard.

        Args:
          part: number of the part.
          number: the number of the shard in its part.
          records: the records.
          keys: one for each record, all equally long, where the cache is `keyed`.
        """
        path = self.path(part, number)
        write_records(path, records)
        if self.keyed:  # last, because it says that the shard is complete
            file = io.BytesIO()
            np.save(file, np.frombuffer(b"".join(keys), np.dtype((np.void, len(keys[0])))))
            paths.write(path.removesuffix(SUFFIX) + ".npy", file.getvalue())

    def read(self, part: int, number: int, row: int) -> bytes:
        """Read one record.

        Args:
          part: number of the part.
          number: the number of the shard in its part.
          row: number of the record in the shard, from 0.

        Returns:
          The bytes of the record.

        Raises:
          RecordsError: it is damaged, or not there.
        """
        return read_record(self.path(part, number), row)

    def read_all(self, part: int) -> Iterator[bytes]:
        """Read all records in the complete shards of a part, in order.

        Args:
          part: number of the part.

        Yields:
          The bytes of each.

        Raises:
          RecordsError: a shard is damaged.
        """
        for number in range(self.count(part)):
            yield from read_all(self.path(part, number))

    def keys(self, part: int, number: int) -> np.ndarray:
        """Read the keys of a shard of a cache that is `keyed`.

        Args:
          part: number of the part.
          number: the number of the shard in its part.

        Returns:
          One void scalar of as many bytes as a key has for each record.
        """
        path = self.path(part, number).removesuffix(SUFFIX) + ".npy"
        return np.load(io.BytesIO(paths.read(path)))

    def finish(self, part: int, summary: dict[str, Any]) -> None:
        """Mark a part as finished.

        Args:
          part: number of the part.
          summary: what to write of it, as plain data that JSON can hold.
        """
        paths.write(path_in(self.folder, _done(part)), json.dumps(summary).encode())

    def check_finished(self, shards: Iterable[int | None]) -> None:
        """Check that all parts are finished.

        Args:
          shards: how many shards each part has; None where that is not known.

        Raises:
          CacheError: a file is missing; the message names it.
        """
        names = self.list_names()
        for part, count in enumerate(shards):
            wanted = {_done(part)}.union(*(self._files(part, n) for n in range(count or 0)))
            if missing := sorted(wanted - names):
                raise CacheError(
                    f"{self.folder} is not finished: {missing[0]} is missing; run the same vidgen "
                    "encode again, it resumes."
                )

    def _files(self, part: int, number: int) -> set[str]:
        stem = f"{self.name}-{part:05}-{number:06}"
        return {f"{stem}{SUFFIX}", f"{stem}.npy"} if self.keyed else {f"{stem}{SUFFIX}"}


def path_in(folder: str | os.PathLike, name: str) -> str:
    """Return the path of a file of a cache.

    Args:
      folder: the folder of the cache; ~ is expanded.
      name: the name of the file.

    Returns:
      A path, or an address where the folder is in an object store.
    """
    return paths.join(paths.expanded(folder), name)


def _done(part: int) -> str:
    return f"part_{part:05}.json"
