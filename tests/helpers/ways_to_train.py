"""A toy model, a chip and what an example costs, in round numbers; see plan/test_candidates.py."""

import toy_training as toy

from vidgen.plan import candidates
from vidgen.plan.candidates import Estimator, Work
from vidgen.train.chips import Chip
from vidgen.train.optimizers import AdamW, LearningRate
from vidgen.train.partitioning import Partitioner
from vidgen.train.trainer import Trainer

CHIP = Chip(flops=1e6, memory=1, memory_rate=1e6, links=1e6, network=1e5)
MESHES = {name: Partitioner(rules=toy.RULES) for name in candidates.MESHES}
WORK = Work(
    model_flops=100.0,
    flops={"none": 100.0, "products": 110.0, "full": 140.0},
    kept={"none": 8000.0, "products": 4000.0, "full": 1000.0},
)


def trainer(model=None):
    return Trainer(
        model=model or toy.ToyModel(),
        partitioner=MESHES["mesh/fsdp.gin"],
        optimizer=AdamW(learning_rate=LearningRate(peak=1e-3)),
    )


def estimator(slices=1):
    return Estimator(trainer(), MESHES, (toy.LENGTH, toy.DIM), WORK, CHIP, slices)
