"""What a config.gin that t5x saved says of vidgen: a run of gin_configs/t5x/ as any other run.

t5x writes all bindings of its run, its own among them, and its modules need not be here. They bind
nothing that a trained model consists of.
"""

from __future__ import annotations

import re

_MARK = "import __main__ as train_script"
_IMPORT = re.compile(r"^(?:from ([\w.]+) )?import ([\w.]+)(?: as (\w+))?\s*$")
_ADAPTER = "vidgen.train.t5x"


def without_t5x(text: str) -> str:
    """Keep what a configuration that t5x saved says of vidgen.

    Args:
      text: the text of a config.gin.

    Returns:
      Its statements about vidgen; a configuration that t5x did not save as it is.
    """
    if _MARK not in text:
        return text
    others: set[str] = set()  # names that modules outside vidgen, and the adapter, are bound to
    kept: list[str] = []
    for statement in re.split(r"\n(?=\w|#)", text):
        if imported := _IMPORT.match(statement):
            package, name, alias = imported.groups()
            module = f"{package}.{name}" if package else name
            if module == _ADAPTER or not module.startswith(("vidgen.", "__gin__.")):
                others.add(alias or (name if package else name.partition(".")[0]))
                continue
        if not _names(statement) & others:
            kept.append(statement)
    return "\n".join(kept) + "\n" * text.endswith("\n") * (not kept[-1].endswith("\n"))


def _names(statement: str) -> set[str]:
    """Return the modules that a statement begins with, or refers to."""
    head = re.match(r"(?:[\w./]*/)?(\w+)\.", statement)
    return {*re.findall(r"@(?:[\w./]*/)?(\w+)\.", statement), *([head[1]] if head else [])}
