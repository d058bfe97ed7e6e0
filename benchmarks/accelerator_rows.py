"""The rows of benchmarks/accelerator.py that do not train: attention, the last stage, a story.

A row tells what it knows as it learns it, by `tell(name, fields)`; fields of the same row add up.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import on_device
from accelerator_training import EXPERIMENTS, Tell, built, fresh_params
from on_device import Deadline

from vidgen.nn import fused_attention
from vidgen.phenaki import generation
from vidgen.plan import programs
from vidgen.story.generate_story import CONTEXT_FRAMES
from vidgen.story.script import Scene, Story
from vidgen.story.segments import Segment, plan
from vidgen.story.sliding_window import generate_segments
from vidgen.train import flops
from vidgen.train import frozen as trained
from vidgen.train.train import Train
from vidgen.train.trainer import Trainer

# Of the largest element of each result. bfloat16 keeps 8 bits, so every number is off by up to
# 0.4 %; where the weights of the values are rounded too, and in the products of a gradient, the
# errors of a few such numbers add up.
TOLERANCE = 0.02


# ---- attention -----------------------------------------------------------------------------------


class Attention(NamedTuple):
    """Sizes of one call; `masked` hides every third key."""

    examples: int
    queries: int
    keys: int
    heads: int
    features: int
    masked: bool = False


ATTENTION = {
    "published": {
        "base": Attention(16, 960, 960, 16, 64),
        "ssr2": Attention(32, 240, 240, 20, 64),
        "maskgit": Attention(4, 1536, 1536, 32, 64),
        "maskgit, masked": Attention(4, 1536, 1536, 32, 64, masked=True),
        "48 x 80": Attention(2, 3840, 3840, 16, 64),
        "48 x 80, masked": Attention(2, 3840, 3840, 16, 64, masked=True),
    },
    "tiny": {
        "512": Attention(1, 512, 512, 1, 16),
        "600, masked": Attention(2, 600, 600, 1, 8, masked=True),
    },
}


def attention(name: str, size: str, tell: Tell, deadline: Deadline) -> None:
    """Calls in bfloat16, and their gradients, beside plain products in float32."""
    for case, sizes in ATTENTION[size].items():
        try:
            if not deadline.leaves(0):
                raise TimeoutError("no time was left")
            found = _attention(sizes, deadline)
        except Exception as error:  # the other calls go on
            found = {"failure": sentence(error)}
        tell(f"{name}/{case}", found)


def _attention(sizes: Attention, deadline: Deadline) -> dict[str, Any]:
    n, queries, keys, heads, features, masked = sizes
    shapes = [(n, queries, heads, features)] + [(n, keys, heads, features)] * 2
    arrays = [on_device.normal(i, shape, "bfloat16", 1.0) for i, shape in enumerate(shapes)]
    exact = [x.astype(jnp.float32) for x in arrays]
    upstream = on_device.normal(3, shapes[0], "bfloat16", 1.0)
    mask = jnp.broadcast_to(jnp.arange(keys) % 3 > 0, (n, 1, 1, keys)) if masked else None

    def both(attend: Any, q: Any, k: Any, v: Any) -> Any:
        out, pull = jax.vjp(functools.partial(attend, mask=mask), q, k, v)
        return out, *pull(upstream.astype(out.dtype))

    plain = functools.partial(jax.nn.dot_product_attention, implementation="xla")
    plain = jax.jit(functools.partial(both, plain))
    fused = jax.jit(functools.partial(both, fused_attention.dot_product_attention))
    fused = fused.lower(*arrays).compile()
    # Or a GPU takes TF32, and a TPU bfloat16, for products of float32.
    with jax.default_matmul_precision("highest"):
        right = plain(*exact)
    errors = [
        float(jnp.max(jnp.abs(a.astype(jnp.float32) - b)) / jnp.max(jnp.abs(b)))
        for a, b in zip(fused(*arrays), right, strict=True)
    ]
    found = {
        "setting": f"{n} x {queries} x {keys}, {heads} heads of {features}",
        "kernel": kernel_of(fused.as_text()),
        "errors": dict(zip(("out", "dq", "dk", "dv"), errors, strict=True)),
        "tolerance": TOLERANCE,
        "seconds": on_device.seconds(lambda: fused(*arrays), deadline),
        "plain_seconds": on_device.seconds(lambda: plain(*arrays), deadline),
    }
    if not max(errors) <= TOLERANCE:  # also where it is no number
        found["failure"] = f"off by {max(errors):.3g} of the largest, more than {TOLERANCE}"
    return found


def kernel_of(program: str) -> str:
    """What a compiled program calls for attention."""
    kernels = {"fmha": "cuDNN", "tpu_custom_call": "Pallas flash"}
    return next((kernel for call, kernel in kernels.items() if call in program), "products")


# ---- sampling ------------------------------------------------------------------------------------


def last_stage(name: str, size: str, tell: Tell, deadline: Deadline) -> None:
    """A step of sampling one whole clip of the last stage, as `vidgen generate` runs it."""
    run = built(EXPERIMENTS[size]["ssr3"])
    trainer, compiled = _that_fits(run)
    model: Any = trainer.model
    guided = "one evaluation" if model.guidance.is_unguided else "two evaluations, guided"
    clip = " x ".join(map(str, model.shape.thwc[:3]))
    predicted = compiled.report["peak_bytes_per_device"]
    tell(name, {"setting": f"{clip}, {guided}", "predicted_bytes": predicted})
    x0_fn, transition, *rest = compiled.arguments
    program, _ = model.step_spec(x0_fn.args[0], 1, *_text(run))
    work = flops.count_jaxpr(program.trace(x0_fn, transition, *rest).jaxpr)
    tell(name, {"flops": work})
    arguments = on_device.drawn((x0_fn, *rest))  # the transition is static
    seconds = on_device.seconds(lambda: compiled.program(*arguments), deadline)
    tell(name, {"seconds": seconds} | on_device.peak_bytes())
    tell(name, on_device.utilization(work, seconds))


def _that_fits(run: Train) -> tuple[Trainer, programs.Compiled]:
    """The stage as it is, or where two evaluations at once are too large, without guidance."""
    stage: Any = run.trainer.model
    unguided = dataclasses.replace(stage.guidance, weight=0.0, low=None)
    needed = None
    for guidance in (stage.guidance, unguided):
        model = dataclasses.replace(stage, guidance=guidance)
        trainer = dataclasses.replace(run.trainer, model=model)
        compiled = programs.compiled_sampling_step(trainer, *_text(run))
        needed = compiled.report["peak_bytes_per_device"]
        if compiled.program is not None and needed <= on_device.memory():
            return trainer, compiled
    raise MemoryError(f"one evaluation takes {(needed or math.nan) / 2**30:.1f} GiB")


def _text(run: Train) -> tuple[int, int]:
    """Length and width of an encoded prompt."""
    return run.text_encoder.length, run.text_encoder.dim


def a_story(name: str, size: str, tell: Tell, deadline: Deadline) -> None:
    """Segments that go on from the frames before, as `vidgen generate --story` makes them."""
    run = built(EXPERIMENTS[size]["maskgit"])
    model: Any = run.trainer.model
    spec, shape = model.batch_spec(1, *_text(run)), model.shape
    known_frames = min(CONTEXT_FRAMES, shape.frames - model.patch_time)
    new_frames = shape.frames - known_frames
    frozen, text = on_device.drawn((trained.spec(model), spec.text))
    params = model.merge_params(fresh_params(run.trainer, spec), frozen)

    def make(segment: Segment, known: Any) -> Any:
        key = jax.random.split(jax.random.key(0), 1)
        return model.generate(params, text, None, key, on_step=lambda *_: None, known=known)

    story = Story([Scene("a story without an end")], frames=shape.frames + 9_999 * new_frames)
    segments = plan(story, shape.frames, known_frames, model.patch_time, shape.fps)
    film = generate_segments(segments, make, shape=shape, context_frames=known_frames)
    each = on_device.seconds(lambda: next(film).frames, deadline)
    known = np.zeros((1, *shape.thwc), bool)
    known[:, :known_frames] = True
    tokens = int(jnp.sum(~generation.known_tokens(jnp.asarray(known), model.grid)))
    tell(
        name,
        {
            "setting": f"{tokens} tokens for {new_frames} frames in {model.sampler.steps} steps",
            "seconds": each,
            "tokens_per_second": tokens / each,
            "frames_per_second": new_frames / each,
        }
        | on_device.peak_bytes(),
    )


def sentence(error: BaseException) -> str:
    """The first line of what an error says, without pipes, which end a cell of the table."""
    words = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {words[:300]}".replace("|", "/")
