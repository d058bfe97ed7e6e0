"""What benchmarks/peers.py times of vidgen: models at the settings of the packages, and its rows.

    python benchmarks/peer_models.py imagen-S/base/train          a row, as peers.py runs it

What differs from the packages (benchmarks/peer_packages.py):

- U-Nets: the same widths, factors of 2 and attention, of 4 heads, on the last level, and temporal
  convolution and attention everywhere. A level of theirs has one block more than it is asked for,
  on the way down and on the way up; so has ours, but the last has 2. They make 768 features of text
  32 or 64 before they attend to it, we do not; so that the parameters meet within a tenth, the last
  level is narrower than 4 times the first (`last`), and 2 queries pool the text.
- C-ViViT: the same widths, depths and heads; GELU layers of 4 widths for their gated ones of 8/3,
  which come to as much. Without perceptual networks.
- Discriminator: StyleGAN's, on one random frame of a clip as theirs, with R1 in every step.
- MaskGIT: `train` reads tokens made beforehand, `train_on_video` makes them in each step, as
  theirs does. `sample` ends with video.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from peer_timing import Job, serve

from vidgen import allocator
from vidgen.cli import startup
from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.blocks import LevelSpec
from vidgen.imagen.conditioning import NoLowRes, SpatialUpsample, TemporalUpsample
from vidgen.imagen.stage import DiffusionStage
from vidgen.imagen.unet import VideoUNet
from vidgen.nn import axes
from vidgen.phenaki.cvivit import CViViT
from vidgen.phenaki.decoding import DecodingSpec
from vidgen.phenaki.discriminator import Discriminator
from vidgen.phenaki.masked_model import MaskedVideoModel
from vidgen.phenaki.maskgit import MaskGIT
from vidgen.phenaki.quantizer import VectorQuantizer
from vidgen.phenaki.tokenizer import VideoTokenizer
from vidgen.train import flops
from vidgen.train import fresh as fresh_parameters
from vidgen.train.optimizers import AdamW, Grouped, LearningRate
from vidgen.train.partitioning import Partitioner, unbox
from vidgen.train.trainer import Trainer
from vidgen.types import TextEmbedding, VideoShape

BATCH, TEXT = 2, (16, 768)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imagen:
    """A cascade: width of the first and of the last level, residual blocks, and the base's clip."""

    dim: int
    last: int
    res_blocks: int
    stages: tuple[str, ...] = ("base", "tsr", "ssr")
    frames: int = 8
    size: int = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phenaki:
    """Tokenizer and transformer.

    `mlp` is the hidden width of the transformer's feed-forward layers over that of its tokens,
    `judge` the largest of the discriminator: with them the parameters meet.
    """

    size: int
    dim: int
    depth: int
    heads: int
    codes: int
    layers: int
    mlp: int = 4
    judge: int = 512


IMAGEN = {
    "S": Imagen(dim=32, last=104, res_blocks=1),
    "M": Imagen(dim=64, last=256, res_blocks=2),
    "B32": Imagen(dim=64, last=224, res_blocks=1, stages=("base",), frames=16, size=32),
}
PHENAKI = {
    "S": Phenaki(size=32, dim=128, depth=2, heads=4, codes=1024, layers=4, judge=480),
    "M": Phenaki(size=64, dim=256, depth=4, heads=8, codes=8192, layers=8, mlp=5),
}

# ---- models --------------------------------------------------------------------------------------


def unet_stage(spec: Imagen, stage: str) -> DiffusionStage:
    """A stage of the cascade."""
    after = {"base": (1, 1), "tsr": (2, 1), "ssr": (2, 2)}[stage]  # times the frames, the size
    shape = VideoShape(
        frames=spec.frames * after[0], height=spec.size * after[1], width=spec.size * after[1]
    )
    told = {"base": NoLowRes(), "tsr": TemporalUpsample(), "ssr": SpatialUpsample()}
    return DiffusionStage(
        name=stage,
        shape=shape,
        network=VideoUNet(
            levels=levels(spec), cond_width=4 * spec.dim, pool_queries=2, unroll=True
        ),
        conditioner=told[stage],
        guidance=GuidanceSpec(weight=4.0, threshold="dynamic"),
        sampler=SamplerSpec(kind="ancestral", steps=8),
    )


def levels(spec: Imagen) -> list[LevelSpec]:
    """Three levels of 4 heads each; the last one attends."""
    found = []
    for i, width in enumerate((spec.dim, 2 * spec.dim, spec.last)):
        attends = "attention" if i == 2 else "none"
        found.append(
            LevelSpec(
                width=width,
                blocks=2 if i == 2 else spec.res_blocks + 1,
                stride=1 if i == 0 else 2,
                spatial=attends,
                text=attends,
                temporal="attention+conv",
                feed_forward=2 if i == 2 else 0,
                head_dim=width // 4,
            )
        )
    return found


def tokenizer(spec: Phenaki, *, discriminator: bool = False) -> VideoTokenizer:
    """C-ViViT for 17 frames, patches of 2 x 8 x 8."""
    autoencoder = CViViT(
        patch=(2, 8, 8),
        width=spec.dim,
        mlp=4 * spec.dim,
        heads=spec.heads,
        spatial_layers=spec.depth,
        temporal_layers=spec.depth,
        unroll=True,
    )
    return VideoTokenizer(
        shape=VideoShape(frames=17, height=spec.size, width=spec.size),
        autoencoder=autoencoder,
        quantizer=VectorQuantizer(codes=spec.codes, dim=spec.dim),
        discriminator=(
            Discriminator(width=64, max_width=spec.judge, frames_per_clip=1)
            if discriminator
            else None
        ),
    )


def transformer(spec: Phenaki, batches: str) -> MaskedVideoModel:
    """MaskGIT on the tokens of `tokenizer`."""
    reads = tokenizer(spec)
    grid = reads.grid(*reads.shape.thwc[:3])
    network = MaskGIT(
        codes=spec.codes,
        grid=grid,
        layers=spec.layers,
        width=spec.dim,
        heads=spec.heads,
        mlp=spec.mlp * spec.dim,
        unroll=True,
    )
    return MaskedVideoModel(
        shape=reads.shape,
        tokenizer=reads,
        network=network,
        batches=batches,
        sampler=DecodingSpec(steps=18),
        guidance=GuidanceSpec(weight=4.0),
    )


# ---- what is timed -------------------------------------------------------------------------------


def filled(spec: Any, codes: int = 0) -> Any:
    """Random arrays (numpy) of these shapes: all text is there, every clip is a video."""
    rng = np.random.default_rng(0)

    def one(path: Any, x: Any) -> np.ndarray:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if x.dtype == jnp.bool_:
            return np.full(x.shape, name == "text/mask")
        if x.dtype == jnp.int32:
            return rng.integers(codes, size=x.shape, dtype=np.int32)
        if name == "video":
            return rng.uniform(-1, 1, x.shape).astype(np.float32)
        return rng.normal(size=x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(one, spec)


def count(params: Any) -> int:
    """How many parameters."""
    return sum(x.size for x in jax.tree.leaves(params))


def fresh(model: Any) -> Any:
    """Initial parameters, as a training draws them."""
    boxed = fresh_parameters.boxed_shapes(model, model.batch_spec(BATCH, *TEXT))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    layout = jax.tree.map(lambda _: device, unbox(boxed))
    return fresh_parameters.draw(boxed, jax.random.key(0), layout)


def training(model: Any, frozen: Callable[[], Any] | None = None, codes: int = 0) -> Job:
    """Steps of the trainer on one batch."""
    one = AdamW(learning_rate=LearningRate(peak=1e-4))
    grouped = Grouped(groups={"generator": one, "discriminator": one})
    rules = [(name, None) for name in axes.AXES]
    trainer = Trainer(
        model=model,
        partitioner=Partitioner(rules=rules, mesh_shape=(1, 1, 1), device_count=1),
        optimizer=grouped if isinstance(model, VideoTokenizer) else one,
    )
    spec = model.batch_spec(BATCH, *TEXT)
    batch = trainer.partitioner.to_global(filled(spec, codes))
    held = {"state": trainer.init_state(jax.random.key(0), spec), "compiles": True}
    read, key = None if frozen is None else frozen(), jax.random.key(1)

    def call() -> None:
        held["state"], metrics = trainer.train_step(held["state"], read, batch, key)
        jax.block_until_ready((held["state"], metrics))
        if held.pop("compiles", False):
            allocator.set_holes_aside()  # as `vidgen train` does

    def work() -> int:
        return flops.loss_and_gradient(model, held["state"].params, read, batch)

    return Job(count(held["state"].params), call, work)


def calling(params: Any, function: Callable[..., Any], *given: Any, counted: Any = None) -> Job:
    """Calls of a function of the parameters; `counted` is the same without a step at a time."""
    return Job(
        count(params),
        lambda: jax.block_until_ready(function(params, *given)),
        lambda: flops.count(counted or function, params, *given),
    )


def arguments(model: Any) -> tuple[Any, TextEmbedding, jax.Array]:
    """(parameters, text, keys) to sample with, on the device."""
    params, batch = fresh(model), filled(model.batch_spec(BATCH, *TEXT), 1)
    return jax.device_put(
        (params, batch.text, jax.random.split(jax.random.key(1), BATCH)), jax.devices()[0]
    )


def unet_samples(model: DiffusionStage) -> Job:
    """Clips of one stage, from a random video of the stage before."""
    params, text, keys = arguments(model)
    low_res, before = None, model.input_shape
    if before is not None:
        video = np.random.default_rng(1).uniform(-1, 1, (BATCH, *before.thwc))
        low_res = jax.device_put(video.astype(np.float32), jax.devices()[0])
    stepwise = functools.partial(model.generate, on_step=lambda *_: None)
    return calling(params, stepwise, text, low_res, keys, counted=model.generate)


def token_samples(model: MaskedVideoModel) -> Job:
    """Clips of which nothing is known."""
    params, text, keys = arguments(model)
    joined = model.merge_params(params, {"tokenizer": fresh(model.tokenizer)})
    stepwise = functools.partial(model.generate, on_step=lambda *_: None)
    job = calling(joined, stepwise, text, None, keys, counted=model.generate)
    return job._replace(parameters=count(params))


def coding(model: VideoTokenizer, what: str) -> Job:
    """Video to tokens ("encode"), or tokens to video ("decode")."""
    params, rng = fresh(model), np.random.default_rng(0)
    if what == "encode":
        given = rng.uniform(-1, 1, (BATCH, *model.shape.thwc)).astype(np.float32)
    else:
        grid = model.grid(*model.shape.thwc[:3])
        given = rng.integers(model.codes, size=(BATCH, *grid), dtype=np.int32)
    return calling(params, jax.jit(getattr(model, what)), jnp.asarray(given))


def rows() -> dict[str, Callable[[], Job]]:
    """All rows by name; a model is made when its row runs."""
    found: dict[str, Callable[[], Job]] = {}
    for size, imagen in IMAGEN.items():
        for stage in imagen.stages:
            unet = functools.partial(unet_stage, imagen, stage)
            name = f"imagen-{size}/{stage}"
            found[f"{name}/train"] = lambda unet=unet: training(unet())
            found[f"{name}/sample"] = lambda unet=unet: unet_samples(unet())
    for size, phenaki in PHENAKI.items():
        for name, make in phenaki_jobs(phenaki).items():
            found[f"phenaki-{size}/{name}"] = make
    return found


def phenaki_jobs(spec: Phenaki) -> dict[str, Callable[[], Job]]:
    """What is timed of tokenizer and transformer, by name."""

    def frozen() -> Any:
        return {"tokenizer": fresh(tokenizer(spec))}

    return {
        "cvivit/train": lambda: training(tokenizer(spec)),
        "cvivit_gan/train": lambda: training(tokenizer(spec, discriminator=True)),
        "cvivit/encode": lambda: coding(tokenizer(spec), "encode"),
        "cvivit/decode": lambda: coding(tokenizer(spec), "decode"),
        "maskgit/train": lambda: training(transformer(spec, "tokens"), codes=spec.codes),
        "maskgit/train_on_video": lambda: training(transformer(spec, "videos"), frozen),
        "maskgit/sample": lambda: token_samples(transformer(spec, "tokens")),
    }


if __name__ == "__main__":
    startup.setup_process()  # as `vidgen` does
    jax.devices()
    serve(rows()[sys.argv[1]])
