"""A saved configuration without what only its own machine has, for a folder to hand on."""

from __future__ import annotations

import re

from vidgen.config.old_names import with_new_names
from vidgen.config.t5x_configs import without_t5x

# Macros that hold a path; "" is the default of those that tell of the past.
_PLACE = re.compile(r"\w+_(?:DIR|CACHE|SHARDS)|SHARDS|RECORDS|RAW_VIDEOS|INIT_FROM")
_PAST = ("INIT_FROM", "TEACHER_DIR")
_MACRO = re.compile(r"^([A-Z][A-Z0-9_]*) = (?:\\\n +)?(['\"])(.*)\2$", re.MULTILINE)
_PATH = re.compile(r"(['\"])(?:/|~/|[a-z0-9]+://)(?:[^'\"\n]*/)?([^'\"/\n]*)\1")
_ENCODED = re.compile(r"^(?:\w+/)?text_cache\.EncodedText\.encoder = (@.*)$", re.MULTILINE)
_MODULES = re.compile(r"^((?:\w+/)?seqio_source\.SeqioSource\.modules) = .*$", re.MULTILINE)


def portable(config: str, tokenizer: str | None = None) -> str:
    """Rewrite a saved configuration for another machine, in today's names.

    Places of this machine have to be said anew there (`--gin.DATA_DIR=...`), and only by whoever
    uses them; captions are encoded by the encoder itself, and not looked up in a cache.

    Args:
      config: what training wrote.
      tokenizer: the name of the tokenizer's folder beside that of the model, if it has one.

    Returns:
      A gin configuration.
    """
    config = with_new_names(without_t5x(config))
    if encoder := _ENCODED.search(config):
        config = re.sub(r"(?m)^TEXT_ENCODER = .*$", f"TEXT_ENCODER = {encoder[1]}", config)
    config = _MODULES.sub(r"\1 = ()", config)

    def elsewhere(macro: re.Match[str]) -> str:
        name, quote, value = macro.groups()
        if name == "TOKENIZER_DIR" and tokenizer is not None:
            return f"{name} = '../{tokenizer}'"
        if name in _PAST:
            return f"{name} = ''"
        if _PLACE.fullmatch(name) and value:
            return f"{name} = %gin.REQUIRED"
        return f"{name} = {quote}{value}{quote}"

    return _PATH.sub(r"\1\2\1", _MACRO.sub(elsewhere, config))


def dataset(config: str) -> tuple[str, dict[str, str]] | None:
    """Find the data set that a configuration names.

    Args:
      config: what training wrote.

    Returns:
      Its class and those of its settings that are one line of plain values; None where there is
      none.
    """
    named = re.search(r"^DATASET = @([\w./]+)\(\)$", config, re.MULTILINE)
    if named is None:
        return None
    lines = re.findall(rf"^{re.escape(named[1])}\.(\w+) = ([^\\\n@%]+)$", config, re.MULTILINE)
    return named[1], dict(lines)


def number(config: str, macro: str) -> int | None:
    """Find a macro that is a whole number.

    Args:
      config: what training wrote.
      macro: name of the macro, such as BATCH_SIZE.

    Returns:
      Its value; None where the configuration does not set it to a whole number.
    """
    value = re.search(rf"^{macro} = (\d+)$", config, re.MULTILINE)
    return None if value is None else int(value[1])


def prompts(config: str) -> tuple[str, ...]:
    """Find the prompts of sample clips, SAMPLE_PROMPTS.

    Args:
      config: what training wrote.

    Returns:
      The prompts; none where the configuration has none.
    """
    values = re.search(r"^SAMPLE_PROMPTS = \\?\s*\(([^)]*)\)", config, re.MULTILINE)
    return () if values is None else tuple(re.findall(r"'([^']+)'", values[1]))
