"""Folders that `vidgen encode` fills: what they say of themselves, here or in an object store.

A folder is begun with a manifest, and gone on with only by what would begin it alike.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Set
from typing import Any, ClassVar, TypeVar

from vidgen import paths

MANIFEST = "manifest.json"

M = TypeVar("M", bound="CacheManifest")


class CacheError(ValueError):
    """A cache is not finished, not whole, or not what it is to stand for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheManifest:
    """What a cache holds; a kind of cache adds fields.

    Attributes:
      parts: processes that write, or wrote, it.
      shard_size: records of a full shard.
      version: of the kind's files.
    """

    holds: ClassVar[str]  # "captions", for messages

    parts: int
    shard_size: int
    version: int = 1

    @classmethod
    def read(cls: type[M], folder: str | os.PathLike) -> M:
        """That of a folder.

        Raises:
          CacheError: there is none, or one of another version or kind.
        """
        path = path_in(folder, MANIFEST)
        if not paths.is_file(path):
            raise CacheError(f"{folder} is no cache of {cls.holds}: there is no {MANIFEST} in it.")
        found = json.loads(paths.read(path))
        if found.get("version") != cls.version:
            raise CacheError(
                f"{path} is of version {found.get('version')}, this vidgen reads {cls.version}; "
                f"encode the {cls.holds} again."
            )
        if set(found) != {field.name for field in dataclasses.fields(cls)}:
            raise CacheError(f"{folder} is a cache of something else than {cls.holds}.")
        values: dict[str, Any] = {  # JSON has lists, not tuples
            name: tuple(value) if isinstance(value, list) else value
            for name, value in found.items()
        }
        return cls(**values)

    def agree(self, folder: str | os.PathLike) -> None:
        """Writes it to a folder, or checks that the one there is the same.

        Raises:
          CacheError: it is another; the message names what differs.
        """
        path = path_in(folder, MANIFEST)
        if not paths.is_file(path):
            paths.write(path, json.dumps(dataclasses.asdict(self), indent=1).encode())
            return
        other = type(self).read(folder)
        for field in dataclasses.fields(self):
            here, there = getattr(self, field.name), getattr(other, field.name)
            if here != there:
                raise CacheError(
                    f"{folder} was begun with {field.name} {there!r}, not {here!r}; name another "
                    "folder."
                )


def path_in(folder: str | os.PathLike, name: str) -> str:
    """The path of a file of a cache."""
    return paths.join(paths.expanded(folder), name)


def done(part: int) -> str:
    """The file that says that a part has all its records."""
    return f"part_{part:05}.json"


def complete_shards(there: Set[str], files: Callable[[int], Set[str]]) -> int:
    """How many shards, 0, 1, ... without a gap, have all their files among the names `there`."""
    count = 0
    while files(count) <= there:
        count += 1
    return count
