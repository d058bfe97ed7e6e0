"""Runs the scripts of launch/, for the tests of them."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import compiled_programs
from places import ROOT

LAUNCH = ROOT / "launch"
FLAGS = ["--gin_file=experiments/phenaki_cvivit_tiny.gin", "--gin.MODEL_DIR='runs/it is'"]
BIN = Path(sys.executable).parent


def environment(**more):
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_NUM", "XLA_FLAGS"))}
    return kept | {"PATH": path, "XLA_FLAGS": compiled_programs.XLA_FLAGS} | more


def run(script, *arguments, status=0, timeout=300, **more):
    told = subprocess.run(
        [LAUNCH / script, *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert told.returncode == status, told.stderr
    return told


def commands(*arguments, **more):
    return [shlex.split(line) for line in run(*arguments, **more).stdout.splitlines()]
