"""Power-function averages of a few steps on the devices of this process; as a program, in JSON."""

import json
import sys

import jax
import numpy as np
import toy_training as toy

from vidgen.train.power_ema import PowerEma
from vidgen.train.state import named_leaves


def report(mesh_shape):
    t = toy.make_trainer(mesh_shape=mesh_shape, power_ema=PowerEma(every=1))
    state = t.init_state(jax.random.key(0), toy.spec())
    state, _ = toy.run_steps(t, state, 0, 4)
    average = named_leaves(state.power_ema["0.05"])
    return {
        "sums": [float(np.abs(np.asarray(x)).sum()) for x in average.values()],
        "average": {name: str(x.sharding.spec) for name, x in average.items()},
        "weights": {n: str(x.sharding.spec) for n, x in named_leaves(state.params).items()},
    }


if __name__ == "__main__":
    print(json.dumps(report(tuple(int(n) for n in sys.argv[1].split(",")))))
