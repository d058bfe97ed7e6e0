"""The first minutes on new hardware: a few steps, a preemption, a resumed run, a clip and a report.

    life 1    steps 1, 2, ...   SIGTERM comes between the steps, the run saves, exit status 75
    life 2    steps ... 10      the same command, started again (the scripts of `launch/` do so)
              a clip            of what those ten steps have learned
              steps 1 to 10     once more, undisturbed: the loss has to be the same to the last bit
              the report        report.json, and a text on stdout

It is a run of the user's own configuration, on as many processes, so what it proves is proven of
the program, the mesh, the network, the store and the script that will train. A part that fails is
named in one sentence. `benchmarks/accelerator.py` times kernels and models; this times one step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from vidgen import __version__
from vidgen.data.source import Batches, Dataset
from vidgen.model import Generator, TokenizerModel
from vidgen.train import smoke_report
from vidgen.train.callbacks import (
    SampleReconstructions,
    SampleUpsampled,
    SampleVideos,
    SampleWriter,
)
from vidgen.train.model_dir import check_model_dir
from vidgen.train.signals import Preempted
from vidgen.train.state import TrainState
from vidgen.train.throughput import say
from vidgen.train.train import Train
from vidgen.types import Params

STEPS = 10
PREEMPTED_AT_BATCH = 6  # one is read ahead: after step 4 or 5
PROMPT = "a tiger moving right on a green background"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Smoke:
    """A smoke test of a training run; calling it lives one of the two lives.

    Attributes:
      run: the training run. Nothing is written into its own folder but `smoke/` in it.
    """

    run: Train

    @property
    def model_dir(self) -> str:
        """The folder of the smoke test, which is that of a run as well."""
        return os.fspath(epath.Path(self.run.model_dir) / "smoke")

    def __call__(self) -> dict[str, Any]:
        """Go on from wherever the life before ended, and return the report.

        Raises:
          Preempted: the end of the first life: SIGTERM came, and the run has saved.
          ValueError: a part failed, or there is a report from before.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("a smoke test sends SIGTERM to itself; call it from the main thread.")
        folder = check_model_dir(self.model_dir)
        if (folder / "report.json").exists():
            raise ValueError(
                f"{folder / 'report.json'} is from an earlier smoke test; remove {folder}, or name "
                "another MODEL_DIR."
            )
        with smoke_report.compilations() as compilations:
            if not _has_checkpoint(folder):
                self._first_life(folder, compilations)
            return self._second_life(folder, compilations)

    def _first_life(self, folder: epath.Path, compilations: smoke_report.Compilations) -> None:
        """Train until SIGTERM comes; raises Preempted."""
        say(f"smoke test: training, until SIGTERM comes before step {PREEMPTED_AT_BATCH}")
        dataset: Dataset = self.run.dataset
        if jax.process_index() == jax.process_count() - 1:  # one host of them, not the first
            dataset = _Preempting(dataset=dataset, batch_size=dataset.batch_size)
        try:
            with _part("training"):
                self._train(folder, dataset=dataset)
        except Preempted:
            smoke_report.write_life(folder, compilations)
            say("smoke test: preempted as planned; the same command goes on")
            raise
        raise ValueError("the smoke test failed at its preemption: SIGTERM did not stop the run.")

    def _second_life(
        self, folder: epath.Path, compilations: smoke_report.Compilations
    ) -> dict[str, Any]:
        with _part("resuming"):
            state = self._train(folder)
        with _part("generating a clip"):
            clip = self._generate(folder, state)
        parameters = sum(x.size for x in jax.tree.leaves(state.params))
        del state  # two would not fit where one does
        say("smoke test: the same steps undisturbed")
        with _part("training undisturbed"):
            self._train(folder / "undisturbed")
        smoke_report.write_life(folder, compilations)
        again = self._again(folder)
        if jax.process_index() != 0:
            return {}
        report = self._machine() | {"parameters": parameters} | smoke_report.measured(folder) | clip
        report["repeats"] = not again
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        print(smoke_report.text(report), flush=True)
        if again:
            raise ValueError(
                f"the smoke test failed, as this device does not compute the same twice: {again} "
                "before; on GPUs, XLA_FLAGS=--xla_gpu_deterministic_ops=true helps."
            )
        if not report["curves_equal"]:
            raise ValueError(
                f"the smoke test failed at resuming: {report['difference']}; see {folder}."
            )
        return report

    def _again(self, folder: epath.Path) -> str:
        """Train undisturbed once more where the logs differ; return what differs even so."""
        first = jax.process_index() == 0
        differs = first and bool(smoke_report.difference(folder, folder / "undisturbed"))
        # All processes have to train.
        if not multihost_utils.broadcast_one_to_all(np.int32(differs)):
            return ""
        say("smoke test: the logs differ; the same steps undisturbed once more")
        with _part("training undisturbed once more"):
            self._train(folder / "again")
        return smoke_report.difference(folder / "again", folder / "undisturbed") if first else ""

    def _train(self, folder: epath.Path, **fields: Any) -> TrainState:
        """Train to the last step in a folder; what else a run does every so often is left out."""
        few = {"train_steps": STEPS, "checkpoint_every": STEPS, "log_every": 1, "profile": ""}
        without = {"sample_writer": None, "held_out": None}
        run = dataclasses.replace(self.run, model_dir=os.fspath(folder), **few, **without, **fields)
        return run()

    def _generate(self, folder: epath.Path, state: TrainState) -> dict[str, Any]:
        """Make a clip, write it, and return where it is and how long it took."""
        run, began = self.run, time.perf_counter()
        writer = one_clip(run)
        frozen = None if run.frozen is None else run.frozen()
        params: Params = run.trainer.model.merge_params(state.inference_params(), frozen)
        video = writer(STEPS, run.trainer, params, run.text_encoder, folder)
        if not np.isfinite(video).all():
            raise ValueError("the clip has values that are no numbers")
        path = folder / "samples" / f"step_{STEPS}.{writer.suffix}"
        return {"clip": os.fspath(path), "clip_seconds": time.perf_counter() - began}

    def _machine(self) -> dict[str, Any]:
        mesh = self.run.trainer.partitioner.mesh
        return {
            "vidgen": __version__,
            "jax": jax.__version__,
            "model": self.run.trainer.model.name,
            "batch_size": self.run.dataset.batch_size,
            "platform": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "processes": jax.process_count(),
            "mesh": {str(name): int(size) for name, size in mesh.shape.items()},
        }


def one_clip(run: Train) -> SampleWriter:
    """Choose what makes one clip with the model of a run.

    Args:
      run: a training run.

    Returns:
      Its own writer of samples, reduced to one clip, or the one that suits its model.

    Raises:
      ValueError: the model makes none, and the configuration does not say how.
    """
    writer, model = run.sample_writer, run.trainer.model
    if isinstance(writer, SampleVideos):
        return dataclasses.replace(writer, prompts=writer.prompts[:1], suffix="mp4")
    if isinstance(writer, (SampleReconstructions, SampleUpsampled)):
        return dataclasses.replace(writer, count=1, suffix="mp4")
    if writer is not None:
        return writer
    if isinstance(model, TokenizerModel):
        return SampleReconstructions(every=STEPS, dataset=run.dataset, count=1, suffix="mp4")
    if isinstance(model, Generator) and model.input_shape is not None:
        return SampleUpsampled(every=STEPS, dataset=run.dataset, count=1, suffix="mp4")
    if isinstance(model, Generator):
        return SampleVideos(every=STEPS, prompts=(PROMPT,), suffix="mp4")
    raise ValueError(f"a {type(model).__name__} makes no clips; set SAMPLE_VIDEOS")


# ---- the preemption ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Preempting(Dataset):
    """A data set whose reader sends SIGTERM to its process before a batch, and goes on."""

    dataset: Dataset
    batch_size: int

    @property
    def captions_per_clip(self) -> int:
        return self.dataset.captions_per_clip

    def iterator(self, *, process: tuple[int, int] = (0, 1)) -> Batches:
        return _PreemptingBatches(self.dataset.iterator(process=process))


class _PreemptingBatches:
    """The batches of another iterator."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._count = 0
        self.get_state = batches.get_state
        self.set_states = batches.set_states
        self.close = batches.close

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        self._count += 1
        if self._count == PREEMPTED_AT_BATCH:
            os.kill(os.getpid(), signal.SIGTERM)
        return next(self._batches)


def _has_checkpoint(folder: epath.Path) -> bool:
    inside = folder / "checkpoints"
    return inside.exists() and any(path.name.isdigit() for path in inside.iterdir())


@contextlib.contextmanager
def _part(name: str) -> Iterator[None]:
    """Say in one sentence which part failed, and why."""
    try:
        yield
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"the smoke test failed at {name}: {why.rstrip('.')}.") from error
