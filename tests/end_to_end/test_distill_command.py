"""`vidgen train` with TEACHER_DIR: one command distills any stage, and the student generates."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_cascade
from places import ROOT

from vidgen.config import gin_utils
from vidgen.imagen.student_training import Distill
from vidgen.inference.generate import clip_key
from vidgen.inference.stages import Stage
from vidgen.types import STAGES

pytestmark = pytest.mark.usefixtures("kept_programs", "shared_steps")

EXPERIMENTS = sorted((ROOT / "gin_configs" / "experiments").glob("imagen_distill_*.gin"))
TINY = "--gin_file=experiments/imagen_distill_tiny.gin"


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """Folders of trained stages."""
    folder = tmp_path_factory.mktemp("cascade")
    tiny_cascade.write(folder)
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_the_teacher_says_what_the_student_is(vidgen, cascade, tmp_path, stage):
    """And the configuration that is written resolves to itself, without the teacher's folder."""
    first = vidgen(
        "train", TINY, f"--gin.TEACHER_DIR={cascade / stage}", "--gin.MODEL_DIR=s", "--dry_run"
    )
    assert first[0] == 0 and first[2] == "", first[2]
    (tmp_path / "saved.gin").write_text(first[1])
    assert vidgen("train", "--gin_file=saved.gin", "--dry_run") == first
    with gin_utils.session(["runs/generate.gin", "saved.gin"]):
        student = gin_utils.build(Stage)
    with gin_utils.session(["runs/generate.gin", str(cascade / stage / "config.gin")]):
        teacher = gin_utils.build(Stage)
    assert student.model.guidance_input and not teacher.model.guidance_input
    assert (student.model.sampler.kind, student.model.sampler.steps) == ("stochastic", 8)
    assert student.model.name == teacher.model.name == stage
    assert student.model.network == teacher.model.network.clone(guidance_head=True)
    assert student.model.conditioner == teacher.model.conditioner
    assert student.text_encoder == teacher.text_encoder
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_bind_nothing_in_vain(cascade, path):
    files = ["runs/train.gin", str(cascade / "base" / "config.gin"), f"experiments/{path.name}"]
    bindings = ["MODEL_DIR='s'", "TEACHER_DIR='t'"]
    own = {line.split(" = ")[0] for line in _bindings(path) if " = " in line}
    with gin_utils.session(files, bindings, {files[1]: {"MODEL": "TEACHER"}}):
        assert gin_utils.named_by("RUN") is Distill
        run = gin_utils.build(Distill)
        # The teacher's configuration has settings of its own training that no student reads.
        unused = {name.split("/")[-1] for name in gin_utils.unused_bindings()}
    assert not {name for name in own for other in unused if other.endswith(name)}
    steps = [phase.model.stage.sampler.steps for phase in run.schedule.phases()]
    assert steps == sorted(steps, reverse=True) and steps[-2:] == [8, 8]


def _bindings(path):
    common = (path.parent.parent / "runs" / "distill.gin").read_text()
    return [line.strip() for line in (common + path.read_text()).splitlines() if line[:1].isalpha()]


def test_wrong_input_is_one_sentence(vidgen, cascade, tmp_path):
    teacher, student = f"--gin.TEACHER_DIR={cascade / 'base'}", "--gin.MODEL_DIR=s"
    vidgen("train", TINY, student).assert_sentence("TEACHER_DIR is not set")
    vidgen("train", TINY, teacher).assert_sentence("MODEL_DIR is not set")
    vidgen("train", TINY, student, "--gin.TEACHER_DIR=no").assert_sentence(
        "TEACHER_DIR", "no/config.gin"
    )
    vidgen("train", TINY, teacher, student, "--gin.STUDENT_STEPS=7").assert_sentence(
        "STUDENT_STEPS"
    )
    vidgen("train", TINY, teacher, student, "--gin.STUDENT_SAMPLER='ancestral'").assert_sentence(
        "stochastic"
    )
    vidgen("train", TINY, teacher, student, "--gin.GUIDANCE_RANGE=(0.0, 0.25)").assert_sentence(
        "widen it"
    )
    vidgen("train", TINY, teacher, f"--gin.MODEL_DIR={cascade / 'base'}").assert_sentence("both")
    assert list(tmp_path.iterdir()) == []  # nothing was written


def test_a_student_is_no_teacher(vidgen, cascade, tmp_path):
    teacher = f"--gin.TEACHER_DIR={cascade / 'base'}"
    _, config, _ = vidgen("train", TINY, teacher, "--gin.MODEL_DIR=s", "--dry_run")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "config.gin").write_text(config)
    result = vidgen("train", TINY, "--gin.TEACHER_DIR=s", "--gin.MODEL_DIR=r")
    result.assert_sentence("s/config.gin has a TEACHER already")


QUICK = [
    "--gin.TRAIN_STEPS=2",
    "--gin.students.StudentSchedule.guidance_train_steps=2",
    "--gin.START_STEPS=2",
    "--gin.STUDENT_STEPS=1",
    "--gin.STUDENT_SAMPLER='ddim'",
    "--gin.BATCH_SIZE=2",
    "--gin.SAMPLE_VIDEOS=None",
    "--gin.HELD_OUT_LOSS=None",
]


def test_distill_then_generate(vidgen, cascade, tmp_path):
    teacher = f"--gin.TEACHER_DIR={cascade / 'base'}"
    status, _, err = vidgen("train", TINY, teacher, "--gin.MODEL_DIR=s", *QUICK)
    assert status == 0, err
    assert "phase 2 of 2: 02_steps_1" in err and "the student is in s" in err
    assert [p.name for p in (tmp_path / "s" / "phases").iterdir()] == ["01_guidance"]
    lines = (tmp_path / "s" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2]
    prompt = "a tiger moving right on a green background"
    status, _, err = vidgen("generate", prompt, "--model=s", "-o", "clip.npy")
    assert status == 0, err
    with gin_utils.session(["runs/generate.gin", "s/config.gin"]):
        student = gin_utils.build(Stage)
    video = np.load("clip.npy")
    assert video.shape[-4:] == student.model.shape.thwc and np.isfinite(video).all()
    # All that training did is one evaluation away from the noise: the student's own single step.
    key = clip_key(0, prompt, 0)[None]
    text = jax.tree.map(jnp.asarray, student.text_encoder([prompt]))
    alone = student.model.generate(student.load(), text, None, key, on_step=lambda *_: None)
    np.testing.assert_allclose(video.reshape(alone.shape), alone, rtol=1e-4, atol=1e-5)
