"""What the clips of an evaluation depend on: weights, settings and encoder, not where they lie."""

import numpy as np
import pytest
import toy_training as toy
from counting_model import Counter, Ready

from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.evals.tasks import GenerateTask, PredictTask
from vidgen.inference.generate import Generate


class OtherWeights(Ready):
    def load(self, step=None, mesh=None):
        return np.float32(1 / 32)


class OtherEncoder(toy.ToyEncoder):
    name = "toy-2"


def tasks(stage):
    run = Generate(stages=[stage], prompts=["?"])
    return (
        GenerateTask(run=run),
        PredictTask(stage=stage, seed=0, given=3, text=True),
    )


def identities(kind=Ready, **changes):
    settings = {"model": Counter(), "text_encoder": toy.ToyEncoder(), "model_dir": "runs/p"}
    return [repr(task.identity) for task in tasks(kind(**settings | changes))]


@pytest.mark.parametrize(
    "kind, changes",
    [
        (OtherWeights, {}),
        (Ready, {"text_encoder": OtherEncoder()}),
        (Ready, {"model": Counter(guidance=GuidanceSpec(weight=2.0))}),
        (Ready, {"model": Counter(patch_time=1)}),
    ],
)
def test_clips_that_are_kept_are_those_of_the_same_model(kind, changes):
    there = identities()
    assert identities() == there == identities(model_dir="runs/moved")
    assert all(a != b for a, b in zip(identities(kind, **changes), there, strict=True))
