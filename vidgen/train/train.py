"""Training: from a model, data and a folder to checkpoints, metrics and sample clips.

    MODEL_DIR/metrics.jsonl, tensorboard/, checkpoints/, samples/

The same run called again goes on from its newest checkpoint, and then gives the numbers, to the
last bit, that it would have given uninterrupted: randomness is a function of the step, and the
data position and the half-filled averages of the log are part of a checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from vidgen.data.sources.folder import captions_per_clip
from vidgen.data.video.encode import check_rate
from vidgen.train import flops, profiler, progress
from vidgen.train.batches import BatchPrefetcher, Dataset, EncodedBatch, go_on
from vidgen.train.callbacks import HeldOutLoss, Sampler
from vidgen.train.checkpoint_errors import CheckpointError
from vidgen.train.checkpoints import Checkpointer, CheckpointSettings
from vidgen.train.guard import LossMonitor
from vidgen.train.metrics import Accumulator, MetricsWriter, to_floats
from vidgen.train.model_dir import check_model_dir
from vidgen.train.profiler import Trace
from vidgen.train.signals import Preempted, stop_requests
from vidgen.train.state import TrainState
from vidgen.train.trainer import Trainer, copied
from vidgen.types import Batch, Frozen, Metrics, Params, TextEncoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """A training run; calling it trains to `train_steps`.

    Attributes:
      trainer: model, mesh and optimizer.
      dataset: training data; its batch_size is that of a step, over all processes.
      text_encoder: frozen encoder of the captions.
      model_dir: folder of the run; made if absent.
      train_steps: step to train to, counted from the very first.
      seed: of initial weights and of all noise in training.
      log_every: steps between two lines of the log, which hold means over those steps.
      checkpoint_every: steps between two checkpoints; the last step always has one.
      checkpoints: which are kept, and how they are written.
      time_limit_minutes: stop after so long, with a checkpoint; None has no limit.
      profile: "START:STOP" traces the steps from START to STOP - 1 of those that this call trains
        into MODEL_DIR/profile; the first, 1, compiles. "" traces nothing.
      sampler: writes sample clips.
      held_out: computes the loss on held-out data.
      frozen: makes what the loss may read beside the parameters (a teacher, say).
      initial: makes the weights to begin with out of fresh ones (`WarmStart`); a run that goes on
        from its own checkpoint does not ask it.
    """

    trainer: Trainer
    dataset: Dataset
    text_encoder: TextEncoder
    model_dir: str
    train_steps: int
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 1000
    checkpoints: CheckpointSettings = dataclasses.field(default_factory=CheckpointSettings)
    time_limit_minutes: float | None = None
    profile: str = ""
    sampler: Sampler | None = None
    held_out: HeldOutLoss | None = None
    frozen: Callable[[], Frozen] | None = None
    initial: Callable[[Params], Params] | None = None

    def __post_init__(self) -> None:
        for name in ("train_steps", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"Train.{name} is {getattr(self, name)}; it must be >= 1.")
        if self.time_limit_minutes is not None and not self.time_limit_minutes > 0:
            raise ValueError(
                f"Train.time_limit_minutes is {self.time_limit_minutes}; it must be positive, "
                "or None."
            )
        profiler.steps_of(self.profile)
        if self.sampler is not None:
            model, needed = self.trainer.model, self.sampler.needs
            if not isinstance(model, needed):
                raise ValueError(
                    f"Train.sampler is a {type(self.sampler).__name__}, which needs a "
                    f"{needed.__name__}; {type(model).__name__} is none: set it to None."
                )
            check_rate(f"samples.{self.sampler.suffix}", model.shape.fps)
        if not str(self.model_dir):
            raise ValueError("MODEL_DIR is empty; name a folder for the run.")

    def __call__(self) -> TrainState:
        """Trains, and returns the last state.

        Raises:
          Preempted: SIGTERM came, and the run has saved.
        """
        check_model_dir(self.model_dir)
        self.trainer.partitioner.check_batch_size(self.dataset.batch_size)
        with contextlib.ExitStack() as stack:
            session = _Session(self, stack)
            session.train()
            session.finish()
            if session.stopped == signal.SIGTERM and session.step < self.train_steps:
                raise Preempted
            return session.state


class _Session:
    """The moving parts of one call of `Train`."""

    def __init__(self, run: Train, stack: contextlib.ExitStack) -> None:
        """Restores or initialises, and opens everything that `stack` will close."""
        self.run = run
        self.console = progress.Console()
        self.spec = _batch_spec(run)
        self.log = Accumulator()
        self.watch = LossMonitor(run.trainer.guard)
        self.folder = epath.Path(run.model_dir).expanduser()  # no shell does in --gin.MODEL_DIR=~/m
        self.checkpointer = stack.enter_context(Checkpointer(self.folder, run.checkpoints))
        iterator = run.dataset.iterator(process=run.trainer.partitioner.batch_part())
        self.state, self.step = self._start(iterator)
        self.first = self.step
        self.saved = self.checkpointer.latest_step()
        self.position: Any = iterator.get_state()
        self.writer = MetricsWriter(self.folder, resume_step=self.step)
        stack.callback(self.writer.close)
        self.frozen: Frozen = None if run.frozen is None else run.frozen()
        self.feed = BatchPrefetcher(iterator, run.text_encoder)
        stack.callback(self.feed.close)
        self.key = jax.random.fold_in(jax.random.key(run.seed), 1)
        self.clock = progress.Clock()
        self.flops: float | None = None
        self.waited = 0.0
        self.trace = Trace(run.profile, self.folder / "profile", run.train_steps - self.step)
        self.requested = stack.enter_context(stop_requests(self.console.say))
        self.stopped = 0

    def _start(self, iterator: Any) -> tuple[TrainState, int]:
        run, latest = self.run, self.checkpointer.latest_step()
        if latest is None:
            key = jax.random.fold_in(jax.random.key(run.seed), 0)
            state = run.trainer.init_state(key, self.spec)
            if run.initial is not None:
                params = run.initial(state.params)
                ema = None if state.ema is None else copied(params)
                state = state.replace(params=params, ema=ema)
            size = sum(x.size for x in jax.tree.leaves(state.params))
            self.console.say(
                f"training {progress.engineering(float(size)).strip()} parameters on "
                f"{run.trainer.partitioner.mesh.size} device(s), in {run.model_dir}"
            )
            return state, 0
        abstract = run.trainer.abstract_state(self.spec)
        state, positions = self.checkpointer.restore_newest(abstract)
        latest = int(state.step)
        go_on(iterator, [position["data"] for position in positions])
        self.log.set_state(positions[0]["log"])  # that of all, as is the next
        self.watch.set_state(positions[0]["watch"])
        self.console.say(f"going on from step {latest} in {run.model_dir}")
        return state, latest

    def train(self) -> None:
        """Steps until the last one, the time limit, a signal or the end of the data."""
        run, unchecked = self.run, None
        while self.step < run.train_steps and not self._should_stop():
            fed = self._next_batch(unchecked)
            if fed is None:
                self.console.say(f"the data ended at step {self.step}")
                break
            with self.trace.step(self.step - self.first + 1, lambda: self.state):
                metrics = self._one_step(fed)
            # The step before is looked at while this one runs: the device never waits for us.
            self._see(unchecked)
            unchecked = (self.step, metrics)
            if self._due(run.log_every, run.checkpoint_every, run.sampler, run.held_out):
                self._see(unchecked)
                unchecked = None
                self._report()
        self._see(unchecked)

    def _next_batch(self, running: tuple[int, Metrics] | None) -> EncodedBatch | None:
        """The next batch; the time that the device had nothing to do meanwhile is added up."""
        before = self.feed.waited
        fed = next(self.feed, None)
        loss: Any = None if running is None else running[1]["loss"].total
        # While a step still runs nothing was lost, however long this took.
        if loss is None or loss.is_ready():
            self.waited += self.feed.waited - before
        return fed

    def _see(self, unchecked: tuple[int, Metrics] | None) -> None:
        """Looks whether a step went well."""
        if unchecked is None:
            return
        step, metrics = unchecked
        values = to_floats({name: metrics[name] for name in ("loss", "grad_norm")})
        self.watch.see(step, **values, saved=self.saved)

    def _one_step(self, fed: EncodedBatch) -> Metrics:
        trainer = self.run.trainer
        if not self.clock.compiled:
            _check_shapes(fed.batch, self.spec, trainer.partitioner.batch_part()[1])
        batch = trainer.partitioner.to_global(fed.batch)
        if not self.clock.compiled:
            program = trainer.train_program(batch)
            jaxpr = program.jaxpr(self.state, self.frozen, batch, self.key, np.float32(math.inf))
            self.flops = float(flops.count_jaxpr(jaxpr))
            self.console.show("compiling ...")
        limit = self.watch.limit(self.step + 1)
        self.state, metrics = trainer.train_step(self.state, self.frozen, batch, self.key, limit)
        if not self.clock.compiled:
            jax.block_until_ready(metrics)
        self.clock.step()
        self.step += 1
        self.position = fed.position
        self.log.add(metrics)
        self.console.show(f"step {self.step}/{self.run.train_steps}")
        return metrics

    def _due(self, *events: Any) -> bool:
        """True if any of the events (a number of steps, or an object with `every`) is now."""
        periods = [getattr(event, "every", event) for event in events if event is not None]
        last = self.step == self.run.train_steps
        return last or any(self.step % period == 0 for period in periods)

    def _report(self) -> None:
        """Whatever is due at this step: log line, held-out loss, clips, checkpoint."""
        run, values = self.run, {}
        if self._due(run.log_every):
            values = self.log.result()  # waits for the device, so the rates are those of work done
            values |= self.clock.reading(run.dataset.batch_size, self.waited, self.flops)
            values |= progress.memory() | self._utilization(values)
        began = time.perf_counter()
        params = self.state.inference_params()
        if run.held_out is not None and self._due(run.held_out):
            values |= run.held_out(run.trainer, params, self.frozen, run.text_encoder)
        if values:
            self.writer.write(self.step, values)
            if "loss" in values:
                self.console.say(progress.line(self.step, run.train_steps, values))
        if self._due(run.checkpoint_every):
            self._save()
        if run.sampler is not None and self._due(run.sampler):
            whole = run.trainer.model.merge_params(params, self.frozen)
            clip = run.sampler(self.step, run.trainer, whole, run.text_encoder, self.folder)
            self.writer.write_video(self.step, "samples", clip)
        self.clock.pause(time.perf_counter() - began)

    def _utilization(self, values: dict[str, float]) -> dict[str, float]:
        """The share of what the devices can do at most (MFU), where that is known."""
        mesh = self.run.trainer.partitioner.mesh
        most = flops.peak(mesh.devices.flat[0].device_kind)
        if most is None or "flops_per_second" not in values:
            return {}
        return {"mfu": values["flops_per_second"] / (most * mesh.size)}

    def _save(self, *, last: bool = False) -> None:
        """Begins to write a checkpoint, or writes the last one; what fails is tried again.

        What fails here may be the write before, which went on in the background: the one that is
        tried again is this one.
        """
        position = {"data": self.position, "log": self.log.state(), "watch": self.watch.state()}
        settings = self.run.checkpoints
        for number in range(settings.retries + 1):
            try:
                self.checkpointer.save(self.step, self.state, position)
                if last or number:
                    self.checkpointer.wait()
                break
            except CheckpointError as error:
                if number == settings.retries:
                    raise
                pause = settings.retry_seconds * 2**number
                self.console.say(f"{error} Trying again in {pause:g} s.")
                time.sleep(pause)
        self.saved = self.step

    def finish(self) -> None:
        """Saves where training stopped, and says so."""
        self._save(last=True)  # if it is there already, waits for it
        spent = progress.duration(time.perf_counter() - self.clock.start)
        rest = "" if self.step >= self.run.train_steps else "; the same command goes on from there"
        self.console.say(f"step {self.step} is saved in {self.run.model_dir} ({spent}){rest}")

    def _should_stop(self) -> bool:
        """Whether to stop here; `stopped` is then the signal that asked for it, 0 is the time."""
        limit = self.run.time_limit_minutes
        late = limit is not None and time.perf_counter() - self.clock.start > 60.0 * limit
        asked = self.requested[-1] if self.requested else 0 if late else -1
        if jax.process_count() > 1:
            if self.step % self.run.log_every:
                return False
            # All processes must stop at one step, whichever of them was told to.
            from jax.experimental import multihost_utils

            asked = int(multihost_utils.process_allgather(np.int32(asked)).max())
        self.stopped = max(asked, 0)
        return asked >= 0


def _batch_spec(run: Train) -> Batch:
    encoder, captions = run.text_encoder, captions_per_clip(run.dataset)
    return run.trainer.model.batch_spec(
        run.dataset.batch_size, encoder.length, encoder.dim, captions_per_clip=captions
    )


def _check_shapes(batch: Batch, spec: Batch, parts: int) -> None:
    """Raises ValueError where a process's data is not what the model was made for."""
    expected = jax.tree_util.tree_leaves_with_path(spec)
    for (path, want), found in zip(expected, jax.tree.leaves(batch), strict=True):
        shape = (want.shape[0] // parts, *want.shape[1:])
        if tuple(found.shape) != shape:
            raise ValueError(
                f"the data gives {jax.tree_util.keystr(path).lstrip('.')} of shape "
                f"{tuple(found.shape)}, the model expects {shape}; make the shapes of data set "
                "and model equal (CLIP_SHAPE)."
            )
