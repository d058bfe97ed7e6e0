"""The terms of the tokenizer's two losses, one value an example (Phenaki 2.1, B.1), and weights.

    L_IP, L_VP    distances of frames and of clips in the features of frozen networks
    L_Adv, L_D    the game with the discriminator, phenaki/discriminator.py

Where the "clip" is a set of images (`independent_frames`), its first frame alone counts. The losses
see it as a clip that stands still, so every example weighs the same.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from vidgen import checks
from vidgen.diffusion.schedules import expand
from vidgen.nn.apply import apply_module
from vidgen.phenaki import discriminator as game
from vidgen.types import Frozen, Mean, Params

log = logging.getLogger(__name__)

NETWORKS = ("image_perceptual", "video_perceptual")
_LOWEST_ERROR = 1e-10  # of the PSNR; float32 tells no smaller one from none


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the terms; those of the generator are Phenaki's (B.1).

    Attributes:
      vq: weight of the quantizer's own loss.
      l2: weight of the mean squared error.
      adversarial: weight of the generator's loss against the discriminator.
      image_perceptual: weight of the distance of frames in features.
      video_perceptual: weight of the distance of clips in features.
      r1: weight of the R1 penalty. [guess] 10, which MaskGIT and MAGVIT use; Phenaki names none.
      r1_every: R1 is a term of one training step in so many, and counts so many times there
        (StyleGAN2's lazy regularization, which has 16). The steps are drawn, as a loss does not
        know its number. On a CPU, where XLA runs convolutions of a branch slowly, 16 saves nothing
        once a single frame is judged (0.335 and 0.345 s a step).
      lecam: weight of the LeCam penalty; 0 keeps no moving averages (MAGVIT-v2: 0.001).
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
        checks.at_least(self, **dict.fromkeys(dataclasses.asdict(self), 0) | {"r1_every": 1})

    def total(self, terms: Mapping[str, Float[Array, "b"]]) -> Float[Array, "b"]:
        """Compute the weighted sum of the terms.

        Args:
          terms: of each example, by the names of the weights; one without a weight
            ("discriminator") counts fully.

        Returns:
          The sum for each example.
        """
        weights = dataclasses.asdict(self)
        return functools.reduce(jnp.add, [weights.get(n, 1.0) * term for n, term in terms.items()])


@runtime_checkable
class PerceptualDistance(Protocol):
    """A distance in the features of a frozen network, of images or of clips; see `perceptual`."""

    @property
    def required(self) -> bool:
        """Whether training stops where the weights are missing."""
        ...

    def load(self) -> Params:
        """Load the weights of the network.

        Raises:
          FileNotFoundError: they are missing.
        """
        ...

    def __call__(
        self, params: Params, a: Float[Array, "n *x c"], b: Float[Array, "n *x c"]
    ) -> Float[Array, "n"]:
        """Compute the distance of each pair.

        Args:
          params: the weights, from `load`.
          a: images or clips in [-1, 1].
          b: images or clips of the same shape.

        Returns:
          Distances >= 0.
        """
        ...


Distances = Mapping[str, PerceptualDistance | None]  # by name, of `NETWORKS`


@runtime_checkable
class PerceptualModel(Protocol):
    """A model that says which perceptual networks its loss reads: `VideoTokenizer`."""

    @property
    def distances(self) -> Distances:
        """The distances by name."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenNetworks:
    """Loads the perceptual networks of a tokenizer, for `Train.frozen`.

    Attributes:
      model: the `VideoTokenizer` that is trained.
    """

    model: PerceptualModel

    def __call__(self) -> Frozen:
        """Load the weights.

        Returns:
          The weights by the name of the loss.

        Raises:
          FileNotFoundError: weights that are required are missing.
        """
        weights = {}
        for name, distance in self.model.distances.items():
            if distance is None:
                continue
            try:
                weights[name] = distance.load()
            except FileNotFoundError as error:
                if distance.required:
                    raise
                if jax.process_index() == 0:
                    log.warning("training goes on without the loss %s: %s", name, error)
        return weights


def perceptual_terms(
    distances: Distances,
    frozen: Frozen,
    real: Float[Array, "b t h w c"],
    fake: Float[Array, "b t h w c"],
    independent_frames: Bool[Array, "b"],
) -> dict[str, Float[Array, "b"]]:
    """Compute L_IP and L_VP (Phenaki B.1).

    Args:
      distances: of images "image_perceptual", of clips "video_perceptual", or None.
      frozen: their weights, from `FrozenNetworks`.
      real: the clips.
      fake: their reconstructions.
      independent_frames: which of the clips stand still; their L_VP is 0.

    Returns:
      The terms by name, without those that have no distance or no weights.

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


def _with_weights(
    name: str, distances: Distances, frozen: Frozen
) -> Callable[[Array, Array], Array] | None:
    """Bind a distance to its weights; None without one, or where a plan leaves it out."""
    distance = distances[name]
    if distance is None:
        return None
    if name in (frozen or {}):
        weights = frozen[name]
        return None if weights is None else functools.partial(distance, weights)
    if distance.required:
        raise ValueError(
            f"the loss {name} needs the weights of its network; set Train.frozen to "
            "tokenizer_losses.FrozenNetworks, or the loss to None."
        )
    return None


def adversarial_terms(
    discriminator: game.Discriminator,
    params: Params,
    real: Float[Array, "b t h w c"],
    fake: Float[Array, "b t h w c"],
    key: Key[Array, ""] | None,
    *,
    r1_every: int | None,
) -> tuple[dict[str, Float[Array, "b"]], dict[str, Float[Array, "b n"]]]:
    """Compute the losses of the game between tokenizer and discriminator.

    Args:
      discriminator: the module.
      params: the parameters of the tokenizer; LeCam is a term where they have "anchors".
      real: the clips.
      fake: their reconstructions.
      key: draws the frames and whether R1 counts; None judges all frames.
      r1_every: R1 counts so many times, in one of so many calls; None leaves it out.

    Returns:
      The terms by name, of which "adversarial" has a gradient for the reconstructions alone and
      the others for the discriminator alone; and the logits of "real" and "fake".
    """
    if key is not None:
        frames_key, key = jax.random.split(key)
        real, fake = _some_frames(frames_key, discriminator.frames_per_clip, real, fake)
    stop = jax.lax.stop_gradient
    judge = functools.partial(apply_module, discriminator, params["discriminator"])
    against = apply_module(discriminator, stop(params["discriminator"]), fake)
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
    """Draw `count` frames of every example, in order, the same ones of each of `clips`."""
    b, t = clips[0].shape[:2]
    if count is None or count >= t:
        return list(clips)
    places = jax.vmap(lambda key: jax.random.permutation(key, t))(jax.random.split(key, b))
    places = jnp.sort(places[:, :count], axis=1)[:, :, None, None, None]
    return [jnp.take_along_axis(clip, places, axis=1) for clip in clips]


def _sometimes(
    key: Array | None, every: int, term: Callable[[Array], Array], real: Array
) -> Float[Array, "b"]:
    """Compute `every` times the term in one of `every` calls, else 0: the mean stays."""
    if every == 1 or key is None:
        return term(real)
    now = jax.random.bernoulli(key, 1 / every)
    return jax.lax.cond(now, lambda x: every * term(x), lambda x: jnp.zeros(len(x)), real)


def as_stills(
    video: Float[Array, "b t h w c"], independent_frames: Bool[Array, "b"]
) -> Float[Array, "b t h w c"]:
    """Repeat the first frame of the clips whose frames are unrelated images.

    Args:
      video: clips.
      independent_frames: True of a set of images.

    Returns:
      The clips; those of images stand still.
    """
    return jnp.where(expand(independent_frames, video), video[:, :1], video)


def psnr(a: Float[Array, "b t h w c"], b: Float[Array, "b t h w c"]) -> Mean:
    """Measure the mean peak signal-to-noise ratio of clips, clipped to [-1, 1] (peak 2).

    Args:
      a: clips.
      b: clips to compare with.

    Returns:
      The mean over clips, in dB; clips without an error, as black ones may be, have no ratio and do
      not count.
    """
    square = (jnp.clip(a, -1, 1) - jnp.clip(b, -1, 1)) ** 2
    error = jnp.mean(square, axis=(1, 2, 3, 4))
    ratio = 10.0 * jnp.log10(4.0 / jnp.maximum(error, _LOWEST_ERROR))
    return Mean.of(ratio, error > _LOWEST_ERROR)
