"""The logits of a masked transformer with classifier-free guidance, for decoding.

Guidance evaluates both halves in one batch of twice the size, as two prompts do; without guidance
the network is evaluated once, and its conditional logits are returned bit for bit.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Bool

from vidgen.diffusion.guidance import GuidanceSpec, classifier_free_batched, mixed, pair, with_text
from vidgen.diffusion.guidance_rules import StepInterval, within
from vidgen.phenaki.decoding import LogitsFn
from vidgen.phenaki.maskgit import FlatNetwork, TokenNetwork
from vidgen.phenaki.token_batch import clip_text
from vidgen.types import Params, TextEmbedding, TextMix, null_text


def guided_logits(
    network: TokenNetwork,
    spec: GuidanceSpec,
    steps: int,
    params: Params,
    text: TextEmbedding | TextMix,
    grid: tuple[int, ...],
    *,
    valid: Bool[Array, "b gt gh gw"] | None = None,
    negative: TextEmbedding | None = None,
) -> LogitsFn:
    """Make the guided logits of flat tokens, of two prompts their mixture.

    Args:
      network: the transformer.
      spec: how it is guided; its interval is of shares of the steps that are still to be made.
      steps: decoding steps.
      params: the parameters of the network.
      text: one prompt a clip, or two.
      grid: the grid of tokens, (time, rows, columns).
      valid: False on positions that do not exist.
      negative: what to guide away from, one prompt a clip; None is no text.

    Returns:
      A function of (flat tokens, step).
    """
    twice = None if valid is None else pair(valid, valid)
    if isinstance(text, TextMix):
        both = pair(clip_text(text.first), clip_text(text.second))
        away = None if negative is None else pair(negative, negative)
        settings = (network, spec, steps, params, both, grid)
        return mixed(guided_logits(*settings, valid=twice, negative=away), text.weight)
    text, flat = clip_text(text), FlatNetwork(network, grid)
    alone = jax.tree_util.Partial(flat, params, text, valid)
    if spec.is_unguided:
        return alone
    without = null_text(text) if negative is None else clip_text(negative)
    weights = with_text(spec.weights(steps), text.mask | without.mask)
    logits = jax.tree_util.Partial(flat, params, pair(text, without), twice)
    guided = classifier_free_batched(logits, weights)
    if spec.interval is None:
        return guided
    low, high = spec.interval
    return within(StepInterval(low, high, steps), guided, alone)


def check_guidance(name: str, guidance: GuidanceSpec) -> None:
    """Check that guidance asks for nothing that videos have and tokens have not.

    Args:
      name: name of the model, for the message.
      guidance: how the logits are to be guided.

    Raises:
      ValueError: guidance is rescaled, projected or bounded, has momentum, or its interval reaches
        beyond 1, the share of the steps that is left at the first.
    """
    for flag in guidance.rule_flags:
        raise ValueError(
            f"--{flag}: {name} guides the logits of tokens, which have no spread and no direction "
            "as a video has; leave it out."
        )
    if guidance.interval is not None and guidance.interval[1] > 1:
        raise ValueError(
            f"--guidance_interval: {name} takes shares of its decoding steps, from 1 at the first "
            f"to 0 after the last, not {guidance.interval[1]:g}."
        )
