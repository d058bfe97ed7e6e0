"""The command as a user meets it: every wrong input is one sentence and status 2.

Tests of vidgen/__main__.py, vidgen/cli/errors.py, vidgen/cli/examples.py,
vidgen/train/saved_config.py, vidgen/train/model_dir.py too.
"""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath
from places import ROOT

from vidgen.assets import zoo
from vidgen.cli import main
from vidgen.config import gin_utils
from vidgen.train.saved_config import saved_config
from vidgen.train.train import Train
from vidgen.types import STAGES

TINY = "--gin_file=experiments/imagen_base_tiny.gin"
EXPERIMENTS = sorted(  # those that stand alone; a distillation reads its teacher's configuration,
    path  # and `lora` and `post_hoc_ema` come after another file
    for path in (ROOT / "gin_configs" / "experiments").glob("*_*_*.gin")
    if "distill" not in path.stem and "cascade" not in path.stem and path.stem != "post_hoc_ema"
)
CASCADES = sorted((ROOT / "gin_configs" / "experiments").glob("*cascade*.gin"))  # to be planned


# Wrong input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", TINY], ["MODEL_DIR is not set", "--gin.MODEL_DIR="]),
        (["train"], ["is not set"]),
        (["train", TINY, "--gin.MODELDIR=a"], ["MODELDIR", "did you mean MODEL_DIR"]),
        (["train", TINY, "--gin.MODEL_DIR=a", "--gin.Trainer.ema=1"], ["'ema'", "ema_decay"]),
        (["train", TINY, "--gin.MODEL_DIR=a", "--gin.Trainr.x=1"], ["Trainr", "trainer.Trainer"]),
        (["train", TINY, "--gin.MODEL_DIR=a", "--gin.TRAIN_STEPS=0"], ["train_steps is 0"]),
        (["train", TINY, "--gin.MODEL_DIR=a", "--gin.TRAIN_STEPS=ten"], ["TRAIN_STEPS", "number"]),
        (["train", TINY, "--gin.MODEL_DIR"], ["--gin.NAME=VALUE"]),
        (["train", "--gin_file=experiments/imagen_base_tny.gin"], ["imagen_base_tiny.gin"]),
        (["train", TINY, "--gin_file=data/folder.gin", "--gin.MODEL_DIR=a"], ["DATA_DIR"]),
        (
            ["train", TINY, "--gin_file=data/folder.gin", "--gin.MODEL_DIR=a", "--gin.DATA_DIR=no"],
            ["data folder no does not exist"],
        ),
        (["train", TINY, "--frobnicate"], ["--frobnicate"]),
        (["frobnicate"], ["frobnicate", "generate"]),
        ([], ["COMMAND"]),
        (["generate", "a cat", "--model=nowhere"], ["nowhere/config.gin", "vidgen train"]),
        (["generate", "a cat", "--model=nowhere", "--steps=many"], ["--steps", "many"]),
        (
            ["generate", "a cat", "--model=nowhere", "--story=a. then b"],
            ["PROMPT is not for a story"],
        ),
        (["generate", "--model=nowhere", "--story=a. then b", "--last=x"], ["--last is not for"]),
        (["generate", "--model=nowhere", "--story=nowhere.yaml"], ["nowhere.yaml"]),
        (["generate", "a cat", "--model=nowhere", "--restart"], ["--restart is for stories"]),
        (
            ["train", "--gin_file=experiments/phenaki_maskgit_tiny.gin", "--gin.MODEL_DIR=m"],
            ["TOKENIZER_DIR is not set"],
        ),
        (
            [
                *("train", "--gin_file=experiments/phenaki_maskgit_tiny.gin", "--gin.MODEL_DIR=m"),
                "--gin.TOKENIZER_DIR=nowhere",
            ],
            ["TOKENIZER_DIR: there is no nowhere/config.gin"],
        ),
        (["plan"], ["is not set"]),
        (["plan", TINY, "--topology=v5p:2x2x1"], ["--topology", "--sampling"]),
        (["assets", "fetch", "minilmm"], ["minilmm", "minilm"]),
        (["assets", "burn"], ["burn", "fetch"]),
        (["assets", "list", "--gin.X=1"], ["--gin.X=1"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_wrong_flags(vidgen, arguments, words, tmp_path):
    vidgen(*arguments).assert_sentence(*words)
    assert list(tmp_path.iterdir()) == []  # nothing was written


def test_model_dir_that_is_a_file(vidgen, tmp_path):
    (tmp_path / "file").write_text("mine")
    vidgen("train", TINY, "--gin.MODEL_DIR=file").assert_sentence("MODEL_DIR 'file'")
    vidgen("train", TINY, "--gin.MODEL_DIR=file/sub").assert_sentence("MODEL_DIR 'file/sub'")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def trained(vidgen, tmp_path):
    """A model folder as training leaves it, but without checkpoints."""
    status, config, err = vidgen("train", TINY, "--gin.MODEL_DIR=m", "--dry_run")
    assert status == 0, err
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.gin").write_text(config)
    return "--model=m"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["a cat"], ["checkpoint", "train"]),
        ([], ["no prompt given"]),
        (["--prompts_file=empty.txt"], ["empty.txt holds no prompt"]),
        (["--prompts_file=none.txt"], ["none.txt"]),
        (["a cat", "--sampler=leap"], ["'leap'", "ddim", "dpmpp_2m"]),
        (["a cat", "--steps=0"], ["steps is 0"]),
        (["a cat", "--guidance=-1"], ["weight is -1"]),
        (["a cat", "--num_samples=0"], ["num_samples is 0"]),
        (["a cat", "--seed=-5"], ["seed is -5"]),
        (["a cat", "-o", "clip.avi"], ["'.avi'", ".mp4"]),
        (["a cat", "--gin.NOWHERE=1"], ["NOWHERE"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_wrong_generate_input(vidgen, trained, flags, words, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    before = sorted(tmp_path.rglob("*"))
    vidgen("generate", trained, *flags).assert_sentence(*words)
    assert sorted(tmp_path.rglob("*")) == before


STUDENTS = "--model=imagen_distilled"
UPSCALE = "--upscale_model=imagen_distilled"
LEARNED = "8 steps of stochastic or 4 steps of ddim"
RANGE = "not in GUIDANCE_RANGE, 0 to 2"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["a cat", STUDENTS, "--guidance=3"], ["base", "guidance 3.0", RANGE]),
        (["a cat", STUDENTS, "--guidance=ssr2=2.5"], ["ssr2", "guidance 2.5", RANGE]),
        (["a cat", STUDENTS, "--guidance=15:1"], ["guidance 15.0", RANGE]),
        (["a cat", STUDENTS, "--guidance=2:5", "--until=base"], ["guidance 5.0", RANGE]),
        (["a cat", STUDENTS, "--steps=4"], [LEARNED, "not 4 steps of stochastic"]),
        (["a cat", STUDENTS, "--steps=tsr1=64"], ["tsr1", LEARNED, "not 64"]),
        (["a cat", STUDENTS, "--sampler=dpmpp_2m"], [LEARNED, "of dpmpp_2m"]),
        (["a cat", STUDENTS, "--sampler=ddim"], [LEARNED, "not 8 steps of ddim"]),
        (["a cat", STUDENTS, "--gin.STUDENT_STEPS=4"], ["student whose steps was 8"]),
        (
            ["a cat", STUDENTS, "--gin.STUDENT_SAMPLER='ddim'"],
            ["student whose sampler was stochastic"],
        ),
        (
            ["a cat", STUDENTS, "--gin.GUIDANCE_RANGE=(0.0, 9.0)", "--guidance=8"],
            ["weight_range was (0.0,"],
        ),
        (["a cat", STUDENTS, "--gin.base/SamplerSpec.steps=16"], ["student whose teacher_sampler"]),
        (["a cat", STUDENTS, "--gin.base/Cosine.shift=1.0"], ["student whose schedule"]),
        (["a cat", STUDENTS, "--gin.base/GuidanceSpec.weight=3.0"], ["guidance 3.0", RANGE]),
        (["a cat", STUDENTS, "--gin_file=steps.gin"], ["student whose steps was 8"]),
        (
            ["--story=a cat. then a dog", "--upscale=ssr1", UPSCALE, "--guidance=6"],
            ["ssr1", "guidance 6.0", RANGE],
        ),
        (["--story=a cat. then a dog", "--upscale=ssr1", UPSCALE, "--steps=24"], ["ssr1", LEARNED]),
    ],
    ids=lambda value: " ".join(value),
)
def test_the_students_that_come_with_vidgen_refuse_what_they_have_not_learned(
    vidgen, flags, words, tmp_path
):
    (tmp_path / "steps.gin").write_text("STUDENT_STEPS = 4\n")
    before = sorted(tmp_path.rglob("*"))
    vidgen("generate", *flags, "-o", "out/clip.mp4").assert_sentence(*words)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model=imagen_distilled", "--until=base", "--guidance=3"], [RANGE]),
        (["--model=imagen_distilled/ssr1", "--steps=64"], ["ssr1", LEARNED]),
        (["--model=imagen_distilled/ssr1", "--gin.STUDENT_STEPS=4"], ["student whose steps was 8"]),
    ],
)
def test_evaluations_of_students_refuse_it_too(vidgen, flags, words, tmp_path):
    vidgen("evaluate", *flags, "--cache=cache").assert_sentence(*words)
    assert list(tmp_path.iterdir()) == []


def test_students_take_what_they_have_learned(vidgen):
    for flags in (["--guidance=2:0"], ["--sampler=ddim", "--steps=4"], ["--steps=8"]):
        status, _, err = vidgen("generate", "a cat", STUDENTS, "--until=tsr1", *flags, "--dry_run")
        assert (status, err) == (0, "")


def test_a_student_of_before_finds_its_range_in_its_own_macro(vidgen, tmp_path):
    """Configurations did not bind the range of `students.student`; the macro was always there."""
    here = Path(zoo.find("imagen_distilled/base")) / "config.gin"
    line = "students.student.weight_range = %GUIDANCE_RANGE\n"
    text = here.read_text()
    assert line in text
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.gin").write_text(text.replace(line, ""))
    vidgen("generate", "a cat", "--model=old", "--guidance=3").assert_sentence(RANGE)
    unknown = text.replace(line, "").replace("GUIDANCE_RANGE = (0.0, 2.0)\n", "")
    unknown = unknown.replace("weight_range = %GUIDANCE_RANGE", "weight_range = (0.0, 2.0)")
    (tmp_path / "old" / "config.gin").write_text(unknown)
    status, _, err = vidgen("generate", "a cat", "--model=old", "--guidance=3", "--dry_run")
    assert status == 0 and "does not say which guidance weights" in err


def test_a_broken_config_of_a_model(vidgen, trained, tmp_path):
    (tmp_path / "m" / "config.gin").write_text("nonsense = (")
    vidgen("generate", "a cat", trained).assert_sentence("config.gin")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ValueError("two\n lines"), 2, "two lines"),
        (OSError(errno.ENOSPC, "No space left on device", "f"), 2, "the disk is full (f); free"),
        (ValueError("step 3 is safe (No space left on device)"), 2, "step 3 is safe"),
        (RuntimeError("write: No space left on device"), 2, "the disk is full; free"),
        (PermissionError(errno.EACCES, "Permission denied", "f"), 2, "f: Permission denied."),
        (RuntimeError("RESOURCE_EXHAUSTED: 3 GiB"), 2, "out of memory; lower BATCH_SIZE"),
        (MemoryError(), 2, "out of memory"),
        (KeyboardInterrupt(), 130, "stopped by the user"),
        (TypeError("bug"), 1, "internal fault, TypeError: bug (--debug shows where"),
    ],
)
def test_errors_while_running(vidgen, monkeypatch, error, status, words):
    def fail(self):
        raise error

    monkeypatch.setattr(Train, "__call__", fail)
    command = ("train", TINY, "--gin.MODEL_DIR=m")
    found, out, err = vidgen(*command)
    assert (found, out) == (status, "")
    assert err.count("\n") == 1 and words in err
    if isinstance(error, Exception):
        with pytest.raises(type(error)):
            main.main([*command, "--debug"])


def test_full_disk_when_the_config_is_written(vidgen, monkeypatch, tmp_path):
    """The first file of a run: the folder is made, no partial file stays in it."""

    def full(self, text):
        with open(self, "w") as stream:
            stream.write(text[:10])
        if not text:
            return None  # an empty file takes no space
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(type(epath.Path("m")), "write_text", full)
    vidgen("train", TINY, "--gin.MODEL_DIR=m").assert_sentence("the disk is full")
    assert list((tmp_path / "m").iterdir()) == []


def given(path):
    """What an experiment requires beside MODEL_DIR; the tokenizer of a trained folder is larger."""
    return ["TOKENIZER_DIR='tokenizer'"] if "maskgit" in path.stem else []


# What works --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_experiment_resolves_to_a_configuration_that_resolves_to_itself(
    vidgen, path, tmp_path
):
    flags = [f"--gin.{binding}" for binding in ("MODEL_DIR='m'", *given(path))]
    if "maskgit" in path.stem:
        tokenizer = path.name.replace("maskgit", "cvivit")
        dry = ("train", f"--gin_file=experiments/{tokenizer}", "--gin.MODEL_DIR=t", "--dry_run")
        (tmp_path / "tokenizer").mkdir()
        (tmp_path / "tokenizer" / "config.gin").write_text(vidgen(*dry)[1])
    first = vidgen("train", f"--gin_file=experiments/{path.name}", *flags, "--dry_run")
    assert first[0] == 0 and first[2] == ""
    (tmp_path / "saved.gin").write_text(first[1])
    assert vidgen("train", "--gin_file=saved.gin", "--dry_run") == first
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("path", CASCADES, ids=lambda p: p.stem)
def test_every_cascade_resolves_to_a_plan_of_seven_models(vidgen, path):
    status, out, err = vidgen("plan", f"--gin_file=experiments/{path.name}", "--dry_run")
    assert (status, err) == (0, "")
    for stage in STAGES:
        assert f"\n{stage}/stage.DiffusionStage.name = '{stage}'\n" in out


# What data/sprites.gin has for the other kind of model.
OF_OTHERS = {
    "imagen": ("RECONSTRUCTED_VIDEOS", "vidgen.train.callbacks.SampleReconstructions."),
    "phenaki": ("RESTORED_VIDEOS", "vidgen.train.callbacks.SampleUpsampled."),
}


@pytest.mark.parametrize("size", ["tiny", "demo", "paper"])
@pytest.mark.parametrize("family, count", [("imagen", 7), ("phenaki", 2)])
def test_experiments_bind_nothing_in_vain(family, count, size):
    """Gin accepts bindings that nothing reads, e.g. on an object that Python code builds.

    One file of sizes serves all models of a family: what one of them does not read, another must.
    """
    unused = []
    for path in (path for path in EXPERIMENTS if path.match(f"{family}_*_{size}.gin")):
        files = ["runs/train.gin", f"experiments/{path.name}"]
        with gin_utils.session(files, ["MODEL_DIR='m'", *given(path)]):
            gin_utils.build(Train)
            unused.append(set(gin_utils.unused_bindings()))
    vain = {name for name in set.intersection(*unused) if not name.startswith(OF_OTHERS[family])}
    assert len(unused) == count and vain == {"RUN"}


def test_flags_override_files_and_the_last_one_wins(vidgen):
    flags = ["--gin.TRAIN_STEPS=7", "--gin.TRAIN_STEPS=8", "--gin.Trainer.ema_decay=0.5"]
    _, out, _ = vidgen("train", TINY, '--gin.MODEL_DIR="a/b"', "--dry_run", *flags)
    assert "TRAIN_STEPS = 8" in out and "ema_decay = 0.5" in out and "MODEL_DIR = 'a/b'" in out


def test_a_flag_without_effect_is_noted(vidgen):
    flags = ["--gin.MODEL_DIR=m", "--gin.nowhere/Trainer.ema_decay=0.5", "--dry_run"]
    status, _, err = vidgen("train", TINY, *flags)
    assert status == 0
    assert err.startswith("vidgen: note: --gin.nowhere/Trainer.ema_decay has no effect")
    assert err.count("\n") == 1


def test_training_writes_its_configuration_first(vidgen, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(Train, "__call__", lambda self: seen.append(sorted(os.listdir("m"))))
    _, config, _ = vidgen("train", TINY, "--gin.MODEL_DIR=m", "--dry_run")
    assert vidgen("train", TINY, "--gin.MODEL_DIR=m")[0] == 0
    assert seen == [["config.gin"]]
    assert (tmp_path / "m" / "config.gin").read_text() == config


def test_an_older_configuration_is_kept(tmp_path):
    for text in ("one", "one", "two", "three"):
        with saved_config(str(tmp_path / "m"), text):
            (tmp_path / "m" / "checkpoints" / text).mkdir(parents=True, exist_ok=True)
    found = {p.name: p.read_text() for p in (tmp_path / "m").glob("*.gin")}
    assert found == {"config.gin": "three", "config.1.gin": "one", "config.2.gin": "two"}


def test_a_run_that_fails_at_once_leaves_the_old_configuration(tmp_path):
    with saved_config(str(tmp_path), "old"):
        (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    with pytest.raises(ValueError, match="misfit"):
        with saved_config(str(tmp_path), "new"):
            raise ValueError("misfit")
    assert {p.name: p.read_text() for p in tmp_path.glob("*.gin")} == {"config.gin": "old"}


@pytest.mark.parametrize("existed", [False, True])
def test_a_first_run_that_fails_at_once_leaves_nothing(tmp_path, existed):
    folder = tmp_path / "m"
    if existed:
        folder.mkdir()
    for inner in (None, "checkpoints"):
        with pytest.raises(ValueError, match="misfit"):
            with saved_config(str(folder), "new"):
                _ = inner and (folder / inner).mkdir()
                raise ValueError("misfit")
        assert (folder.exists(), list(tmp_path.rglob("m/*"))) == (existed, [])
    with pytest.raises(ValueError, match="diverged"):  # later, there is something to look at
        with saved_config(str(folder), "new"):
            (folder / "tensorboard").mkdir()
            raise ValueError("diverged")
    assert {path.name for path in folder.iterdir()} == {"config.gin", "tensorboard"}


def test_every_process_says_the_same_of_a_folder_that_is_a_file(tmp_path, monkeypatch):
    """Also those that write no configuration: whichever ends first is the one that is shown."""
    (tmp_path / "m").write_text("")
    for process in (0, 1):
        monkeypatch.setattr("jax.process_index", lambda process=process: process)
        with pytest.raises(ValueError, match="m' is a file; name a folder"):
            with saved_config(str(tmp_path / "m"), "text"):
                pass


def test_plan_needs_no_model_dir(vidgen):
    status, out, err = vidgen("plan", TINY, "--json")
    assert status == 0, err
    (model,) = json.loads(out)["models"]
    assert model["name"] == "base" and model["parameters"] > 0


@pytest.mark.cli
def test_the_installed_command_and_the_module_are_the_same():
    command = Path(sys.executable).with_name("vidgen")
    commands = [[str(command)]] if command.exists() else []
    for start in [
        *commands,
        [sys.executable, "-m", "vidgen"],
        [sys.executable, "-m", "vidgen.cli.main"],
    ]:
        done = subprocess.run([*start, "--help"], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0 and "vidgen train" in done.stdout, done.stderr


@pytest.mark.parametrize("command", ["train", "generate", "plan", "assets"])
def test_help_has_an_example(vidgen, command):
    status, out, _ = vidgen(command, "--help")
    assert status == 0 and f"  vidgen {command} " in out
