"""Measures by the names of the rows that metrics need, and why some cannot be had.

`MetricInputs` holds what the user brings (weights) and what gin composes (perceptual distances, the
text encoder); `EvalData` the clips. Together they say for each metric whether it can be computed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vidgen.evals import networks, pictures, text_match
from vidgen.evals.clips import ClipSet, digest
from vidgen.evals.measures import MADE, REAL, Alone, Batch, Compared, Features, Measure, Probe
from vidgen.evals.metrics import METRICS, PAIRS
from vidgen.evals.tasks import Reconstructed
from vidgen.sprites.sprites import Sprites

_PICTURES = {"psnr": pictures.psnr, "ssim": pictures.ssim, "ms_ssim": pictures.ms_ssim}
_LEAST_PIXELS = {"ssim": pictures.WINDOW, "ms_ssim": pictures.MIN_PIXELS}
_LEAST_FRAMES = {"flicker": 3, "cuts": 2}
_ON_REQUEST = ("kinetics_score",)  # of no use but for actions
_TEXT = ("clip_score", "sprite_match")  # networks of clips and captions
Rows = Mapping[str, np.ndarray]
Collect = Callable[[Sequence[str]], Rows]
Captions = Callable[[], Sequence[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalData:
    """The clips, and what is known of them.

    Attributes:
      made: those that are judged.
      real: those that they are compared with.
      paired: clip n of one is to be like clip n of the other.
      captions: whether the clips have captions.
      sprites: what the clips show, where these are vidgen's sprites.
      tokenizer: what made them from tokens, if anything did.
      given: frames that a prediction was given, which no pair is compared in.
    """

    made: ClipSet
    real: ClipSet | None = None
    paired: bool = False
    captions: bool = False
    sprites: Sprites | None = None
    tokenizer: Reconstructed | None = None
    given: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Tokens:
    """The tokens of the true clips."""

    tokenizer: Reconstructed
    side: str = REAL

    @property
    def key(self) -> str:
        """The weights."""
        return digest("tokens", self.tokenizer.identity)

    def __call__(self, batch: Batch) -> np.ndarray:
        """Number of codes, and tokens."""
        return self.tokenizer.encode(batch.video)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricInputs:
    """Where numbers come from.

    Attributes:
      image_distance: a perceptual distance of pictures, with `load`.
      video_distance: likewise, of clips.
      caption_encoder: encoder of captions for `sprite_match`.
      inception: file of Inception-v3 weights as FID has them; None: no FID.
      clip: folder of a CLIP model; None: no CLIP score.
      batch_size: clips that a network is given at a time.
    """

    image_distance: Any
    video_distance: Any
    caption_encoder: Any
    inception: str | None = None
    clip: str | None = None
    batch_size: int = 8

    def why_not(self, metric: str, question: EvalData) -> str | None:
        """A reason why this metric cannot be had of these clips; None if there is none."""
        needs, shape = METRICS[metric].needs, question.made.shape
        if any(need.endswith("/real") for need in needs) and question.real is None:
            return "there is nothing to compare with"
        if metric in PAIRS and not question.paired:
            return "the clips are no pairs"
        if needs[0].startswith("inception") and self.inception is None:
            return "it needs the weights of Inception-v3 (--inception=FILE)"
        if metric.startswith("clip_") and self.clip is None:
            return "it needs the weights of CLIP (--clip=FOLDER)"
        if metric.startswith(("clip_", "sprite_match", "probe_")) and not question.captions:
            return "the clips have no captions"
        if metric.startswith(("probe_", "sprite_match")) and question.sprites is None:
            return "the clips are not those of vidgen's sprites"
        if needs == ("tokens",) and question.tokenizer is None:
            return "no tokenizer made the clips"
        frames = _LEAST_FRAMES.get(metric, networks.I3D_FRAMES if "i3d/made" in needs else 1)
        if shape.frames < frames:
            return f"it needs {frames} frames, and the clips have {shape.frames}"
        pixels = _LEAST_PIXELS.get(metric, 1)
        if min(shape.height, shape.width) < pixels:
            return f"it needs {pixels} x {pixels} pixels, and frames have {shape}"
        return None

    def wanted(self, asked: Sequence[str], question: EvalData) -> tuple[str, ...]:
        """The metrics to compute: those asked for, or all that can be had.

        Raises:
          ValueError: one that is asked for cannot be had.
        """
        if not asked:
            names = [name for name in METRICS if name not in _ON_REQUEST]
            return tuple(name for name in names if self.why_not(name, question) is None)
        for name in asked:
            if why := self.why_not(name, question):
                raise ValueError(f"--metrics={name}: {why}.")
        return tuple(asked)

    def measure(self, row: str, question: EvalData) -> Measure:
        """What computes the rows of that name."""
        name, _, side = row.partition("/")
        if name == "tokens" and question.tokenizer is not None:
            return _Tokens(tokenizer=question.tokenizer)
        if name == "probe" and question.sprites is not None:
            return Probe(sprites=question.sprites)
        if name in _PICTURES:
            return Compared(name=name, compare=_PICTURES[name], skip=question.given)
        if name.endswith("_distance"):
            return self._perceptual(name, question.given)
        if name in _LEAST_FRAMES:
            return Alone(name=name, measure=getattr(pictures, name), side=MADE)
        side = MADE if name in _TEXT else side
        return Features(network=self.network(name), side=side, batch_size=self.batch_size)

    def rows(self, needs: Iterable[str], collected: Collect, captions: Captions) -> Rows:
        """All that metrics need.

        Args:
          needs: names of rows.
          collected: computes the rows of measures.
          captions: reads those of the clips.
        """
        needs = tuple(dict.fromkeys(needs))
        plain = [need for need in needs if need.partition("/")[0] not in _TEXT]
        matched = dict.fromkeys(n.partition("/")[0] for n in needs if n not in plain)
        found = dict(collected([*plain, *matched]))
        for name in matched:
            words = captions()
            texts = self._texts(name, words)
            pairs = text_match.matches(found.pop(name), texts, words)
            found |= {f"{name}/{column}": values for column, values in pairs.items()}
        return found

    def network(self, name: str) -> networks.FeatureNetwork:
        """A feature network; its weights are fetched, or the user's."""
        if name == "inception":
            return networks.inception_v3(Path(self.inception or "").expanduser())
        if name == "clip_score":
            return networks.clip_images(Path(self.clip or "").expanduser())
        return {
            "i3d": networks.kinetics,
            "efficientnet": networks.lite0,
            "sprite_match": networks.sprites,
        }[name]()

    def protocol(self, metric: str) -> dict[str, Any] | None:
        """The network that a metric looks through."""
        name = METRICS[metric].needs[0].partition("/")[0]
        if name in ("i3d", "efficientnet", "inception", *_TEXT):
            return self.network(name).protocol
        if name.endswith("_distance"):
            settings = dataclasses.asdict(self._distance(name))
            shown = {key: settings[key] for key in ("layers", "size") if settings[key]}
            title = "SqueezeNet 1.1" if name.startswith("squeezenet") else "I3D-RGB Kinetics-400"
            return {"name": title, "sha256": self._weights(name), **shown}
        return None

    def _texts(self, name: str, captions: Sequence[str]) -> np.ndarray:
        """Features of captions, of unit length."""
        if name == "clip_score":
            return networks.clip_texts(Path(self.clip or "").expanduser(), captions)
        return networks.sprite_texts(self.caption_encoder, captions)

    def _distance(self, name: str) -> Any:
        return self.image_distance if name.startswith("squeezenet") else self.video_distance

    def _weights(self, name: str) -> str:
        """The hash of the weights of a perceptual distance."""
        return networks.asset_hash("squeezenet" if name.startswith("squeezenet") else "i3d")

    def _perceptual(self, name: str, skip: int) -> Compared:
        distance = self._distance(name)
        return Compared(
            name=name,
            compare=_loaded(distance),
            identity=digest(repr(distance), self._weights(name)),
            skip=skip,
        )


@functools.lru_cache(maxsize=4)
def _loaded(distance: Any) -> Callable[[Any, Any], np.ndarray]:
    """A perceptual distance of clips "b t h w c" as one value a clip."""
    params, program = distance.load(), jax.jit(distance.__call__)

    def compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if not hasattr(distance, "network"):  # of clips
            return np.asarray(program(params, a, b))
        frames = program(params, a.reshape(-1, *a.shape[2:]), b.reshape(-1, *b.shape[2:]))
        return np.asarray(frames).reshape(a.shape[:2]).mean(1)

    return compare
