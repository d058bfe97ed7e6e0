"""Which file of a folder a name in a table means: what a person would say that it means.

    a.mp4   sub/a.mp4   ../videos/a.mp4     relative to the table's folder; a name with a folder in
                                            it also to the folder that is searched
    /data/videos/a.mp4   C:\\videos\\a.mp4   in the folder, by whatever path it has, or in one of
                                            the same name on another machine
    videos/a.mp4                            with the folder's own name (and its parents') in front

As it is written first; then with "/" for a backslash, characters composed (NFC) on either side, any
case of the suffix; then without the suffix. A name that may mean two files is an error. A name
never means a file by its last part alone, because a table of another split has the same last parts.
"""

from __future__ import annotations

import functools
import itertools
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from vidgen import paths

_DRIVE = re.compile(r"[A-Za-z]:/")


def suffix(file: str) -> str:
    """Return the suffix of a file, such as ".mp4".

    Args:
      file: a path, with "/" between its parts.

    Returns:
      The suffix in lower case; "" where there is none.
    """
    return posixpath.splitext(file)[1].lower()


def stem(file: str) -> str:
    """Return a path without its suffix, by which files of one name are matched.

    Args:
      file: a path, with "/" between its parts.

    Returns:
      The path in composed characters (NFC), folders included.
    """
    return composed(posixpath.splitext(file)[0])


def composed(text: str) -> str:
    """Compose accented letters into one character each (NFC).

    Args:
      text: any text; macOS writes file names decomposed.

    Returns:
      The same text to the eye.
    """
    return unicodedata.normalize("NFC", text)


class FileNames:
    """Finds the files of a folder by the names that tables have for them."""

    def __init__(self, folder: str, files: Sequence[str], wanted: Sequence[str]) -> None:
        """Take the names of all files, relative to the folder, and of those that are wanted."""
        self._wanted, self._all = wanted, set(files)
        self._suffixes = {suffix(file) for file in wanted}
        roots, local = [folder.rstrip("/")], folder.removeprefix("file://")
        if not paths.is_remote(local):
            roots += [os.path.abspath(local), os.path.realpath(local)]
        self._roots = tuple(dict.fromkeys(composed(root.replace(os.sep, "/")) for root in roots))

    def find(self, name: str, table_folder: str) -> str | None:
        """Find the file that a name in a table means.

        Args:
          name: as in the table.
          table_folder: the folder of the table, relative to the folder, "" for the folder itself.

        Returns:
          The file, relative to the folder; None if there is none.

        Raises:
          ValueError: it may mean two files; the message is a clause that names both.
        """
        if not name:
            return None
        literal = posixpath.normpath(posixpath.join(table_folder, name))
        if literal in self._all:
            return literal
        direct = self._direct(name, table_folder)
        for places in ((direct,), self._by_own_name(name, table_folder)):
            matches = dict.fromkeys(file for place in places for file in self._at(place))
            if len(matches) > 1:
                first, second, *_ = matches
                raise ValueError(f"{name!r} may mean {first} or {second}; name the file exactly")
            if matches:
                return next(iter(matches))
        return None

    def is_called_like_one(self, text: str) -> bool:
        """Whether a text has the suffix of a wanted file.

        Args:
          text: a field of a table.

        Returns:
          True also where no such file is in the folder.
        """
        return suffix(text) in self._suffixes

    def _direct(self, name: str, table_folder: str) -> str:
        """Return the first place at which the path itself has a file; "" where there is none."""
        name = _slashed(name)
        if not _is_absolute(name):
            bases = (table_folder, "") if "/" in name else (table_folder,)
            for base, root in itertools.product(dict.fromkeys(bases), self._roots):
                inside = self._inside(posixpath.join(root, base, name))
                if inside and self._at(inside):
                    return inside
            return ""
        return self._inside(name) or self._inside(self._real(name))

    def _by_own_name(self, name: str, table_folder: str) -> Iterator[str]:
        """Yield the places that follow a part of the path that has the folder's name."""
        parts = [part for part in composed(_slashed(name)).split("/") if part not in ("", ".")]
        absolute = _is_absolute(_slashed(name))
        for base, root in itertools.product(dict.fromkeys((table_folder, "")), self._roots):
            own_parts = composed(posixpath.join(root, base)).rstrip("/").split("/")
            for cut in range(1, len(parts)):
                head = parts[:cut]
                # Of another machine only the folder's name can be the same.
                if head[-1:] == own_parts[-1:] if absolute else head == own_parts[-cut:]:
                    yield posixpath.normpath(posixpath.join(base, *parts[cut:]))

    def _inside(self, path: str) -> str:
        """Return a path relative to the folder, or "" if it is not below the folder."""
        path = composed(_normal(path))
        for root in self._roots:
            if path.startswith(f"{root}/"):
                return path[len(root) + 1 :]
        return ""

    def _real(self, name: str) -> str:
        """Resolve the symbolic links in the folder of a path of this machine."""
        if paths.is_remote(name) or paths.is_remote(self._roots[0]) or _DRIVE.match(name):
            return name
        folder, _, base = name.rpartition("/")
        return f"{_real_folder(folder or '/')}/{base}"

    def _at(self, place: str) -> Sequence[str]:
        """Return the files that a relative path may mean, in any case of the suffix or without."""
        if place in self._all:
            return (place,)
        return self._by_name.get(_key(place)) or self._by_stem.get(composed(place)) or ()

    @functools.cached_property
    def _by_name(self) -> dict[str, tuple[str, ...]]:
        return grouped((_key(file), file) for file in self._wanted)

    @functools.cached_property
    def _by_stem(self) -> dict[str, tuple[str, ...]]:
        return grouped((stem(file), file) for file in self._wanted)


def grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Group files by what they have in common.

    Args:
      pairs: (key, file) of each.

    Returns:
      The files of each key, in their order.
    """
    groups: dict[str, tuple[str, ...]] = {}
    for key, file in pairs:
        groups[key] = (*groups.get(key, ()), file)
    return groups


def _key(file: str) -> str:
    return stem(file) + suffix(file)


def _slashed(name: str) -> str:
    return name.replace("\\", "/").removeprefix("file://")


def _is_absolute(name: str) -> bool:
    return name.startswith("/") or bool(_DRIVE.match(name)) or paths.is_remote(name)


def _normal(path: str) -> str:
    """Remove "." and ".." from a path; the scheme of a store stays."""
    scheme, slashes, rest = path.rpartition("://")
    return scheme + slashes + posixpath.normpath(rest)


@functools.lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder).replace(os.sep, "/")
