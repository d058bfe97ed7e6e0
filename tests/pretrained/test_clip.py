"""CLIP against Hugging Face's on tiny folders, and folders that are wrong.

The golden numbers are those of transformers 5.24 in PyTorch 2.13 and float64: "legacy" has the
wrong eos_token_id of the first published configurations, quick GELU and PyTorch's file; "named" has
an end token that is not the largest id, GELU, another epsilon and a safetensors file.

Tests of vidgen/pretrained/clip_files.py too.
"""

import dataclasses
import json

import clip_folders
import closed_form
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from places import FILES

from vidgen.pretrained import clip, clip_files, weight_files

GOLDEN = json.loads((FILES / "clip_golden.json").read_text())
PROMPTS = ["The cat", "a cat's 2 hats!", "the the the cat cat sat on a mat and then it ran off", ""]
CASES = {
    "legacy": (clip_folders.config(2), True, True),
    "named": (clip_folders.config(1, "gelu", 1e-2), False, False),
}


def write(folder, case="named", weights=None, **changes):
    configuration, end_is_last, as_torch = CASES[case]
    made = clip_folders.tokenizer(end_is_last)
    weights = clip_folders.state() if weights is None else weights
    return clip_folders.write(folder, configuration | changes, made, weights, as_torch)


def images():
    """A sawtooth along the diagonals, and noise."""
    shape = (clip_folders.PIXELS, clip_folders.PIXELS, 3)
    sawtooth = (np.indices(shape).sum(0) % 17) / 8 - 1
    return np.stack([sawtooth, closed_form.scatter("image", shape)]).astype(np.float32)


image_features, text_features = jax.jit(clip.image_features), jax.jit(clip.text_features)


@pytest.fixture(scope="module", params=CASES)
def loaded(request, tmp_path_factory):
    """A CLIP, and what Hugging Face's gives."""
    folder = write(tmp_path_factory.mktemp(request.param), request.param)
    return clip.load(folder), GOLDEN[request.param]


def test_tokens_are_those_of_hugging_face(loaded):
    model, golden = loaded
    ids, mask = clip.tokens(model, PROMPTS)
    np.testing.assert_array_equal(ids, golden["ids"])
    np.testing.assert_array_equal(mask.sum(1), golden["real"])
    assert mask[:, 0].all() and (np.diff(mask.astype(int)) <= 0).all()  # padding comes last


def test_features_are_those_of_hugging_face(loaded):
    model, golden = loaded
    image = image_features(model, images())
    text = text_features(model, *clip.tokens(model, PROMPTS))
    np.testing.assert_allclose(image[:, :6], golden["image"], atol=5e-6)
    np.testing.assert_allclose(text[:, :6], golden["text"], atol=5e-6)
    np.testing.assert_allclose(model.scale, golden["scale"], rtol=1e-6)
    np.testing.assert_allclose(model.scale * image @ text.T, golden["logits"], atol=1e-4)
    for feature in (image, text):
        np.testing.assert_allclose(jnp.linalg.norm(feature, axis=1), 1, rtol=1e-6)


def test_what_is_masked_is_not_attended_to(loaded):
    model, golden = loaded
    ids, mask = clip.tokens(model, PROMPTS)
    mask[:, 1] = False
    found = text_features(model, ids, mask)
    np.testing.assert_allclose(found[:, :6], golden["text_without_second"], atol=5e-6)


def test_what_follows_the_end_changes_nothing(loaded):
    model, _ = loaded
    ids, mask = clip.tokens(model, PROMPTS)
    expected = text_features(model, ids, mask)
    unmasked = text_features(model, ids, np.ones_like(mask))
    np.testing.assert_allclose(unmasked, expected, atol=1e-6)
    short = mask.sum(1) <= 4
    assert short.sum() == 2
    cut = text_features(model, ids[short, :4], mask[short, :4])
    np.testing.assert_allclose(cut, expected[short], atol=1e-6)


def test_weights_are_leaves_and_the_rest_is_static(loaded):
    model, _ = loaded
    size = sum(np.prod(shape, dtype=int) for shape in clip_folders.shapes().values())
    assert sum(leaf.size for leaf in jax.tree.leaves(model)) == size
    doubled = jax.tree.map(lambda x: 2 * x, model)
    assert doubled.sizes is model.sizes and doubled.tokenizer is model.tokenizer
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.params = {}


def test_images_of_another_size_are_refused(loaded):
    with pytest.raises(ValueError, match="32 x 32 .* 32 x 40:"):
        clip.image_features(loaded[0], jnp.zeros((1, 32, 40, 3)))


def test_no_prompts_are_refused(loaded):
    with pytest.raises(ValueError, match="no prompts"):
        clip.tokens(loaded[0], [])


def test_what_a_configuration_leaves_out_is_vit_b_32(tmp_path):
    (tmp_path / "config.json").write_text('{"text_config": {}, "vision_config": {}}')
    sizes = clip_files.read_sizes(tmp_path)
    assert (sizes.pixels, sizes.patch, sizes.length, sizes.dim) == (224, 32, 77, 512)
    assert (sizes.vocabulary, sizes.end) == (49408, 49407)
    assert (sizes.image.width, sizes.image.heads, sizes.text.width) == (768, 12, 512)
    assert sizes.text.activation == "quick_gelu"


def test_an_older_configuration_overrides_by_a_dict(tmp_path):
    """Large models of 2022 have their sizes in text_config_dict."""
    old = {"text_config": {"hidden_size": 512}, "text_config_dict": {"hidden_size": 768}}
    old |= {"vision_config": {}, "vision_config_dict": None, "projection_dim": 768}
    (tmp_path / "config.json").write_text(json.dumps(old))
    sizes = clip_files.read_sizes(tmp_path)
    assert (sizes.text.width, sizes.dim) == (768, 768)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    (write(tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        clip.load(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*/clip;"):
        clip.load(tmp_path / "clip")


def test_a_missing_tensor_is_named(tmp_path):
    weights = clip_folders.state()
    del weights["vision_model.encoder.layers.2.mlp.fc2.bias"]
    said = r"no CLIP .*vision_model\.encoder\.layers\.2\.mlp\.fc2\.bias .* \(32,\), .*missing"
    with pytest.raises(weight_files.WeightFileError, match=said):
        clip.load(write(tmp_path, weights=weights))


def changed(part, **values):
    return {part: CASES["named"][0][part] | values}


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            {"projection_dim": 32},
            r"visual_projection\.weight .*\(32, 32\), .*\(2",
        ),
        (
            changed("vision_config", patch_size=16),
            r"patch_embedding\.weight .*\(32, 3, 16, 16",
        ),
        (
            changed("vision_config", image_size=None),
            r"config\.json, image_size is None;",
        ),
        (changed("text_config", hidden_act="relu"), "'relu'; .* quick_gelu or gelu"),
        (changed("text_config", num_attention_heads=7), "7 heads .* 40;"),
        (changed("text_config", eos_token_id=5), r"another model's tokenizer: .*the end 5\."),
        (changed("text_config", vocab_size=60), " 68 tokens .* 60,"),
        ({"vision_config": "vit"}, r"config\.json .*no CLIP"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(tmp_path, changes, said):
    with pytest.raises(weight_files.WeightFileError, match=said):
        clip.load(write(tmp_path, **changes))


@pytest.mark.parametrize(
    "name, said",
    [
        ("config.json", "describes no CLIP"),
        ("tokenizer.json", "is no tokenizer"),
        ("model.safetensors", "is not a safetensors"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, said):
    (write(tmp_path) / name).write_text("hello")
    with pytest.raises(weight_files.WeightFileError, match=f"{name} {said}"):
        clip.load(tmp_path)
