"""The examples of CONTRIBUTING.md, run as they stand there."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contributing import write_example
from places import ROOT

from vidgen.config import gin_utils
from vidgen.diffusion import samplers
from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.diffusion.sampling import sample
from vidgen.diffusion.schedules import Cosine, alpha_sigma
from vidgen.imagen.stage import DiffusionStage
from vidgen.train.partitioning import unbox
from vidgen.train.train import Train
from vidgen.types import TextEmbedding, VideoBatch, VideoShape

SHAPE = VideoShape(frames=2, height=4, width=4)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes the Python block of a section as a module, and its gin block as a file beside it."""

    def write(title, module):
        monkeypatch.syspath_prepend(tmp_path)
        return write_example(tmp_path, title, module)

    yield write
    samplers.SAMPLERS.pop("midpoint", None)
    for module in ("midpoint", "flat_network"):
        sys.modules.pop(module, None)


def training(*files):
    """The model of the tiny base stage with these files after its own."""
    names = ["runs/train.gin", "experiments/imagen_base_tiny.gin", *files]
    with gin_utils.session(names, ["MODEL_DIR='m'"]):
        return gin_utils.build(Train).trainer.model


def test_a_sampler_of_second_order(written):
    """On Gaussian data, where x̂ is known, twice the steps leave a quarter of the error."""
    spec = training(written("Adding a sampler", "midpoint")).sampler
    assert spec.name == "midpoint" and spec.evaluations == 2 * spec.steps

    def x0_fn(z, logsnr, step):  # of x ~ N(0, 1/4)
        alpha, sigma = alpha_sigma(logsnr)
        return alpha / 4 * z / (alpha**2 / 4 + sigma**2)

    def end(kind, steps):
        u = jnp.linspace(0.8, 0.2, steps + 1)
        settings = {"logsnrs": Cosine()(u), "z": jnp.ones(1), "to_data": False}
        keys = jax.random.split(jax.random.key(0), 1)
        return sample(x0_fn, SamplerSpec(kind=kind).sampler(), keys=keys, **settings).item()

    scale = [
        jnp.sqrt(a**2 / 4 + s**2) for a, s in map(alpha_sigma, Cosine()(jnp.array([0.8, 0.2])))
    ]
    exact = float(scale[1] / scale[0])
    errors = {kind: [abs(end(kind, n) - exact) for n in (16, 32)] for kind in ("ddim", "midpoint")}
    assert errors["ddim"][0] / errors["ddim"][1] == pytest.approx(2, rel=0.15)
    assert errors["midpoint"][0] / errors["midpoint"][1] == pytest.approx(4, rel=0.15)
    assert errors["midpoint"][1] < errors["ddim"][1] / 4


def test_a_network_trains_and_generates(written):
    network = training(written("Adding a network", "flat_network")).network
    assert type(network).__name__ == "FlatNetwork"
    model = DiffusionStage(
        shape=SHAPE,
        network=network,
        guidance=GuidanceSpec(weight=1.0),
        sampler=SamplerSpec(kind="ddim", steps=2),
    )
    text = TextEmbedding(tokens=jnp.ones((2, 3, 5)), mask=jnp.ones((2, 3), bool))
    video = jax.random.normal(jax.random.key(1), (2, *SHAPE.thwc))
    batch = VideoBatch(video=video, text=text, independent_frames=jnp.array([False, True]))
    params = unbox(jax.jit(model.init)(jax.random.key(0), batch))

    adam = optax.adam(0.01)
    state, losses = adam.init(params), []

    @jax.jit
    def step(params, state):
        def loss(p):
            return model.loss(p, None, batch, jax.random.key(2), train=True)[0]

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = adam.update(gradient, state)
        return value, optax.apply_updates(params, updates), state

    for _ in range(10):
        value, params, state = step(params, state)
        losses.append(float(value))
    assert losses[-1] < 0.9 * losses[0]
    keys = jax.random.split(jax.random.key(3), 2)
    clips = model.generate(params, text, None, keys)
    assert clips.shape == video.shape and np.isfinite(clips).all()
    assert np.abs(model.generate(params, text, None, keys[::-1]) - clips).max() > 0.01


@pytest.mark.cli
def test_the_help_lists_the_samplers_that_there_are():
    command = [sys.executable, "-m", "vidgen", "generate", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert ", ".join(samplers.SAMPLERS) in " ".join(shown.split())
