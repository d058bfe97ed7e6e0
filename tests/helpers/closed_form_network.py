"""A feature network that is one product, and so small that nothing has to be fetched."""

import jax.numpy as jnp
import numpy as np

from vidgen.evals.collect import ClipBatch
from vidgen.evals.networks import FeatureNetwork


def of(folder, **other):
    """The network, with a file of weights in `folder`."""
    file = folder / "weights.npy"
    np.save(file, np.sin(np.arange(4 * 25 * 3 * 7, dtype=np.float32)).reshape(-1, 7) / 10)
    settings = {
        "name": "one product",
        "layer": "tanh",
        "file": file,
        "load": lambda: {"w": np.load(file)},
        "apply": lambda params, x: jnp.tanh(x.reshape(len(x), -1) @ params["w"]),
        "size": 5,
        "per_frame": False,
    }
    return FeatureNetwork(**settings | other)


def clips(n=5, frames=4, height=6, width=8):
    x = np.random.default_rng(0).uniform(-1, 1, (n, frames, height, width, 3))
    return x.astype(np.float32)


def rows(network, video, batch_size):
    measurement = network.measurement("generated", batch_size)
    return measurement.compute(ClipBatch(video, None, [""] * len(video)))
