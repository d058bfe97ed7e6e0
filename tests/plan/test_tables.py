"""The plan of several models: the table of Imagen Video, and the check that they fit."""

import dataclasses
import json
import re

import pytest

from vidgen.cli import main
from vidgen.config import gin_utils
from vidgen.imagen.stage import DiffusionStage
from vidgen.plan import tables
from vidgen.plan.estimate import Plan
from vidgen.types import STAGES

FILES = ["runs/plan.gin", "experiments/imagen_cascade_tiny.gin"]


@pytest.fixture(scope="module")
def cascade_plan():
    with gin_utils.session(FILES):
        return gin_utils.build(Plan)


@pytest.fixture(scope="module")
def two_stages(cascade_plan):
    """The first two, of which the second is a student: its guidance costs nothing."""
    base, tsr1, *_ = (trainer.model for trainer in cascade_plan.trainers)
    base = dataclasses.replace(base, published_parameters=2e6)
    tsr1 = dataclasses.replace(tsr1, published_parameters=1e6, guidance_input=True)
    return with_models(cascade_plan, [base, tsr1], batch_size=(6, 4))


@pytest.fixture(scope="module")
def report(two_stages):
    return two_stages.report(brief=True)


def with_models(plan, models, batch_size=8):
    trainers = [
        dataclasses.replace(trainer, model=model)
        for trainer, model in zip(plan.trainers, models, strict=False)
    ]
    return dataclasses.replace(plan, trainers=trainers, batch_size=batch_size)


def test_the_seven_stages_are_planned_in_order(cascade_plan):
    assert tuple(trainer.model.name for trainer in cascade_plan.trainers) == STAGES
    assert cascade_plan.chained


def test_each_model_has_a_batch_of_its_own(two_stages, report):
    assert [model["batch_size"] for model in report["models"]] == [6, 4]
    with pytest.raises(ValueError, match="BATCH_SIZE has 3 numbers for 2 models"):
        dataclasses.replace(two_stages, batch_size=(6, 4, 2))
    with pytest.raises(ValueError, match="Plan.batch_size is 0"):
        dataclasses.replace(two_stages, batch_size=(6, 0))


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ((0, 2), "stage ssr1 .* base .*: tsr1 is missing"),
        ((1, 0), "stage base .*after tsr1"),
    ],
)
def test_a_chain_that_is_broken(cascade_plan, order, words):
    models = [cascade_plan.trainers[i].model for i in order]
    with pytest.raises(ValueError, match=words):
        with_models(cascade_plan, models)


def test_a_broken_chain_is_one_sentence_and_status_2(capsys):
    files = ["--gin_file=experiments/imagen_cascade_tiny.gin", "--gin.ssr1/VideoShape.height=40"]
    assert main.main(["plan", *files]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "stage ssr1 takes clips of 16 frames of 20x16" in err and "tsr1 gives" in err


def test_the_report_adds_up(report):
    base, tsr1 = report["models"]
    assert base["input_shape"] is None and tsr1["input_shape"] == base["output_shape"]
    assert (base["sampling_steps"], base["evaluations"]) == (64, 128)
    assert (tsr1["sampling_steps"], tsr1["evaluations"]) == (32, 32)
    assert base["flops_per_clip"] == 128 * base["flops_per_evaluation"] > 0
    assert report["totals"] == {
        "parameters": base["parameters"] + tsr1["parameters"],
        "published_parameters": 3e6,
        "flops_per_clip": base["flops_per_clip"] + tsr1["flops_per_clip"],
    }


def test_the_table_says_the_same(report):
    text = tables.tables(report, details=False)
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    assert re.match(r"base +8 x 16 x 16 +8 +2\.0 M ", rows["base"]), text
    assert rows["base"].count("attn") == 3 and "conv + attn" in rows["base"]
    assert rows["tsr1"].count("attn") == 1, text
    assert " 128 " in rows["base"] and " 32 " in rows["tsr1"]
    difference = f"{report['totals']['parameters'] / 3e6 - 1:+.1%}"
    assert "3.0 M" in rows["sum"] and difference in rows["sum"]
    assert "each stage takes what the one before gives; each covers 1 s" in text
    assert "a batch of 6 or 4" in text and "parameters by module" not in text
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_the_json_holds_all_with_details(cascade_plan, capsys):
    (tsr1,) = (t.model for t in cascade_plan.trainers if t.model.name == "tsr1")
    twin = dataclasses.replace(tsr1, name="twin")
    plan = with_models(dataclasses.replace(cascade_plan, chained=False), [tsr1, twin])
    dataclasses.replace(plan, as_json=True, details=True)()
    found = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in found["models"]] == ["tsr1", "twin"]
    for model in found["models"]:
        assert model["flops_per_step_per_example"] > 2 * model["flops_forward_per_example"] > 0
        assert model["operators"]["temporal conv"] == [0, 1]
    text = tables.tables(found, details=True)
    assert text.count("parameters by module") == 2 and text.count("a step, per example") == 2
    assert "stage takes what" not in text  # nobody asked for a chain


def test_the_json_is_brief_without(two_stages, report, monkeypatch, capsys):
    monkeypatch.setattr(Plan, "report", lambda self, *, brief: report if brief else None)
    dataclasses.replace(two_stages, as_json=True)()
    found = json.loads(capsys.readouterr().out)
    assert found["models"][0]["flops_per_step"] is None
    assert found["models"][0]["parameters"] == report["models"][0]["parameters"]


def test_an_evaluation_is_the_network_on_a_whole_clip(cascade_plan):
    """A stage trains on a crop, and generates more: twice the pixels are twice the work."""
    (ssr3,) = (t for t in cascade_plan.trainers if t.model.name == "ssr3")
    stage: DiffusionStage = ssr3.model
    assert stage.train_shape is not None and stage.train_shape.width < stage.shape.width
    work = []
    for width in (stage.shape.width, 2 * stage.shape.width):
        shape = dataclasses.replace(stage.shape, width=width)
        model = dataclasses.replace(stage, shape=shape)
        trainer = dataclasses.replace(ssr3, model=model)
        one = dataclasses.replace(cascade_plan, trainers=[trainer], batch_size=2, chained=False)
        work.append(one.report(brief=True)["models"][0]["flops_per_evaluation"])
    assert work[1] / work[0] == pytest.approx(2, rel=0.01)
