"""What students may be asked for: the jumps that they have learned, and the guidance weights."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet as tiny

from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.distillation import ProgressiveDistillation
from vidgen.imagen.learned import Learned
from vidgen.imagen.stage import DiffusionStage
from vidgen.imagen.students import StudentSchedule, student
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=2, height=4, width=4)
ANY = SamplerSpec(kind="ancestral", steps=37, spacing="logsnr")


def make_student(steps=8, kind="stochastic", weight_range=(0.0, 2.0), **changes):
    stage = DiffusionStage(network=tiny.network(tiny.ONE_LEVEL), shape=SHAPE, **changes)
    return student(stage=stage, steps=steps, kind=kind, weight_range=weight_range)


def jumps(stage, kind, steps):
    """(from, to) log-SNRs of the moves by x̂ that a sampler makes; data is inf."""
    levels = SamplerSpec(kind=kind, steps=steps).logsnrs(stage.schedule)
    t, s = levels[:-1], np.append(levels[1:-1], np.inf)
    if kind == "stochastic":  # one level beyond where it ends up; its last step returns x̂
        s = np.append(s[1:], np.inf)
    return {(round(float(a), 3), round(float(b), 3)) for a, b in zip(t, s, strict=True)}


def learned_jumps(stage, kind, steps):
    """Those that distillation teaches."""
    model = ProgressiveDistillation(stage=stage, steps=steps, stochastic=kind == "stochastic")
    levels = model.step_levels(jnp.arange(1.0, steps + 1))
    ends = jnp.where(levels.s >= stage.schedule.logsnr_max - 1e-3, jnp.inf, levels.s)
    pairs = zip(np.asarray(levels.t), np.asarray(ends), strict=True)
    return {(round(float(t), 3), round(float(s), 3)) for t, s in pairs}


@pytest.mark.parametrize("own", [("stochastic", 8), ("ddim", 8), ("stochastic", 5), ("ddim", 6)])
def test_what_is_taken_are_the_ladders_whose_jumps_were_learned(own):
    kind, steps = own
    stage = make_student(steps, kind)
    learned = learned_jumps(stage, kind, steps)
    for asked in [(k, n) for k in ("ddim", "stochastic") for n in range(2, 17)]:
        assert (jumps(stage, *asked) <= learned) == (asked in stage.learned.ladders), asked


def test_own_ladder_comes_first_and_every_second_jump_is_one_too():
    assert make_student().learned.ladders == (("stochastic", 8), ("ddim", 4))
    assert make_student(5).learned.ladders == (("stochastic", 5),)
    assert make_student(8, "ddim").learned.ladders == (("ddim", 8),)
    assert Learned().ladders == ()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"steps": 4}, "8 steps of stochastic .*4 steps of ddim, not 4 steps of stochastic"),
        ({"steps": 16}, "not 16 steps of stochastic"),
        ({"kind": "ddim"}, "not 8 steps of ddim"),
        ({"kind": "dpmpp_2m", "steps": 4}, "not 4 steps of dpmpp_2m"),
        ({"kind": "ancestral"}, "not 8 steps of ancestral"),
        ({"spacing": "logsnr"}, "base .*not in logsnr"),
    ],
)
def test_other_steps_are_refused(changes, words):
    stage = make_student()
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(stage, sampler=dataclasses.replace(stage.sampler, **changes))


@pytest.mark.parametrize(
    "spec", [{"weight": 2.01}, {"weight": 2.0, "low": 3.0}, {"weight": 15.0, "low": 1.0}]
)
def test_other_weights_are_refused_whether_high_or_low(spec):
    stage = make_student()
    with pytest.raises(ValueError, match="stage base .* not in GUIDANCE_RANGE, 0 to 2"):
        dataclasses.replace(stage, guidance=GuidanceSpec(**spec))
    with pytest.raises(ValueError, match="not in GUIDANCE_RANGE, 0 to 2"):
        make_student(guidance=GuidanceSpec(**spec))


def test_what_was_learned_is_taken():
    stage = make_student()
    for spec in ({"weight": 0.0}, {"weight": 2.0}, {"weight": 2.0, "low": 0.5}):
        stage = dataclasses.replace(stage, guidance=GuidanceSpec(**spec))
    stage = dataclasses.replace(stage, sampler=SamplerSpec(kind="ddim", steps=4))
    with pytest.raises(ValueError, match="guidance 0.0.*GUIDANCE_RANGE, 1 to 2"):
        make_student(weight_range=(1.0, 2.0))
    unknown = make_student(weight_range=None)  # an old folder may not say it
    dataclasses.replace(unknown, guidance=GuidanceSpec(weight=50.0))


def test_after_the_first_phase_any_steps_do():
    """It has learned every level and no jump; the last phase is the student itself."""
    first, halved, last = StudentSchedule(
        student=make_student(guidance=GuidanceSpec(weight=1.0)), start_steps=16, train_steps=1
    ).phases()
    assert first.model.weight_range == last.model.weight_range == (0.0, 2.0)
    dataclasses.replace(first.model.stage, sampler=ANY)
    with pytest.raises(ValueError, match="not in GUIDANCE_RANGE, 0 to 2"):
        dataclasses.replace(first.model.stage, guidance=GuidanceSpec(weight=3.0))
    assert halved.model.stage.learned.ladders == (("ddim", 8),)
    assert last.model.stage == make_student(guidance=GuidanceSpec(weight=1.0))
    assert first.model.teacher.learned is None


def test_a_course_and_its_student_agree_on_the_range():
    with pytest.raises(ValueError, match=r"\(0.0, 4.0\), and the student's is \(0.0, 2.0\)"):
        StudentSchedule(student=make_student(), train_steps=1, weight_range=(0.0, 4.0))
