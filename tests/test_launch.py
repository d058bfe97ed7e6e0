"""The launch scripts: what they would run, and processes that train together."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import av
import compiled_programs
import pytest
import yaml
from launching import BIN, FLAGS, LAUNCH, commands, environment, run

SCRIPTS = sorted(path.name for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))


def test_shellcheck():
    files = [f"launch/{script}" for script in SCRIPTS]
    subprocess.run([BIN / "shellcheck", "-x", *files], cwd=LAUNCH.parent, check=True)


# ---- --dry_run -----------------------------------------------------------------------------------


def test_local():
    (command,) = commands("local.sh", "--dry_run", *FLAGS)
    assert command == ["vidgen", "train", *FLAGS, "--gin_file=mesh/fsdp.gin"]


def test_processes():
    one, two = commands("local_multiprocess.sh", "--dry_run", "2", *FLAGS, PORT="1234", DEVICES="3")
    assert one[-4:] == two[-4:] == ["vidgen", "train", *FLAGS]
    assert {"JAX_COORDINATOR_ADDRESS=localhost:1234", "JAX_NUM_PROCESSES=2"} <= {*one} & {*two}
    assert "JAX_PROCESS_ID=0" in one and "JAX_PROCESS_ID=1" in two
    assert any("device_count=3" in word for word in one)


def test_slurm():
    (command,) = commands("slurm.sbatch", "--dry_run", *FLAGS, CLONE=str(LAUNCH.parent))
    assert command == ["srun", *command[1:-5], "vidgen", "train", "--distributed", *FLAGS]


def test_tpu_vm():
    made, copied, installed, started = commands(
        "tpu_vm.sh", "--dry_run", *FLAGS, SPOT="1", PROJECT="a"
    )
    assert made[4] == "create" and "--spot" in made
    assert copied[4] == "scp" and Path(copied[5]).resolve() == LAUNCH.parent
    assert "pip install" in installed[-1]
    remote = shlex.split(started[-1].removeprefix("--command="))
    assert remote == ["venv/bin/vidgen", "train", "--distributed", *FLAGS]


def test_gke():
    settings = {"IMAGE": "gcr.io/mine/vidgen", "MODEL_DIR": "gs://bucket/base"}
    told = run("gke.sh", "--dry_run", *FLAGS[:1], **settings, TOPOLOGY="2x2x4", SLICES="2")
    job = yaml.safe_load(told.stdout)["spec"]["replicatedJobs"][0]
    assert job["replicas"] == 2 and job["template"]["spec"]["completions"] == 4
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    assert container["args"] == [FLAGS[0], "--gin.MODEL_DIR='gs://bucket/base'"]


@pytest.mark.parametrize(
    ("script", "arguments", "settings", "words"),
    [
        ("local_multiprocess.sh", ["two"], {}, "the first argument is the number of processes"),
        ("gke.sh", ["--dry_run"], {"MODEL_DIR": "gs://b/m"}, "set IMAGE"),
        ("gke.sh", ["--dry_run"], {"IMAGE": "i"}, "set MODEL_DIR"),
        (
            "gke.sh",
            ["--dry_run"],
            {"IMAGE": "i", "MODEL_DIR": "gs://b/m", "TOPOLOGY": "1x3"},
            "TOPOLOGY 1x3 has 3 chips",
        ),
    ],
)
def test_wrong_settings_are_one_sentence(script, arguments, settings, words):
    errors = run(script, *arguments, status=2, **settings).stderr
    assert words in errors and errors.count("\n") == 1


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s != "common.sh"])
def test_help_is_the_comment_at_the_head(script):
    text = run(script, "--help", CLONE=str(LAUNCH.parent)).stdout
    assert (
        "--dry_run" in text
        and "vidgen train" in text
        and "\n#" not in text
        and "SBATCH" not in text
    )


# ---- statuses ------------------------------------------------------------------------------------


def script(path, commands):
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o755)


def test_preemption_starts_it_again(tmp_path):
    """A `vidgen` that is preempted twice, and then done."""
    calls = tmp_path / "calls"
    script(tmp_path / "vidgen", f"echo >> {calls}; [ $(wc -l < {calls}) -gt 2 ] || exit 75")
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    told = run("local.sh", *FLAGS, PATH=path)
    assert told.stderr.count("preempted; starting again") == 2
    calls.unlink()
    run("local.sh", *FLAGS, PATH=path, RESTARTS="1", status=75)


def test_the_log_is_shown_whole_however_late_it_is_written(tmp_path):
    script(tmp_path / "vidgen", "echo it is broken; [ $JAX_PROCESS_ID = 1 ] || exit 2; sleep 60")
    script(tmp_path / "tee", f'sleep 0.5; exec {shutil.which("tee")} "$@"')
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    told = run("local_multiprocess.sh", "2", status=2, PATH=path)
    assert "process 0 ended with status 2:\nit is broken\n" in told.stderr
    assert "it is broken\n" in told.stdout


# ---- processes that train together ---------------------------------------------------------------

# Of two layers, which is traced in a fraction of the time of a network of vidgen's own; processes
# train one of those in tests/end_to_end/test_text_processes.py.
TOY = """# Defines: Requires: Often overridden:
from __gin__ import dynamic_registration

from vidgen import types
from vidgen.train import train
import toy_training

include "runs/train.gin"
include "data/sprites.gin"
include "mesh/fsdp.gin"

MODEL = @toy_training.ToyModel()
TEXT_ENCODER = @toy_training.ToyEncoder()
CLIP_SHAPE = @types.VideoShape()
types.VideoShape:
  frames = 5
  height = 16
  width = 16
  fps = 8.0
toy_training.ToyModel.shape = %CLIP_SHAPE
SAMPLE_VIDEOS = None
BATCH_SIZE = 4
TRAIN_STEPS = 3
LEARNING_RATE = 1e-3
train.Train.log_every = 1
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Flags of a training."""
    file = tmp_path_factory.mktemp("toy") / "toy.gin"
    file.write_text(TOY)
    return [f"--gin_file={file}"]


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}


@pytest.fixture(scope="module")
def path(warm, tmp_path_factory):
    """A search path whose `vidgen` begins as a fork of a process that has imported it.

    The entry point itself starts in tests/cli/test_main.py, and in the test of one that fails.
    """
    folder = tmp_path_factory.mktemp("bin")
    warm.command(folder / "vidgen", BIN / "vidgen")
    return os.pathsep.join([str(folder), str(BIN), os.environ["PATH"]])


@pytest.fixture(scope="module")
def one(tmp_path_factory, tiny, path):
    """The losses of one process with two devices, over five steps."""
    folder = tmp_path_factory.mktemp("one")
    run_one(folder, 5, tiny, path)
    return losses(folder)


def run_one(folder, steps, tiny, path):
    flags = [*tiny, f"--gin.MODEL_DIR='{folder}'", f"--gin.TRAIN_STEPS={steps}"]
    flags += ["--gin.HELD_OUT_LOSS=None"]  # two processes compute it
    subprocess.run(
        ["vidgen", "train", *flags],
        env=environment(PATH=path, XLA_FLAGS=compiled_programs.xla_flags(2)),
        check=True,
        timeout=300,
    )


def test_two_processes_train_as_one_and_one_goes_on(tmp_path, one, tiny, path):
    flags = [*tiny, f"--gin.MODEL_DIR='{tmp_path}'", "--gin.TRAIN_STEPS=3"]
    told = run("local_multiprocess.sh", "2", *flags, PATH=path)
    assert "training 188.8 k parameters on 2 device(s)" in told.stdout
    found = losses(tmp_path)
    assert found == pytest.approx({step: one[step] for step in (1, 2, 3)}, rel=1e-5)
    run_one(tmp_path, 5, tiny, path)
    assert losses(tmp_path) == pytest.approx(one, rel=1e-5)


def test_a_signal_reaches_all_processes_and_they_save(tmp_path, tiny, path):
    flags = [*tiny, f"--gin.MODEL_DIR='{tmp_path}'", "--gin.TRAIN_STEPS=100000"]
    launcher = subprocess.Popen(
        [LAUNCH / "local_multiprocess.sh", "2", *flags],
        env=environment(PATH=path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        end = time.monotonic() + 240
        while not (tmp_path / "metrics.jsonl").exists():
            assert launcher.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        launcher.send_signal(signal.SIGTERM)
        told = launcher.communicate(timeout=120)[0]
    finally:
        launcher.kill()
    assert launcher.returncode == 75, told
    assert "re-running the same command resumes" in told
    assert list((tmp_path / "checkpoints").iterdir())


def test_one_that_fails_takes_all_with_it(tmp_path):
    (tmp_path / "file").write_text("")
    flags = [
        "--gin_file=experiments/phenaki_cvivit_tiny.gin",
        "--gin_file=mesh/fsdp.gin",
        f"--gin.MODEL_DIR='{tmp_path}/file'",
        "--gin.TRAIN_STEPS=3",
    ]
    told = run("local_multiprocess.sh", "2", *flags, status=2)
    assert "ended with status 2" in told.stderr and "is a file; name a folder" in told.stderr


# ---- --smoke: the first thing that is run on new hardware ----------------------------------------


def test_smoke(tmp_path, tiny, path):
    """Ten steps, SIGTERM, the script starts it again, a clip, and an undisturbed run beside it."""
    flags = ["--smoke", *tiny, "--gin.BATCH_SIZE=2", f"--gin.MODEL_DIR='{tmp_path}'"]
    told = run("local_multiprocess.sh", "2", *flags, timeout=1200, PATH=path)
    assert told.stderr.count("preempted; starting again (99 more times)") == 1
    assert "equal to the last bit to an undisturbed run's" in told.stdout
    report = json.loads((tmp_path / "smoke/report.json").read_text())
    assert report["processes"] == report["devices"] == 2
    assert report["mesh"] == {"data": 1, "fsdp": 2, "tensor": 1}
    assert report["curves_equal"] and len(report["loss"]) == report["steps"] == 10
    assert losses(tmp_path / "smoke/undisturbed") == losses(tmp_path / "smoke")
    with av.open(report["clip"]) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == 5
