"""The commands of the documents one by one, as bash would run them, and how they are run here.

`commands` reads every ```bash block: lines that go on, `&&`, `for ... do ... done`, comments. Of
other shell syntax nothing is known, which is an error and not a command that goes untested.
"""

import contextlib
import functools
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from places import HELPERS, ROOT
from told import Told
from warm_process import Warm

VIDGEN = Path(sys.executable).parent / "vidgen"  # the entry point

# In the order in which a reader follows them: later ones use what earlier ones make.
DOCUMENTS = (
    "README.md",
    "gin_configs/README.md",
    "vidgen/data/README.md",
    "launch/README.md",
    "vidgen/inference/README.md",
    "vidgen/evals/README.md",
    "notebooks/README.md",
    "benchmarks/README.md",
)


class Command(NamedTuple):
    """One command, where it stands, and the line on which its block begins."""

    document: str
    section: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.words)

    @property
    def place(self) -> str:
        """For a message."""
        return f"{self.document}, block of line {self.line}: `{self}`"


def blocks(text: str, language: str) -> Iterator[tuple[str, int, str]]:
    """(heading, line, content) of every block of this language."""
    heading, begin, known, lines = "", 0, "", []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```") and begin:
            if known == language:
                yield heading, begin, "\n".join(lines)
            begin = 0
        elif line.startswith("```"):
            begin, known, lines = number, line.removeprefix("```"), []
        elif begin:
            lines.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("# ")


def text_of(document: str) -> str:
    """A document as it is."""
    return (ROOT / document).read_text(encoding="utf-8")


def commands() -> list[Command]:
    """All commands of all documents, in their order."""
    found = []
    for document in DOCUMENTS:
        for heading, line, content in blocks(text_of(document), "bash"):
            words = statements(content)
            found += [Command(document, heading, line, tuple(some)) for some in words]
    return found


def statements(block: str) -> Iterator[list[str]]:
    """The words of each command of some lines of bash.

    Raises:
      ValueError: there is syntax that is not known here.
    """
    lines = block.replace("\\\n", "").splitlines()
    parts = [words for line in lines for words in _split(line)]
    name, values, body = "", [], []
    for words in parts:
        if words[0] == "for" and words[2] == "in":
            name, values, body = words[1], words[3:], []
        elif words == ["done"]:
            for value in values:
                yield from ([_filled(word, name, value) for word in inner] for inner in body)
            name = ""
        elif name:
            body.append(words[1:] if words[0] == "do" else words)
            body = [inner for inner in body if inner]
        else:
            yield [_filled(word, "", "") for word in words]


def _split(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if word in ("&&", ";"):
            yield words
            words = []
        elif set(word) <= set("&;|<>()"):
            raise ValueError(f"tests/helpers/readme_commands.py does not know {word!r} of: {line}")
        else:
            words.append(word)
    if words:
        yield words


def _filled(word: str, name: str, value: str) -> str:
    word = re.sub(rf"\$({name}\b|{{{name}}})", value, word) if name else word
    if re.search(r"[$`]", word):
        raise ValueError(
            f"tests/helpers/readme_commands.py does not know what {word!r} is filled with."
        )
    return word


# ---- cheaper -------------------------------------------------------------------------------------


class Cheaper(NamedTuple):
    """Flags for the commands that a pattern finds, and why the test needs them.

    A flag that the command has already gets this value, in its place. Another is appended, as is
    every `--gin_file`, of which later ones win.
    """

    pattern: str
    flags: str
    why: str


def cheaper(words: Sequence[str], table: Iterable[Cheaper]) -> list[str]:
    """The words of a command after all rows of the table that its words match."""
    asked, words = " ".join(words), list(words)
    for row in table:
        if not re.search(row.pattern, asked):
            continue
        for flag in shlex.split(row.flags):
            name = flag.partition("=")[0] + "="
            own = [i for i, word in enumerate(words) if word.startswith(name)]
            if own and name != "--gin_file=":
                words[own[-1]] = flag
            else:
                words.append(flag)
    return words


# ---- run -----------------------------------------------------------------------------------------


def run(words: Sequence[str], warm: Warm) -> Told:
    """Runs `vidgen` and Python's scripts in this process, shell scripts in their own.

    Scripts that a script starts, for each row of a table, are forks of `warm`, as is the `vidgen`
    of a shell script.

    Raises:
      ValueError: it is none of these.
    """
    if words[0].startswith("launch/"):
        return _shell_script(words, warm)
    # libtpu would stay in this process, and ends one that has options of XLA for CPUs.
    if any(word.startswith(("--topology", "--chips")) for word in words):
        done = warm(HELPERS / "fork_for_tpu.py", VIDGEN, *words[1:])
        return Told(done.returncode, done.stdout, done.stderr)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if words[0] == "vidgen":
            status = _status(_vidgen, words[1:])
        elif words[0] == "python":
            with mock.patch("subprocess.run", functools.partial(_forked, subprocess.run, warm)):
                status = _status(_script, words[1:])
        else:
            raise ValueError(f"tests/helpers/readme_commands.py cannot run {words[0]!r}.")
    return Told(status, out.getvalue(), err.getvalue())


def _status(call, words: Sequence[str]) -> int:
    try:
        return call(words) or 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def _vidgen(words: Sequence[str]) -> int:
    from vidgen.cli import main  # once the import hook of the type checks is there

    return main.main(words)


def _script(words: Sequence[str]) -> None:
    """As `python FILE ...`: its folder comes first on the path, and it is __main__."""
    folder, before = str(Path(words[0]).resolve().parent), set(sys.modules)
    with mock.patch("sys.argv", list(words)), mock.patch("sys.path", [folder, *sys.path]):
        try:
            runpy.run_path(words[0], run_name="__main__")
        finally:
            for name in set(sys.modules) - before:
                if (getattr(sys.modules[name], "__file__", None) or "").startswith(folder):
                    del sys.modules[name]


def _forked(run, warm, command: Sequence[str], **options) -> subprocess.CompletedProcess:
    if command[0] != sys.executable or not command[1].endswith(".py"):
        return run(command, **options)
    done = warm(*command[1:], **(options.get("env") or os.environ))
    if options.get("check"):
        assert done.returncode == 0, done.stderr
    return done


def _shell_script(words: Sequence[str], warm: Warm) -> Told:
    """Of launch/, which finds a `vidgen` that begins as a fork."""
    with tempfile.TemporaryDirectory() as folder:
        warm.command(Path(folder, "vidgen"), VIDGEN)
        path = os.pathsep.join([folder, str(VIDGEN.parent), os.environ["PATH"]])
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    return Told(done.returncode, done.stdout, done.stderr)
