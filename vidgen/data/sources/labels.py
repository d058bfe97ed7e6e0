"""Captions from the names of classes, for data sets that are labeled and not described.

    "ApplyEyeMakeup"  ->  "apply eye makeup"                 in words
                      ->  "a video of apply eye makeup"      in a template, "a video of {}"
                      ->  "a person applying eye makeup"     from a table of captions by label

A table is a file of the user, or one that comes with the package (`TABLES`): UCF-101's labels are
nouns, verbs and abbreviations, of which no rule makes sentences.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from vidgen.data.sources.caption_tables import csv_rows
from vidgen.data.sources.caption_text import captions_in, parsed

_FOLDER = pathlib.Path(__file__).parent / "label_captions"
TABLES = ("ucf101",)
# Before a capital that follows a small letter or a digit, or that begins a word after capitals.
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def in_words(label: str) -> str:
    """Split a label into words, at capitals, underscores, hyphens and slashes.

    Args:
      label: name of a class, such as "ApplyEyeMakeup".

    Returns:
      The words in lower case, with spaces between them.
    """
    return " ".join(re.split(r"[\s_\-/]+", _WORD_STARTS.sub(" ", label).strip())).lower()


def check_template(template: str, setting: str) -> None:
    """Check that a label can be put into a template.

    Args:
      template: a text with one {}.
      setting: its name, for the message.

    Raises:
      ValueError: there is not exactly one {} in it.
    """
    if template.count("{}") != 1:
        raise ValueError(f"{setting} is {template!r}; write one {{}} where the label comes in.")


def captions_of_labels(
    labels: Sequence[str], *, template: str = "{}", table: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Caption each label: from the table, or in words in the template.

    Args:
      labels: names of classes.
      template: a text with one {}; not used where there is a table.
      table: captions by label, as `read_table` returns them; None takes the template.

    Returns:
      One caption for each label, in their order.

    Raises:
      ValueError: the table lacks a label.
    """
    if table is None:
        return tuple(template.replace("{}", in_words(label)) for label in labels)
    if missing := [label for label in labels if label not in table]:
        more = f" and {len(missing) - 1} more labels" if len(missing) > 1 else ""
        raise ValueError(f"the captions by label have none for {missing[0]!r}{more}.")
    return tuple(table[label] for label in labels)


def read_table(path: str) -> dict[str, str]:
    """Read captions by label.

    Args:
      path: one of `TABLES`, a .json object, or a .csv with the columns label and caption.

    Returns:
      One caption for each label.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is not as described, or has two captions for a label.
    """
    file = _FOLDER / f"{path}.csv" if path in TABLES else pathlib.Path(os.path.expanduser(path))
    if not file.is_file():
        known = ", ".join(TABLES)
        raise FileNotFoundError(
            f"there is no table of captions {path} (a file, or one of {known})."
        )
    try:
        if file.suffix == ".json":
            labels = parsed(file.read_text(encoding="utf-8-sig"))
            rows = [(label, _only(label, captions_in(text))) for label, text in labels.items()]
        else:
            csv = csv_rows(str(file), "label")
            rows = [(row.name, _only(row.name, captions_in(row.value))) for row in csv]
        table: dict[str, str] = {}
        for label, caption in rows:
            if table.setdefault(label, caption) != caption:
                raise ValueError(f"{label!r} has two captions")
        return table
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f'{file} is no table of captions by label: a .json like {{"YoYo": "a person playing '
            f'with a yo-yo"}}, or a .csv whose first line is label,caption ({error}).'
        ) from error


def _only(label: str, captions: Sequence[str]) -> str:
    """Return the only caption of a label."""
    if len(captions) != 1:
        raise ValueError(f"{label!r} has {len(captions)} captions, and needs one")
    return captions[0]
