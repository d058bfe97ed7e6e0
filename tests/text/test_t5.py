"""T5 1.1: equal to transformers' encoder, from every layout of weights, and its tokens.

Tests of vidgen/text/t5_files.py, vidgen/text/t5_network.py too.
"""

import json
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import t5_folders
import torch_files

from vidgen.text.encoder import CachedEncoder
from vidgen.text.t5 import T5
from vidgen.text.t5_files import T5FileError, T5Files, fingerprint
from vidgen.text.t5_network import SIZES, Size, T5Encoder
from vidgen.types import TextEncoder

FOUND = t5_folders.arrays()
IDS = t5_folders.IDS
LENGTH = max(map(len, IDS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return t5_folders.write_safetensors(tmp_path_factory.mktemp("t5") / "hf", FOUND)


def tiny(path, **settings):
    return T5(**{"path": str(path), "size": t5_folders.TINY, "length": LENGTH} | settings)


def padded(length=LENGTH):
    ids = np.zeros((len(IDS), length), np.int32)
    for row, values in enumerate(IDS):
        ids[row, : len(values)] = values
    return jnp.asarray(ids), jnp.asarray(ids != 0)


def states(encoder, length=LENGTH):
    ids, mask = padded(length)
    found = jax.jit(encoder.network.apply)({"params": encoder.load()}, ids, mask)
    return np.asarray(found), np.asarray(mask)


def test_equals_transformers_and_does_not_see_padding(folder):
    golden = json.loads(t5_folders.GOLDEN.read_text())["states"]
    for length in (LENGTH, LENGTH + 9):
        found, mask = states(tiny(folder), length)
        assert not found[~mask].any()
        for row, wanted in enumerate(golden):
            np.testing.assert_allclose(found[row][: len(wanted)], wanted, atol=1e-4)


def write_bin(folder, shards):
    folder.mkdir()
    table = {}
    for n, names in enumerate(np.array_split(list(FOUND), shards)):
        file = f"pytorch_model-{n + 1:05}-of-{shards:05}.bin" if shards > 1 else "pytorch_model.bin"
        state = {str(k): torch_files.Tensor(FOUND[k], FOUND[k].shape) for k in names}
        torch_files.save(state, folder / file)
        table |= {str(name): file for name in names}
    if shards > 1:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": table}))
    return folder


LAYOUTS = {
    "shards": lambda path: t5_folders.write_safetensors(path, FOUND, shards=3),
    "bin": lambda path: write_bin(path, 1),
    "bin shards": lambda path: write_bin(path, 2),
    "t5x": lambda path: t5_folders.write_t5x(path, FOUND),
    "t5x inline": lambda path: t5_folders.write_t5x(
        path, FOUND, inline=("encoder.encoder_norm.scale", "token_embedder.embedding")
    ),
    "orbax": lambda path: t5_folders.write_t5x(path, FOUND, ocdbt=True),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_weights(folder, tmp_path, layout):
    path = LAYOUTS[layout](tmp_path / "weights")
    jax.tree.map(np.testing.assert_array_equal, tiny(path).load(), tiny(folder).load())


def test_bfloat16_keeps_norms_and_distances(folder):
    encoder = tiny(folder, dtype="bfloat16")
    kept = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.dtype.name
        for path, leaf in jax.tree_util.tree_leaves_with_path(encoder.load())
    }
    assert kept["layers/gate/kernel"] == kept["embedding"] == "bfloat16"
    assert kept["layers/mlp_norm/scale"] == kept["norm/scale"] == kept["distance/bias"] == "float32"
    half, mask = states(encoder)
    full, _ = states(tiny(folder))
    assert half.dtype == np.float32
    np.testing.assert_allclose(half[mask], full[mask], atol=0.15)
    assert np.abs(half - full)[mask].mean() < 0.02


def test_softmax_and_norms_are_float32_in_bfloat16(folder):
    encoder = tiny(folder, dtype="bfloat16")
    ids, mask = padded()
    program = jax.make_jaxpr(encoder.network.apply)({"params": encoder.load()}, ids, mask)
    text = str(program)
    for name in ("exp", "rsqrt"):
        kinds = set(re.findall(rf":(\w+)\[[^\]]*\] = {name} ", text))
        assert kinds == {"f32"}, (name, kinds)


@pytest.mark.parametrize(
    ("size", "count"),
    [("small", 35_332_800), ("base", 109_628_544), ("large", 341_231_104)]
    + [("xl", 1_223_527_424), ("xxl", 4_762_310_656)],
)
def test_published_sizes(size, count):
    shapes = T5(size=size, length=4).boxed_params()
    assert sum(np.prod(x.shape, dtype=int) for x in jax.tree.leaves(shapes)) == count
    assert SIZES[size].parameters == count


def test_published_tokens(folder):
    prompts = ["translate English to German: That is good.", ""]
    encoder = tiny(folder, length=14)
    ids, mask = encoder.tokenize(prompts)
    assert ids[0].tolist() == [13959, 1566, 12, 2968, 10, 466, 19, 207, 5, 1, 0, 0, 0, 0]
    assert ids[1].tolist() == [1] + [0] * 13
    assert mask.sum(1).tolist() == [10, 1]
    cut, mask = tiny(folder, length=4).tokenize(prompts)
    assert cut[0].tolist() == [13959, 1566, 12, 1] and mask[0].all()  # the end is kept


def test_prompts_to_states(folder, monkeypatch):
    encoder = tiny(folder, length=8)
    assert isinstance(encoder, TextEncoder)
    # The tiny table has 64 rows; the published vocabulary has 32,000 pieces.
    real = T5.tokenize

    def small(self, prompts):
        ids, mask = real(self, prompts)
        return ids % t5_folders.TINY.vocabulary, mask

    monkeypatch.setattr(T5, "tokenize", small)
    both = encoder(["a tiger moving right", ""])
    alone = encoder([""])
    assert both.tokens.shape == (2, 8, 24) and both.tokens.dtype == np.float32
    assert np.abs(both.tokens[0][both.mask[0]]).min() > 0 and not both.tokens[~both.mask].any()
    np.testing.assert_allclose(both.tokens[1], alone.tokens[0], atol=1e-5)
    cached = CachedEncoder(encoder=encoder)
    assert (cached.dim, cached.length, cached.name) == (24, 8, encoder.name)
    np.testing.assert_allclose(
        cached(["a tiger moving right"]).tokens[0], both.tokens[0], atol=1e-5
    )


def test_a_name_tells_weights_from_others(folder, tmp_path):
    other = t5_folders.write_safetensors(tmp_path / "other", t5_folders.arrays(seed=1))
    same = t5_folders.write_safetensors(tmp_path / "same", FOUND)
    (same / "README.md").write_text("of no weight")
    assert fingerprint(same) == fingerprint(folder) != fingerprint(other)
    assert tiny(folder).name == f"t5-v1_1-own-float32-{fingerprint(folder)}"
    assert T5().name == "t5-v1_1-xxl-float32-without-weights"  # a plan has none
    assert isinstance(T5(), TextEncoder)
    assert T5(path=str(folder), size="small", dtype="bfloat16").name.startswith(
        "t5-v1_1-small-bfloat16-"
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": "huge"}, "T5.size is 'huge'.*small, base, large, xl, xxl"),
        ({"dtype": "float16"}, "T5.dtype is 'float16'.*float32, bfloat16"),
        ({"length": 0}, "T5.length is 0"),
    ],
)
def test_wrong_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        T5(**settings)


def test_weights_that_are_not_there(tmp_path, folder):
    with pytest.raises(T5FileError, match="download google/t5-v1_1-xxl .* T5_DIR"):
        T5()(["a tiger"])
    with pytest.raises(T5FileError, match="T5_DIR: .*no folder .*none"):
        T5(path=str(tmp_path / "none")).load()
    with pytest.raises(T5FileError, match=r"no weights.*\*\.safetensors.*pytorch_model"):
        T5(path=str(tmp_path)).load()
    with pytest.raises(T5FileError, match=r"T5.size is small, .*width=512.*holds .*width=24"):
        T5(path=str(folder), size="small").load()


def test_what_is_no_t5(tmp_path):
    ungated = {n.replace("wi_0", "wi"): x for n, x in FOUND.items() if "wi_1" not in n}
    with pytest.raises(T5FileError, match=r"wi_0\.weight \(T5 1\.0 "):
        T5Files(t5_folders.write_safetensors(tmp_path / "ungated", ungated))
    cut = t5_folders.write_safetensors(tmp_path / "cut", FOUND) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-9])
    with pytest.raises(T5FileError, match=r"model\.safetensors .*whole safetensors"):
        T5Files(cut.parent)
    shards = t5_folders.write_safetensors(tmp_path / "shards", FOUND, shards=2)
    (shards / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(T5FileError, match="lacks model-00002-of-00002.safetensors"):
        T5Files(shards)


def test_published_bfloat16_and_tied_tables_are_read(folder, tmp_path):
    path = tmp_path / "half"
    path.mkdir()
    half = {n: np.asarray(jnp.asarray(x, jnp.bfloat16)) for n, x in FOUND.items()}
    half["encoder.embed_tokens.weight"] = half.pop("shared.weight")
    safetensors.numpy.save_file(half, path / "model.safetensors")
    for wanted, leaf in zip(
        jax.tree.leaves(tiny(folder).load()), jax.tree.leaves(tiny(path).load()), strict=True
    ):
        np.testing.assert_allclose(leaf, wanted, rtol=2**-8)


def test_no_scale_in_the_attention():
    """With one head and keys that differ, logits are q·k and not q·k/√d."""
    size = Size(width=4, layers=1, heads=1, mlp=4, head_dim=4, vocabulary=3)
    network = T5Encoder(size=size)
    ids, mask = jnp.asarray([[1, 2]]), jnp.ones((1, 2), bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        params = jax.tree.map(lambda x: x * 0, network.init(jax.random.key(0), ids, mask))
    params = jax.tree.map(lambda x: x.value if hasattr(x, "value") else x, params)
    eye = jnp.eye(4)
    table = jnp.asarray([[0, 0, 0, 0], [1, 1, 1, 1], [1, -1, 1, -1]], jnp.float32)  # rms 1
    layer = {"query": eye, "key": eye, "value": eye}
    inside = {n: {"kernel": k.reshape(1, 4, 1, 4)} for n, k in layer.items()}
    inside |= {"out": {"kernel": eye.reshape(1, 1, 4, 4)}}
    inside |= {n: {"kernel": jnp.zeros((1, 4, 4))} for n in ("gate", "up", "down")}
    inside |= {n: {"scale": jnp.ones((1, 4))} for n in ("attention_norm", "mlp_norm")}
    tree = {"embedding": table, "layers": inside, "norm": {"scale": jnp.ones(4)}}
    tree["distance"] = {"bias": jnp.zeros((1, 32))}
    found = network.apply({"params": tree}, ids, mask)[0, 0]
    weight = np.exp(4) / (np.exp(4) + 1)  # logits 4 and 0
    x = table[1] + weight * table[1] + (1 - weight) * table[2]
    np.testing.assert_allclose(found, x / np.sqrt(np.mean(x**2)), atol=1e-5)


@pytest.mark.multidevice
def test_over_a_mesh(on_devices, tmp_path):
    """Every large array lies in parts; three prompts, no multiple of eight, come out the same."""
    found = on_devices(8, "t5_on_devices.py", str(tmp_path / "weights"))
    assert found["difference"] < 1e-5 < found["largest"]
    parts = {
        name: np.prod(whole, dtype=int) // np.prod(part, dtype=int)
        for name, (whole, part) in found["shards"].items()
    }
    kernels = {name: count for name, count in parts.items() if name.endswith("kernel")}
    assert len(kernels) == 7 and set(kernels.values()) == {8}
    assert parts["embedding"] == 8
