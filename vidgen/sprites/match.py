"""Sprite match: does a clip show what a caption says? Learned on the sprite videos alone.

Two small networks, one for video and one for text, into one space of unit vectors, trained like
CLIP (Radford et al. 2021) on the captioned videos of sprites/sprites.py by
benchmarks/sprite_match.py. It is not CLIP, and its numbers cannot be compared with CLIP's: it knows
sprites, plain backgrounds and how sprites move, and of anything else it says nothing. With v and e
unit vectors of a clip and a caption, the match is v · e, and p(caption | clip) = softmax(scale v ·
e) over captions.

    video   x [b 8 32 32 3] → patches of 4 x 4 → 4x4 /2 → + 3x3 → f [b 8 4 4 64]
            "what": mean and maximum of f over time and place;  "where": all of f, frame by frame,
            made small, then all frames at once, from which motion and growth are read
            [what, where] → join → v [b 64]
    text    token states of all-MiniLM-L6-v2 [b s 384] → a layer, token by token → mean and maximum
            over real tokens → e [b 64]

Each layer is relu(W x / √(mean x² + ε) + b), the mean over channels; stem and outputs are without
one or the other. Products have full precision, so that a match does not depend on the device.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vidgen.pretrained import layers
from vidgen.types import Params

FILE = Path(__file__).with_suffix(".npz")
SHA256 = "bdfa0d7224c45cabfc9736f926736cd11f88a5830a14b125a99a4363077c1904"
FRAMES, PIXELS = 8, 32  # of the clips that the network takes
WIDTH = 64  # of the common space
TEXT_WIDTH = 384  # of a token state of MiniLM
_EPSILON = 1e-6
_LAYERS = {  # name -> (inputs, outputs)
    "stem": (48, 48),
    "look": (16 * 48, 64),
    "see": (9 * 64, 64),
    "thin": (64, 24),
    "place": (16 * 24, 96),
    "move": (FRAMES * 96, 64),
    "shape": (64, 160),
    "join": (2 * 160 + 64, 128),
    "video": (128, WIDTH),
    "token": (TEXT_WIDTH, 128),
    "text": (2 * 128, WIDTH),
}


def load_params() -> Params:
    """The weights that come with the package: {layer: {kernel, bias}}, and "scale".

    Raises:
      ValueError: the file is not the one that this module was released with.
    """
    data = FILE.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"{FILE} has the sha256 {found[:12]}..., but this version of vidgen comes with "
            f"{SHA256[:12]}...: install vidgen again."
        )
    return read_params(data)


def read_params(data: bytes) -> Params:
    """The weights in a weight file (see train/weights.py), 8-bit kernels multiplied out."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: array.astype(np.float32) for name, array in file.items()}
    params: Params = {name: {} for name in _LAYERS}
    for name in _LAYERS:
        scale = arrays.get(f"{name}/kernel:largest", np.float32(127)) / 127
        params[name] = {"kernel": arrays[f"{name}/kernel"] * scale, "bias": arrays[f"{name}/bias"]}
    return params | {"scale": arrays["scale"]}


def init_params(key: jax.Array) -> Params:
    """Random weights to train from."""
    params: Params = {"scale": jnp.float32(14.0)}
    for name, (inputs, outputs) in _LAYERS.items():
        key, own = jax.random.split(key)
        kernel = jax.random.normal(own, (inputs, outputs)) / np.sqrt(inputs)
        params[name] = {"kernel": kernel, "bias": jnp.zeros(outputs)}
    return params


def video_features(params: Params, x: Float[Array, "b t h w 3"]) -> Float[Array, "b d"]:
    """Unit vectors of clips in [-1, 1] of exactly 8 frames of 32 x 32; resample others first.

    Raises:
      ValueError: clips of another size.
    """
    if x.shape[1:4] != (FRAMES, PIXELS, PIXELS):
        t, h, w = x.shape[1:4]
        raise ValueError(
            f"sprite match takes clips of {FRAMES} frames of {PIXELS} x {PIXELS}; these have {t} "
            f"of {h} x {w}: resample them first."
        )
    with jax.default_matmul_precision("highest"):
        b, t = x.shape[:2]
        y = jax.nn.relu(_dense(params["stem"], _patches(x.astype(jnp.float32), 4)))
        y = _conv(params["look"], y, window=4, stride=2)
        y = y + _conv(params["see"], y, window=3, stride=1)
        y = y.reshape(b, t, *y.shape[1:])
        where = _layer(params["thin"], y).reshape(b, t, -1)
        where = _layer(params["place"], where).reshape(b, -1)
        where = _layer(params["move"], where)
        what = _layer(params["shape"], y)
        joined = jnp.concatenate([what.mean((1, 2, 3)), what.max((1, 2, 3)), where], axis=-1)
        joined = _layer(params["join"], joined)
        return _unit(_dense(params["video"], joined))


def text_features(
    params: Params, tokens: Float[Array, "b s k"], mask: Bool[Array, "b s"]
) -> Float[Array, "b d"]:
    """Unit vectors of captions, from their token states by MiniLM; padding makes no difference.

    Raises:
      ValueError: the states are not of MiniLM's width.
    """
    if tokens.shape[-1] != TEXT_WIDTH:
        raise ValueError(
            f"sprite match reads token states of all-MiniLM-L6-v2, which are {TEXT_WIDTH} wide; "
            f"these have {tokens.shape[-1]}: encode the captions with text.minilm.MiniLM."
        )
    real = mask[..., None]
    with jax.default_matmul_precision("highest"):
        y = _layer(params["token"], tokens.astype(jnp.float32))
        # An empty caption has no token; it still has a vector.
        mean = jnp.where(real, y, 0).sum(1) / jnp.maximum(real.sum(1), 1)
        most = jnp.where(real, y, -1).max(1)
        return _unit(_dense(params["text"], _even(jnp.concatenate([mean, most], axis=-1))))


def _layer(layer: Params, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
    return jax.nn.relu(_dense(layer, _even(x)))


def _conv(
    layer: Params, x: Float[Array, "n h w i"], window: int, stride: int
) -> Float[Array, "n h2 w2 o"]:
    kernel = layer["kernel"].reshape(window, window, x.shape[-1], -1)
    y = layers.conv(_even(x), kernel, layer["bias"], stride=stride, padding=1)
    return jax.nn.relu(y)


def _dense(layer: Params, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
    return x @ layer["kernel"] + layer["bias"]


def _even(x: Float[Array, "*n i"]) -> Float[Array, "*n i"]:
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + _EPSILON)


def _unit(x: Float[Array, "*n i"]) -> Float[Array, "*n i"]:
    return x * jax.lax.rsqrt(jnp.sum(x**2, -1, keepdims=True) + _EPSILON**2)


def _patches(x: Float[Array, "b t h w c"], size: int) -> Float[Array, "n h2 w2 c2"]:
    """Squares of size x size pixels as the channels of one, frames as a batch."""
    h, w, c = x.shape[2:]
    x = x.reshape(-1, h // size, size, w // size, size, c).swapaxes(2, 3)
    return x.reshape(-1, h // size, w // size, size * size * c)
