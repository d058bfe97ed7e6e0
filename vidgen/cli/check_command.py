"""`vidgen check`: from a user's folder to what it holds, a sheet of clips, and the next command.

Nothing heavy is imported until the flags are known to be right.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from vidgen import paths
from vidgen.cli.generate_flags import COUNT, FILE, SWITCH, Row

if TYPE_CHECKING:
    from vidgen.precompute.check_data import CheckData

ROWS: tuple[Row, ...] = (
    ("data", FILE | {"metavar": "DATA_DIR", "nargs": "?"}, "a folder of captioned videos, of tar "
     "shards or of records, here or in an object store, or a pattern of shards; without it, "
     "--gin_file=data/... names the data"),
    ("-o --sheet", FILE | {"default": "check.png"}, "write 16 clips with their captions as this "
     "picture; default: check.png; --sheet= writes none"),
    ("--clips", COUNT, "how many clips are read, evenly spread; default: 1000; 0 is all"),
    ("--json", SWITCH, "print one JSON object"),
)  # fmt: skip
_PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WebP"}
_ROWS = 8  # of refused files that are printed, and of sizes

# The file of gin_configs/data/ for each kind of place, and the macro that says where it is.
_FOLDER = ("data/folder.gin", "DATA_DIR")
_SHARDS = ("data/tar_shards.gin", "SHARDS")
_RECORDS = ("data/clip_records.gin", "RECORDS")

Facts = Mapping[str, Any]


def run(flags: argparse.Namespace) -> dict[str, Any] | None:
    """Read the data, print what they hold, and draw the sheet of clips.

    Args:
      flags: of the command, and `bindings`, the NAME=VALUE of its --gin.NAME=VALUE.

    Returns:
      What is printed, as plain data that JSON can hold; None with --dry_run, which prints the
      configuration.

    Raises:
      ValueError: a flag is wrong, or no clip can be used.
      FileNotFoundError: there are no such data, or nothing in them has a caption.
    """
    from vidgen.config.gin_sessions import Sessions
    from vidgen.precompute.check_data import NO_CLIP, CheckData, of_shape
    from vidgen.precompute.training_size import suggest

    suffix = PurePath(flags.sheet).suffix.lower()
    if flags.sheet and suffix not in _PICTURES:
        choices = ", ".join(_PICTURES)
        raise ValueError(f"--sheet={flags.sheet}: a picture ends in {choices}.")
    if flags.data is None and not flags.gin_file:
        raise ValueError("name the data: vidgen check DATA_DIR, or --gin_file=data/....")
    layer = [] if flags.data is None else [layer_of(flags.data)]
    place = [f"{macro}={flags.data!r}" for _, macro in layer]
    fields: dict[str, Any] = {} if flags.clips is None else {"clips": flags.clips}
    files = [*flags.gin_file, *(file for file, _ in layer)]
    sessions = Sessions(["runs/check.gin"], files, flags.bindings)
    check = sessions.build(CheckData, (), place, **fields)
    experiment, changes = "", ()
    if check.source.shape.thwc[:3] == NO_CLIP:
        fields["known"] = check.probed()
        videos = [file for file in fields["known"].values() if file is not None]
        experiment, shape, changes = suggest(videos)
        if layer:  # a folder of millions is not searched again
            fields["source"] = of_shape(check.source, shape)
        check = sessions.build(CheckData, [experiment], [*place, *changes], **fields)
    sessions.check_bindings()
    if flags.dry_run:
        print(sessions.configs[-1], end="")
        return None
    facts = {"data": flags.data, "config": [file for file, _ in layer]} | check()
    facts["command"] = command(flags, experiment, layer, changes)
    facts["sheet"] = _drawn(check, flags.sheet, suffix) if facts["usable"] else None
    print(json.dumps(facts) if flags.json else text(facts), flush=True)
    if not facts["usable"]:
        raise ValueError(f"none of the {facts['read']} clips that were read can be used.")
    return facts


def layer_of(data: str) -> tuple[str, str]:
    """Choose the configuration for data by what lies at their place.

    Args:
      data: a folder, a file or a pattern of shards, here or in a store.

    Returns:
      The file of gin_configs/data/, and the macro of it that says where the data are.
    """
    names = paths.names_in(data) if paths.is_folder(data) else {data}
    if any(name.endswith(".array_record") or name == "manifest.json" for name in names):
        return _RECORDS
    return _SHARDS if any(name.endswith(".tar") for name in names) else _FOLDER


def command(
    flags: argparse.Namespace,
    experiment: str,
    layer: Sequence[tuple[str, str]],
    changes: Sequence[str],
) -> str:
    """Write the command that trains on the data.

    Args:
      flags: of this command, whose files and bindings are the user's.
      experiment: the file that was chosen; "" where the user's files name the experiment.
      layer: (file, macro) of the data, as `layer_of` gives them; empty where the user's files name
        the data.
      changes: NAME=VALUE, of the experiment's clip.

    Returns:
      The command as a shell reads it, one flag a line.
    """
    files = [*filter(None, [experiment]), *flags.gin_file, *(file for file, _ in layer)]
    bindings = [f"{macro}={flags.data!r}" for _, macro in layer]
    bindings += [*changes, *flags.bindings]
    if not any(binding.startswith("MODEL_DIR=") for binding in bindings):
        place = PurePath(flags.data or "data")
        place = place.parent if place.suffix in (".tar", ".array_record") else place
        name = re.sub(r"[^\w-]+", "_", place.stem).strip("_") or "data"
        bindings.append(f"MODEL_DIR='runs/{name}'")
    words = [f"--gin_file={_quoted(file)}" for file in files]
    parts = (binding.partition("=") for binding in bindings)
    words += [f"--gin.{name}={_quoted(value)}" for name, _, value in parts]
    return " \\\n    ".join(["vidgen train", *words])


def _quoted(word: str) -> str:
    """A word as a shell reads it."""
    if re.fullmatch(r"[\w@%+=:,./-]+", word):
        return word
    return shlex.quote(word) if re.search(r'["$`\\!]', word) else f'"{word}"'


def _drawn(check: CheckData, sheet: str, suffix: str) -> str | None:
    """Write the sheet; return its path."""
    if not sheet:
        return None
    from vidgen.display import sheets

    buffer = io.BytesIO()
    picture = sheets.contacts([(one.caption, one.video) for one in check.shown()])
    picture.image.save(buffer, _PICTURES[suffix])
    paths.write(sheet, buffer.getvalue())
    return sheet


# ---- text ----------------------------------------------------------------------------------------


def text(facts: Facts) -> str:
    """Write what was read of the data, for people.

    Args:
      facts: as `run` returns them.

    Returns:
      Lines, without an end of the last.
    """
    rows = [
        ("examples", _examples(facts)),
        ("length", _length(facts["seconds"])),
        ("rate", _span(facts["fps"], "frames a second")),
        ("size", _sizes(facts["sizes"])),
        ("captions", _captions(facts["captions"])),
        ("a clip", _clip(facts)),
        ("sheet", facts["sheet"] or ""),
    ]
    lines = [str(facts["data"] or ", ".join(facts["config"]) or "the data"), ""]
    for name, value in rows:
        for i, line in enumerate(value.split("\n") if value else ()):
            lines.append(f"{'' if i else name:<10}{line}")
    for title, key in (("refused", "refused"), ("left out", "left_out")):
        lines += _refusals(title, facts[key], str(facts["data"] or ""))
    if facts["usable"]:
        lines += ["", "train on it with", *(f"  {line}" for line in facts["command"].split("\n"))]
    return "\n".join(lines)


def _examples(facts: Facts) -> str:
    count, read, usable = (facts[name] for name in ("examples", "read", "usable"))
    which = "all read" if read == count else f"{read} of them read, evenly spread"
    packs = f"; {facts['image_packs']} were packs of images" if facts["image_packs"] else ""
    return f"{count} with their captions, {which}: {usable} can be used{packs}"


def _length(seconds: Mapping[str, float] | None) -> str:
    if seconds is None:
        return ""
    return f"{_span(seconds, 's')}; {seconds['sum']:.4g} s in all"


def _span(values: Mapping[str, float] | None, unit: str) -> str:
    if values is None:
        return ""
    least, middle, most = (f"{values[name]:.4g}" for name in ("least", "median", "most"))
    return f"{least} {unit}" if least == most else f"{least} to {most} {unit}, median {middle}"


def _sizes(sizes: Mapping[str, int]) -> str:
    if not sizes:
        return ""
    shown = [f"{size} ({count})" for size, count in list(sizes.items())[:_ROWS]]
    rest = len(sizes) - len(shown)
    return "height x width: " + ", ".join(shown) + (f" and {rest} other sizes" if rest else "")


def _captions(facts: Facts) -> str:
    lines = [f"{facts['count']}, {facts['different']} of them different"]
    if facts["words"]:
        lines[0] += f"; {_span(facts['words'], 'words')}"
    lines += [f"{n} x {text!r}" for text, n in facts["most_frequent"].items() if n > 1]
    if facts["cut"]:
        read = facts["tokens_read"]
        lines.append(f"of {facts['cut']} or more the end is cut: {read} tokens of a text are read")
    if facts["empty"]:
        lines.append(f"{facts['empty']} examples have none, and are video without text")
    return "\n".join(lines)


def _clip(facts: Facts) -> str:
    clip = facts["clip"]
    size = f"{clip['frames']} frames of {clip['height']}x{clip['width']}"
    seconds = clip["frames"] / clip["fps"]
    return f"{size} at {clip['fps']:g} fps, {seconds:.3g} s from a random place of each"


def _refusals(title: str, refused: Sequence[Mapping[str, str]], data: str) -> list[str]:
    """A line for each reason, with how many it stops and the first of them."""
    from vidgen.precompute.check_data import grouped

    if not refused:
        return []
    lines, groups = ["", f"{title} ({len(refused)})"], grouped(refused)
    for _, those in groups[:_ROWS]:
        shown = those[0]["file"].removeprefix(data.rstrip("/") + "/")
        more = f"  (and {len(those) - 1} more)" if len(those) > 1 else ""
        lines.append(f"  {shown}: {those[0]['why']}{more}")
    if len(groups) > _ROWS:
        lines.append(f"  and {len(groups) - _ROWS} other reasons (--json lists all)")
    return lines
