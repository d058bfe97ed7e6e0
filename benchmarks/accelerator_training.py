"""The training rows of benchmarks/accelerator.py: the real step at the largest size that fits.

Layers are halved until the state alone leaves room (no compiler is needed to know that), then the
batch, as the compiler says what the step needs, then layers again. C-ViViT is without perceptual
networks, as a plan is.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import on_device
from on_device import Deadline

from vidgen.config import gin_utils
from vidgen.plan import memory as plan_memory
from vidgen.plan import programs
from vidgen.plan.programs import Compiled
from vidgen.train import flops
from vidgen.train.partitioning import is_box, unbox
from vidgen.train.state import TrainState
from vidgen.train.train import Train
from vidgen.train.trainer import Trainer, copied

Tell = Callable[[str, dict[str, Any]], None]
STATE_SHARE = 0.85  # of the memory, for what does not depend on the batch


class Experiment(NamedTuple):
    """What a row trains; `batch` is what the search begins with."""

    name: str
    batch: int
    files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()


_IN_BFLOAT16 = (
    "tokenizer/cvivit.CViViT.dtype='bfloat16'",
    "tokenizer/discriminator.Discriminator.dtype='bfloat16'",
)
# One level of width 8, and a small opponent without R1, compile in seconds.
_SMALL = (
    "{0}/unet.VideoUNet.levels=(@{0}/level0/blocks.LevelSpec(),)",
    "{0}/unet.VideoUNet.dtype='bfloat16'",
    "{0}/unet.VideoUNet.cond_width=16",
    "{0}/unet.VideoUNet.cond_layers=1",
    "{0}/unet.VideoUNet.pool_queries=1",
    "{0}/level0/blocks.LevelSpec.width=8",
    "{0}/types.VideoShape.frames=8",
    "{0}/types.VideoShape.height=32",
    "{0}/types.VideoShape.width=32",
)
_SMALL_OPPONENT = (
    "tokenizer/discriminator.Discriminator.width=8",
    "tokenizer/discriminator.Discriminator.max_width=8",
    "tokenizer_losses.LossWeights.r1=0.0",
)
EXPERIMENTS = {
    "published": {
        "base": Experiment("imagen_base_paper", 16),
        "ssr2": Experiment("imagen_ssr2_paper", 16),
        "ssr3": Experiment("imagen_ssr3_paper", 64),
        "cvivit_gan": Experiment("phenaki_cvivit_paper", 32, bindings=_IN_BFLOAT16),
        "maskgit": Experiment("phenaki_maskgit_paper", 128),
    },
    "tiny": {
        stage: Experiment(
            f"imagen_{stage}_tiny", 2, bindings=tuple(text.format(stage) for text in _SMALL)
        )
        for stage in ("base", "ssr2", "ssr3")
    }
    | {
        "cvivit_gan": Experiment(
            "phenaki_cvivit_tiny",
            2,
            ("models/phenaki/adversarial.gin",),
            _IN_BFLOAT16 + _SMALL_OPPONENT,
        ),
        "maskgit": Experiment(
            "phenaki_maskgit_tiny",
            2,
            bindings=(
                "maskgit/maskgit.MaskGIT.dtype='bfloat16'",
                "maskgit/maskgit.MaskGIT.layers=1",
            ),
        ),
    },
}


def training(name: str, size: str, tell: Tell, deadline: Deadline) -> None:
    """Steps of the trainer at the largest size that fits."""
    experiment = EXPERIMENTS[size][name.removeprefix("train/")]
    run = built(experiment)
    batch, trainer, compiled = largest(run, experiment.batch, on_device.memory(), deadline)
    predicted = compiled.report["peak_bytes_per_device"]
    tell(name, {"setting": setting(trainer, batch), "predicted_bytes": predicted})
    state_spec, frozen_spec, batch_spec, *_ = compiled.arguments
    work = flops.loss_and_gradient(trainer.model, state_spec.params, frozen_spec, batch_spec)
    tell(name, {"flops": work})
    state = fresh_state(trainer, batch_spec)
    frozen, inputs = on_device.drawn((frozen_spec, batch_spec))
    key, limit = jax.random.key(1), np.float32(math.inf)

    def step() -> Any:
        nonlocal state, metrics
        state, metrics = compiled.program(state, frozen, inputs, key, limit)
        return state, metrics

    metrics: Any = None
    seconds = on_device.seconds(step, deadline)
    loss = float(metrics["loss"].value())
    tell(name, {"seconds": seconds, "loss": loss} | on_device.peak_bytes())
    tell(name, on_device.utilization(work, seconds))
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss}")


def built(experiment: Experiment) -> Train:
    """The training run on one device."""
    files = ["runs/train.gin", f"experiments/{experiment.name}.gin", "mesh/single.gin"]
    bindings = ["MODEL_DIR='none'", *experiment.bindings]
    if "maskgit" in experiment.name:
        bindings.append("TOKENIZER_DIR='none'")
    with gin_utils.session([*files, *experiment.files], bindings):
        return gin_utils.build(Train)


# ---- the largest size that fits ------------------------------------------------------------------


def largest(
    run: Train, batch: int, memory: float, deadline: Deadline
) -> tuple[int, Trainer, Compiled]:
    """(examples, trainer, its compiled step), halved until the step fits into `memory`.

    Raises:
      ValueError: one example with one layer of each kind does not fit.
      TimeoutError: compiling once more would take longer than there is time.
    """

    def spec(trainer: Trainer, batch: int) -> Any:
        model: Any = trainer.model
        return model.batch_spec(batch, run.text_encoder.length, run.text_encoder.dim)

    trainer = run.trainer
    while (state := state_bytes(trainer, spec(trainer, 1))) > memory * STATE_SHARE:
        trainer = halved(trainer)
    while True:
        began = time.monotonic()
        compiled = programs.compiled_training_step(trainer, spec(trainer, batch))
        took = time.monotonic() - began
        needed = compiled.report["peak_bytes_per_device"]
        if compiled.program is not None and needed <= memory:
            return batch, trainer, compiled
        if batch == 1:
            trainer = halved(trainer)
            state = state_bytes(trainer, spec(trainer, 1))
        else:
            batch = smaller_batch(batch, state, needed, memory)
        if not deadline.leaves(took):
            raise TimeoutError(f"compiling {setting(trainer, batch)} takes {took:.0f} s more")


def smaller_batch(batch: int, state: int, needed: int | None, memory: float) -> int:
    """`batch` halved until it fits, if all but the state grows with it; once without `needed`."""
    smaller = batch // 2
    while smaller > 1 and needed and state + (needed - state) * smaller / batch > memory:
        smaller //= 2
    return smaller


def state_bytes(trainer: Trainer, spec: Any) -> int:
    """Exact bytes of one device that do not depend on the batch: state and gradients."""
    held = plan_memory.bytes_per_device(trainer, trainer.boxed_params(spec), spec, 1)
    return held["bytes_per_device"]["total"] - held["bytes_per_device"]["batch"]


def halved(trainer: Trainer) -> Trainer:
    """Half as many layers in the networks of the model.

    Raises:
      ValueError: there is but one of each kind.
    """
    model: Any = trainer.model
    half = {name: _half_of(network) for name, network in _networks(model).items()}
    changed = {
        name: network.clone(**half[name])
        for name, network in _networks(model).items()
        if half[name]
    }
    if not changed:
        raise ValueError("one example with one layer of each kind does not fit")
    return dataclasses.replace(trainer, model=dataclasses.replace(model, **changed))


def setting(trainer: Trainer, batch: int) -> str:
    """What is trained, for people."""
    model: Any = trainer.model
    layers = [
        " + ".join(map(str, _layers(network).values())) for network in _networks(model).values()
    ]
    shape = getattr(model, "train_shape", None) or model.shape
    clip = " x ".join(map(str, shape.thwc[:3]))
    return f"{', '.join(layers)} layers, batch {batch} of {clip}"


def _networks(model: Any) -> dict[str, Any]:
    """The networks of a model that have layers."""
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    return {name: value for name, value in fields.items() if _layers(value)}


def _layers(network: Any) -> dict[str, int]:
    """How many layers there are, by the name of what counts them; of a U-Net, blocks by level."""
    names = ("layers", "spatial_layers", "temporal_layers")
    counts = {name: getattr(network, name, None) for name in names}
    counts |= {f"level{i}": x.blocks for i, x in enumerate(getattr(network, "levels", ()))}
    # A perceptual network has `layers` too, which are the names of those that are compared.
    return {name: count for name, count in counts.items() if isinstance(count, int)}


def _half_of(network: Any) -> dict[str, Any]:
    """The fields of a network that count its layers, halved; nothing where all are 1."""
    counts = _layers(network)
    if all(count == 1 for count in counts.values()):
        return {}
    half = {name: -(-count // 2) for name, count in counts.items()}
    if not (levels := getattr(network, "levels", ())):
        return half
    blocks = zip(levels, half.values(), strict=True)
    return {"levels": [dataclasses.replace(level, blocks=count) for level, count in blocks]}


# ---- what the step starts from -------------------------------------------------------------------


def fresh_state(trainer: Trainer, spec: Any) -> TrainState:
    """As `Trainer.init_state`, but drawn on the device."""
    params = fresh_params(trainer, spec)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=jax.jit(trainer.tx.init)(params),
        ema=None if trainer.ema_decay is None else copied(params),
    )


def fresh_params(trainer: Trainer, spec: Any) -> Any:
    """Parameters of their own distributions, drawn on the device."""
    boxed = trainer.boxed_params(spec)
    values = [
        _from(box.distribution, on_device.key(i), box.value.shape, str(box.value.dtype))
        for i, box in enumerate(jax.tree.leaves(boxed, is_leaf=is_box))
    ]
    return jax.tree.unflatten(jax.tree.structure(unbox(boxed)), values)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _from(distribution: Any, key: Any, shape: tuple[int, ...], dtype: str) -> Any:
    return distribution.draw(key, shape, dtype)
