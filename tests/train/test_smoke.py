"""The smoke test of new hardware, on a toy model; whole commands are in tests/test_launch.py.

Tests of vidgen/train/smoke_report.py too.
"""

import dataclasses
import functools
import json
import signal
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import toy_training as toy
from fake_models import FakeTokenizer

from vidgen.train.callbacks import SampleReconstructions, SampleUpsampled, SampleVideos
from vidgen.train.signals import Preempted
from vidgen.train.smoke import STEPS, Smoke, one_clip
from vidgen.train.train import Train
from vidgen.types import VideoShape

KEYS = {
    *("vidgen", "jax", "model", "parameters", "batch_size", "platform", "device", "devices"),
    *("processes", "mesh", "steps", "lives", "seconds_per_step", "examples_per_second"),
    *("flops_per_second", "mfu", "data_wait_fraction", "device_memory_gib", "host_memory_gib"),
    *("loss", "curves_equal", "difference", "repeats", "clip", "clip_seconds"),
}


@functools.cache
def plain():
    """The trainer of most runs, whose step is traced once."""
    return toy.make_trainer()


def smoke(folder, **settings):
    values = {"train_steps": 100_000, "log_every": 50, "model_dir": str(folder)}
    values |= {"dataset": toy.ToyData(), "text_encoder": toy.ToyEncoder()}
    values |= {
        "trainer": plain(),
        "sample_writer": SampleVideos(every=9, prompts=("a",)),
    }
    return Smoke(run=Train(**values | settings))


def preempted(folder, **settings):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted):
        smoke(folder, **settings)()
    assert signal.getsignal(signal.SIGTERM) == handler


def test_two_lives(tmp_path, capsys):
    preempted(tmp_path, trainer=toy.make_trainer())  # of which nothing is compiled yet
    report = smoke(tmp_path, trainer=toy.make_trainer())()
    assert set(report) == KEYS
    assert json.loads((tmp_path / "smoke/report.json").read_text()) == report
    assert report["devices"] == report["processes"] == 1 and report["parameters"] > 1000
    assert report["steps"] == len(report["loss"]) == STEPS and report["curves_equal"]
    # SIGTERM came between two steps, at the latest when the sixth batch was read.
    first, second = report["lives"]
    assert 1 <= first["last_step"] <= 6 and second["last_step"] == STEPS
    assert first["programs"] > 0 and first["compile_seconds"] > 0
    assert 0 < report["seconds_per_step"] < 60
    assert report["examples_per_second"] == pytest.approx(8 / report["seconds_per_step"], rel=1e-6)
    assert report["clip"].endswith("step_10.mp4") and Path(report["clip"]).stat().st_size > 100
    text = capsys.readouterr().out
    assert "equal to the last bit" in text and report["clip"] in text
    with pytest.raises(ValueError, match=r"smoke/report\.json .*earlier .*MODEL_DIR"):
        smoke(tmp_path)()


def test_another_curve_is_a_failure(tmp_path):
    """The second life draws other noise, as if the checkpoint had lost its place."""
    preempted(tmp_path)
    with pytest.raises(ValueError, match=r"at resuming: .*step 1 is [\d.]+, .* [\d.]+;"):
        smoke(tmp_path, seed=1)()
    report = json.loads((tmp_path / "smoke/report.json").read_text())
    assert not report["curves_equal"] and "step 1" in report["difference"] and report["repeats"]


class Restless(toy.ToyData):
    """Other batches whenever it is opened, as a device that rounds differently every time."""

    opened: ClassVar[list[int]] = []

    def iterator(self, *, process=(0, 1)):
        batches = super().iterator(process=process)
        batches.at = 1000 * len(self.opened)
        self.opened.append(1)
        return batches


def test_a_device_that_does_not_repeat_itself_is_named(tmp_path):
    preempted(tmp_path, dataset=Restless())
    with pytest.raises(ValueError, match="twice: .*step 1 .*--xla_gpu_deterministic_ops=true"):
        smoke(tmp_path, dataset=Restless())()
    report = json.loads((tmp_path / "smoke/report.json").read_text())
    assert not report["repeats"] and not report["curves_equal"]


class Mute(toy.ToyEncoder):
    """Encodes no prompt of a clip."""

    def __call__(self, prompts):
        if "a" in prompts:
            raise RuntimeError("no accelerator\nanswers.")
        return super().__call__(prompts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Broken(toy.ToyData):
    def iterator(self, *, process=(0, 1)):
        raise OSError("no such bucket")


def test_the_part_that_fails_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"at training: no such bucket\.$"):
        smoke(tmp_path, dataset=Broken())()
    preempted(tmp_path)
    with pytest.raises(ValueError, match=r"generating a clip: no accelerator answers\.$"):
        smoke(tmp_path, text_encoder=Mute())()
    assert not (tmp_path / "smoke/report.json").exists()


class Nan(toy.ToyModel):
    def generate(self, params, text, low_res, keys, **_):
        return np.nan * super().generate(params, text, low_res, keys)


def test_a_clip_of_no_numbers_is_a_failure(tmp_path):
    preempted(tmp_path)
    with pytest.raises(ValueError, match=r"generating a clip: .*no numbers\.$"):
        smoke(tmp_path, trainer=toy.make_trainer(Nan()))()


class Restores(toy.ToyModel):
    input_shape = VideoShape(frames=2, height=2, width=2)


def test_one_clip_of_any_model(tmp_path):
    data = toy.ToyData()
    two = SampleVideos(every=9, prompts=("a", "b"), seed=3)
    for model, own, clip in (
        (toy.ToyModel(), two, SampleVideos(every=9, prompts=("a",), seed=3, suffix="mp4")),
        (toy.ToyModel(), None, SampleVideos),
        (Restores(), SampleUpsampled(every=9, dataset=data), SampleUpsampled),
        (Restores(), None, SampleUpsampled),
        (FakeTokenizer(), None, SampleReconstructions),
    ):
        writer = one_clip(smoke(tmp_path, trainer=toy.make_trainer(model), sample_writer=own).run)
        assert writer == clip if isinstance(clip, SampleVideos) else isinstance(writer, clip)
        assert getattr(writer, "count", 1) == 1 and writer.suffix == "mp4"
