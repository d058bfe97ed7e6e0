"""The captions of a folder: which files have some, what a table or a text says, what is refused.

    clip.txt            beside clip.mp4: the whole text; if it cannot be read, the clip is left out
    clip.json           with a "caption", where there is no clip.txt, or a blank one
    captions.jsonl      {"file": "birds/clip.mp4", "caption": "a parrot flies"}, one a line
    captions.csv        columns `file` and `caption`; a table with a mistake in it is refused

Several rows for one file, or a list in JSON, are several captions of it
(data/sources/caption_text.py). Rows are matched as in data/sources/file_names.py; those that match
no file are counted in the log, as are files that are neither read nor captions.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from vidgen import paths
from vidgen.data.sources.caption_tables import CaptionRow, csv_rows, jsonl_rows
from vidgen.data.sources.caption_text import (
    JSON_BYTES,
    TEXT_BYTES,
    captions_in,
    decoded,
    parsed,
    unique,
)
from vidgen.data.sources.file_names import FileNames, grouped, stem, suffix

MISSING_CAPTIONS = ("skip", "empty")
CaptionedFile = tuple[str, tuple[str, ...]]  # a file and its captions

log = logging.getLogger(__name__)


class FolderCaptions(NamedTuple):
    """The captions that a folder has for its files; all names are relative to the folder.

    Attributes:
      captions: the captions of each file that has some.
      unreadable: files whose caption cannot be read, and why.
      read: the files that captions were read from.
      notices: warnings about tables.
    """

    captions: dict[str, tuple[str, ...]]
    unreadable: dict[str, str]
    read: set[str]
    notices: list[str]


def captioned_files(
    path: str, suffixes: Sequence[str], kind: str, missing_captions: str
) -> tuple[CaptionedFile, ...]:
    """Find the files under a folder and their captions.

    Args:
      path: the folder, here or in an object store.
      suffixes: which files count, in lower case.
      kind: what to call one of them in messages: "video", "image".
      missing_captions: "skip" or "empty", as in `FolderSource`.

    Returns:
      (file, captions) pairs sorted by file; captions are () only with "empty".

    Raises:
      FileNotFoundError: no such folder, or nothing usable in it.
      ValueError: a table of captions is not as described above, or another setting.
    """
    if missing_captions not in MISSING_CAPTIONS:
        raise ValueError(f"missing_captions is {missing_captions!r}; choose skip or empty.")
    rows, found = _listed(path, suffixes, kind)
    missing = [file for file, captions in rows if not captions]
    if not rows or (missing_captions == "skip" and len(missing) == len(rows)):
        raise FileNotFoundError(_none(path, kind, missing, found))
    if missing:
        done = "skipped" if missing_captions == "skip" else 'used with the caption ""'
        counts = f"{len(missing)} of {len(rows)} {kind}s in {path}"
        log.warning("%s have no caption (%s), e.g. %s", counts, done, missing[0])
    return tuple(row for row in rows if row[1] or missing_captions == "empty")


def listed_files(path: str, suffixes: Sequence[str], kind: str) -> list[CaptionedFile]:
    """Find files as `captioned_files` does, and keep those that have no caption.

    Args:
      path: the folder, here or in an object store.
      suffixes: which files count, in lower case.
      kind: what to call one of them in messages.

    Returns:
      (file, captions) pairs sorted by file, without those whose caption cannot be read.

    Raises:
      FileNotFoundError: no such folder, or no such file in it.
      ValueError: a table of captions is not as described above.
    """
    return _listed(path, suffixes, kind)[0]


def left_out(path: str, suffixes: Sequence[str], kind: str) -> Iterator[tuple[str, str]]:
    """List what a folder holds that is no example with a caption.

    Args:
      path: the folder, here or in an object store.
      suffixes: which files count, in lower case.
      kind: what to call one of them in messages.

    Yields:
      (name, why): files whose caption is missing or unreadable, tables with rows that match
      nothing, and files that nothing reads.

    Raises:
      FileNotFoundError: no such folder, or no such file in it.
      ValueError: a table of captions is not as described above.
    """
    wanted, found, rest = _contents(path, suffixes, kind)
    for file in wanted:
        if file in found.unreadable:
            yield file, f"its caption cannot be read: {found.unreadable[file]}"
        elif file not in found.captions:
            yield file, "it has no caption"
    for notice in found.notices:
        yield path, notice
    for file in rest:
        yield file, f"it is no {kind} and no caption of one"


def _contents(
    path: str, suffixes: Sequence[str], kind: str
) -> tuple[list[str], FolderCaptions, list[str]]:
    """Return the files that are wanted, their captions, and the files that nothing reads."""
    if not paths.is_folder(path):
        is_file = paths.is_file(path)
        why = "is a file; name the folder that it lies in" if is_file else "does not exist"
        raise FileNotFoundError(f"the data folder {path} {why}.")
    files = sorted(paths.files_under(path))
    wanted = [file for file in files if suffix(file) in suffixes]
    if not wanted:
        others = f": {by_suffix(files)}" if files else ""
        raise FileNotFoundError(
            f"the data folder {path} holds no {kind}: looked for files ending in "
            f"{' '.join(suffixes)} here and in all sub-folders, among {len(files)} files{others}."
        )
    found = folder_captions(path, files, wanted)
    read = {*wanted, *found.read}
    # what lists the shots of a video is read by precompute/shots.py
    rest = [f for f in files if f not in read and not f.endswith(".shots.json")]
    return wanted, found, rest


def _listed(
    path: str, suffixes: Sequence[str], kind: str
) -> tuple[list[CaptionedFile], FolderCaptions]:
    """List (file, captions) of files whose caption can be read; log what else is there."""
    wanted, found, rest = _contents(path, suffixes, kind)
    if found.unreadable:
        bad, reason = next(iter(found.unreadable.items()))
        counts = f"{len(found.unreadable)} of {len(wanted)} {kind}s in {path}"
        text = "%s have a caption that cannot be read (skipped), e.g. of %s: %s"
        log.warning(text, counts, bad, reason)
    for notice in found.notices:
        log.warning("%s", notice)
    if rest:
        warn_once(f"{len(rest)} files in {path} are passed over: {by_suffix(rest)}")
    rows = [
        (paths.join(path, file), found.captions.get(file, ()))
        for file in wanted
        if file not in found.unreadable
    ]
    return rows, found


def by_suffix(files: Sequence[str]) -> str:
    """Describe files for a message.

    Args:
      files: at least one.

    Returns:
      Counts of the five most frequent suffixes, and one file as an example.
    """
    counts = collections.Counter(suffix(file) or "no suffix" for file in files)
    return ", ".join(f"{n} {what}" for what, n in counts.most_common(5)) + f", e.g. {files[0]}"


@functools.cache
def warn_once(text: str) -> None:
    """Warn once of a thing, although several sources of a run may read one folder.

    Args:
      text: the warning; the same text is logged once a process.
    """
    log.warning("%s", text)


def _none(path: str, kind: str, missing: Sequence[str], found: FolderCaptions) -> str:
    """Say why no file can be used."""
    count = len(missing) + len(found.unreadable)
    text = f"the data folder {path} holds {count} {kind}s but no caption for any: "
    why = list(found.notices)
    if found.unreadable:
        bad, reason = next(iter(found.unreadable.items()))
        why.append(
            f"{len(found.unreadable)} have a caption that cannot be read, e.g. {bad}: {reason}"
        )
    if missing:
        name = posixpath.splitext(posixpath.basename(missing[0]))[0]
        tables = "captions.jsonl and captions.csv (columns file, caption)"
        why.append(f"looked for {name}.txt and the like, {tables}")
    return f"{text}{'; '.join(why)}."


def folder_captions(path: str, files: Sequence[str], wanted: Sequence[str]) -> FolderCaptions:
    """Find the captions of files: clip.txt comes before clip.json, and that before tables.

    Args:
      path: the folder.
      files: the names of all files in it, relative to it.
      wanted: those of which captions are looked for.

    Returns:
      Their captions, the files whose caption cannot be read, and what was read.

    Raises:
      ValueError: a table is not as it should be, or a name may mean two files.
    """
    found = FolderCaptions({}, {}, set(), [])
    tables = _from_tables(path, files, wanted, found)
    for ending, limit, says in (
        (".txt", TEXT_BYTES, lambda data: unique([decoded(data)])),
        (".json", JSON_BYTES + 1, _of_json),
    ):
        beside = _beside(files, wanted, ending)
        found.read.update(beside.values())
        asked = [f for f in beside if f not in found.captions and f not in found.unreadable]
        contents = paths.read_many([paths.join(path, beside[file]) for file in asked], limit)
        for file, content in zip(asked, contents, strict=True):
            try:
                if isinstance(content, OSError):
                    raise content
                if texts := says(content):
                    found.captions[file] = texts
            except UnicodeDecodeError:
                found.unreadable[file] = "it is no UTF-8 text"
            except OSError as error:
                found.unreadable[file] = error.strerror or type(error).__name__
            except ValueError as error:
                found.unreadable[file] = str(error)
    for file, said in tables.items():
        if file in found.captions or file in found.unreadable:
            continue  # what lies beside a file wins
        if isinstance(said, str):
            found.unreadable[file] = said
        else:
            found.captions[file] = said
    return found


def _of_json(data: bytes) -> tuple[str, ...]:
    """Read the captions in a clip's .json, which may hold other things."""
    if len(data) > JSON_BYTES:
        raise ValueError(f"its .json is longer than {JSON_BYTES >> 20} MB")
    value = parsed(data.decode("utf-8-sig"))
    if isinstance(value, dict):
        return captions_in(value.get("caption"))
    with contextlib.suppress(ValueError):  # it may be about anything
        return captions_in(value)
    return ()


def _beside(files: Sequence[str], wanted: Sequence[str], ending: str) -> dict[str, str]:
    """Find the file of the same name with another suffix, in any case, beside each file.

    Raises:
      ValueError: there are two.
    """
    there = {file for file in files if suffix(file) == ending}
    names = ((file, posixpath.splitext(file)[0] + ending) for file in wanted)
    beside = {file: name for file, name in names if name in there}
    by_stem = grouped((stem(file), file) for file in sorted(there - set(beside.values())))
    for file in wanted if by_stem else ():
        candidates = () if file in beside else by_stem.get(stem(file), ())
        if len(candidates) > 1:
            raise ValueError(f"{file} has both {' and '.join(candidates)} beside it; leave one.")
        if candidates:
            beside[file] = candidates[0]
    return beside


def _from_tables(
    path: str, files: Sequence[str], wanted: Sequence[str], found: FolderCaptions
) -> dict[str, tuple[str, ...] | str]:
    """Read the captions by file in all tables (.jsonl goes before .csv), or why they are none."""
    tables = [file for file in files if posixpath.basename(file).lower() in _TABLES]
    if not tables:
        return {}
    found.read.update(tables)
    names, kept = FileNames(path, files, wanted), set(wanted)
    captions: dict[str, tuple[str, ...] | str] = {}
    for kind in _TABLES:
        texts: dict[str, list[str]] = {}
        for table in (table for table in tables if posixpath.basename(table).lower() == kind):
            for file, said in _rows(path, table, names, found.notices):
                if file not in kept:
                    continue
                if isinstance(said, str):
                    captions.setdefault(file, said)
                else:
                    texts.setdefault(file, []).extend(said)
        captions.update({file: unique(some) for file, some in texts.items() if any(some)})
    return captions


def _rows(
    path: str, table: str, names: FileNames, notices: list[str]
) -> Iterator[tuple[str, tuple[str, ...] | str]]:
    """Match the rows of a table to files: (file, its captions or why they are none)."""
    place, beside = paths.join(path, table), posixpath.dirname(table)
    unmatched, total, example = 0, 0, ""
    for row in _TABLES[posixpath.basename(table).lower()](place, names, beside):
        total += 1
        try:
            file = names.find(row.name, beside)
        except ValueError as error:
            raise ValueError(f"{place} line {row.line}: {error}.") from error
        if file is None:
            unmatched += 1
            example = example or f"{row.name or '(no name)'} (line {row.line})"
            continue
        try:
            yield file, captions_in(row.value)
        except ValueError as error:
            yield file, f"{table} line {row.line}: {error}"
    if unmatched:
        one = "row" if unmatched == 1 else "rows"
        text = f"{unmatched} {one} of {table} match no file, e.g. {example}"
        notices.append(f"{text}; it has {total} rows and lies in {path}")


def _csv(table: str, names: FileNames, beside: str) -> Iterator[CaptionRow]:
    def is_name(text: str) -> bool:
        if names.is_called_like_one(text):  # of a file that need not be here
            return True
        try:
            return names.find(text, beside) is not None
        except ValueError:  # it may mean two files
            return True

    return csv_rows(table, "file", is_name)


# What is later wins.
_TABLES: Mapping[str, Callable[[str, FileNames, str], Iterator[CaptionRow]]] = {
    "captions.csv": _csv,
    "captions.jsonl": lambda table, names, beside: jsonl_rows(table),
}
