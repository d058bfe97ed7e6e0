"""How soon a cascade can make a clip, and what a device holds meanwhile: bounds, stage by stage.

    s_n   seconds of the steps of stage n: each at least as long as its slowest part (`bound`)
    l_n   seconds in which its weights come from a store, at the devices' published network rate;
          l_1 with those of the text encoder

    clip ≥ l_1 + Σ max(s_n, l_{n+1})               overlapped: weights come while a stage runs
    held = peak_n + weights_{n+1} + text encoder   on the fullest device (`imagen/cascade.py`)

The encoding of a text, the writing of a file and the start of a program are not in it, and no
device reaches its published rates: what is measured lies above.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vidgen.train.chips import Chip

Report = dict[str, Any]


def of_stage(bound: Report | None, steps: int) -> Report | None:
    """Return the least seconds of all steps of a stage.

    Args:
      bound: of one step (`bound.of`).
      steps: of sampling.

    Returns:
      `overlapped`, where what a step does overlaps, and `alone`, where nothing does; None where
      there is no bound.
    """
    if bound is None:
        return None
    seconds = [value for value in bound["seconds"].values() if value]
    return {"overlapped": steps * max(seconds), "alone": steps * sum(seconds)}


def of_cascade(models: Sequence[Report], text: Report | None, chip: Chip | None) -> Report | None:
    """Return the bound of a clip through all stages.

    Args:
      models: of `Plan.report` with a compiled step of sampling, in the order in which they run.
      text: its `text_encoder`, which stays on the devices.
      chip: what is known of the device.

    Returns:
      `load_seconds` and `held_bytes_per_device`, one for each stage; `overlapped` and `alone`,
      seconds of a clip. None where a rate is not published, or a program does not fit.
    """
    programs = [model["sampling"] for model in models]
    times = [program.get("seconds_per_clip") for program in programs]
    if chip is None or not chip.network or None in times:
        return None
    encoder = text["bytes_per_device"] if text else 0
    weights = [model["bytes_per_device"]["parameters"] for model in models]
    loads = [share / chip.network for share in weights]
    loads[0] += encoder / chip.network
    steps = [time["overlapped"] for time in times]
    return {
        "load_seconds": loads,
        "held_bytes_per_device": [
            program["peak_bytes_per_device"] + share + encoder
            for program, share in zip(programs, [*weights[1:], 0], strict=True)
        ],
        "overlapped": loads[0] + sum(map(max, steps, [*loads[1:], 0.0])),
        "alone": sum(loads) + sum(time["alone"] for time in times),
    }
