"""all-MiniLM-L6-v2: the default frozen text encoder, 22.7M parameters, real weights.

A post-norm BERT (Devlin et al. 2018) of 6 layers, width d = 384, 12 heads of 32, GELU with the
error function, distilled from a larger one (Wang et al. 2020) and tuned on sentence pairs. For
states x [b s d] and the mask m of real tokens:

    x ← LN(word[id] + place[i] + kind[0])
    x ← LN(x + W_o softmax(q kᵀ / √32 + log m) v)          q, k, v = W_q x, W_k x, W_v x
    x ← LN(x + W_2 gelu(W_1 x))                              six times

The states after the last layer are the token embeddings; [CLS] and [SEP] count as real tokens.
Everything runs in float32 with full-precision products, so that an embedding is the same on a CPU,
a GPU and a TPU to about 1e-5. The weights come from `vidgen.assets.downloads`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
import tokenizers
from jaxtyping import Array, Bool, Float, Int

from vidgen.assets import downloads
from vidgen.text import encoder
from vidgen.types import Params, TextEmbedding

LAYERS = 6
HEADS = 12
WIDTH = 384
MAX_LENGTH = 512  # rows of the learned position table
_LN_EPSILON = 1e-12

# Our name -> name in the file, inside one layer; each has a weight and a bias.
_LAYER_PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MiniLM:
    """The text encoder: prompts to the token states of all-MiniLM-L6-v2.

    Weights are located (fetched if need be), verified and loaded at the first call, once per
    process however many instances there are.

    Attributes:
      length: number of tokens that are kept of a prompt, [CLS] and [SEP] included; a word is about
        1.2 tokens.
    """

    length: int = 32

    def __post_init__(self) -> None:
        if not 3 <= self.length <= MAX_LENGTH:
            raise ValueError(
                f"MiniLM.length is {self.length}; it must lie in 3..{MAX_LENGTH} "
                "(two tokens mark the ends, and the network has 512 positions)."
            )

    @property
    def name(self) -> str:
        """The published name; the weights are pinned by their hash in `vidgen.assets.downloads`."""
        return "all-MiniLM-L6-v2"

    @property
    def dim(self) -> int:
        """Width of a token state."""
        return WIDTH

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        """Encode prompts by the network of this module; see `TextEncoder.__call__`.

        Raises:
          ValueError: there are no prompts.
          vidgen.assets.downloads.AssetError: the weights cannot be found or fetched.
        """
        encoder.require_prompts(prompts)
        ids, mask = self.tokenize(prompts)
        mesh, params = _params_on_device()
        # The caller may be inside `jax.set_mesh` of many devices; the encoder runs on one.
        with jax.set_mesh(mesh):
            arrays = jax.device_put((ids, mask), mesh.devices.item())
            tokens = _jitted_forward(params, *arrays)
        return encoder.host_embedding(np.asarray(jax.device_get(tokens)), mask)

    def tokenize(
        self, prompts: Sequence[str]
    ) -> tuple[Int[np.ndarray, "b s"], Bool[np.ndarray, "b s"]]:
        """Cut prompts into WordPiece ids, and pad or cut these to `length`.

        Args:
          prompts: one or more.

        Returns:
          The ids, [CLS] first and [SEP] last, 0 on padding; and True on real tokens, those two
          among them.

        Raises:
          vidgen.assets.downloads.AssetError: the vocabulary cannot be found or fetched.
        """
        encodings = _tokenizer(self.length).encode_batch(list(prompts))
        if any(encoding.overflowing for encoding in encodings):
            encoder.warn_truncated(self.name, self.length)
        ids = np.array([encoding.ids for encoding in encodings], np.int32)
        mask = np.array([encoding.attention_mask for encoding in encodings], bool)
        return ids, mask


def load_params(path: Path) -> Params:
    """Read the weights of the published file.

    Args:
      path: `model.safetensors`.

    Returns:
      The parameters of `forward`: products as [in out], the six layers stacked on the first axis.
    """
    flat = safetensors.numpy.load_file(path)

    def layer(index: int) -> dict[str, dict[str, np.ndarray]]:
        prefix = f"encoder.layer.{index}"
        return {ours: _pair(flat, f"{prefix}.{file}") for ours, file in _LAYER_PARTS.items()}

    layers = [layer(index) for index in range(LAYERS)]
    return {
        "word": flat["embeddings.word_embeddings.weight"],
        "place": flat["embeddings.position_embeddings.weight"],
        "kind": flat["embeddings.token_type_embeddings.weight"],
        "norm": _pair(flat, "embeddings.LayerNorm"),
        "layers": jax.tree.map(lambda *leaves: np.stack(leaves), *layers),
    }


def forward(
    params: Params, ids: Int[Array, "b s"], mask: Bool[Array, "b s"]
) -> Float[Array, "b s d"]:
    """Run the network (see the module's docstring).

    Args:
      params: the tree of `load_params`.
      ids: WordPiece ids.
      mask: True on real tokens.

    Returns:
      The states after the last layer, zero on padding.
    """
    place = params["place"][: ids.shape[1]]
    x = _layer_norm(params["norm"], params["word"][ids] + place + params["kind"][0])

    def step(x: Array, layer: Params) -> tuple[Array, None]:
        x = _layer_norm(layer["attention_norm"], x + _attention(layer, x, mask))
        hidden = jax.nn.gelu(_dense(layer["up"], x), approximate=False)
        return _layer_norm(layer["norm"], x + _dense(layer["down"], hidden)), None

    with jax.default_matmul_precision("highest"):
        x, _ = jax.lax.scan(step, x, params["layers"])
    return x * mask[..., None]


_jitted_forward = jax.jit(forward)


def _attention(
    layer: Params, x: Float[Array, "b s d"], mask: Bool[Array, "b s"]
) -> Float[Array, "b s d"]:
    b, s, d = x.shape
    q, k, v = (
        _dense(layer[name], x).reshape(b, s, HEADS, d // HEADS)
        for name in ("query", "key", "value")
    )
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(d // HEADS)
    # [CLS] is always real, so no row is without a key.
    weights = jax.nn.softmax(scores, where=mask[:, None, None, :], axis=-1)
    return _dense(layer["out"], jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, s, d))


def _dense(part: Params, x: Float[Array, "b s i"]) -> Float[Array, "b s o"]:
    return x @ part["weight"] + part["bias"]


def _layer_norm(part: Params, x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
    centered = x - x.mean(-1, keepdims=True)
    variance = jnp.mean(centered**2, -1, keepdims=True)
    return centered * jax.lax.rsqrt(variance + _LN_EPSILON) * part["weight"] + part["bias"]


def _pair(flat: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Read a weight and a bias; .T turns products, kept as [out in] in the file, not norms [d]."""
    return {"weight": flat[f"{name}.weight"].T, "bias": flat[f"{name}.bias"]}


@functools.cache
def _params_on_device() -> tuple[jax.sharding.Mesh, Params]:
    """Make a mesh of this process's first device alone, and put the weights on that device."""
    device = jax.local_devices()[0]
    mesh = jax.sharding.Mesh([device], ("encoder",))
    params = load_params(downloads.locate("minilm") / "model.safetensors")
    return mesh, jax.device_put(params, device)


@functools.cache
def _tokenizer(length: int) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_file(str(downloads.locate("minilm") / "tokenizer.json"))
    tokenizer.enable_truncation(length)  # the file's own settings are 128 and 128
    tokenizer.enable_padding(length=length)
    return tokenizer
