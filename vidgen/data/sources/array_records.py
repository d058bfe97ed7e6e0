"""Files of records that are read in any order: ArrayRecord, a record a chunk.

A file appears whole or not at all. Open readers are kept by the process, not by what reads, so that
a source can be copied to worker processes.

Files may be in an object store (vidgen/paths.py). They are read from this machine: one is copied to
~/.cache/vidgen/copies at its first use, which takes as much room there.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from array_record.python import array_record_module  # type: ignore[attr-defined]

from vidgen import paths

SUFFIX = ".array_record"
# One record a chunk, so that reading one reads no other.
_OPTIONS = "group_size:1"
_OPEN = 256  # files that a process keeps open at most


class RecordsError(ValueError):
    """A file of records is missing, cut or damaged; the message is one sentence."""


def write_records(
    path: str | os.PathLike, records: Iterable[bytes], *, compressed: bool = True
) -> None:
    """Write a file of records, whole or not at all.

    Args:
      path: the path of the file, which is replaced.
      records: taken one at a time.
      compressed: False for what is packed already, such as videos.

    Raises:
      OSError: it cannot be written; names the path.
    """
    with _partial(path) as partial:
        partial.touch()  # the writer would say nothing of a folder that is not there
        writer = array_record_module.ArrayRecordWriter(
            str(partial), _OPTIONS if compressed else f"{_OPTIONS},uncompressed"
        )
        try:
            for record in records:
                with _errors_naming(path):
                    writer.write(record)
        except BaseException:
            with contextlib.suppress(RuntimeError):
                writer.close()
            raise
        with _errors_naming(path):
            writer.close()
        paths.move_to(partial, path)


@contextlib.contextmanager
def _partial(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Give the file to write before it is whole: beside the target, or on this machine."""
    if paths.is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            yield pathlib.Path(folder, "records.partial")
        return
    target = pathlib.Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _errors_naming(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"{path}: the records cannot be written ({error}).") from error


def read_all(path: str | os.PathLike) -> Sequence[bytes]:
    """Read all records of a file at once, in order.

    Args:
      path: the path of the file, here or in an object store.

    Returns:
      The bytes of each.

    Raises:
      RecordsError: the file is damaged, or not there.
    """
    try:
        return _opened(os.fspath(path)).read_all()
    except RuntimeError as error:
        raise RecordsError(f"{path} is damaged ({_short(error)}).") from error


def count_records(path: str | os.PathLike) -> int:
    """Count the records of a file.

    Args:
      path: the path of the file, here or in an object store.

    Returns:
      How many there are; none of them is read.

    Raises:
      RecordsError: there is no such file, it is cut, or it is of another kind.
    """
    return _opened(os.fspath(path)).num_records()


def read_record(path: str | os.PathLike, number: int) -> bytes:
    """Read one record of a file.

    Args:
      path: the path of the file, here or in an object store.
      number: the number of the record, from 0.

    Returns:
      The bytes of the record.

    Raises:
      RecordsError: the file or the record is damaged, or not there.
    """
    reader = _opened(os.fspath(path))
    if not 0 <= number < reader.num_records():  # the reader does not always look
        raise RecordsError(f"{path}: there is no record {number} of {reader.num_records()}.")
    try:
        return reader.read([number])[0]
    except RuntimeError as error:
        raise RecordsError(f"{path}: record {number} is damaged ({_short(error)}).") from error


def _opened(path: str) -> Any:
    return _reader(path, paths.version(path))


@functools.lru_cache(maxsize=_OPEN)
def _reader(path: str, version: tuple[str, ...]) -> Any:
    """Open one version of a file, or return the reader that is open."""
    # The reader takes a missing file, and most that are no ArrayRecord, for one without records.
    if not paths.is_file(path):
        raise RecordsError(f"there is no file of records {path}.")
    try:
        reader = array_record_module.ArrayRecordReader(paths.local_copy(path))
        if not reader.ok():
            raise RuntimeError("it does not open")
    except RuntimeError as error:
        raise RecordsError(
            f"{path} is cut, damaged, or no ArrayRecord ({_short(error)})."
        ) from error
    return reader


def _short(error: Exception) -> str:
    return str(error).split(" (computed", 1)[0].split("; at byte", 1)[0][:100]
