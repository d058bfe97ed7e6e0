"""The training loop: from a model, data and a folder to checkpoints, metrics and sample clips.

    MODEL_DIR/metrics.jsonl, tensorboard/, checkpoints/, samples/, snapshots/ (`power_ema.py`)

Running the same command again resumes from the newest checkpoint, and gives the same numbers, to
the last bit, as a run that was never interrupted: randomness is a function of the step, and a
checkpoint holds the position in the data and the half-filled averages of the log.

A step runs on the device while the host prepares the next batch and looks at the loss of the step
before, so the device never waits for the host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from vidgen import allocator
from vidgen.data.source import Batches, Dataset
from vidgen.data.video.encode import check_rate
from vidgen.progress import duration, engineering, progress_bar
from vidgen.train import flops, profiler, throughput
from vidgen.train.batches import BatchPrefetcher, EncodedBatch
from vidgen.train.callbacks import HeldOutLoss, SampleWriter
from vidgen.train.checkpoints import Checkpointer, CheckpointSettings
from vidgen.train.guard import LossMonitor
from vidgen.train.metrics import Accumulator, MetricsWriter, to_floats
from vidgen.train.model_dir import check_model_dir
from vidgen.train.power_ema import PowerEma
from vidgen.train.signals import Preempted, stop_requests
from vidgen.train.snapshots import Snapshots, with_retries
from vidgen.train.state import TrainState
from vidgen.train.throughput import say
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
      seed: the seed of initial weights and of all noise in training.
      log_every: steps between two lines of the log, which hold means over those steps.
      checkpoint_every: steps between two checkpoints; the last step always has one.
      checkpoints: which are kept, and how they are written.
      time_limit_minutes: stop after this time, with a checkpoint; None has no limit.
      profile: "START:STOP" traces the steps from START to STOP - 1 of those that this call trains
        into MODEL_DIR/profile; the first, 1, compiles. "" traces nothing.
      sample_writer: writes sample clips; None writes none.
      held_out: computes the loss on held-out data; None computes none.
      frozen: loads the parameters that the loss reads and does not train (a teacher's, say).
      initial: makes the weights to begin with out of fresh ones (`WarmStart`); a run that resumes
        from its own checkpoint does not call it.
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
    sample_writer: SampleWriter | None = None
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
        profiler.parse_steps(self.profile)
        if self.sample_writer is not None:
            model, needed = self.trainer.model, self.sample_writer.needs
            if not isinstance(model, needed):
                raise ValueError(
                    f"Train.sample_writer is a {type(self.sample_writer).__name__}, which needs a "
                    f"{needed.__name__}; a {type(model).__name__} is none: set it to None."
                )
            check_rate(f"samples.{self.sample_writer.suffix}", model.shape.fps)
        if not str(self.model_dir):
            raise ValueError("MODEL_DIR is empty; name a folder for the run.")

    def __call__(self) -> TrainState:
        """Train, and return the last state.

        Raises:
          Preempted: SIGTERM came, and the run has saved.
          TrainingDiverged: a loss is not finite or too high, and `trainer.guard` says to stop.
          CheckpointError: a checkpoint could not be written, or does not fit the model.
        """
        check_model_dir(self.model_dir)
        self.trainer.partitioner.check_batch_size(self.dataset.batch_size)
        with contextlib.ExitStack() as stack:
            session = _Session(self, stack)
            session.train()
            session.finish()
            if session.stop_signal == signal.SIGTERM and session.step < self.train_steps:
                raise Preempted
            return session.state


class _Session:
    """The changing parts of one call of `Train`."""

    def __init__(self, run: Train, stack: contextlib.ExitStack) -> None:
        """Restore or initialise the state, and open everything that `stack` will close."""
        self.run = run
        self.frozen: Frozen = None if run.frozen is None else run.frozen()  # before any file
        self.spec = _batch_spec(run)
        self.log = Accumulator()
        self.monitor = LossMonitor(run.trainer.guard)
        self.folder = epath.Path(run.model_dir).expanduser()  # no shell does in --gin.MODEL_DIR=~/m
        self.checkpointer = stack.enter_context(Checkpointer(self.folder, run.checkpoints))
        iterator = run.dataset.iterator(process=run.trainer.partitioner.batch_part())
        self.state, self.step = self._first_state(iterator)
        self.first = self.step
        self.every_so_often = (run.sample_writer, run.held_out, run.trainer.power_ema)
        self.saved = self.checkpointer.latest_step()
        self.position: Any = iterator.get_state()
        self.snapshots = None
        if run.trainer.power_ema is not None:
            self.snapshots = stack.enter_context(Snapshots(self.folder, run.checkpoints, self.step))
        self.writer = MetricsWriter(self.folder, resume_step=self.step)
        stack.callback(self.writer.close)
        self.batches = BatchPrefetcher(iterator, run.text_encoder)
        stack.callback(self.batches.close)
        self.key = jax.random.fold_in(jax.random.key(run.seed), 1)
        self.timer = throughput.StepTimer()
        self.flops: float | None = None
        self.compiled = 0
        self.trace = profiler.Trace(
            run.profile, self.folder / "profile", run.train_steps - self.step
        )
        self.stop_requests = stack.enter_context(stop_requests(say))
        self.stop_signal = 0
        self.bar = stack.enter_context(
            progress_bar(run.train_steps, initial=self.step, active=jax.process_index() == 0)
        )

    def _first_state(self, iterator: Batches) -> tuple[TrainState, int]:
        """Return the state of the newest checkpoint, or a fresh one, and its step.

        The iterator, the log and the monitor are set to where the checkpoint left them.
        """
        run = self.run
        if self.checkpointer.latest_step() is None:
            key = jax.random.fold_in(jax.random.key(run.seed), 0)
            state = run.trainer.init_state(key, self.spec)
            if run.initial is not None:
                params = run.initial(state.params)
                ema = None if state.ema is None else copied(params)
                state = state.replace(params=params, ema=ema)
            size = sum(x.size for x in jax.tree.leaves(state.params))
            say(
                f"training {engineering(float(size)).strip()} parameters on "
                f"{run.trainer.partitioner.mesh.size} device(s), in {run.model_dir}"
            )
            return state, 0
        abstract = run.trainer.abstract_state(self.spec)
        state, positions = self.checkpointer.restore_newest(abstract)
        iterator.set_states([position["data"] for position in positions])
        # The log and the monitor are the same in all processes.
        self.log.set_state(positions[0]["log"])
        self.monitor.set_state(positions[0]["watch"])
        say(f"resuming from step {int(state.step)} in {run.model_dir}")
        return state, int(state.step)

    def train(self) -> None:
        """Run steps until the last one, the time limit, a signal or the end of the data."""
        run, unchecked = self.run, None
        while self.step < run.train_steps and not self._should_stop():
            encoded = self._next_batch(unchecked)
            if encoded is None:
                say(f"the data ended at step {self.step}")
                break
            with self.trace.step(self.step - self.first + 1, lambda: self.state):
                metrics = self._train_step(encoded)
            # The step before is checked while this one runs: the device never waits for the host.
            self._check(unchecked)
            unchecked = (self.step, metrics)
            if self._is_due(run.log_every, run.checkpoint_every, *self.every_so_often):
                self._check(unchecked)
                unchecked = None
                self._report()
        self._check(unchecked)

    def _next_batch(self, running: tuple[int, Metrics] | None) -> EncodedBatch | None:
        """Return the next batch, if any, and add up the time that the device was idle meanwhile."""
        loss: Any = None if running is None else running[1]["loss"].total
        return self.batches.next_while(lambda: loss is not None and not loss.is_ready())

    def _train_step(self, encoded: EncodedBatch) -> Metrics:
        trainer, began = self.run.trainer, time.perf_counter()
        if not self.timer.compiled:
            _check_shapes(encoded.batch, self.spec, trainer.partitioner.batch_part()[1])
        batch = trainer.partitioner.to_global(encoded.batch)
        if not self.timer.compiled:
            self.flops = float(trainer.step_flops(self.state, self.frozen, batch, self.key))
            self.bar.set_description("compiling")
        limit = self.monitor.limit(self.step + 1)
        self.state, metrics = trainer.train_step(self.state, self.frozen, batch, self.key, limit)
        if not self.timer.compiled:
            line = throughput.log_line(self.step + 1, self.run.train_steps, to_floats(metrics))
            say(f"{line}  {duration(time.perf_counter() - began)} with compiling")
            self._after_compiling()
            self.bar.set_description("training")
        self.timer.step()
        self.step += 1
        self.position = encoded.position
        self.log.add(metrics)
        self.bar.update()
        return metrics

    def _check(self, unchecked: tuple[int, Metrics] | None) -> None:
        """Raise TrainingDiverged if a step that was not looked at yet went wrong."""
        if unchecked is not None:
            step, metrics = unchecked
            values = to_floats({name: metrics[name] for name in ("loss", "grad_norm")})
            self.monitor.update(step, **values, saved=self.saved)

    def _is_due(self, *events: int | SampleWriter | HeldOutLoss | PowerEma | None) -> bool:
        """Whether one of the events, each given by its period or with one, is now."""
        periods = [e if isinstance(e, int) else e.every for e in events if e is not None]
        last = self.step == self.run.train_steps
        return last or any(self.step % period == 0 for period in periods)

    def _report(self) -> None:
        """Do whatever is due at this step: log line, held-out loss, checkpoint, sample clips."""
        run, values = self.run, {}
        if self._is_due(run.log_every):
            values = self.log.result()  # waits for the device, so the rates are those of work done
            values |= self.timer.reading(run.dataset.batch_size, self.batches.waited, self.flops)
            values |= throughput.memory()
            values |= flops.utilization(values, run.trainer.partitioner.mesh)
        began = time.perf_counter()
        params = self.state.inference_params()
        if run.held_out is not None and self._is_due(run.held_out):
            values |= run.held_out(run.trainer, params, self.frozen, run.text_encoder)
        if values:
            self.writer.write(self.step, values)
            if "loss" in values:
                say(throughput.log_line(self.step, run.train_steps, values))
        if self.snapshots is not None and self._is_due(run.trainer.power_ema):
            self.snapshots.store(self.state)  # whole before any checkpoint of this step
        if self._is_due(run.checkpoint_every):
            self._save()
        if run.sample_writer is not None and self._is_due(run.sample_writer):
            merged = run.trainer.model.merge_params(params, self.frozen)
            clips = run.sample_writer(self.step, run.trainer, merged, run.text_encoder, self.folder)
            self.writer.write_video(self.step, "samples", clips)
        self._after_compiling()
        self.timer.pause(time.perf_counter() - began)

    def _after_compiling(self) -> None:
        """Tidy up on a CPU if programs were compiled: for a step, held-out losses or samples."""
        if self.compiled < self.run.trainer.compiled and jax.default_backend() == "cpu":
            allocator.set_holes_aside()
        self.compiled = self.run.trainer.compiled

    def _save(self, *, last: bool = False) -> None:
        """Begin to write a checkpoint, and try again if that fails; wait for the `last` one.

        An error may be that of the write before, which went on in the background: the checkpoint
        that is tried again is still this one.
        """
        position = {"data": self.position, "log": self.log.state(), "watch": self.monitor.state()}

        def write(again: bool) -> None:
            self.checkpointer.save(self.step, self.state, position)
            if last or again:
                self.checkpointer.wait()

        with_retries(write, self.run.checkpoints)
        self.saved = self.step

    def finish(self) -> None:
        """Save the last state, and print where it is."""
        self._save(last=True)  # if it is there already, this waits for it
        spent = duration(time.perf_counter() - self.timer.start)
        rest = "" if self.step >= self.run.train_steps else "; re-running the same command resumes"
        say(f"step {self.step} is saved in {self.run.model_dir} ({spent}){rest}")

    def _should_stop(self) -> bool:
        """Whether to stop before the next step; sets `stop_signal`, which is 0 for a time limit."""
        limit = self.run.time_limit_minutes
        late = limit is not None and time.perf_counter() - self.timer.start > 60.0 * limit
        request = self.stop_requests[-1] if self.stop_requests else 0 if late else -1
        if jax.process_count() > 1:
            if self.step % self.run.log_every:
                return False
            # All processes must stop at the same step, whichever of them got the request.
            request = int(multihost_utils.process_allgather(np.int32(request)).max())
        self.stop_signal = max(request, 0)
        return request >= 0


def _batch_spec(run: Train) -> Batch:
    """Return the ShapeDtypeStructs of a batch over all processes."""
    encoder, captions = run.text_encoder, run.dataset.captions_per_clip
    return run.trainer.model.batch_spec(
        run.dataset.batch_size, encoder.length, encoder.dim, captions_per_clip=captions
    )


def _check_shapes(batch: Batch, spec: Batch, parts: int) -> None:
    """Raise ValueError unless the batch of a process is a `parts`-th of the model's `spec`."""
    expected_rates, has_rates = (getattr(x, "fps", None) is not None for x in (spec, batch))
    if expected_rates != has_rates:
        raise ValueError(
            f"the data gives {'frame rates' if has_rates else 'no frame rates'}, and the model is "
            f"told {'its own' if expected_rates else 'none'}: Rates and "
            "DiffusionStage.fps_condition go together (models/imagen/fps.gin)."
        )
    expected = jax.tree_util.tree_leaves_with_path(spec)
    for (path, want), array in zip(expected, jax.tree.leaves(batch), strict=True):
        shape = (want.shape[0] // parts, *want.shape[1:])
        if tuple(array.shape) != shape:
            raise ValueError(
                f"the data gives {jax.tree_util.keystr(path).lstrip('.')} of shape "
                f"{tuple(array.shape)}, the model expects {shape}; make the shapes of data set "
                "and model equal (CLIP_SHAPE)."
            )
