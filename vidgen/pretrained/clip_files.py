"""A CLIP as Hugging Face keeps it in a folder: sizes, weights, tokenizer.

config.json        sizes; what it leaves out is as in openai/clip-vit-base-patch32
model.safetensors  weights, or pytorch_model.bin, which is read without running what is in it
tokenizer.json     byte-pair encoding with a start and an end token
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tokenizers

from vidgen.pretrained import weight_files
from vidgen.pretrained.weight_files import WeightFileError
from vidgen.types import Params

ACTIVATIONS = ("quick_gelu", "gelu")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that exists
_BOTH = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_hidden_layers": 12}
_TEXT = _BOTH | {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
_TEXT |= {"vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407}
_IMAGE = _BOTH | {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
_IMAGE |= {"image_size": 224, "patch_size": 32}
# Published configurations had this number whatever the tokenizer's was; it means "the largest id".
_WRONG_END = 2

# Our name -> name in the file, inside one layer; each has a weight and a bias.
_NORMS = {"attention_norm": "layer_norm1", "norm": "layer_norm2"}
_PRODUCTS = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tower:
    """The sizes of one of the two transformers.

    Attributes:
      width: d of its states.
      hidden: width inside its MLPs.
      layers: number of layers.
      heads: number of attention heads; it divides the width.
      activation: the activation of its MLPs, one of `ACTIVATIONS`.
      epsilon: the epsilon of its normalizations.
    """

    width: int
    hidden: int
    layers: int
    heads: int
    activation: str
    epsilon: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """The content of config.json.

    Attributes:
      image: the transformer over patches.
      text: the causal transformer over tokens.
      pixels: height and width of an image.
      patch: height and width of a patch in pixels.
      vocabulary: number of token ids.
      length: tokens of a prompt, start and end among them.
      end: id of the token whose state is the prompt's; None: the largest id in the prompt.
      dim: d of the features.
    """

    image: Tower
    text: Tower
    pixels: int
    patch: int
    vocabulary: int
    length: int
    end: int | None
    dim: int


def read_sizes(folder: Path) -> Sizes:
    """Read the sizes of a CLIP.

    Args:
      folder: has a config.json; what that leaves out is as in openai/clip-vit-base-patch32.

    Returns:
      The sizes of both transformers.

    Raises:
      FileNotFoundError: the folder or the file is missing.
      WeightFileError: it does not describe a CLIP with a vision transformer.
    """
    path = _file(folder, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        image, text = (
            defaults | config[f"{name}_config"] | (config.get(f"{name}_config_dict") or {})
            for name, defaults in (("vision", _IMAGE), ("text", _TEXT))
        )
    except (ValueError, KeyError, TypeError) as error:
        raise WeightFileError(
            f"{path} describes no CLIP, which has a vision_config and a text_config; give the "
            "folder that openai/clip-vit-base-patch32 (or another) was downloaded to."
        ) from error
    end = _count(text, "eos_token_id", path)
    return Sizes(
        image=_tower(image, path),
        text=_tower(text, path),
        pixels=_count(image, "image_size", path),
        patch=_count(image, "patch_size", path),
        vocabulary=_count(text, "vocab_size", path),
        length=_count(text, "max_position_embeddings", path),
        end=None if end == _WRONG_END else end,
        dim=_count({"projection_dim": 512} | config, "projection_dim", path),
    )


def weights_file(folder: Path) -> Path:
    """Find the file of weights in a folder.

    Args:
      folder: the folder of the model.

    Returns:
      The first of `WEIGHTS` that exists.

    Raises:
      FileNotFoundError: there is none.
    """
    return _file(folder, *WEIGHTS)


def read_params(folder: Path, sizes: Sizes) -> Params:
    """Read the weights of a CLIP.

    Args:
      folder: the folder of the model.
      sizes: from `read_sizes`.

    Returns:
      A tree of numpy arrays in float32: products as [in out], layers of a tower stacked.

    Raises:
      FileNotFoundError: there is no weight file.
      WeightFileError: a tensor is missing or does not fit the sizes, or the file is damaged.
    """
    tensors = _Tensors(weights_file(folder))
    d, e = sizes.image.width, sizes.text.width
    places = (sizes.pixels // sizes.patch) ** 2 + 1
    image, text = "vision_model.embeddings", "text_model.embeddings"
    kernel = tensors.read(f"{image}.patch_embedding.weight", d, 3, sizes.patch, sizes.patch)
    return {
        "image": {
            "patch": kernel.transpose(2, 3, 1, 0),
            "class": tensors.read(f"{image}.class_embedding", d),
            "place": tensors.read(f"{image}.position_embedding.weight", places, d),
            "norm_before": tensors.pair("vision_model.pre_layrnorm", d),
            "layers": tensors.layers("vision_model", sizes.image),
            "norm": tensors.pair("vision_model.post_layernorm", d),
            "project": tensors.read("visual_projection.weight", sizes.dim, d).T,
        },
        "text": {
            "word": tensors.read(f"{text}.token_embedding.weight", sizes.vocabulary, e),
            "place": tensors.read(f"{text}.position_embedding.weight", sizes.length, e),
            "layers": tensors.layers("text_model", sizes.text),
            "norm": tensors.pair("text_model.final_layer_norm", e),
            "project": tensors.read("text_projection.weight", sizes.dim, e).T,
        },
        "logit_scale": tensors.read("logit_scale"),
    }


def read_tokenizer(folder: Path, sizes: Sizes) -> tokenizers.Tokenizer:
    """Read the tokenizer of a CLIP.

    Args:
      folder: has a tokenizer.json.
      sizes: from `read_sizes`.

    Returns:
      The tokenizer, set to truncate between its ends and to pad with the end.

    Raises:
      FileNotFoundError: there is no tokenizer.json.
      WeightFileError: it is damaged, or does not fit the sizes.
    """
    path = _file(folder, "tokenizer.json")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise WeightFileError(f"{path} is no tokenizer ({error}).") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ends = tokenizer.encode("").ids
    ids, end = tokenizer.get_vocab_size(), sizes.end
    if len(ends) != 2 or ids > sizes.vocabulary or end not in (None, ends[-1]):
        raise WeightFileError(
            f"{path} is another model's tokenizer: it has {ids} tokens and makes {ends} of an "
            f"empty prompt; by config.json there are at most {sizes.vocabulary}, and a prompt has "
            f"a start and {'an end' if end is None else f'the end {end}'}."
        )
    tokenizer.enable_truncation(sizes.length)
    tokenizer.enable_padding(
        length=sizes.length, pad_id=ends[-1], pad_token=tokenizer.id_to_token(ends[-1])
    )
    return tokenizer


class _Tensors:
    """The tensors of one file, checked against the shapes that are asked for."""

    def __init__(self, path: Path) -> None:
        self._path, self._tensors = path, weight_files.read_tensors(path)

    def read(self, name: str, *shape: int) -> np.ndarray:
        kind = "CLIP of the sizes in config.json"
        return weight_files.expect(self._tensors, name, shape, path=self._path, kind=kind)

    def pair(self, name: str, *shape: int) -> dict[str, np.ndarray]:
        """Read weight and bias of a normalization [d], or of a product ([out in] in the file)."""
        weight = self.read(f"{name}.weight", *shape)
        return {"weight": weight.T, "bias": self.read(f"{name}.bias", shape[0])}

    def layers(self, name: str, tower: Tower) -> Params:
        d, shapes = tower.width, {"up": (tower.hidden, tower.width)}
        shapes["down"] = (tower.width, tower.hidden)

        def layer(index: int) -> dict[str, dict[str, np.ndarray]]:
            prefix = f"{name}.encoder.layers.{index}"
            norms = {ours: self.pair(f"{prefix}.{file}", d) for ours, file in _NORMS.items()}
            return norms | {
                ours: self.pair(f"{prefix}.{file}", *shapes.get(ours, (d, d)))
                for ours, file in _PRODUCTS.items()
            }

        stack = [layer(index) for index in range(tower.layers)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *stack)


def _tower(config: Mapping[str, Any], path: Path) -> Tower:
    activation = config["hidden_act"]
    if activation not in ACTIVATIONS:
        raise WeightFileError(
            f"{path} asks for the activation {activation!r}; a CLIP is read with "
            f"{' or '.join(ACTIVATIONS)}."
        )
    width = _count(config, "hidden_size", path)
    heads = _count(config, "num_attention_heads", path)
    if width % heads:
        raise WeightFileError(
            f"in {path}, {heads} heads do not divide a width of {width}; no CLIP is like that."
        )
    return Tower(
        width=width,
        hidden=_count(config, "intermediate_size", path),
        layers=_count(config, "num_hidden_layers", path),
        heads=heads,
        activation=activation,
        epsilon=config["layer_norm_eps"],
    )


def _count(config: Mapping[str, Any], name: str, path: Path) -> int:
    value = config[name]
    if not isinstance(value, int) or value < 1:
        raise WeightFileError(
            f"in {path}, {name} is {value!r}; it must be a whole number of at least 1."
        )
    return value


def _file(folder: Path, *names: str) -> Path:
    """Return the first of these files that exists."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}; give the one that a CLIP of Hugging Face, such as "
            "openai/clip-vit-base-patch32, was downloaded to."
        )
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{folder} has no {' or '.join(names)}; a CLIP is read from config.json, tokenizer.json "
        f"and {' or '.join(WEIGHTS)}: download the whole folder."
    )
