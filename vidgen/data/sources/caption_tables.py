"""Tables of captions, read row by row: .csv and .jsonl, in which a mistake is refused by its line.

A bad caption text beside a clip costs one clip, and is skipped and counted. A table with a mistake
may mean any number of other rows than it says: an unquoted comma cuts a
caption, a quotation mark that is not closed takes in the rows below it. Neither shows in the row
alone, so the number of fields must be that of the header, text after a closing quotation mark is an
error, and no field may hold what looks like another row.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from vidgen import paths
from vidgen.data.sources.caption_text import parsed


class CaptionRow(NamedTuple):
    """One row of a table of captions.

    Attributes:
      line: the line of the file, from 1, in which the row begins.
      name: what it is about: a file, a label.
      value: its caption; of .jsonl any value of JSON.
    """

    line: int
    name: str
    value: Any


def csv_rows(
    table: str, name_column: str, is_name: Callable[[str], bool] = lambda text: False
) -> Iterator[CaptionRow]:
    """Read the rows of a .csv whose header has `name_column` and "caption", but for empty rows.

    Args:
      table: the file.
      name_column: which column says what a row is about.
      is_name: whether a text is what that column may hold, by which rows inside of a field are
        known.

    Yields:
      The rows, their captions as text that is not cleaned.

    Raises:
      ValueError: it is not as it should be; the message has the line and the mend.
    """
    rows = csv.reader(_lines(table, ""), strict=True, skipinitialspace=True)
    header = _next(table, rows) or []
    names = [name.strip() for name in header]
    named = [name for name in names if name]
    if not {name_column, "caption"} <= set(named) or len(set(named)) < len(named):
        raise ValueError(_wrong_header(table, name_column, names))
    name_at, caption_at = names.index(name_column), names.index("caption")
    while True:
        line = rows.line_num + 1
        row = _next(table, rows)
        if row is None:
            return
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(names):
            raise ValueError(
                f"{table} line {line}: it has {len(row)} fields and the header {len(names)}; put a "
                'caption with a comma in quotation marks: "a cat, running".'
            )
        if rows.line_num > line and (inside := _row_inside(row, name_at, is_name)):
            raise ValueError(
                f"{table} line {line}: a quotation mark is not closed and takes in the row of "
                f'{inside}; close it, and write "" for a quotation mark inside of a caption.'
            )
        yield CaptionRow(line, row[name_at].strip(), row[caption_at])


def _next(table: str, rows: Any) -> list[str] | None:
    """Read the next row, or None after the last."""
    line = rows.line_num + 1
    try:
        return next(rows, None)
    except csv.Error as error:
        end = f" (read to line {rows.line_num})" if rows.line_num > line else ""
        raise ValueError(
            f"{table} line {line}{end}: a quotation mark is not closed, or has text after it "
            f'({error}); put the caption in quotation marks, and write "" for one inside of it.'
        ) from error


def _wrong_header(table: str, name_column: str, names: Sequence[str]) -> str:
    text = (
        f"{table} must begin with a header line that names the columns {name_column} and caption, "
        f"each once; it names {sorted(names)}"
    )
    split = next((sign for sign in "\t;|" if len(names) == 1 and sign in names[0]), None)
    return text + (f"; separate columns by a comma, not by {split!r}." if split else ".")


def _row_inside(row: Sequence[str], name_at: int, is_name: Callable[[str], bool]) -> str:
    """Return the name in another row that a field of several lines contains; "" where none is."""
    for cell in row:
        lines = cell.splitlines()
        for line in lines if len(lines) > 1 else ():
            parts = [part.strip(' "') for part in line.split(",")]
            if len(parts) < len(row):
                continue
            for name in (parts[name_at], parts[name_at - len(row)]):
                if name and is_name(name):
                    return name
    return ""


def jsonl_rows(table: str) -> Iterator[CaptionRow]:
    """Read the rows of a .jsonl with "file" and "caption", but for empty lines.

    Args:
      table: the file.

    Yields:
      The rows; their captions may be any JSON value, which `captions_in` reads.

    Raises:
      ValueError: a line is not as it should be; the message has its number.
    """
    for number, line in enumerate(_lines(table, "\n"), start=1):
        if not line.strip():
            continue
        what = ""
        try:
            entry = parsed(line)
        except ValueError as error:
            entry, what = None, f" ({error})"
        match entry:
            case {"file": str(name), "caption": caption}:
                yield CaptionRow(number, name.strip(), caption)
            case _:
                example = json.dumps({"file": "a.mp4", "caption": "a cat runs"})
                raise ValueError(f"{table} line {number} is not like {example}{what}.")


def _lines(table: str, newline: str) -> Iterator[str]:
    try:
        with io.TextIOWrapper(paths.open_binary(table), "utf-8-sig", newline=newline) as file:
            yield from file
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} is not UTF-8 text; save it as UTF-8.") from error
