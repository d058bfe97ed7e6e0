"""Models made of a training run without training: LoRA merged, and averages of any length.

    OUTPUT/config.gin          the run's, with a line on top that says what the weights are
           model.safetensors   all of them, in float32

The folder is a model like any other: `--model`, `INIT_FROM` and whatever else names one take it.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from vidgen import paths
from vidgen.assets import zoo
from vidgen.train import lora_weights, weights
from vidgen.train.checkpoints import Checkpointer
from vidgen.train.lora_weights import LoraWeights
from vidgen.train.power_ema import Combination, Profile, combination, exponent
from vidgen.train.snapshots import open_snapshots
from vidgen.types import Params

_POOR = 0.1  # [guess] error of a profile of which a user is warned


@dataclasses.dataclass(frozen=True)
class Derived:
    """What was made, for a report.

    Attributes:
      path: the weight file.
      step: the step of the run.
      what: what the weights are, as a clause.
      warning: what the user should know; "" for nothing.
    """

    path: epath.Path
    step: int
    what: str
    warning: str = ""


def merge(model_dir: str, output: str, step: int | None = None) -> Derived:
    """Write the weights of a LoRA run's base with the run's products added to them.

    Args:
      model_dir: the LoRA run.
      output: a folder; made if absent.
      step: which checkpoint; None is the newest.

    Returns:
      The weight file, its step, and what its weights are.

    Raises:
      ValueError: the folder is no LoRA run, its base is another now, or `output` is a run.
      FileNotFoundError: there are no weights, or no base.
    """
    _check_output(model_dir, output)
    with weights.open_weights(model_dir) as reader:
        if not isinstance(reader, LoraWeights):
            raise ValueError(
                f"{model_dir} holds whole weights: it has no lora.json, and nothing to merge."
            )
        step = reader.latest_step() if step is None else step
        params = reader.restore_params(step=step)
    what = f"the weights of {model_dir} at step {step}, merged with those of its base"
    return Derived(_write(model_dir, output, params, step or 0, what), step or 0, what)


def average(model_dir: str, length: float, output: str, step: int | None = None) -> Derived:
    """Write the average of a run's weights that has a chosen relative length (`power_ema.py`).

    Args:
      model_dir: a run with snapshots.
      length: σ_rel, the standard deviation of the profile over the steps it covers; over 0, and at
        most 12^(-1/2), which is the plain mean of all steps.
      output: a folder; made if absent.
      step: at which snapshot the average ends; None is the last.

    Returns:
      The weight file, its step, the error of its profile, and a warning where that is large.

    Raises:
      ValueError: no average has this length, there is no such snapshot, or `output` is a run.
      FileNotFoundError: the run has no snapshots.
    """
    gamma = exponent(length)
    _check_output(model_dir, output)
    with open_snapshots(model_dir) as snapshots:
        steps = snapshots.steps()
        step = steps[-1] if step is None else step
        if step not in steps:
            raise ValueError(f"no snapshot of step {step} in {model_dir}; there are {steps}.")
        steps = [n for n in steps if n <= step]
        names = sorted(snapshots.stored_params(step))
        stored = [Profile(exponent(float(name)), n) for n in steps for name in names]
        fit = combination(stored, Profile(gamma, step))
        params = _combined(snapshots, steps, names, fit)
    if lora_weights.read_record(model_dir) is not None:
        params = _with_base(model_dir, params)
    of = f"of {len(steps)} snapshots with the lengths {' and '.join(names)}"
    what = f"the average of relative length {length:g} of {model_dir} at step {step}, made {of}"
    path = _write(model_dir, output, params, step, what)
    warning = (
        f"the snapshots give the profile of that length only to {fit.error:.0%}; a length nearer "
        "to theirs, or more snapshots (PowerEma.every), come closer"
    )
    of_profile = f"{what}; error of the profile {fit.error:.2%}"
    return Derived(path, step, of_profile, warning if fit.error >= _POOR else "")


def _combined(
    snapshots: Checkpointer, steps: list[int], names: list[str], fit: Combination
) -> Params:
    """Return the sum of the stored averages times their coefficients, added up in float64."""
    total: Any = None
    coefficients = iter(fit.coefficients)
    for step in steps:
        read = snapshots.restore_params(step=step)
        for name in names:
            x = float(next(coefficients))
            part = jax.tree.map(lambda leaf, x=x: x * np.asarray(leaf, np.float64), read[name])
            total = part if total is None else jax.tree.map(np.add, total, part)
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), total)


def _with_base(model_dir: str, adapters: Params) -> Params:
    """Return the whole weights of averaged LoRA matrices."""
    with weights.open_weights(model_dir) as reader:
        assert isinstance(reader, LoraWeights)
        on_device = jax.tree.map(jnp.asarray, adapters)
        return reader.with_adapters(reader.base_params(), on_device, None)


def _check_output(model_dir: str, output: str) -> None:
    """Raise ValueError where weights in `output` would stand beside those of a training."""
    folder = epath.Path(output).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output={output} is a file; name a folder.")
    for name in ("checkpoints", lora_weights.FILE):
        if (folder / name).exists():
            raise ValueError(
                f"--output={output} is the folder of a training run ({name} is in it); name "
                "another, which will hold the new model."
            )
    source = epath.Path(zoo.find(model_dir)).expanduser()
    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder {model_dir}; give the MODEL_DIR of a run.")
    if not (source / "config.gin").is_file():
        inside = sorted(p.parent.name for p in source.glob("*/config.gin"))
        hint = f"; it holds {', '.join(inside)}: name one of them" if inside else ""
        raise FileNotFoundError(f"there is no {source / 'config.gin'}{hint}.")


def _write(model_dir: str, output: str, params: Params, step: int, what: str) -> epath.Path:
    """Write the folder, each file whole or not at all, the weights last."""
    config = (epath.Path(zoo.find(model_dir)).expanduser() / "config.gin").read_text()
    lines = [line for line in config.splitlines() if not line.startswith("# Weights: ")]
    text = "\n".join([f"# Weights: {what}.", *lines]) + "\n"
    paths.write(os.path.join(os.path.expanduser(output), "config.gin"), text.encode())
    return weights.write(output, params, step, eight_bits=False)
