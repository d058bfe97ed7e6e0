"""Two processes train with T5 beside the model and from a cache that they fill: the same losses."""

import json
import pathlib

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


@pytest.fixture(scope="module")
def processes(warm, tmp_path_factory):
    """What each of two processes of two devices prints, and the folder of both runs."""
    folder = tmp_path_factory.mktemp("two")
    made_videos.squares(folder / "videos", count=6, frames=8)
    t5_folders.write_safetensors(folder / "t5", t5_folders.arrays(SIZE), size=SIZE)
    (folder / "small.gin").write_text(
        tiny_cascade.SETTINGS + tiny_cascade.NETWORK.format(stage="base")
    )
    (folder / "t5.gin").write_text(text_two_ways.T5_SIZE)
    own = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": compiled_programs.xla_flags(2),
        "XDG_CACHE_HOME": str(folder / "home"),
    }
    printed = []
    for done in warm.group(2, places.HELPERS / "text_two_ways.py", folder, **own):
        assert done.returncode == 0, done.stderr
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("{"))
        printed.append(json.loads(line))  # gloo talks, too
    return folder, printed


def test_each_process_has_the_encoder_over_its_own_devices(processes):
    _, found = processes
    for number, one in enumerate(found):
        assert one["processes"] == 2
        assert one["devices"] == [number, number] and one["part"] == 2


def test_losses_are_the_same_to_the_bit(processes):
    _, (first, _) = processes
    beside, cache = first["losses"]["beside"], first["losses"]["cache"]
    assert len(beside) == 2 and np.isfinite(beside).all() and len(set(beside)) > 1
    assert beside == cache


def test_each_process_encoded_its_own_captions(processes):
    folder: pathlib.Path = processes[0]
    counts = [
        json.loads((folder / "captions" / f"part_{n:05}.json").read_text())["captions"]
        for n in range(2)
    ]
    assert sum(counts) == 6 and min(counts) > 0
