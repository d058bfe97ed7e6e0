"""The sprite match: its weights, what it refuses, and what it tells apart that it never saw."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.data.video.transforms import to_float
from vidgen.sprites import grammar, match
from vidgen.sprites.scenes import BACKGROUNDS, MOTIONS
from vidgen.sprites.sprites import Sprites
from vidgen.text.minilm import MiniLM
from vidgen.train import weights
from vidgen.types import VideoShape

COUNT = 96
MIRRORED = {"moving left": "moving right", "moving up": "moving down", "growing": "shrinking"}


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(jnp.asarray, match.load_params())


@pytest.fixture(scope="module")
def networks(params):
    """Features of uint8 clips and of captions, as numpy."""
    video, text = jax.jit(match.video_features), jax.jit(match.text_features)
    encoder = MiniLM(length=20)

    def of_clips(clips):
        x = jax.image.resize(to_float(clips), (len(clips), 8, 32, 32, 3), "bilinear")
        return np.asarray(video(params, x))

    def of_captions(captions):
        encoded = encoder(captions)
        return np.asarray(text(params, jnp.asarray(encoded.tokens), jnp.asarray(encoded.mask)))

    return of_clips, of_captions


@pytest.fixture(scope="module")
def held_out(networks):
    """Triples that training never showed, the features of their clips and of their captions."""
    shape = VideoShape(frames=16, height=16, width=16, fps=3.0)
    sprites = Sprites(shape=shape, split="held_out")
    rng = np.random.default_rng(0)
    chosen = [sprites.triples("held_out")[i % len(sprites)] for i in range(COUNT)]
    scenes = [sprites.scene_of(*triple, rng) for triple in chosen]
    of_clips, of_captions = networks
    clips = np.stack([sprites.render(scene) for scene in scenes])
    return chosen, of_clips(clips), of_captions([sprites.caption(scene) for scene in scenes])


def matches(video, text):
    return np.sum(video * text, axis=-1)


def test_the_weights_are_those_of_the_release():
    data = match.FILE.read_bytes()
    assert hashlib.sha256(data).hexdigest() == match.SHA256
    assert len(data) < 400_000


def test_other_weights_are_refused(tmp_path, monkeypatch):
    damaged = bytearray(match.FILE.read_bytes())
    damaged[-1] ^= 1
    monkeypatch.setattr(match, "FILE", tmp_path / "sprite_match.npz")
    match.FILE.write_bytes(damaged)
    with pytest.raises(ValueError, match="install vidgen again"):
        match.load_params()


def test_a_weight_file_gives_back_what_was_written(tmp_path):
    params = jax.tree.map(np.asarray, match.init_params(jax.random.key(0)))
    found = match.read_params(weights.write(tmp_path, params, 1).read_bytes())
    assert jax.tree.structure(found) == jax.tree.structure(params)
    for name, layer in params.items():
        if name == "scale":
            np.testing.assert_array_equal(found[name], layer)
            continue
        np.testing.assert_array_equal(found[name]["bias"], layer["bias"])
        half_a_step = np.abs(layer["kernel"]).max(0) / 254
        assert (np.abs(found[name]["kernel"] - layer["kernel"]) <= half_a_step * 1.001).all()


def test_features_have_unit_length(params, held_out):
    _, video, text = held_out
    assert video.shape == text.shape == (COUNT, match.WIDTH)
    for features in (video, text):
        np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-5)
    plain = jax.jit(match.video_features)(params, jnp.zeros((1, 8, 32, 32, 3)))
    states = jnp.zeros((1, 4, 384)), jnp.zeros((1, 4), bool)
    empty = jax.jit(match.text_features)(params, *states)
    np.testing.assert_allclose([jnp.linalg.norm(plain), jnp.linalg.norm(empty)], 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 32, 32), (8, 16, 16), (8, 32, 64)])
def test_clips_of_another_size_are_refused(params, shape):
    with pytest.raises(ValueError, match=rf"these have {shape[0]} of {shape[1]} x {shape[2]}"):
        match.video_features(params, jnp.zeros((1, *shape, 3)))


def test_states_of_another_encoder_are_refused(params):
    with pytest.raises(ValueError, match="these have 512"):
        match.text_features(params, jnp.zeros((1, 4, 512)), jnp.ones((1, 4), bool))


def test_padding_of_text_makes_no_difference(params):
    tokens = jax.random.normal(jax.random.key(0), (3, 20, 384))
    lengths = jnp.array([5, 9, 12])
    short = jnp.arange(12) < lengths[:, None]
    long = jnp.arange(20) < lengths[:, None]
    np.testing.assert_allclose(
        match.text_features(params, tokens, long),
        match.text_features(params, jnp.where(short[..., None], tokens[:, :12], 9.0), short),
        atol=1e-6,
    )


# Measured: all of them, here and on 256 clips (benchmarks/sprite_match.py).
@pytest.mark.parametrize("axis", [0, 1, 2], ids=["subject", "motion", "background"])
def test_the_true_caption_beats_one_with_another_word(networks, held_out, axis):
    triples, video, text = held_out
    rng = np.random.default_rng(axis)
    names = (tuple(Sprites.subjects), tuple(MOTIONS)[:7], tuple(BACKGROUNDS))[axis]
    captions = []
    for triple in triples:
        other = [name for name in names if name != triple[axis]]
        changed = [*triple[:axis], other[rng.integers(len(other))], *triple[axis + 1 :]]
        captions.append(grammar.write(*changed, int(rng.integers(5))))
    wrong = networks[1](captions)
    assert np.mean(matches(video, text) > matches(video, wrong)) >= 0.95


def test_clips_find_their_captions_and_shuffled_ones_do_not(held_out):
    triples, video, text = held_out
    rng = np.random.default_rng(0)
    others = [[j for j, b in enumerate(triples) if b != a] for a in triples]
    rivals = np.stack([rng.permutation(row)[:16] for row in others])
    scores = np.take_along_axis(video @ text.T, rivals, axis=1)
    right = matches(video, text) > scores[:, 1:].max(1)
    shuffled = scores[:, 0] > scores[:, 1:].max(1)  # the caption of some other clip
    assert np.mean(right) >= 0.95  # measured: all
    # By chance 1 in 16 of them comes first; 96 clips have a standard error of 0.025.
    assert np.mean(shuffled) <= 1 / 16 + 3 * 0.025


def test_a_clip_played_backwards_shows_the_opposite_motion(networks):
    of_clips, of_captions = networks
    shape = VideoShape(frames=8, height=32, width=32, fps=1.5)
    sprites, rng = Sprites(shape=shape), np.random.default_rng(0)
    for motion, opposite in MIRRORED.items():
        scenes = [sprites.scene_of(name, motion, "green", rng) for name in sprites.subjects]
        clips = np.stack([sprites.render(scene) for scene in scenes])
        wanted = [
            of_captions([grammar.write(name, m, "green") for name in sprites.subjects])
            for m in (motion, opposite)
        ]
        for video, sign in ((of_clips(clips), 1), (of_clips(clips[:, ::-1]), -1)):
            margin = sign * (matches(video, wanted[0]) - matches(video, wanted[1]))
            assert np.mean(margin > 0) >= 0.75 and margin.mean() > 0.1, motion
