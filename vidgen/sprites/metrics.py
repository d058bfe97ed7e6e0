"""What the sprite data adds to the metrics: whether a clip shows what its caption says.

The probe (probe.py) reads subject, motion and background of every generated clip. Each of the
metrics is the share of clips in which it reads what the caption asked for. They are there where the
data set is `Sprites`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from vidgen.evals import uncertainty
from vidgen.evals.clips import digest
from vidgen.evals.collect import ClipBatch, Measurement
from vidgen.evals.metrics import Estimate, EvalData, Metric, Rows, register
from vidgen.sprites import probe
from vidgen.sprites.sprites import Sprites

_COLUMNS = ("subject", "motion", "background", "all")  # of the rows; the error follows
_PIXELS, _FRAMES = 32, 8  # of a clip that the probe is shown: reading by synthesis is slow


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpriteProbe(Metric):
    """The share of clips in which the probe reads one part of the caption.

    Attributes:
      part: one of "subject", "motion", "background", and "all" for all three at once.
    """

    part: str
    better: Literal["higher", "lower"] | None = "higher"
    needs: tuple[str, ...] = ("captions",)

    def why_not(self, data: EvalData) -> str | None:
        """Say where the clips are not those of the sprites; see `Metric.why_not`."""
        reason = super().why_not(data)
        if reason is None and not isinstance(data.source, Sprites):
            return "the clips are not those of vidgen's sprites"
        return reason

    def measurements(self, data: EvalData) -> Sequence[Measurement]:
        """Read all parts of each generated clip at once by the probe; see `Metric.measurements`."""
        sprites = data.source
        assert isinstance(sprites, Sprites)

        def compute(batch: ClipBatch) -> np.ndarray:
            pairs = zip(batch.video, batch.captions, strict=True)
            return np.asarray([_row(clip, caption, sprites) for clip, caption in pairs], float)

        key = digest("sprite probe", sprites, _PIXELS, _FRAMES)
        return (Measurement(side="generated", key=key, compute=compute),)

    def value(self, rows: Rows, captions: Sequence[str] = ()) -> Estimate:
        """Average the column of this part, with its standard error; see `Metric.value`."""
        return uncertainty.of_mean(rows[0][:, _COLUMNS.index(self.part)])


def _row(clip: np.ndarray, caption: str, sprites: Sprites) -> list[float]:
    """Compute 1 or 0 for each of _COLUMNS, then the error of the best synthesis."""
    reading = probe.read(probe.smaller(clip, _PIXELS, _FRAMES), sprites)
    pairs = zip(reading.triple, sprites.parse_caption(caption), strict=True)
    right = [seen == truth for seen, truth in pairs]
    return [*map(float, right), float(all(right)), reading.error]


for _part in _COLUMNS:
    _words = "whole caption" if _part == "all" else _part
    register(
        SpriteProbe(
            name=f"probe_{_part}",
            what=f"share of clips that show the {_words} asked for, read by synthesis",
            part=_part,
        )
    )
