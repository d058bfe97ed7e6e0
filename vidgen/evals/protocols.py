"""The pinned settings of an evaluation: how many clips, what they are made from, which metrics.

gin_configs/evaluations/NAME.gin binds one for each benchmark of the papers. `published` holds what
its papers state; where a run differs, because the model makes other clips or a flag says so, the
result lists the difference: numbers of different protocols cannot be compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vidgen.types import VideoShape

TASKS = ("generate", "predict", "restore", "reconstruct")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """See the module docstring.

    Attributes:
      name: the name of the benchmark.
      supply: what the user must bring.
      task: one of TASKS; "": the one that the model is for.
      clips: number of true clips.
      samples: number of clips that are made for each.
      given: number of first frames that a prediction is given.
      text: whether a prediction is given the caption.
      seed: the seed of the choice of clips, and of all noise.
      metrics: names; empty: all that can be computed.
      published: what the papers state, by the names that a result shows.
    """

    name: str = "held_out"
    supply: str = ""
    task: str = ""
    clips: int = 64
    samples: int = 1
    given: int = 0
    text: bool = False
    seed: int = 0
    metrics: Sequence[str] = ()
    published: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.task and self.task not in TASKS:
            raise ValueError(f"Protocol.task is {self.task!r}; choose from {', '.join(TASKS)}.")
        for name, least in (("clips", 1), ("samples", 1), ("given", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be {least} or more.")

    def facts(self, shape: VideoShape) -> dict[str, Any]:
        """Collect the settings that a result shows.

        Args:
          shape: the shape of the clips that are judged.

        Returns:
          Plain data; where settings are not those of `published`, "deviations" lists them in words.
        """
        facts: dict[str, Any] = {
            "name": self.name,
            "clips": self.clips,
            "samples": self.samples,
            "frames": shape.frames,
            "height": shape.height,
            "width": shape.width,
            "fps": round(float(shape.fps), 3),
            "seed": self.seed,
            "range": "[-1, 1]",
        }
        if self.given:
            facts["given"] = self.given
        deviations = [
            f"{name} {facts.get(name, 'none')}, published {value}"
            for name, value in self.published.items()
            if facts.get(name) != value
        ]
        return facts | ({"deviations": deviations} if deviations else {})
