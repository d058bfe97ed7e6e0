"""The captions of a folder: which files have one, what a table or a text says, and what is refused.

    clip.txt            beside clip.mp4: the whole text; if it cannot be read, the clip is left out
    captions.jsonl      {"file": "birds/clip.mp4", "caption": "a parrot flies"}, one a line
    captions.csv        columns `file` and `caption`; a table with a mistake in it is refused

A caption is one line of at most 10,000 characters, and always text that can be encoded.
"""

from __future__ import annotations

import codecs
import csv
import functools
import io
import json
import logging
import posixpath
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vidgen import paths

MISSING_CAPTIONS = ("skip", "empty")
# [guess] Characters of a caption that are kept: 512 tokens, the most that MiniLM reads, are some
# 2,500 of them, and a million captions of 100 kB would be all the memory there is.
LIMIT = 10_000
_BYTES = 4 * LIMIT + 3  # that are at least so many characters, with a mark of UTF-8 before them

log = logging.getLogger(__name__)


class _Found(NamedTuple):
    """Caption by file, and why there is none where there should be one."""

    captions: dict[str, str]
    unreadable: dict[str, str]


def captioned_files(
    path: str, suffixes: Sequence[str], kind: str, missing_captions: str
) -> tuple[tuple[str, str], ...]:
    """(file, caption) pairs of the files under a folder, sorted by file.

    Args:
      path: the folder, here or in an object store.
      suffixes: which files count, in lower case.
      kind: what to call one of them in messages: "video", "image".
      missing_captions: "skip" or "empty", as in `FolderSource`.

    Raises:
      FileNotFoundError: no such folder, or nothing usable in it.
      ValueError: a table of captions is not as described above, or another setting.
    """
    if missing_captions not in MISSING_CAPTIONS:
        raise ValueError(f"missing_captions is {missing_captions!r}; choose skip or empty.")
    rows, unreadable = _listed(path, suffixes, kind)
    missing = [file for file, caption in rows if not caption]
    if not rows or (missing_captions == "skip" and len(missing) == len(rows)):
        raise FileNotFoundError(_none(path, kind, missing, unreadable))
    if missing:
        done = "skipped" if missing_captions == "skip" else 'used with the caption ""'
        counts = f"{len(missing)} of {len(rows)} {kind}s in {path}"
        log.warning("%s have no caption (%s), e.g. %s", counts, done, missing[0])
    return tuple(row for row in rows if row[1] or missing_captions == "empty")


def listed_files(path: str, suffixes: Sequence[str], kind: str) -> list[tuple[str, str]]:
    """(file, caption) pairs as in `captioned_files`, the caption "" where there is none.

    Raises:
      FileNotFoundError: no such folder, or no such file in it.
      ValueError: a table of captions is not as described above.
    """
    return _listed(path, suffixes, kind)[0]


def _listed(
    path: str, suffixes: Sequence[str], kind: str
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The pairs, and the files whose caption cannot be read, which are told of, and why."""
    if not paths.is_folder(path):
        raise FileNotFoundError(f"the data folder {path} does not exist.")
    files = sorted(paths.files_under(path))
    wanted = [file for file in files if _suffix(file) in suffixes]
    if not wanted:
        raise FileNotFoundError(
            f"the data folder {path} holds no {kind}: looked for files ending in "
            f"{' '.join(suffixes)} here and in all sub-folders, among {len(files)} files."
        )
    captions, unreadable = _captions(path, files, wanted)
    if unreadable:
        bad, reason = next(iter(unreadable.items()))
        counts = f"{len(unreadable)} of {len(wanted)} {kind}s in {path}"
        text = "%s have a caption file that cannot be read (skipped), e.g. of %s: %s"
        log.warning(text, counts, bad, reason)
    rows = [
        (paths.join(path, file), captions.get(file, ""))
        for file in wanted
        if file not in unreadable
    ]
    return rows, unreadable


def clean(text: str) -> str:
    """A caption in one line, cut to 10,000 characters; half of a UTF-16 pair becomes U+FFFD."""
    if len(text) > LIMIT:
        _warn_cut()
        text = text[:LIMIT]
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can say "\ud83c", which no encoder takes
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return " ".join(text.split())


def decoded(data: bytes) -> str:
    """The text of bytes in UTF-8, of which only the beginning may have been read.

    Raises:
      UnicodeDecodeError: it is none.
    """
    whole = len(data) < _BYTES
    return codecs.getincrementaldecoder("utf-8-sig")().decode(data, whole)


@functools.cache
def _warn_cut() -> None:
    log.warning("at least one caption is cut to its first %d characters (this is said once)", LIMIT)


def _none(path: str, kind: str, missing: Sequence[str], unreadable: dict[str, str]) -> str:
    """Why no file can be used."""
    count = len(missing) + len(unreadable)
    text = f"the data folder {path} holds {count} {kind}s but no caption for any: "
    if unreadable:
        bad, reason = next(iter(unreadable.items()))
        text += f"{len(unreadable)} have a .txt that cannot be read, e.g. {bad}: {reason}"
        return text + ("; and " if missing else ".") + _looked_for(missing)
    return text + _looked_for(missing)


def _looked_for(missing: Sequence[str]) -> str:
    if not missing:
        return ""
    name = posixpath.splitext(posixpath.basename(missing[0]))[0]
    return (
        f"looked for {name}.txt and the like, captions.jsonl and captions.csv "
        "(columns file, caption)."
    )


def _suffix(file: str) -> str:
    return posixpath.splitext(file)[1].lower()


def _captions(folder: str, files: Sequence[str], wanted: Sequence[str]) -> _Found:
    """Sidecar text wins over captions.jsonl, which wins over captions.csv."""
    captions: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    root = folder.rstrip("/") + "/"
    for name, read in (("captions.csv", _read_csv), ("captions.jsonl", _read_jsonl)):
        for table in files:
            if posixpath.basename(table) == name:
                beside = posixpath.dirname(table)
                for file, caption in read(paths.join(folder, table)):
                    inner = file.startswith(root)
                    place = file.removeprefix(root) if inner else posixpath.join(beside, file)
                    captions[posixpath.normpath(place)] = clean(caption)
    texts = {file for file in files if file.endswith(".txt")}
    beside = {file: posixpath.splitext(file)[0] + ".txt" for file in wanted}
    told = [file for file in wanted if beside[file] in texts]
    contents = paths.read_many([paths.join(folder, beside[file]) for file in told], _BYTES)
    for file, content in zip(told, contents, strict=True):
        try:
            if isinstance(content, OSError):
                raise content
            captions[file] = clean(decoded(content))
        except UnicodeDecodeError:
            unreadable[file] = "it is no UTF-8 text"
        except OSError as error:
            unreadable[file] = error.strerror or type(error).__name__
    return _Found({file: text for file, text in captions.items() if text}, unreadable)


def _lines(table: str, newline: str) -> Iterator[str]:
    try:
        with io.TextIOWrapper(paths.open_binary(table), "utf-8-sig", newline=newline) as file:
            yield from file
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} is not UTF-8 text; save it as UTF-8.") from error


def _read_csv(table: str) -> Iterator[tuple[str, str]]:
    rows = csv.DictReader(_lines(table, ""))
    try:
        names = {(name or "").strip() for name in rows.fieldnames or ()}
        if not {"file", "caption"} <= names:
            raise ValueError(
                f"{table} must begin with a header line that names the columns file and caption; "
                f"it names {sorted(names)}."
            )
        for row in rows:
            clean_row = {(key or "").strip(): value for key, value in row.items()}
            if clean_row["file"] and clean_row["caption"]:
                yield clean_row["file"].strip(), clean_row["caption"]
    except csv.Error as error:  # a quote that is never closed, mostly
        raise ValueError(
            f"{table} line {rows.line_num}: {error}; look for a quotation mark that is not closed."
        ) from error


def _read_jsonl(table: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_lines(table, "\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            file, caption = entry["file"], entry["caption"]
            if not isinstance(file, str) or not isinstance(caption, str | int | float | None):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f'{table} line {number} is not like {{"file": "a.mp4", "caption": "a cat runs"}}.'
            ) from error
        if caption is not None:
            yield file.strip(), str(caption)
