"""Two processes train with T5 beside the model and from a cache that they fill: the same losses."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys

import compiled_programs
import made_videos
import numpy as np
import places
import pytest
import t5_folders
import text_two_ways
import tiny_cascade

from vidgen.text.t5_network import Size

SIZE = Size(width=32, layers=2, heads=4, mlp=64, head_dim=8, vocabulary=32128)


def start(folder, number, port):
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": compiled_programs.xla_flags(2),
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(number),
        "PYTHONPATH": places.PYTHONPATH,
        "XDG_CACHE_HOME": str(folder / "home"),
    }
    command = [sys.executable, str(places.HELPERS / "text_two_ways.py"), str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=env, text=True, **pipes)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each of two processes of two devices prints, and the folder of both runs."""
    folder = tmp_path_factory.mktemp("two")
    made_videos.squares(folder / "videos", count=6, frames=8)
    t5_folders.write_safetensors(folder / "t5", t5_folders.arrays(SIZE), size=SIZE)
    (folder / "small.gin").write_text(
        tiny_cascade.SETTINGS + tiny_cascade.NETWORK.format(stage="base")
    )
    (folder / "t5.gin").write_text(text_two_ways.T5_SIZE)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    printed = []
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(start(folder, number, port)) for number in range(2)]
        for process in started:
            stack.callback(process.kill)
        for process in started:
            out, err = process.communicate(timeout=200)
            assert process.returncode == 0, err
            (line,) = (line for line in out.splitlines() if line.startswith("{"))  # gloo talks, too
            printed.append(json.loads(line))
    return folder, printed


def test_each_process_has_the_encoder_over_its_own_devices(processes):
    _, found = processes
    for number, one in enumerate(found):
        assert one["processes"] == 2
        assert one["devices"] == [number, number] and one["part"] == 2


def test_losses_are_the_same_to_the_bit(processes):
    _, (first, _) = processes
    beside, cache = first["losses"]["beside"], first["losses"]["cache"]
    assert len(beside) == 4 and np.isfinite(beside).all() and len(set(beside)) > 1
    assert beside == cache


def test_each_process_encoded_its_own_captions(processes):
    folder: pathlib.Path = processes[0]
    counts = [
        json.loads((folder / "captions" / f"part_{n:05}.json").read_text())["captions"]
        for n in range(2)
    ]
    assert sum(counts) == 6 and min(counts) > 0
