"""Several configurations, one set of flags: who takes which, and what is an error."""

import pytest

from vidgen.config import gin_utils
from vidgen.config.gin_sessions import Sessions
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.train.optimizers import LearningRate
from vidgen.train.warm_start import WarmStart

HEAD = """from __gin__ import dynamic_registration
from vidgen.diffusion import samplers
from vidgen.train import optimizers
"""
FIRST = (
    HEAD
    + """RATE = 0.5
optimizers.LearningRate.peak = %RATE
optimizers.LearningRate.warmup_steps = 7
"""
)
SECOND = (
    HEAD
    + """GAMMA = 0.25
samplers.SamplerSpec.gamma = %GAMMA
samplers.SamplerSpec.steps = 8
"""
)

TRAINED = """from __gin__ import dynamic_registration
from vidgen.train import warm_start
MODEL_DIR = 'elsewhere'
STEP = 2
warm_start.WarmStart.model_dir = %MODEL_DIR
warm_start.WarmStart.step = %STEP
"""


@pytest.fixture
def built(tmp_path):
    """Builds an object from each of two files; returns them and the sessions."""
    (tmp_path / "first.gin").write_text(FIRST)
    (tmp_path / "second.gin").write_text(SECOND)

    def build(*bindings):
        sessions = Sessions([], [], bindings)
        rate = sessions.build(LearningRate, [str(tmp_path / "first.gin")])
        sampler = sessions.build(SamplerSpec, [str(tmp_path / "second.gin")])
        sessions.check_bindings()
        return rate, sampler, sessions

    return build


def test_each_reads_its_own_file(built, capsys):
    rate, sampler, sessions = built()
    assert (rate.peak, rate.warmup_steps, sampler.gamma) == (0.5, 7, 0.25)
    first, second = sessions.configs
    assert "RATE = 0.5" in first and "RATE" not in second
    assert "GAMMA = 0.25" in second and "GAMMA" not in first
    assert capsys.readouterr().err == ""


def test_a_flag_is_for_whoever_understands_it(built, capsys):
    rate, sampler, _ = built("RATE=0.75", "SamplerSpec.steps=9")
    assert (rate.peak, sampler.steps) == (0.75, 9)
    assert capsys.readouterr().err == ""


def test_a_flag_that_nobody_understands_is_an_error(built):
    with pytest.raises(gin_utils.GinError, match="macro RAT, .*RATE"):
        built("GAMMA=0.5", "RAT=0.75")
    with pytest.raises(gin_utils.GinError, match="takes a number"):
        built("RATE=fast")


def test_a_flag_that_nobody_uses_is_noted(built, capsys):
    built("nowhere/LearningRate.peak=1.0", "RATE=0.75")
    err = capsys.readouterr().err
    assert err.startswith("vidgen: note: --gin.nowhere/LearningRate.peak has no effect here")
    assert err.count("\n") == 1


def test_the_configuration_of_a_trained_model_is_told_its_folder(tmp_path):
    """It may have been moved since it was trained."""
    (tmp_path / "config.gin").write_text(TRAINED)
    made = Sessions([], [], ["STEP=3"]).build_trained(WarmStart, tmp_path)
    assert made == WarmStart(model_dir=str(tmp_path), step=3)


def test_files_for_all_come_after_the_own_ones(tmp_path):
    (tmp_path / "first.gin").write_text(FIRST)
    (tmp_path / "all.gin").write_text("RATE = 0.125\n")
    sessions = Sessions([], [str(tmp_path / "all.gin")], [])
    assert sessions.build(LearningRate, [str(tmp_path / "first.gin")]).peak == 0.125
