"""CLIP with vision transformers (Radford et al. 2021), from the user's folder: images and prompts.

Both towers are pre-norm transformers, that of the text causal; f is GELU or x sigmoid(1.702 x):

    x ← x + W_o softmax(q kᵀ / √d_head) v         q, k, v = W_q y, W_k y, W_v y,  y = LN(x)
    x ← x + W_2 f(W_1 LN(x))

    image   W LN(x[0])     of LN([class, patches] + place), pixels normalised as the weights expect
    text    W LN(x[end])   of word[id] + place

and both are brought to unit length, so that a product of the two is a cosine; times
`ClipModel.scale` it is the logit that CLIP was trained on. The CLIP score of Hessel et al. 2021 is
2.5 times the cosine's positive part; many papers give 100 times the cosine. No package of the
Python package index carries the weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jaxtyping import Array, Bool, Float, Int

from vidgen.pretrained import clip_files, layers
from vidgen.pretrained.clip_files import Sizes, Tower
from vidgen.types import Params

_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)  # of pixels in [0, 1]
_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipModel:
    """A loaded CLIP: a PyTree of its weights, which may be handed to a jitted function.

    Attributes:
      params: {"image": weights of a tower, "text": likewise, "logit_scale"}.
      sizes: the content of config.json.
      tokenizer: turns prompts into ids.
    """

    params: Params
    sizes: Sizes = dataclasses.field(metadata={"static": True})
    tokenizer: tokenizers.Tokenizer = dataclasses.field(metadata={"static": True})

    @property
    def scale(self) -> Float[Array, ""]:
        """The factor of cosines in the logits, exp(logit_scale): 100 in OpenAI's models."""
        return jnp.exp(self.params["logit_scale"])


def load(folder: Path) -> ClipModel:
    """Load a CLIP from a folder of Hugging Face.

    Args:
      folder: has config.json, tokenizer.json and a file of weights.

    Returns:
      The model, in float32 on the host.

    Raises:
      FileNotFoundError: the folder or one of the files is missing.
      ValueError: they are not those of a CLIP, or not of the same one.
    """
    sizes = clip_files.read_sizes(folder)
    return ClipModel(
        tokenizer=clip_files.read_tokenizer(folder, sizes),
        params=clip_files.read_params(folder, sizes),
        sizes=sizes,
    )


def tokens(
    clip: ClipModel, prompts: Sequence[str]
) -> tuple[Int[np.ndarray, "n s"], Bool[np.ndarray, "n s"]]:
    """Turn prompts into ids.

    A prompt that is too long is silently truncated before its end token. A shorter one is padded
    with the end token.

    Args:
      clip: from `load`.
      prompts: one or more.

    Returns:
      Ids, and a mask that is True for real tokens; s = 77 in published models.

    Raises:
      ValueError: there are no prompts.
    """
    if not prompts:
        raise ValueError("there are no prompts to make tokens of; give at least one.")
    encodings = clip.tokenizer.encode_batch(list(prompts))
    ids = np.array([encoding.ids for encoding in encodings], np.int32)
    return ids, np.array([encoding.attention_mask for encoding in encodings], bool)


def image_features(clip: ClipModel, x: Float[Array, "n h w 3"]) -> Float[Array, "n d"]:
    """Compute features of RGB images.

    Args:
      clip: from `load`.
      x: images in [-1, 1] of the network's size, `clip.sizes.pixels` on a side (224 in most).

    Returns:
      Vectors of unit length, in float32.

    Raises:
      ValueError: they are of another size.
    """
    sizes, params = clip.sizes, clip.params["image"]
    if x.shape[1:3] != (sizes.pixels, sizes.pixels):
        raise ValueError(
            f"This CLIP needs images of {sizes.pixels} x {sizes.pixels} pixels; these are of "
            f"{x.shape[1]} x {x.shape[2]}: resize them first."
        )
    with jax.default_matmul_precision("highest"):
        x = ((x.astype(jnp.float32) + 1) / 2 - _MEAN) / _DEVIATION
        x = layers.conv(x, params["patch"], stride=sizes.patch, padding="VALID")
        x = x.reshape(len(x), -1, sizes.image.width)
        first = jnp.broadcast_to(params["class"], (len(x), 1, sizes.image.width))
        x = jnp.concatenate([first, x], axis=1) + params["place"]
        x = _layer_norm(params["norm_before"], x, sizes.image.epsilon)
        x = _transformer(params["layers"], sizes.image, x, None)
        return _projected(params, sizes.image, x[:, 0])


def text_features(
    clip: ClipModel, ids: Int[Array, "n s"], mask: Bool[Array, "n s"]
) -> Float[Array, "n d"]:
    """Compute features of prompts.

    Args:
      clip: from `load`.
      ids: from `tokens`, or cut to fewer columns with all end tokens still in them.
      mask: True for tokens that may be attended to. Tokens after the end change nothing.

    Returns:
      Vectors of unit length, in float32.
    """
    sizes, params = clip.sizes, clip.params["text"]
    # argmax gives the first place: padding repeats the end token.
    end = jnp.argmax(ids if sizes.end is None else ids == sizes.end, axis=1)
    causal = jnp.tri(ids.shape[1], dtype=bool)
    with jax.default_matmul_precision("highest"):
        x = jnp.asarray(params["word"])[ids] + params["place"][: ids.shape[1]]
        x = _transformer(params["layers"], sizes.text, x, causal & mask[:, None, None, :])
        return _projected(params, sizes.text, x[jnp.arange(len(x)), end])


def _projected(params: Params, tower: Tower, x: Float[Array, "n i"]) -> Float[Array, "n d"]:
    y = _layer_norm(params["norm"], x, tower.epsilon) @ params["project"]
    return y / jnp.linalg.norm(y, axis=-1, keepdims=True)


def _transformer(
    stack: Params, tower: Tower, x: Float[Array, "n s d"], visible: Bool[Array, "n 1 s s"] | None
) -> Float[Array, "n s d"]:
    activation = _quick_gelu if tower.activation == "quick_gelu" else _gelu

    def step(x: Array, layer: Params) -> tuple[Array, None]:
        y = _layer_norm(layer["attention_norm"], x, tower.epsilon)
        x = x + _attention(layer, tower.heads, y, visible)
        y = _dense(layer["up"], _layer_norm(layer["norm"], x, tower.epsilon))
        return x + _dense(layer["down"], activation(y)), None

    return jax.lax.scan(step, x, stack)[0]


def _attention(
    layer: Params, heads: int, x: Float[Array, "n s d"], visible: Bool[Array, "n 1 s s"] | None
) -> Float[Array, "n s d"]:
    q, k, v = (
        _dense(layer[name], x).reshape(*x.shape[:2], heads, -1)
        for name in ("query", "key", "value")
    )
    y = jax.nn.dot_product_attention(q, k, v, mask=visible, implementation="xla")
    return _dense(layer["out"], y.reshape(x.shape))


def _dense(part: Params, x: Float[Array, "n s i"]) -> Float[Array, "n s o"]:
    return x @ part["weight"] + part["bias"]


def _layer_norm(part: Params, x: Float[Array, "n *s d"], epsilon: float) -> Float[Array, "n *s d"]:
    centered = x - x.mean(-1, keepdims=True)
    variance = jnp.mean(centered**2, -1, keepdims=True)
    return centered * jax.lax.rsqrt(variance + epsilon) * part["weight"] + part["bias"]


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _quick_gelu(x: Array) -> Array:
    return x * jax.nn.sigmoid(1.702 * x)
