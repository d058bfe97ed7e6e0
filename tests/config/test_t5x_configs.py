"""A configuration that t5x 2026 really saved of six steps of the tiny base model."""

from places import FILES

from vidgen.config import untrusted
from vidgen.config.gin_sessions import Sessions
from vidgen.config.t5x_configs import without_t5x
from vidgen.inference.stages import Stage

RUN = FILES / "t5x_run"


def test_what_is_left_is_of_vidgen_and_harmless():
    text = (RUN / "config.gin").read_text()
    left = without_t5x(text)
    lines = [line for line in left.splitlines() if not line.startswith("#")]
    for name in ("vidgen_t5x", "train_script", "utils.", "PjitPartitioner", "MIXTURE_OR_TASK_NAME"):
        assert any(name in line for line in text.splitlines()), name
        assert not any(name in line for line in lines), name
    assert "MODEL = @base/stage.DiffusionStage()" in lines
    assert untrusted.check(left, "c.gin") == left
    assert without_t5x(left) == left


def test_other_configurations_stay_as_they_are():
    text = "from __gin__ import dynamic_registration\nimport own\n\nX = @own.f()\n"
    assert without_t5x(text) == text


def test_the_model_is_built_as_that_of_any_run():
    stage = Sessions(["runs/generate.gin"], [], []).build_trained(Stage, RUN)
    assert stage.model.name == "base" and stage.model.shape.thwc == (8, 16, 16, 3)
    assert stage.text_encoder.length == 16


def test_a_value_over_several_lines_goes_as_a_whole():
    text = (
        "import __main__ as train_script\nfrom t5x import utils\nfrom vidgen import types\n"
        "A = \\\n    @train/utils.f()\nB = \\\n    (1,\n     2)\n"
        "train/utils.f.x = \\\n    (1,\n     2)\n"
        "utils.g:\n  a = 1\n\n  b = 2\ntypes.VideoShape.fps = 2\n"
    )
    left = without_t5x(text)
    assert left.split() == "from vidgen import types B = \\ (1, 2) types.VideoShape.fps = 2".split()
