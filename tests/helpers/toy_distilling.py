"""A teacher and three phases small enough to distill in a test; as a script, the whole run."""

import dataclasses
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import toy_training as toy

from vidgen.imagen.student_training import Distill
from vidgen.imagen.students import StudentPhase, StudentSchedule
from vidgen.model import Student
from vidgen.train import optimizers
from vidgen.train.checkpoints import CheckpointSettings
from vidgen.train.train import Train
from vidgen.types import Mean

NAMES = ("01_a", "02_b", "03_c")
STEPS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyStudent(toy.ToyModel, Student):
    """The toy with one more parameter; it learns 0.9 times what its teacher says."""

    first: bool = False

    @property
    def teacher(self):
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(toy.ToyModel)}
        return toy.ToyModel(**own) if self.first else self

    def init(self, key, batch):
        extra = nn.LogicallyPartitioned(jnp.zeros(1), ("pixels",))
        return super().init(key, batch) | {"weight": extra}

    def output(self, params, video, text):
        inner = {name: x for name, x in params.items() if name != "weight"}
        return self.network.apply({"params": inner}, video, text) + params.get("weight", 0.0)

    def loss(self, params, frozen, batch, key, *, train):
        teacher = frozen["teacher"]
        video = batch.video + jax.random.normal(key, batch.video.shape) * self.noise
        target = 0.9 * self.output(teacher, video, batch.text)
        loss = jnp.mean((self.output(params, video, batch.text) - target) ** 2)
        away = jnp.stack([jnp.abs(x - params[name]).max() for name, x in teacher.items()])
        size = jnp.stack([jnp.abs(x).sum() for x in jax.tree.leaves(teacher)])
        return loss, {"away": Mean.of(away.max()), "teacher_size": Mean.of(size.sum())}


class ToySchedule(StudentSchedule):
    """Phases of one toy each."""

    def __init__(self, names=NAMES, network=None):
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "network", network or toy.Regressor())

    def phases(self):
        models = [ToyStudent(network=self.network, first=i == 0) for i in range(len(self.names))]
        return tuple(StudentPhase(n, m, STEPS) for n, m in zip(self.names, models, strict=True))


def make_teacher(model_dir, *, train_steps=STEPS):
    """A run of the ordinary toy, with averaged weights."""
    return Train(
        trainer=toy.make_trainer(ema_decay=0.5),
        dataset=toy.ToyData(),
        text_encoder=toy.ToyEncoder(),
        model_dir=str(model_dir),
        train_steps=train_steps,
    )


def make(model_dir, teacher_dir, *, schedule=None, **settings):
    """The distillation into `model_dir`."""
    rate = optimizers.LearningRate(peak=1e-2, decay="linear", total_steps=999)
    optimizer = optimizers.AdamW(learning_rate=rate)
    shared = {
        "trainer": toy.make_trainer(model=ToyStudent(), optimizer=optimizer, ema_decay=None),
        "dataset": toy.ToyData(),
        "text_encoder": toy.ToyEncoder(),
        "model_dir": str(model_dir),
        "train_steps": 999,
        "log_every": 1,
        "checkpoint_every": 2,
        "checkpoints": CheckpointSettings(keep=100),
    }
    return Distill(
        schedule=schedule or ToySchedule(),
        train=Train(**(shared | settings)),
        teacher_dir=str(teacher_dir),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndlessWait(toy.ToyData):
    """Never gives the last batch of phase number `phase`, counted from 0."""

    phase: int
    begun: list = dataclasses.field(default_factory=list)

    def iterator(self, *, process=(0, 1)):
        inner = super().iterator(process=process)
        waits = len(self.begun) == self.phase
        self.begun.append(None)

        class Waiting(type(inner)):
            def __next__(this):
                if waits and this.at == STEPS - 1:
                    time.sleep(600)
                return super().__next__()

        inner.__class__ = Waiting
        return inner


if __name__ == "__main__":
    make(sys.argv[1], sys.argv[2], dataset=EndlessWait(phase=int(sys.argv[3])))()
