"""A tiny T5 1.1 with random weights, in every layout in which the large ones are published.

Run as a script, with torch and transformers installed, it writes what transformers' T5EncoderModel
makes of it to t5_golden.json: `python tests/helpers/t5_folders.py`.
"""

import json
import pathlib

import numpy as np
import safetensors.numpy
from places import FILES

from vidgen.text.t5_network import Size

GOLDEN = FILES / "t5_golden.json"
TINY = Size(width=24, layers=3, heads=3, mlp=40, head_dim=10, vocabulary=64)
IDS = [[5, 9, 63, 2, 17, 1, 0, 0, 0, 0, 0, 0], [7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
IDS += [[int(i) for i in 2 + np.arange(30) % 60] + [1]]  # distances in shared buckets


def arrays(size=TINY, seed=0):
    """Hugging Face's names and layouts; the decoder's are left out, as in an encoder's file."""
    rng = np.random.default_rng(seed)
    inner = size.heads * size.head_dim
    found = {"shared.weight": rng.normal(size=(size.vocabulary, size.width))}
    for i in range(size.layers):
        block = f"encoder.block.{i}.layer"
        for name in "qkv":
            found[f"{block}.0.SelfAttention.{name}.weight"] = (
                rng.normal(size=(inner, size.width)) / 6
            )
        found[f"{block}.0.SelfAttention.o.weight"] = rng.normal(size=(size.width, inner)) / 6
        found[f"{block}.0.layer_norm.weight"] = rng.uniform(0.5, 1.5, size.width)
        found[f"{block}.1.layer_norm.weight"] = rng.uniform(0.5, 1.5, size.width)
        for name in ("wi_0", "wi_1"):
            found[f"{block}.1.DenseReluDense.{name}.weight"] = (
                rng.normal(size=(size.mlp, size.width)) / 5
            )
        found[f"{block}.1.DenseReluDense.wo.weight"] = rng.normal(size=(size.width, size.mlp)) / 6
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    found[bias] = rng.normal(size=(32, size.heads))
    found["encoder.final_layer_norm.weight"] = rng.uniform(0.5, 1.5, size.width)
    return {name: value.astype(np.float32) for name, value in found.items()}


def config(size=TINY):
    """Hugging Face's config.json."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "d_model": size.width,
        "d_ff": size.mlp,
        "d_kv": size.head_dim,
        "num_layers": size.layers,
        "num_heads": size.heads,
        "vocab_size": size.vocabulary,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }


def write_safetensors(folder, found, shards=1, size=TINY):
    """One file, or an index and several."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(size)))
    if shards == 1:
        safetensors.numpy.save_file(found, folder / "model.safetensors", {"format": "pt"})
        return folder
    table = {}
    for n, names in enumerate(np.array_split(list(found), shards)):
        file = f"model-{n + 1:05}-of-{shards:05}.safetensors"
        safetensors.numpy.save_file({str(k): found[k] for k in names}, folder / file)
        table |= {str(name): file for name in names}
    index = {"metadata": {}, "weight_map": table}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def t5x_arrays(found, size=TINY):
    """The same arrays by t5x's names, as [in out]."""
    names = {
        "layer.0.layer_norm.weight": "pre_attention_layer_norm.scale",
        "layer.1.layer_norm.weight": "pre_mlp_layer_norm.scale",
    }
    names |= {
        f"layer.0.SelfAttention.{a}.weight": f"attention.{b}.kernel"
        for a, b in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out"))
    }
    names |= {
        f"layer.1.DenseReluDense.{n}.weight": f"mlp.{n}.kernel" for n in ("wi_0", "wi_1", "wo")
    }
    out = {
        "token_embedder.embedding": found["shared.weight"],
        "encoder.encoder_norm.scale": found["encoder.final_layer_norm.weight"],
        "encoder.relpos_bias.rel_embedding": found[
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ].T,
        "decoder.decoder_norm.scale": np.ones(size.width, np.float32),  # is not read
    }
    for i in range(size.layers):
        for theirs, ours in names.items():
            out[f"encoder.layers_{i}.{ours}"] = found[f"encoder.block.{i}.{theirs}"].T
    return out


def write_t5x(folder, found, ocdbt=False, inline=()):
    """A checkpoint as t5x leaves it: specs in msgpack, a zarr array a parameter; or orbax's."""
    import tensorstore
    from flax import serialization

    folder.mkdir(parents=True, exist_ok=True)
    tree = {}
    for name, value in t5x_arrays(found).items():
        value = np.ascontiguousarray(value)
        path, node = f"target.{name}", tree
        *parents, last = name.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
        if name in inline:
            continue
        store = {"driver": "file", "path": f"{folder}/{path}"}
        if ocdbt:
            store = {"driver": "ocdbt", "base": f"file://{folder}/", "path": path}
        chunks = [-(-n // 2) for n in value.shape]
        spec = {"driver": "zarr", "kvstore": store}
        spec["metadata"] = {
            "shape": list(value.shape),
            "chunks": chunks,
            "dtype": "<f4",
            "compressor": {"id": "gzip", "level": 1},
        }
        tensorstore.open(spec, create=True).result().write(value).result()
        spec["kvstore"] = {"driver": "gfile", "path": path}
        node[last] = spec
    if not ocdbt:
        state = {"version": 3, "optimizer": {"target": tree, "state": {"step": np.int32(7)}}}
        (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(state))
    return folder


def main():
    """Writes the golden file."""
    import tempfile

    import torch
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        write_safetensors(pathlib.Path(folder), arrays())
        model = transformers.T5EncoderModel.from_pretrained(folder).eval()
    states = []
    for row in IDS:
        ids = torch.tensor([row])
        with torch.no_grad():
            out = model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state[0]
        states.append(np.asarray(out)[: sum(i != 0 for i in row)].round(6).tolist())
    GOLDEN.write_text(json.dumps({"transformers": transformers.__version__, "states": states}))


if __name__ == "__main__":
    main()
