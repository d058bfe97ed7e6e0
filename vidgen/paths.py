"""Paths of data: files of this machine, and objects in a store: "gs://", "s3://", "https://", ...

A local path goes to the operating system as it is. A path with a scheme goes through fsspec, whose
file systems are packages of their own; what fails there is tried again a few times, as stores do
fail now and then. Nothing is kept open and nothing is remembered here, so that whoever holds a path
can be sent to another process.

Whatever cannot be read or written, here or there, is an OSError whose `strerror` is a clause for
users; a scheme without its package is an ImportError that names the package.
"""

from __future__ import annotations

import contextlib
import errno
import glob as local_glob
import hashlib
import io
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import fsspec
from etils import epath

Path = str | os.PathLike

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PACKAGES = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3", "http": "http", "https": "http"}
# [guess] Seconds before the second, third and fourth try: stores ask for exponential pauses.
_WAITS = (0.5, 1.0, 2.0)
_WHOLE = 8 << 20  # [guess] an object of at most so many bytes is read in one request
_BLOCK = 1 << 20  # [guess] bytes asked for at a time of a larger one
_MANY = 256  # objects asked for at the same time
# What tells a new object from the old one; each store has some of them.
_MARKS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified")
_MARKS += ("updated", "created")
_ANSWERS = (
    (FileNotFoundError, errno.ENOENT),
    (PermissionError, errno.EACCES),
    (IsADirectoryError, errno.EISDIR),
    (NotADirectoryError, errno.ENOTDIR),
)

T = TypeVar("T")


class Stat(NamedTuple):
    """Of a file.

    Attributes:
      size: in bytes; None where the server does not tell.
      mark: another one where the content is another, as far as its store knows.
    """

    size: int | None
    mark: str


def is_remote(path: object) -> bool:
    """Whether a path has a scheme."""
    return isinstance(path, str) and _SCHEME.match(path) is not None


def expanded(path: Path) -> str:
    """A path in which "~" is the home folder."""
    return str(path) if is_remote(path) else os.path.expanduser(os.fspath(path))


def join(folder: Path, name: str) -> str:
    """The path of what has a relative name, with "/", in a folder."""
    if is_remote(folder):
        return f"{str(folder).rstrip('/')}/{name}"
    return os.path.join(folder, name)


def stat(path: Path) -> Stat:
    """Size and mark of a file."""
    if not is_remote(path):
        found = os.stat(path)
        return Stat(found.st_size, str(found.st_mtime_ns))
    info = _asked(path, lambda system, name: system.info(name))
    if info["type"] == "directory":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return Stat(info.get("size"), ":".join(f"{info[key]}" for key in _MARKS if key in info))


def version(path: Path) -> tuple[str, ...]:
    """What a process may remember a file by: another one for a local file that was replaced.

    An object is told by its path alone, since every look at it is a request.
    """
    if is_remote(path):
        return (str(path),)
    place = os.path.abspath(path)
    try:
        found = os.stat(place)
    except OSError:  # whoever opens it will tell
        return (place,)
    return place, f"{found.st_ino}", f"{found.st_size}", f"{found.st_mtime_ns}"


def is_file(path: Path) -> bool:
    """Whether there is a file of that name."""
    if not is_remote(path):
        return os.path.isfile(path)
    try:
        return bool(stat(path))
    except (FileNotFoundError, IsADirectoryError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name, or objects whose names begin with it."""
    if not is_remote(path):
        return os.path.isdir(path)
    return _asked(path, lambda system, name: system.isdir(name))


def files_under(folder: Path) -> Iterator[str]:
    """Names, relative with "/", of all files in a folder and below, but for hidden ones."""
    if is_remote(folder):
        yield from _objects_under(folder)
        return
    for place, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        prefix = os.path.relpath(place, folder).replace(os.sep, "/")
        prefix = "" if prefix == "." else f"{prefix}/"
        yield from (prefix + name for name in names if not name.startswith("."))


def _objects_under(folder: Path) -> Iterator[str]:
    def found(system: Any, name: str) -> tuple[str, list[str]]:
        system.invalidate_cache(name)
        return name.rstrip("/") + "/", list(system.find(name))

    root, names = _asked(folder, found)
    for name in names:
        relative = name.removeprefix(root)
        if not any(part.startswith(".") for part in relative.split("/")):
            yield relative


def names_in(folder: Path) -> set[str]:
    """Names of the files and folders in a folder; none where there is no such folder."""
    if not is_remote(folder):
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()

    def listed(system: Any, name: str) -> list[str]:
        system.invalidate_cache(name)
        return list(system.ls(name, detail=False))

    try:
        return {name.rstrip("/").rpartition("/")[2] for name in _asked(folder, listed)}
    except FileNotFoundError:
        return set()


def glob(pattern: str) -> list[str]:
    """The paths that a pattern with *, ? and ** (folders of any depth) stands for, sorted."""
    if not is_remote(pattern):
        return sorted(local_glob.glob(pattern, recursive=True))

    def found(system: Any, name: str) -> list[str]:
        return [system.unstrip_protocol(path) for path in system.glob(name)]

    return sorted(_asked(pattern, found))


def read(path: Path, offset: int = 0, size: int | None = None) -> bytes:
    """All bytes of a file, or at most `size` of them from `offset` on."""
    if not is_remote(path):
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(-1 if size is None else size)
    if size is None and not offset:
        return _asked(path, lambda system, name: system.cat_file(name))
    if size == 0:
        return b""
    end = None if size is None else offset + size
    data = _asked(path, lambda system, name: system.cat_file(name, offset, end))
    if size is not None and len(data) > size:
        raise OSError(errno.EIO, "its server gives no parts of files", str(path))
    return data


def read_many(paths: Sequence[Path], limit: int) -> Iterator[bytes | OSError]:
    """The first `limit` bytes of each file, or why there are none; objects side by side."""
    for start in range(0, len(paths), _MANY):
        some = paths[start : start + _MANY]
        found: Sequence[Any] = (None,) * len(some)
        if is_remote(some[0]):
            system, _ = _system(some[0])
            names = [_system(path)[1] for path in some]
            found = system.cat_ranges(names, 0, limit, on_error="return")
        for path, data in zip(some, found, strict=True):
            if isinstance(data, bytes):
                yield data[:limit]
                continue
            try:  # one by one: local files, and objects that failed (an empty one has no parts)
                yield read(path)[:limit] if is_remote(path) else read(path, 0, limit)
            except OSError as error:
                yield error


def open_binary(path: Path) -> io.BufferedReader:
    """A file to read and to seek in; of a large object only what is asked for is fetched."""
    if not is_remote(path):
        return open(path, "rb")
    size = stat(path).size
    if size is None or size <= _WHOLE:
        return io.BufferedReader(io.BytesIO(read(path)))  # type: ignore[arg-type]
    return io.BufferedReader(_Ranges(str(path), size), _BLOCK)


class _Ranges(io.RawIOBase):
    """A large object, read in parts."""

    def __init__(self, path: str, size: int) -> None:
        self._path, self._size, self._place = path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self._path)
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._place))
        data = read(self._path, self._place, count)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def write(path: Path, data: bytes) -> None:
    """Makes a file, or replaces it, whole or not at all; its folder is made too."""
    if is_remote(path):
        _asked(path, lambda system, name: system.pipe_file(name, data))
        return
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(target)


def move_to(partial: pathlib.Path, path: Path) -> None:
    """A complete local file becomes `path`, whole or not at all."""
    if not is_remote(path):
        partial.replace(path)
        return
    _asked(path, lambda system, name: system.put_file(str(partial), name))
    partial.unlink()


def remove_folder(folder: epath.Path) -> None:
    """Deletes a folder in which others, who failed, may be writing for a while.

    They may make it anew with every file, so it has to stay away: at three looks in a row.
    """
    absent = 0
    for _ in range(40):
        if folder.exists():
            absent = 0
            with contextlib.suppress(OSError):
                folder.rmtree()
        else:
            absent += 1
        if absent == 3:
            return
        time.sleep(0.1)


def local_copy(path: Path) -> str:
    """A local file of the same content: itself, or a copy of the object, made at the first use.

    Copies stay in ~/.cache/vidgen/copies, by path and mark.
    """
    if not is_remote(path):
        return os.fspath(path)
    name = hashlib.sha256(f"{path}:{stat(path)}".encode()).hexdigest()[:32]
    copy = pathlib.Path(cache_folder("copies"), name, str(path).rpartition("/")[2])
    if not copy.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        partial = copy.with_name(f"{copy.name}.{os.getpid()}.partial")
        with open_binary(path) as source, open(partial, "wb") as target:
            shutil.copyfileobj(source, target, 8 * _BLOCK)
        partial.replace(copy)
    return str(copy)


def cache_folder(name: str) -> str:
    """~/.cache/vidgen/NAME, or where XDG_CACHE_HOME says; it need not be there."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # which the XDG specification says to ignore
        cache = os.path.expanduser("~/.cache")
    return os.path.join(cache, "vidgen", name)


def _asked(path: Path, question: Callable[[Any, str], T]) -> T:
    """The answer of a path's file system, of which at last comes an OSError."""
    system, name = _system(path)
    for wait in (*_WAITS, None):
        try:
            return question(system, name)
        except tuple(kind for kind, _ in _ANSWERS) as error:
            kind, number = next(pair for pair in _ANSWERS if isinstance(error, pair[0]))
            raise kind(number, os.strerror(number), str(path)) from error
        except Exception as error:  # each package has errors of its own
            if wait is None:
                told = (str(error).strip() or "no reason given").splitlines()[0][:120]
                tries = f"{len(_WAITS) + 1} tries, the last: {type(error).__name__}: {told}"
                raise OSError(errno.EIO, f"it failed after {tries}", str(path)) from error
            time.sleep(wait)
    raise AssertionError  # the last wait is None


def _system(path: Path) -> tuple[Any, str]:
    """The file system of a path, and its name there."""
    scheme = str(path).partition("://")[0]
    try:
        # elsewhere there are no folders to make
        return fsspec.url_to_fs(str(path), **({"auto_mkdir": True} if scheme == "file" else {}))
    except ImportError as error:
        extra = _PACKAGES.get(scheme)
        hint = f'pip install "vidgen[{extra}]"' if extra else f"{error}"
        raise ImportError(
            f"{path}: paths with {scheme}:// need another package: {hint}."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{path}: no file system is known for {scheme}://; choose gs, s3, https or another "
            "that fsspec knows."
        ) from error
