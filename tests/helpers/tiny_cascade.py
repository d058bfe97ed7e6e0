"""The seven stages at a size that compiles in seconds, on disk as training leaves them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vidgen.config import gin_utils
from vidgen.inference.stages import Stage
from vidgen.train.checkpoints import Checkpointer
from vidgen.train.partitioning import unbox
from vidgen.train.state import TrainState
from vidgen.train.train import Train
from vidgen.types import STAGES

# Other noise takes a second to compile.
SETTINGS = """# Defines: Requires: Often overridden:
from __gin__ import dynamic_registration
from vidgen.diffusion import samplers
from vidgen.imagen import blocks
from vidgen.imagen import unet
from vidgen.text import byte_encoder

samplers.SamplerSpec.kind = "ddim"
base/samplers.SamplerSpec.kind = "ancestral"
"""
ENCODER = """
TEXT_ENCODER = @byte_encoder.ByteEncoder()
byte_encoder.ByteEncoder.dim = 8
byte_encoder.ByteEncoder.length = 12
"""
# One level of width 8 without anything that is not tested elsewhere.
NETWORK = """
{stage}/unet.VideoUNet.levels = (@{stage}/level0/blocks.LevelSpec(),)
{stage}/unet.VideoUNet.cond_width = 16
{stage}/unet.VideoUNet.cond_layers = 1
{stage}/unet.VideoUNet.pool_queries = 1
{stage}/level0/blocks.LevelSpec.width = 8
{stage}/level0/blocks.LevelSpec.head_dim = 8
{stage}/level0/blocks.LevelSpec.text = "attention"
"""
SMALL = SETTINGS + ENCODER + NETWORK


def write(folder, stages=STAGES, steps=2, layers=()):
    """A folder for each stage, with random weights in its checkpoint; `layers` are more files."""
    for seed, stage in enumerate(stages):
        own = folder / stage
        own.mkdir(parents=True)
        small = folder / f"{stage}_small.gin"
        small.write_text(SMALL.format(stage=stage))
        files = ["runs/train.gin", f"experiments/imagen_{stage}_tiny.gin", str(small), *layers]
        bindings = [f"MODEL_DIR='{own}'", f"{stage}/SamplerSpec.steps={steps}"]
        with gin_utils.session(files, bindings):
            train = gin_utils.build(Train)
            (own / "config.gin").write_text(gin_utils.operative_config())
        small.unlink()
        encoder = train.text_encoder
        model = Stage(model=train.trainer.model, text_encoder=encoder, model_dir=str(own))
        save(model, random_params(model, seed))


def random_params(stage, seed):
    """No zeros anywhere; small enough that videos stay about in [-1, 1]."""
    spec = stage.model.batch_spec(1, stage.text_encoder.length, stage.text_encoder.dim)
    shapes = unbox(jax.eval_shape(stage.model.init, jax.random.key(0), spec))
    rng = np.random.default_rng(seed)
    fill = functools.partial(_fill, rng)
    return jax.tree.map(fill, shapes)


def _fill(rng, leaf):
    return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(max(leaf.size, 8) / 8), leaf.dtype)


def save(stage, params, step=3):
    state = TrainState(step=jnp.asarray(step), params=params, opt_state={}, ema=None)
    with Checkpointer(stage.model_dir) as checkpointer:
        checkpointer.save(step, state)
