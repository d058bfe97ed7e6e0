"""Prints, as JSON, what a distillation on all devices of this process gives."""

import json
import sys

import jax
import numpy as np
import toy_distilling
import toy_training as toy

from vidgen.imagen import student_training

SEEN = []


class Noting(student_training.Teacher):
    """Notes how the teacher is laid out."""

    def __call__(self):
        frozen = super().__call__()
        SEEN.append(list(frozen["teacher"]["in_kernel"].sharding.spec))
        return frozen


def main():
    folder, teacher = sys.argv[1:]
    sharded = toy.make_trainer(
        model=toy_distilling.ToyStudent(), mesh_shape=(1, -1, 1), ema_decay=None
    )
    student_training.Teacher = Noting
    state = toy_distilling.make(folder, teacher, trainer=sharded)()
    sizes = {name: float(np.abs(x).sum()) for name, x in state.params.items()}
    print(json.dumps({"sizes": sizes, "teacher": SEEN, "devices": jax.device_count()}))


if __name__ == "__main__":
    main()
