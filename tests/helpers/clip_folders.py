"""Writes tiny folders of CLIP as Hugging Face does, with weights from a formula."""

import json

import closed_form
import numpy as np
import safetensors.numpy
import tokenizers
import torch_files
from tokenizers import models, normalizers, pre_tokenizers, processors

PIXELS, PATCH, LENGTH, DIM = 32, 8, 12, 24
TEXT = {
    "vocab_size": 72,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "max_position_embeddings": LENGTH,
}
IMAGE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": PIXELS,
    "patch_size": PATCH,
}
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
LETTERS = "abcdefghijklmnopqrstuvwxyz012'!"
MERGES = [("c", "a"), ("ca", "t</w>"), ("t", "h"), ("th", "e</w>")]


def config(end, activation="quick_gelu", epsilon=1e-5):
    shared = {"hidden_act": activation, "layer_norm_eps": epsilon}
    return {
        "model_type": "clip",
        "projection_dim": DIM,
        "text_config": TEXT | shared | {"eos_token_id": end, "bos_token_id": 0, "pad_token_id": 1},
        "vision_config": IMAGE | shared,
    }


def tokenizer(end_is_last):
    """Byte pairs as in CLIP: letters, letters that end a word, merges, and the two ends.

    The end is the largest id, as in the published ones, or the smallest but one.
    """
    ends = ["<|startoftext|>", "<|endoftext|>"]
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *map("".join, MERGES)]
    names = [*pieces, *ends] if end_is_last else [*ends, *pieces]
    vocabulary = {name: index for index, name in enumerate(names)}
    made = tokenizers.Tokenizer(
        models.BPE(vocabulary, MERGES, end_of_word_suffix="</w>", unk_token=ends[1])
    )
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = pre_tokenizers.Split(tokenizers.Regex(WORDS), "removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False)])
    start, end = ((name, vocabulary[name]) for name in ends)
    made.post_processor = processors.RobertaProcessing(end, start, False, False)
    made.add_special_tokens(ends)
    return made


def shapes():
    """Those of all tensors that Hugging Face writes."""
    found = {"logit_scale": ()}
    for name, tower in (("text_model", TEXT), ("vision_model", IMAGE)):
        d, hidden = tower["hidden_size"], tower["intermediate_size"]
        pairs = {f"self_attn.{part}_proj": (d, d) for part in ("q", "k", "v", "out")}
        pairs |= {"mlp.fc1": (hidden, d), "mlp.fc2": (d, hidden)}
        pairs |= {"layer_norm1": (d,), "layer_norm2": (d,)}
        for layer in range(tower["num_hidden_layers"]):
            for part, shape in pairs.items():
                prefix = f"{name}.encoder.layers.{layer}.{part}"
                found |= {f"{prefix}.weight": shape, f"{prefix}.bias": shape[:1]}
    text, image = TEXT["hidden_size"], IMAGE["hidden_size"]
    norms = {"text_model.final_layer_norm": text}
    norms |= {f"vision_model.{part}": image for part in ("pre_layrnorm", "post_layernorm")}
    for name, d in norms.items():
        found |= {f"{name}.weight": (d,), f"{name}.bias": (d,)}
    places = (PIXELS // PATCH) ** 2 + 1
    return found | {
        "text_model.embeddings.token_embedding.weight": (TEXT["vocab_size"], text),
        "text_model.embeddings.position_embedding.weight": (LENGTH, text),
        "vision_model.embeddings.class_embedding": (image,),
        "vision_model.embeddings.patch_embedding.weight": (image, 3, PATCH, PATCH),
        "vision_model.embeddings.position_embedding.weight": (places, image),
        "text_projection.weight": (DIM, text),
        "visual_projection.weight": (DIM, image),
    }


def state():
    """Tensors by name; the attention is sharp enough to matter."""
    return {name: _tensor(name, shape) for name, shape in shapes().items()}


def _tensor(name, shape):
    x = closed_form.scatter(name, shape)
    if name == "logit_scale":
        return np.asarray(x + 3, np.float32)
    if "norm" in name and name.endswith("weight"):
        return np.float32(1) + x / 2
    if "embedding" in name or len(shape) < 2:
        return x / 2
    return x * np.float32(3 / np.sqrt(np.prod(shape[1:])))


def write(folder, configuration, made, weights, as_torch=False):
    """config.json, tokenizer.json and the weights."""
    (folder / "config.json").write_text(json.dumps(configuration))
    made.save(str(folder / "tokenizer.json"))
    if as_torch:
        tensors = {name: torch_files.Tensor(x, x.shape) for name, x in weights.items()}
        # Old files hold the positions too.
        positions = torch_files.Tensor(np.arange(LENGTH), (1, LENGTH))
        tensors["text_model.embeddings.position_ids"] = positions
        torch_files.save(tensors, folder / "pytorch_model.bin")
    else:
        safetensors.numpy.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
