"""What would fit where a training step does not."""

import dataclasses

import pytest

from vidgen.config import gin_utils
from vidgen.plan import programs, suggestions
from vidgen.train.train import Train

BATCH = 16
STATE, ACTIVATIONS = 100, 3200  # bytes


@pytest.fixture(scope="module")
def trainer():
    files = ["runs/train.gin", "experiments/phenaki_maskgit_tiny.gin"]
    with gin_utils.session(files, ["MODEL_DIR='none'", "TOKENIZER_DIR='none'"]):
        return gin_utils.build(Train).trainer


@pytest.fixture
def compiler(monkeypatch):
    """A compiler that knows what every step needs; its memory is set, and what it was asked kept.

    tests/plan/test_estimate.py has the real one, which says that nothing fits, and
    tests/imagen/test_unet.py what remat saves.
    """

    class Compiler:
        def __init__(self):
            self.memory, self.asked = 0, []

        def step(self, trainer, batch):
            kept = 1 if trainer.model.network.remat == "none" else 0.5
            peak = STATE + round(kept * ACTIVATIONS / trainer.microbatches)
            self.asked.append(peak)
            return {"fits": peak <= self.memory, "peak_bytes_per_device": peak}

    compiler = Compiler()
    monkeypatch.setattr(programs, "training_step", compiler.step)
    return compiler


def settings(trainer, examples):
    return [tried for tried, _ in suggestions.candidates(trainer, examples)]


@pytest.mark.parametrize(
    "memory, peaks, told",
    [
        (2000, [1700], {"remat": "full"}),
        (1700, [1700], {"remat": "full"}),
        (1699, [1700, 900], {"remat": "full", "Trainer.microbatches": 2}),
        (200, [1700, 900, 500, 300, 200], {"remat": "full", "Trainer.microbatches": 16}),
        (199, [1700, 900, 500, 300, 200], None),
    ],
)
def test_the_first_that_fits_is_told(trainer, compiler, memory, peaks, told):
    compiler.memory = memory
    found = suggestions.fitting(trainer, trainer.model.batch_spec(BATCH, 16, 384))
    assert compiler.asked == peaks
    assert found == (told and {"settings": told, "peak_bytes_per_device": peaks[-1]})


def test_order_and_ends(trainer):
    parts = [{"remat": "full", "Trainer.microbatches": n} for n in (2, 4, 8, 16)]
    assert settings(trainer, BATCH) == [{"remat": "full"}, *parts]
    assert settings(trainer, 6) == [{"remat": "full"}, *parts[:1]]
    again = dataclasses.replace(trainer.model, network=trainer.model.network.clone(remat="full"))
    done = dataclasses.replace(trainer, model=again, microbatches=8)
    assert settings(done, BATCH) == [{"Trainer.microbatches": 16}]
    changed = [other for _, other in suggestions.candidates(trainer, BATCH)]
    assert {other.model.network.remat for other in changed} == {"full"}
    assert [other.microbatches for other in changed] == [1, 2, 4, 8, 16]
