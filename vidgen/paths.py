"""Paths of data: files of this machine, and objects in a store ("gs://", "s3://", "https://", ...).

Local paths go to the operating system as they are: fsspec's local file system took 11 times as long
to list 20,000 files, and 3 times as long to read short ones. A path with a scheme goes through
fsspec, which knows more stores than epath (http, memory), reads ranges of bytes, and has a package
for each store. A request that fails is repeated a few times, because stores do fail now and then.
Nothing stays open and nothing is remembered here, so whoever holds a path can be sent to another
process. MODEL_DIR, films and T5's weights do not come through here: orbax reads those with epath.

Whatever cannot be read or written is an OSError whose `strerror` is a clause for users. A scheme
without its package is a MissingPackage that names it, and a scheme that nothing knows a ValueError.
"""

from __future__ import annotations

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
from fsspec.spec import AbstractBufferedFile

Path = str | os.PathLike

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PACKAGES = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3", "http": "http", "https": "http"}
_PACKAGES |= {"hf": "hub"}
# [guess] Seconds before the second, third and fourth try: stores ask for exponential pauses.
_WAITS = (0.5, 1.0, 2.0)
_WHOLE = 8 << 20  # [guess] an object of at most so many bytes is read in one request
_BLOCK = 1 << 20  # [guess] bytes asked for at a time of a larger one
_MANY = 256  # objects asked for at the same time
# What distinguishes a new object from the old one; each store has some of them.
_MARKS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified")
_MARKS += ("updated", "created", "blob_id")
_ANSWERS = (
    (FileNotFoundError, errno.ENOENT),
    (PermissionError, errno.EACCES),
    (IsADirectoryError, errno.EISDIR),
    (NotADirectoryError, errno.ENOTDIR),
)

T = TypeVar("T")
FileSystem = Any  # one of fsspec, whose own annotations are wider than what it returns


class MissingPackage(ImportError, ValueError):
    """A scheme needs a package that is not installed; the message says how to install it."""


class Stat(NamedTuple):
    """What a store knows of a file without reading it.

    Attributes:
      size: in bytes; None if the server does not say.
      mark: differs if the content differs, as far as the store knows.
    """

    size: int | None
    mark: str


def is_remote(path: object) -> bool:
    """Whether a path has a scheme, as objects in a store have.

    Args:
      path: anything; a str or a path object of a package that knows stores can have a scheme.

    Returns:
      True for "gs://bucket/name" and its like.
    """
    return isinstance(path, str | os.PathLike) and _SCHEME.match(os.fspath(path)) is not None


def expanded(path: Path) -> str:
    """Replace "~" in a local path by the home folder.

    Args:
      path: of a file, a folder or an object.

    Returns:
      The path as a str; one with a scheme is unchanged.
    """
    return str(path) if is_remote(path) else os.path.expanduser(os.fspath(path))


def join(folder: Path, name: str) -> str:
    """Join a folder and a name in it.

    Args:
      folder: local or in a store.
      name: relative to the folder; it may have "/" in it.

    Returns:
      The path; in a store with exactly one "/" between the two.
    """
    return f"{str(folder).rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


def stat(path: Path) -> Stat:
    """Look up the size and the mark of a file.

    Args:
      path: of a file or an object.

    Returns:
      Both; the mark of a local file is its time of modification in nanoseconds.

    Raises:
      OSError: there is no such file, its store has only a folder of that name, or does not answer.
    """
    if not is_remote(path):
        status = os.stat(path)
        return Stat(status.st_size, str(status.st_mtime_ns))
    info = _request(path, lambda system, name: system.info(name))
    if info["type"] == "directory":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return _stat(info)


def version(path: Path) -> tuple[str, ...]:
    """Identify the content of a file, so that a process may remember the file by it.

    Args:
      path: of a file or an object; it need not exist.

    Returns:
      Texts that differ once a local file was replaced: path, inode, size and time. Of an object it
      is the path alone, because every look at an object is a request.
    """
    if is_remote(path):
        return (str(path),)
    place = os.path.abspath(path)
    try:
        status = os.stat(place)
    except OSError:  # whoever opens the file reports it
        return (place,)
    return place, f"{status.st_ino}", f"{status.st_size}", f"{status.st_mtime_ns}"


def is_file(path: Path) -> bool:
    """Whether there is a file of that name.

    Args:
      path: local or in a store.

    Returns:
      True for a file; False for a folder, or where there is nothing.

    Raises:
      OSError: the store refuses the request, or does not answer.
    """
    if not is_remote(path):
        return os.path.isfile(path)
    try:
        return bool(stat(path))
    except (FileNotFoundError, IsADirectoryError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name, or objects whose names begin with it.

    Args:
      path: local or in a store.

    Returns:
      True for a folder; False for a file, or where there is nothing.

    Raises:
      OSError: the store refuses the request, or does not answer.
    """
    if not is_remote(path):
        return os.path.isdir(path)
    return _request(path, lambda system, name: system.isdir(name))


def files_under(folder: Path) -> Iterator[str]:
    """List all files in a folder and in the folders below it, except hidden ones.

    Args:
      folder: local, where links to folders are followed, or in a store, which is asked anew.

    Yields:
      Names relative to the folder, with "/", in no particular order; none where there is no such
      local folder. A file is left out where any part of its name begins with ".".

    Raises:
      OSError: the store refuses the request, or does not answer.
    """
    if is_remote(folder):

        def find(system: FileSystem, name: str) -> list[str]:
            system.invalidate_cache(name)
            root = name.rstrip("/") + "/"
            return [path.removeprefix(root) for path in system.find(name)]

        names = _request(folder, find)
        yield from (n for n in names if not any(x.startswith(".") for x in n.split("/")))
        return
    for place, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        prefix = os.path.relpath(place, folder).replace(os.sep, "/")
        prefix = "" if prefix == "." else f"{prefix}/"
        yield from (prefix + name for name in names if not name.startswith("."))


def names_in(folder: Path) -> set[str]:
    """List the files and folders in a folder, hidden ones too.

    Args:
      folder: local, or in a store, which is asked anew.

    Returns:
      Their names without the folder's; empty where there is no such folder.

    Raises:
      OSError: the folder cannot be read, or its store does not answer.
    """
    if not is_remote(folder):
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()

    return {info["name"].rstrip("/").rpartition("/")[2] for info in _listing(folder)}


def stats_in(folder: Path) -> dict[str, Stat]:
    """Look up the size and the mark of all files in a folder by one listing.

    Args:
      folder: local, or in a store, which is asked anew.

    Returns:
      Both by the name of the file, without the folder's; empty where a store has no such folder.

    Raises:
      OSError: there is no such local folder, it cannot be read, or its store does not answer.
    """
    if not is_remote(folder):
        with os.scandir(folder or ".") as entries:
            stats = ((entry.name, entry.stat()) for entry in entries if entry.is_file())
            return {name: Stat(status.st_size, str(status.st_mtime_ns)) for name, status in stats}
    files = (info for info in _listing(folder) if info["type"] != "directory")
    return {info["name"].rpartition("/")[2]: _stat(info) for info in files}


def _listing(folder: Path) -> list[dict[str, Any]]:
    """What a store says of each object in a folder; nothing if there is no such folder."""

    def ls(system: FileSystem, name: str) -> list[dict[str, Any]]:
        system.invalidate_cache(name)
        return list(system.ls(name, detail=True))

    try:
        return _request(folder, ls)
    except FileNotFoundError:
        return []


def _stat(info: dict[str, Any]) -> Stat:
    return Stat(info.get("size"), ":".join(f"{info[key]}" for key in _MARKS if key in info))


def glob(pattern: str) -> list[str]:
    """List the files and folders whose paths match a pattern.

    Args:
      pattern: a path with *, ? and ** (folders of any depth).

    Returns:
      The paths, sorted, with the scheme of the pattern.

    Raises:
      OSError: the store refuses the request, or does not answer.
    """
    if not is_remote(pattern):
        return sorted(local_glob.glob(pattern, recursive=True))

    def match(system: FileSystem, name: str) -> list[str]:
        return [system.unstrip_protocol(path) for path in system.glob(name)]

    return sorted(_request(pattern, match))


def read(path: Path, offset: int = 0, size: int | None = None) -> bytes:
    """Read a file, or a part of it.

    Args:
      path: of a file or an object.
      offset: of the first byte that is read, >= 0.
      size: bytes to read at most; None reads to the end.

    Returns:
      The bytes; fewer than `size` where the file ends before.

    Raises:
      OSError: it cannot be read, or its server gives no parts of files.
    """
    if not is_remote(path):
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(-1 if size is None else size)
    if size is None and not offset:
        return _request(path, lambda system, name: system.cat_file(name))
    if size == 0:
        return b""
    end = None if size is None else offset + size
    data = _request(path, lambda system, name: system.cat_file(name, offset, end))
    if size is not None and len(data) > size:
        raise OSError(errno.EIO, "its server gives no parts of files", str(path))
    return data


def read_many(paths: Sequence[Path], limit: int) -> Iterator[bytes | OSError]:
    """Read the beginning of each of many files, objects of a store side by side.

    Args:
      paths: all local, or all in one store.
      limit: bytes to read at most of each file.

    Yields:
      For each path in its order the bytes, or the error where it cannot be read.
    """
    for start in range(0, len(paths), _MANY):
        some = paths[start : start + _MANY]
        contents: Sequence[bytes | Exception | None] = (None,) * len(some)
        if is_remote(some[0]):
            system, _ = _system(some[0])
            names = [_system(path)[1] for path in some]
            contents = system.cat_ranges(names, 0, limit, on_error="return")
        for path, data in zip(some, contents, strict=True):
            if isinstance(data, bytes):
                yield data[:limit]
                continue
            try:  # one by one: local files, and objects that failed (an empty one has no parts)
                yield read(path)[:limit] if is_remote(path) else read(path, 0, limit)
            except OSError as error:
                yield error


def open_binary(path: Path) -> io.BufferedReader:
    """Open a file to read and to seek in.

    Args:
      path: of a file or an object. An object of at most 8 MiB is fetched at once, of a larger one
        only what is read.

    Returns:
      The open file, which the caller closes.

    Raises:
      OSError: it cannot be read.
    """
    if not is_remote(path):
        return open(path, "rb")
    size = stat(path).size
    if size is None or size <= _WHOLE:
        content: Any = io.BytesIO(read(path))
    else:
        block: Any = _BLOCK  # fsspec declares a text
        content = _LargeObject(_system(path)[0], str(path), size=size, block_size=block)
    return io.BufferedReader(content)


class _LargeObject(AbstractBufferedFile):
    """A large object, read block by block with fsspec's read-ahead."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return read(self.path, start, end - start)


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, replacing an older one.

    Args:
      path: of a file, whose folder is created where it is missing, or of an object.
      data: all that the file will hold.

    Raises:
      OSError: it cannot be written.
    """
    if is_remote(path):
        _request(path, lambda system, name: system.pipe_file(name, data))
        return
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(target)


def move_to(partial: pathlib.Path, path: Path) -> None:
    """Move a complete local file to another place, whole or not at all.

    Args:
      partial: the local file; it is gone afterwards.
      path: where to: a path on the same local file system, or of an object.

    Raises:
      OSError: it cannot be moved or uploaded; the file stays.
    """
    if not is_remote(path):
        partial.replace(path)
        return
    _request(path, lambda system, name: system.put_file(str(partial), name))
    partial.unlink()


def local_copy(path: Path) -> str:
    """Return a local file of the same content, for libraries that read nothing else.

    Args:
      path: of a file or an object.

    Returns:
      A local path: the file itself, or a copy of the object. A copy is written at the first use and
      stays in ~/.cache/vidgen/copies, by path and mark.

    Raises:
      OSError: the object cannot be read, or its copy cannot be written.
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
    """Return the path of a folder in the user's cache, which need not exist.

    Args:
      name: of the folder, relative to vidgen's cache.

    Returns:
      ~/.cache/vidgen/NAME, or $XDG_CACHE_HOME/vidgen/NAME where that variable is an absolute path.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # which the XDG specification says to ignore
        cache = os.path.expanduser("~/.cache")
    return os.path.join(cache, "vidgen", name)


def _request(path: Path, ask: Callable[[FileSystem, str], T]) -> T:
    """Ask a path's file system, again where it fails; in the end an error is an OSError."""
    system, name = _system(path)
    for wait in (*_WAITS, None):
        try:
            return ask(system, name)
        except tuple(kind for kind, _ in _ANSWERS) as error:
            kind, number = next(pair for pair in _ANSWERS if isinstance(error, pair[0]))
            raise kind(number, os.strerror(number), str(path)) from error
        except Exception as error:  # each package has errors of its own
            if wait is None:
                reason = (str(error).strip() or "no reason given").splitlines()[0][:120]
                tries = f"{len(_WAITS) + 1} tries, the last: {type(error).__name__}: {reason}"
                raise OSError(errno.EIO, f"it failed after {tries}", str(path)) from error
            time.sleep(wait)
    raise AssertionError  # the last wait is None


def _system(path: Path) -> tuple[FileSystem, str]:
    """The file system of a path, and its name there."""
    scheme = str(path).partition("://")[0]
    options: dict[str, Any] = {"auto_mkdir": True} if scheme == "file" else {}
    try:
        return fsspec.url_to_fs(str(path), **options)
    except ImportError as error:
        extra = _PACKAGES.get(scheme)
        hint = f'pip install "vidgen[{extra}]"' if extra else f"{error}"
        raise MissingPackage(
            f"{path}: paths with {scheme}:// need another package: {hint}."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{path}: no file system is known for {scheme}://; choose gs, s3, https or another "
            "that fsspec knows."
        ) from error
