"""One training step, and the state it acts on.

    key_n = fold_in(key, n)                     randomness of step n: nothing to save, exact resume
    L, g  = mean over m microbatches of value and gradient of loss(θ, batch_i, fold_in(key_n, i))
    θ     ← θ + optimizer(g),    θ̄ ← average(θ̄, θ)

With m = 1 the loss gets key_n itself. Microbatch i takes every m-th example, starting at i, so that
each microbatch is spread over all devices as the whole batch is.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from vidgen import traced
from vidgen.model import Generator, Model, TokenizerModel
from vidgen.train import flops, fresh
from vidgen.train.guard import DivergencePolicy
from vidgen.train.optimizers import global_norm
from vidgen.train.partitioning import Partitioner, Program, laid_out, state_layout, unbox
from vidgen.train.power_ema import PowerEma
from vidgen.train.state import TrainState, ema_update
from vidgen.types import Batch, Frozen, Mean, Metrics, Params, TextEmbedding


@runtime_checkable
class Optimizer(Protocol):
    """What the trainer needs of optimizer settings."""

    @property
    def learning_rate(self) -> optax.Schedule | float:
        """The learning rate, or a function from the update count to it, for the log."""
        ...

    def build(self) -> optax.GradientTransformation:
        """Return the transformation of gradients into updates."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer:
    """Compiled steps of a model, a mesh and an optimizer.

    Attributes:
      model: what is trained.
      partitioner: the mesh and the layout of every array.
      optimizer: `optimizers.AdamW` or `optimizers.Adafactor`.
      ema_decay: decay of the averaged weights; None keeps none.
      power_ema: averages of which any other length is made after training; None keeps none.
      microbatches: parts a batch is cut into to save memory; the loss must be a mean over examples.
        They are a scan inside one compiled step: `optax.MultiSteps` takes a step of its own for
        each part, and keeps their sum in the state between them.
      guard: what becomes of a step whose loss is not finite, or too high.
    """

    model: Model
    partitioner: Partitioner
    optimizer: Optimizer
    ema_decay: float | None = 0.9999
    power_ema: PowerEma | None = None
    microbatches: int = 1
    guard: DivergencePolicy = dataclasses.field(default_factory=DivergencePolicy)

    def __post_init__(self) -> None:
        if self.microbatches < 1:
            raise ValueError(f"Trainer.microbatches is {self.microbatches}; it must be >= 1.")
        if self.ema_decay is not None and not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"Trainer.ema_decay is {self.ema_decay}; it is in [0, 1), or None.")
        if not isinstance(self.model, Model):
            kind = type(self.model).__name__
            raise ValueError(f"Trainer.model is a {kind}, which is no vidgen.model.Model.")

    @functools.cached_property
    def tx(self) -> optax.GradientTransformation:
        """The gradient transformation; it is built once, as it is part of the compiled program."""
        return self.optimizer.build()

    @functools.cached_property
    def _cached(self) -> dict[Any, Any]:
        """What was traced or compiled before."""
        return {}

    def boxed_params(self, batch_spec: Batch) -> Params:
        """Describe the parameters with the names of their axes; nothing is allocated.

        Args:
          batch_spec: a batch, or its ShapeDtypeStructs.

        Returns:
          ShapeDtypeStructs in Linen's boxes.
        """
        spec = _as_spec(batch_spec)
        cache_key = ("boxed_params", _signature(spec))
        if cache_key not in self._cached:  # tracing a large network takes seconds
            self._cached[cache_key] = fresh.boxed_shapes(self.model, spec)
        return self._cached[cache_key]

    def abstract_state(self, batch_spec: Batch) -> TrainState:
        """Describe the train state with its layout; nothing is allocated.

        Args:
          batch_spec: a batch, or its ShapeDtypeStructs.

        Returns:
          ShapeDtypeStructs with shardings, as `Checkpointer.restore` takes them.
        """
        boxed, mesh = self.boxed_params(batch_spec), self.partitioner
        shapes = self.state_shapes(unbox(boxed))
        layout = state_layout(shapes, mesh.param_shardings(boxed), mesh.replicated(), self.tx)
        return laid_out(shapes, layout)

    def state_shapes(self, params: Params) -> TrainState:
        """Describe the train state without its layout; nothing is allocated.

        Args:
          params: the parameters as ShapeDtypeStructs. Without their boxes: factored moments have
            fewer axes than the names in a box.

        Returns:
          ShapeDtypeStructs.
        """
        step: Any = jax.ShapeDtypeStruct((), jnp.int32)
        return TrainState(
            step=step,
            params=params,
            opt_state=jax.eval_shape(self.tx.init, params),
            ema=None if self.ema_decay is None else params,
            power_ema=self.power_ema and dict.fromkeys(self.power_ema.names, params),
        )

    def init_state(self, key: Key[Array, ""], batch_spec: Batch) -> TrainState:
        """Make a fresh state, each array created in its own sharding.

        Parameters whose boxes say what they are drawn from (`nn/initializers.py`) are made on the
        host, which holds one of them at a time; those of any other model by a compiled `init`.

        Args:
          key: the random key of the initial weights.
          batch_spec: a batch, or its ShapeDtypeStructs.

        Returns:
          The state at step 0; the averages are copies of the weights.
        """
        spec = _as_spec(batch_spec)
        shardings = _shardings(self.abstract_state(spec))
        boxed = self.boxed_params(spec)

        def init(key: Key[Array, ""]) -> Params:
            batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), spec)
            return unbox(self.model.init(key, batch))

        if fresh.is_described(boxed):
            params = fresh.draw(boxed, key, shardings.params)
        else:
            # Outside the axis rules on purpose: the outputs have exact shardings already, and
            # Linen's own constraints would refuse axes that the partitioner replicates.
            params = jax.jit(init, out_shardings=shardings.params)(key)
        return TrainState(
            step=jax.device_put(np.zeros((), np.int32), shardings.step),
            params=params,
            opt_state=jax.jit(self.tx.init, out_shardings=shardings.opt_state)(params),
            # A copy, since state buffers are donated one by one.
            ema=None if self.ema_decay is None else copied(params),
            # What these begin with gets no share in them.
            power_ema=self.power_ema and {name: copied(params) for name in self.power_ema.names},
        )

    def train_step(
        self,
        state: TrainState,
        frozen: Frozen,
        batch: Batch,
        key: Key[Array, ""],
        limit: float = math.inf,
    ) -> tuple[TrainState, Metrics]:
        """Make one update, and return the new state and the metrics.

        Args:
          state: is consumed: its buffers are reused.
          frozen: parameters that the loss reads and that are not trained; None for none.
          batch: global arrays.
          key: the run's base key, from which the step takes its own.
          limit: the highest loss with which a `guard` that skips makes the update.

        Returns:
          The state after the update, and metrics: `loss`, `grad_norm`, `param_norm`,
          `update_norm`, `learning_rate`, those of the model, and `skipped` if the guard skips.
        """
        return self.train_program(batch)(state, frozen, batch, key, np.float32(limit))

    def step_flops(
        self, state: TrainState, frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> int:
        """Count the floating-point operations of a step; its program is traced, and not compiled.

        Args:
          state: arrays, as for `train_step`, which are left as they are.
          frozen: likewise.
          batch: likewise.
          key: likewise.

        Returns:
          Those of `flops.count_jaxpr`, on all devices.
        """
        program, args = self.train_program(batch), (state, frozen, batch, key, np.float32(0))
        kept = program.kept(*args)
        if isinstance(kept, traced.Kept):
            return kept.summary
        return flops.count_jaxpr(program.trace(*args).jaxpr)

    def train_program(self, batch: Batch) -> Program:
        """Return the program behind `train_step` for batches of one shape; it compiles once.

        Args:
          batch: a batch, or its ShapeDtypeStructs.

        Returns:
          The program of (state, frozen, batch, key, limit), which consumes the state.

        Raises:
          ValueError: the batch does not divide into microbatches, or those over the devices.
        """
        spec = _as_spec(batch)
        cache_key = ("train", _signature(spec))
        if cache_key not in self._cached:
            self._check_microbatches(spec)
            state = _shardings(self.abstract_state(spec))
            spread, everywhere = self.partitioner.batch_sharding(), self.partitioner.replicated()
            self._cached[cache_key] = self.partitioner.jit(
                _method(self, "_train_step"),
                summary=flops.count_jaxpr,
                in_shardings=(state, None, spread, everywhere, everywhere),
                out_shardings=(state, everywhere),
                donate_argnums=(0,),
            )
        return self._cached[cache_key]

    def eval_step(
        self, params: Params, frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> Metrics:
        """Compute the metrics of one batch without training.

        Args:
          params: those to evaluate, usually the averaged ones.
          frozen: parameters that the loss reads and that are not trained; None for none.
          batch: global arrays.
          key: the random key of the noise; it is used as it is.

        Returns:
          `loss` and the metrics of the model.
        """
        return self._whole("eval", _method(self, "_eval_step"))(params, frozen, batch, key)

    def sample(
        self,
        params: Params,
        text: TextEmbedding,
        keys: Key[Array, "b"],
        low_res: Float[Array, "b t0 h0 w0 c"] | None = None,
    ) -> Float[Array, "b t h w c"]:
        """Generate clips over the mesh.

        Args:
          params: what `Model.merge_params` returned.
          text: one prompt a clip; b must divide over the mesh.
          keys: one random key a clip.
          low_res: input of a stage that up-samples, in [-1, 1]; None for any other.

        Returns:
          Clips, about in [-1, 1]; every process gets all of them.
        """
        assert isinstance(self.model, Generator)
        return self._whole("generate", _method(self.model, "generate"))(params, text, low_res, keys)

    def reconstruct(
        self, params: Params, video: Float[np.ndarray, "b t h w c"]
    ) -> Float[Array, "b t h w c"]:
        """Encode clips and decode them over the mesh.

        Args:
          params: the parameters of a `TokenizerModel`.
          video: clips in [-1, 1]; b must divide over the mesh.

        Returns:
          Clips in [-1, 1]; every process gets all of them.
        """
        assert isinstance(self.model, TokenizerModel)
        return self._whole("reconstruct", _method(self.model, "reconstruct"))(params, video)

    @property
    def compiled(self) -> int:
        """The number of programs that were compiled, or are at their first call."""
        return sum(isinstance(one, Program) for one in self._cached.values())

    def _whole(self, name: str, function: Callable[..., Any]) -> Program:
        """Return the one program of a function; every process gets its whole result."""
        if name not in self._cached:
            whole = self.partitioner.replicated()
            self._cached[name] = self.partitioner.jit(function, out_shardings=whole)
        return self._cached[name]

    def _check_microbatches(self, batch: Batch) -> None:
        size = jax.tree.leaves(batch)[0].shape[0]
        if size % self.microbatches:
            raise ValueError(
                f"a batch of {size} cannot be cut into {self.microbatches} microbatches; "
                "make BATCH_SIZE a multiple of Trainer.microbatches."
            )
        self.partitioner.check_batch_size(size // self.microbatches)

    def _train_step(
        self,
        state: TrainState,
        frozen: Frozen,
        batch: Batch,
        key: Key[Array, ""],
        limit: Float[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        grads, metrics = self._gradients(state.params, frozen, batch, key)
        updates, opt_state = self.tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None and self.ema_decay is not None:
            ema = ema_update(ema, params, state.step, self.ema_decay)
        metrics = dict(metrics) | {
            "grad_norm": Mean.of(global_norm(grads)),
            "param_norm": Mean.of(global_norm(params)),
            "update_norm": Mean.of(global_norm(updates)),
            "learning_rate": Mean.of(_rate(self.optimizer, state.step)),
        }
        new = state.replace(params=params, opt_state=opt_state, ema=ema)
        if self.guard.skips:
            loss, norm = metrics["loss"].value(), metrics["grad_norm"].value()
            # An infinite loss is not over the limit of a run that has none.
            good = (loss <= limit) & jnp.isfinite(loss) & jnp.isfinite(norm)
            new = jax.tree.map(lambda x, old: jnp.where(good, x, old), new, state)
            metrics["skipped"] = Mean.of(1.0 - good.astype(jnp.float32))
        if self.power_ema is not None and state.power_ema is not None:  # of skipped steps too
            power = self.power_ema.update(state.power_ema, new.params, state.step)
            new = new.replace(power_ema=power)
        return new.replace(step=state.step + 1), metrics

    def _eval_step(
        self, params: Params, frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> Metrics:
        loss, metrics = self.model.loss(params, frozen, batch, key, train=False)
        return {"loss": _weighted(loss, batch)} | dict(metrics)

    def _gradients(
        self, params: Params, frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Params, Metrics]:
        """Return the gradient and the metrics of a batch, one microbatch after the other."""

        def part(batch: Batch, key: Key[Array, ""]) -> tuple[Params, Metrics]:
            loss_fn = functools.partial(self.model.loss, train=True)
            grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
            (loss, metrics), grads = grad_fn(params, frozen, batch, key)
            return grads, {"loss": _weighted(loss, batch)} | dict(metrics)

        count = self.microbatches
        if count == 1:
            return part(batch, key)
        parts = jax.tree.map(lambda x: _interleaved(x, count), batch)

        def body(total: Any, xs: Any) -> tuple[Any, None]:
            index, piece = xs
            return jax.tree.map(jnp.add, total, part(piece, jax.random.fold_in(key, index))), None

        first = jax.eval_shape(part, jax.tree.map(lambda x: x[0], parts), key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
        (grads, metrics), _ = jax.lax.scan(body, zeros, (jnp.arange(count), parts))
        return jax.tree.map(lambda g: g / count, grads), metrics


def _method(owner: Any, name: str) -> Callable[..., Any]:
    """Return a method as a function of its class, by which a traced program is found again."""
    return functools.partial(getattr(type(owner), name), owner)


def _rate(optimizer: Optimizer, step: Int[Array, ""]) -> Float[Array, ""]:
    rate = optimizer.learning_rate
    return jnp.asarray(rate(step) if callable(rate) else rate, jnp.float32)


def _weighted(loss: Float[Array, ""], batch: Batch) -> Mean:
    """Return the loss as a mean over examples: parts of different size then merge rightly."""
    size = jnp.float32(jax.tree.leaves(batch)[0].shape[0])
    return Mean(total=loss.astype(jnp.float32) * size, weight=size)


def _interleaved(x: Array, count: int) -> Array:
    """Reshape `[b, ...]` to `[count, b / count, ...]`: part i has examples i, i + count, ..."""
    return jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)


def copied(params: Params) -> Params:
    """Copy arrays into memory of their own; nothing is compiled.

    Args:
      params: a tree of arrays on devices.

    Returns:
      A tree of the same values and layout, none of whose buffers are those of `params`.
    """
    return jax.tree.map(lambda x: jax.device_put(x, x.sharding, may_alias=False), params)


def _as_spec(batch: Batch) -> Batch:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)


def _signature(spec: Batch) -> Any:
    leaves, structure = jax.tree.flatten(spec)
    return structure, tuple((x.shape, str(x.dtype)) for x in leaves)


def _shardings(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: x.sharding, state)
