"""Runs `vidgen plan` for each of its arguments, in one process, which loads libtpu once.

Prints what each said; see plan/test_tpu.py.
"""

import contextlib
import io
import json
import shlex
import sys

from vidgen.cli import main


def run(line):
    """(status, report or None, errors) of one command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main.main(["plan", "--json", *shlex.split(line)])
    report = json.loads(out.getvalue()) if out.getvalue() else None
    return {"status": status, "report": report, "errors": err.getvalue()}


if __name__ == "__main__":
    print(json.dumps([run(line) for line in sys.argv[1:]]))
