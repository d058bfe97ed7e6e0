"""What would fit where a training step does not."""

import dataclasses

import pytest

from vidgen import gin_utils
from vidgen.runs import plan_programs, plan_suggestions
from vidgen.runs.train import Train

BATCH = 16


@pytest.fixture(scope="module")
def trainer():
    """A transformer large enough for activations to matter, and small enough to compile."""
    files = ["runs/train.gin", "experiments/phenaki_maskgit_tiny.gin"]
    with gin_utils.session(files, ["MODEL_DIR='none'", "TOKENIZER_DIR='none'"]):
        return gin_utils.build(Train).trainer


def settings(trainer, examples):
    return [tried for tried, _ in plan_suggestions.candidates(trainer, examples)]


def test_the_first_that_fits_is_told(trainer, monkeypatch):
    batch = trainer.model.batch_spec(BATCH, 16, 384)
    whole = plan_programs.training_step(trainer, batch)["peak_bytes_per_device"]
    limits = []
    monkeypatch.setattr(plan_programs, "_memory_of", lambda device, devices: limits[-1])
    limits.append(0.9 * whole)
    found = plan_suggestions.fitting(trainer, batch)
    assert found["peak_bytes_per_device"] <= 0.9 * whole
    assert found["settings"] in settings(trainer, BATCH)
    limits.append(found["peak_bytes_per_device"] - 1)  # a little less, and it is another
    other = plan_suggestions.fitting(trainer, batch)
    tried = settings(trainer, BATCH)
    assert other is None or tried.index(other["settings"]) > tried.index(found["settings"])


def test_nothing_fits_in_nothing(trainer, monkeypatch):
    monkeypatch.setattr(plan_programs, "_memory_of", lambda device, devices: 1)
    assert plan_suggestions.fitting(trainer, trainer.model.batch_spec(2, 16, 384)) is None


def test_order_and_ends(trainer):
    parts = [{"remat": "full", "Trainer.microbatches": n} for n in (2, 4, 8, 16)]
    assert settings(trainer, BATCH) == [{"remat": "full"}, *parts]
    assert settings(trainer, 6) == [{"remat": "full"}, *parts[:1]]
    again = dataclasses.replace(trainer.model, network=trainer.model.network.clone(remat="full"))
    done = dataclasses.replace(trainer, model=again, microbatches=8)
    assert settings(done, BATCH) == [{"Trainer.microbatches": 16}]
    changed = [other for _, other in plan_suggestions.candidates(trainer, BATCH)]
    assert {other.model.network.remat for other in changed} == {"full"}
    assert [other.microbatches for other in changed] == [1, 2, 4, 8, 16]
