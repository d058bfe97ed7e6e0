"""Distillation as a run: phases in order, exact resume in each of them, and wrong input."""

import dataclasses
import functools
import json
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
import toy_training as toy
from places import HELPERS
from toy_distilling import NAMES, STEPS, ToySchedule, make, make_teacher

from vidgen.train.checkpoints import Checkpointer
from vidgen.train.trainer import Trainer


@pytest.fixture(scope="module", autouse=True)
def shared():
    """Equal trainers have one training step, which is traced once and not in each run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_cached", property(functools.cache(lambda trainer: {})))
        yield


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A trained model: its folder and last state."""
    folder = tmp_path_factory.mktemp("teacher")
    return folder, make_teacher(folder)()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, teacher):
    """An uninterrupted distillation: its folder and last state."""
    folder = tmp_path_factory.mktemp("whole") / "student"
    return folder, make(folder, teacher[0])()


def folders(model_dir):
    """Those of the phases; the last one's is the student's own."""
    return [model_dir / "phases" / name for name in NAMES[:-1]] + [model_dir]


def weights(folder, step=None):
    with Checkpointer(folder, read_only=True) as checkpointer:
        return checkpointer.restore_params(step=step)


TRAINED = ("step", "loss", "learning_rate", "away", "teacher_size")


def numbers(folder):
    """What training decides, without what the clock does."""
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in TRAINED} for line in lines]


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def assert_same_run(found, expected):
    for one, other in zip(folders(found), folders(expected), strict=True):
        assert numbers(one) == numbers(other)
        assert_equal(weights(one), weights(other))


def test_phases_begin_where_the_one_before_ended(whole, teacher):
    folder, state = whole
    assert int(state.step) == STEPS and state.ema is None
    assert sorted(p.name for p in (folder / "phases").iterdir()) == sorted(NAMES[:-1])
    before = teacher[1].ema  # the averaged weights teach
    for phase in folders(folder):
        lines = numbers(phase)
        assert [line["step"] for line in lines] == [1, 2, 3, 4]
        assert lines[0]["away"] == 0 < lines[-1]["away"]  # the student begins as its teacher
        size = sum(float(np.abs(x).sum()) for x in jax.tree.leaves(before))
        for line in lines:
            assert line["teacher_size"] == pytest.approx(size, rel=1e-5)
        before = weights(phase)
    assert_equal(before, state.params)


def test_rate_falls_to_zero_in_every_phase(whole):
    for phase in folders(whole[0]):
        found = [line["learning_rate"] for line in numbers(phase)]
        np.testing.assert_allclose(found, [1e-2, 0.75e-2, 0.5e-2, 0.25e-2], rtol=1e-6)


def test_noise_is_new_in_every_phase(whole):
    assert len({numbers(phase)[0]["loss"] for phase in folders(whole[0])}) == len(NAMES)


@pytest.mark.parametrize("batches", [3, STEPS + 3, 2 * STEPS + 1])
def test_crash_in_any_phase_then_resume_is_bit_equal(tmp_path, whole, teacher, batches):
    folder = tmp_path / "student"
    with pytest.raises(Interrupted):
        make(folder, teacher[0], dataset=BreakingData(budget=[batches]))()
    state = make(folder, teacher[0])()
    assert_equal(state, whole[1])
    assert_same_run(folder, whole[0])


def test_time_limit_stops_between_steps_and_the_same_command_goes_on(tmp_path, whole, teacher):
    folder = tmp_path / "student"
    stopped = make(folder, teacher[0], time_limit_minutes=1e-9)()
    assert int(stopped.step) == 0
    assert [p.name for p in (folder / "phases").iterdir()] == [NAMES[0]]
    assert_equal(make(folder, teacher[0])(), whole[1])


def test_finished_distillation_has_nothing_left_to_do(whole, teacher, capsys):
    before = numbers(whole[0])
    assert make(whole[0], teacher[0])() is None
    assert capsys.readouterr().err == (f"all 3 phases are done: the student is in {whole[0]}\n")
    assert numbers(whole[0]) == before


class Interrupted(Exception):
    pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class BreakingData(toy.ToyData):
    """Fails once so many batches were read, over all phases."""

    budget: list

    def iterator(self, *, process=(0, 1)):
        inner = super().iterator(process=process)

        class Breaking(type(inner)):
            def __next__(this):
                self.budget[0] -= 1
                if self.budget[0] < 0:
                    raise Interrupted
                return super().__next__()

        inner.__class__ = Breaking
        return inner


def start(warm, *arguments):
    script = HELPERS / "toy_distilling.py"
    return warm.start(script, *arguments, stderr=subprocess.PIPE, text=True)


def test_kill_9_then_the_same_command_is_bit_equal(warm, tmp_path, whole, teacher):
    folder = tmp_path / "student"
    process = start(warm, folder, teacher[0], 1)  # which never ends its second phase
    end = time.monotonic() + 90
    while not (folder / "phases" / NAMES[1] / "checkpoints" / "2").is_dir():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    again = start(warm, folder, teacher[0], -1)
    errors = again.communicate(timeout=90)[1]
    assert again.returncode == 0, errors
    assert "resuming from step 2" in errors and "phase 1 of 3" not in errors
    assert_same_run(folder, whole[0])


def test_teacher_that_trains_on_stays_the_same_teacher(tmp_path, whole, teacher):
    """The first call decides which checkpoint teaches."""
    folder, source = tmp_path / "student", tmp_path / "teacher"
    make_teacher(source)()
    with pytest.raises(Interrupted):
        make(folder, source, dataset=BreakingData(budget=[1]))()
    make_teacher(source, train_steps=STEPS + 1)()
    assert_equal(make(folder, source)(), whole[1])


@pytest.mark.multidevice
def test_teacher_lies_on_the_mesh_as_the_student_does(on_devices, tmp_path, teacher):
    script = "distill_on_devices.py"
    one = on_devices(1, script, str(tmp_path / "one"), str(teacher[0]))
    two = on_devices(2, script, str(tmp_path / "two"), str(teacher[0]))
    assert (one["devices"], two["devices"]) == (1, 2)
    assert two["teacher"] == [[None, "fsdp"]] * len(NAMES)
    assert two["sizes"] == pytest.approx(one["sizes"], rel=1e-3)


# ---- wrong input ---------------------------------------------------------------------------------


def test_another_teacher_or_other_phases_need_another_folder(tmp_path, whole, teacher):
    other = tmp_path / "other"
    make_teacher(other)()
    with pytest.raises(ValueError, match="begun with .*/teacher.*, not .*/other; .*MODEL_DIR"):
        make(whole[0], other)()
    with pytest.raises(ValueError, match=r"phases \{'01_a': 4.* not \{'02_b': 4"):
        make(whole[0], teacher[0], schedule=ToySchedule(names=NAMES[1:]))()


def test_teacher_without_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model directory"):
        make(tmp_path / "s", tmp_path / "nowhere")()
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="TEACHER_DIR .* has no checkpoint"):
        make(tmp_path / "s", tmp_path / "empty")()


def test_teacher_of_another_size(tmp_path, teacher):
    network = toy.Regressor(hidden=8)
    with pytest.raises(ValueError, match="in_bias|in_kernel|mid_|out_"):
        make(tmp_path / "s", teacher[0], schedule=ToySchedule(network=network))()


def test_folders_must_differ(tmp_path):
    with pytest.raises(ValueError, match="TEACHER_DIR and MODEL_DIR are both"):
        make(tmp_path, f"{tmp_path}/../{tmp_path.name}")
    with pytest.raises(ValueError, match="TEACHER_DIR is empty"):
        make(tmp_path, "")
