"""The terms of the tokenizer's two losses, one value an example (Phenaki B.1), and their weights.

    L_IP, L_VP    distances of frames and of clips in the features of frozen networks
    L_Adv, L_D    the game with the discriminator, phenaki/discriminator.py

Where the "clip" is a set of images (`independent_frames`), its first frame alone counts. It is
shown to all that looks at frames as a clip that stands still, so every example weighs the same.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from vidgen.diffusion.schedules import expand
from vidgen.phenaki import discriminator as game
from vidgen.types import Frozen, Mean, Params

log = logging.getLogger(__name__)

NETWORKS = ("image_perceptual", "video_perceptual")
_LOWEST_ERROR = 1e-10  # of the PSNR; float32 tells no smaller one from none


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the terms; those of the generator are Phenaki's (B.1).

    Attributes:
      vq: the quantizer's own loss.
      l2: mean squared error.
      adversarial: the generator's part of the game with the discriminator.
      image_perceptual: distance of frames in features.
      video_perceptual: distance of clips in features.
      r1: half the squared gradient of the discriminator on real clips. [guess] 10, which MaskGIT
        and MAGVIT use; Phenaki names no penalty.
      r1_every: R1 is a term of one training step in so many, and counts so many times there
        (StyleGAN2's lazy regularization, which has 16). The steps are drawn, as a loss does not
        know its number. 1: of every step. On a CPU, where XLA runs convolutions of a branch
        slowly, 16 saves nothing once a single frame is judged (0.335 and 0.345 s a step).
      lecam: ties logits to the moving averages of the other kind; 0 keeps no averages (MAGVIT-v2:
        0.001).
    """

    vq: float = 1.0
    l2: float = 1.0
    adversarial: float = 0.1
    image_perceptual: float = 0.1
    video_perceptual: float = 1.0
    r1: float = 10.0
    r1_every: int = 1
    lecam: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                value = getattr(self, field.name)
                raise ValueError(f"LossWeights.{field.name} is {value}; it must be >= 0.")
        if self.r1_every < 1:
            raise ValueError(f"LossWeights.r1_every is {self.r1_every}; it must be >= 1.")

    def total(self, terms: Mapping[str, Float[Array, "b"]]) -> Float[Array, "b"]:
        """The weighted sum of terms by name; a name without a weight counts fully."""
        parts = [getattr(self, name, 1.0) * term for name, term in terms.items()]
        return functools.reduce(jnp.add, parts)


@runtime_checkable
class FrameDistance(Protocol):
    """How far images are apart in the features of a frozen network.

    `required` False lets training go on where the weights of the network cannot be had.
    """

    required: bool

    def load(self) -> Params:
        """The weights; FileNotFoundError where they cannot be had."""
        ...

    def __call__(
        self, params: Params, a: Float[Array, "n h w c"], b: Float[Array, "n h w c"]
    ) -> Float[Array, "n"]:
        """The distance of each pair, of images in [-1, 1]."""
        ...


@runtime_checkable
class ClipDistance(Protocol):
    """How far clips are apart in the features of a frozen network; see `FrameDistance`."""

    required: bool

    def load(self) -> Params:
        """The weights; FileNotFoundError where they cannot be had."""
        ...

    def __call__(
        self, params: Params, a: Float[Array, "b t h w c"], b: Float[Array, "b t h w c"]
    ) -> Float[Array, "b"]:
        """The distance of each pair, of clips in [-1, 1]."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenNetworks:
    """Loads the perceptual networks of a tokenizer, for `Train.frozen`.

    Attributes:
      model: the `VideoTokenizer` that is trained.
    """

    model: Any

    def __call__(self) -> Frozen:
        """The weights by name.

        Raises:
          FileNotFoundError: weights that are required cannot be had.
        """
        found = {}
        for name in NETWORKS:
            distance = getattr(self.model, name)
            if distance is None:
                continue
            try:
                found[name] = distance.load()
            except FileNotFoundError as error:
                if distance.required:
                    raise
                if jax.process_index() == 0:
                    log.warning("training goes on without the loss %s: %s", name, error)
        return found


def perceptual_terms(
    distances: Mapping[str, Any],
    frozen: Frozen,
    real: Float[Array, "b t h w c"],
    fake: Float[Array, "b t h w c"],
    independent_frames: Bool[Array, "b"],
) -> dict[str, Float[Array, "b"]]:
    """The distances in features, by name; between clips that stand still it is 0.

    Args:
      distances: a `FrameDistance` "image_perceptual" and a `ClipDistance` "video_perceptual", or
        None.
      frozen: their weights, from `FrozenNetworks`.
      real: the clips.
      fake: their reconstructions.
      independent_frames: which of the clips stand still.

    Raises:
      ValueError: `frozen` lacks a network that is required.
    """
    terms = {}
    if (frames := _with_weights("image_perceptual", distances, frozen)) is not None:
        a, b = (x.reshape(-1, *x.shape[2:]) for x in (real, fake))
        terms["image_perceptual"] = jnp.mean(frames(a, b).reshape(real.shape[:2]), axis=1)
    if (clips := _with_weights("video_perceptual", distances, frozen)) is not None:
        terms["video_perceptual"] = jnp.where(independent_frames, 0.0, clips(real, fake))
    return terms


def _with_weights(name: str, distances: Mapping[str, Any], frozen: Frozen) -> Any:
    """A distance that has its weights, or None; a plan leaves it out by None for weights."""
    distance = distances[name]
    if distance is None:
        return None
    if name in (frozen or {}):
        weights = frozen[name]
        return None if weights is None else functools.partial(distance, weights)
    if distance.required:
        raise ValueError(
            f"the tokenizer has a loss {name} but was not given its network; set Train.frozen to "
            "tokenizer_losses.FrozenNetworks, or the loss to None."
        )
    return None


def adversarial_terms(
    discriminator: Any,
    params: Params,
    real: Float[Array, "b t h w c"],
    fake: Float[Array, "b t h w c"],
    key: Key[Array, ""] | None,
    *,
    r1_every: int | None,
) -> tuple[dict[str, Float[Array, "b"]], dict[str, Float[Array, "b n"]]]:
    """The terms of both players, and the logits of "real" and "fake".

    "adversarial" has a gradient for the reconstructions alone, the others for the discriminator
    alone.

    Args:
      discriminator: the module.
      params: of the tokenizer; LeCam is a term where it has "anchors".
      real: the clips.
      fake: their reconstructions.
      key: draws the frames and whether R1 counts; None judges all frames.
      r1_every: R1 counts so many times, in one of so many calls; None leaves it out.
    """
    if key is not None:
        frames_key, key = jax.random.split(key)
        real, fake = _some_frames(frames_key, discriminator.frames_per_clip, real, fake)
    stop = jax.lax.stop_gradient
    judge = functools.partial(discriminator.apply, params["discriminator"])
    against = discriminator.apply(stop(params["discriminator"]), fake)
    logits = {"real": judge(real), "fake": judge(stop(fake))}
    terms = {
        "adversarial": game.generator_loss(against),
        "discriminator": game.discriminator_loss(**logits),
    }
    if r1_every is not None:
        terms["r1"] = _sometimes(key, r1_every, functools.partial(game.r1_penalty, judge), real)
    if "anchors" in params:
        terms["lecam"] = game.lecam_penalty(**logits, anchors=params["anchors"])
    return terms, logits


def _some_frames(key: Array, count: int | None, *clips: Array) -> list[Array]:
    """`count` different frames of every clip, in order and the same of all `clips`."""
    b, t = clips[0].shape[:2]
    if count is None or count >= t:
        return list(clips)
    places = jax.vmap(lambda key: jax.random.permutation(key, t))(jax.random.split(key, b))
    places = jnp.sort(places[:, :count], axis=1)[:, :, None, None, None]
    return [jnp.take_along_axis(clip, places, axis=1) for clip in clips]


def _sometimes(key: Array | None, every: int, term: Any, real: Array) -> Float[Array, "b"]:
    """`every` times the term in one of `every` calls, else 0: its mean is that of the term."""
    if every == 1 or key is None:
        return term(real)
    now = jax.random.bernoulli(key, 1 / every)
    return jax.lax.cond(now, lambda x: every * term(x), lambda x: jnp.zeros(len(x)), real)


def as_stills(
    video: Float[Array, "b t h w c"], independent_frames: Bool[Array, "b"]
) -> Float[Array, "b t h w c"]:
    """`video` with the first frame in place of all others where frames are unrelated images."""
    return jnp.where(expand(independent_frames, video), video[:, :1], video)


def psnr(a: Float[Array, "b t h w c"], b: Float[Array, "b t h w c"]) -> Mean:
    """Mean peak signal-to-noise ratio in dB of clips in [-1, 1] (peak 2), clipped to that.

    Clips that come out as they were, as black ones may, have none and are not counted.
    """
    square = (jnp.clip(a, -1, 1) - jnp.clip(b, -1, 1)) ** 2
    error = jnp.mean(square, axis=(1, 2, 3, 4))
    ratio = 10.0 * jnp.log10(4.0 / jnp.maximum(error, _LOWEST_ERROR))
    return Mean.of(ratio, error > _LOWEST_ERROR)
