"""From known pixels to known tokens and back, with a tokenizer that loses nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_models import FakeTokenizer

from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.phenaki import generation
from vidgen.phenaki.decoding import DecodingSpec
from vidgen.phenaki.masked_model import MaskedVideoModel
from vidgen.phenaki.maskgit import MaskGIT
from vidgen.train.partitioning import unbox
from vidgen.types import Known, TextEmbedding, VideoShape

SHAPE = VideoShape(frames=5, height=4, width=8, channels=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks(FakeTokenizer):
    """Token = brightness of its first pixel: patches of 1 or 2 frames and 2 x 4 pixels, 4 codes."""

    shape: VideoShape = SHAPE

    def grid(self, frames, height, width):
        return (1 + (frames - 1) // 2, height // 2, width // 4)

    def encode(self, params, video):
        corners = video[:, :, ::2, ::4, 0]
        steps = jnp.concatenate([corners[:, :1], corners[:, 2::2]], axis=1)
        return jnp.round(steps * 2 + 1).astype(jnp.int32)

    def decode(self, params, tokens):
        video = jnp.concatenate([tokens[:, :1], jnp.repeat(tokens[:, 1:], 2, axis=1)], axis=1)
        video = jnp.repeat(jnp.repeat(video, 2, axis=2), 4, axis=3)
        return ((video - 1) / 2)[..., None].astype(jnp.float32)


@pytest.fixture(scope="module")
def setup():
    network = MaskGIT(codes=4, grid=(3, 2, 2), layers=1, width=16, heads=2, mlp=16)
    model = MaskedVideoModel(
        shape=SHAPE,
        tokenizer=Blocks(),
        network=network,
        sampler=DecodingSpec(steps=3),
        guidance=GuidanceSpec(weight=0.5),
    )
    shapes = model.batch_spec(2, 3, 5)
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    params = unbox(jax.jit(model.init)(jax.random.key(0), batch))
    tokens = jax.random.normal(jax.random.key(1), (2, 3, 5))
    text = TextEmbedding(tokens=tokens, mask=jnp.ones((2, 3), bool))
    return model, {"maskgit": params, "tokenizer": {}}, text


def content(mask):
    codes = np.random.default_rng(0).integers(0, 4, (2, 3, 2, 2))
    video = Blocks().decode({}, jnp.asarray(codes))
    return Known(video=video, mask=jnp.broadcast_to(jnp.asarray(mask), (2, *mask.shape[1:])))


def test_without_known_content_every_pixel_is_made(setup):
    model, params, text = setup
    video = model.generate(params, text, None, jax.random.split(jax.random.key(2)))
    assert video.shape == (2, *SHAPE.thwc)
    assert set(np.unique(video)) <= {-0.5, 0.0, 0.5, 1.0}


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_known_frames_come_out_as_they_went_in(setup, frames):
    model, params, text = setup
    mask = (np.arange(5) < frames)[None, :, None, None, None]
    known = content(mask)
    noise = known.video + 0.1 * jax.random.normal(jax.random.key(3), known.video.shape)
    known = known.replace(video=noise)  # no code is exactly this
    keys = jax.random.split(jax.random.key(2))
    video = model.generate(params, text, None, keys, known=known)
    np.testing.assert_array_equal(video[:, :frames], known.video[:, :frames])


def test_known_tokens_are_those_of_the_known_frames(setup, monkeypatch):
    model, params, text = setup
    seen = {}

    def sample_tokens(self, params, text, tokens, known, keys, *, on_step=None, negative=None):
        seen.update(tokens=np.asarray(tokens), known=np.asarray(known))
        return tokens

    monkeypatch.setattr(MaskedVideoModel, "sample_tokens", sample_tokens)
    mask = (np.arange(5) < 3)[None, :, None, None, None]
    known = content(mask)
    model.generate(params, text, None, jax.random.split(jax.random.key(2)), known=known)
    assert seen["known"][:, :2].all() and not seen["known"][:, 2:].any()
    codes = np.asarray(Blocks().encode({}, known.video))
    np.testing.assert_array_equal(seen["tokens"][:, :2], codes[:, :2])


def test_a_token_is_known_where_all_its_pixels_are():
    mask = np.ones((1, 5, 4, 8, 1), bool)
    mask[0, 4, 1, 5] = False  # second frame of the last time step, upper right patch
    mask[0, 0, 3, 0] = False  # first frame, lower left patch
    known = np.asarray(generation.known_tokens(jnp.asarray(mask), (3, 2, 2)))
    expected = np.ones((1, 3, 2, 2), bool)
    expected[0, 2, 0, 1] = expected[0, 0, 1, 0] = False
    np.testing.assert_array_equal(known, expected)
    one = np.asarray(generation.known_tokens(jnp.asarray(mask[:, :1]), (1, 2, 2)))
    np.testing.assert_array_equal(one, expected[:, :1])


def test_holes_are_filled_from_the_nearest_known_frame():
    video = jnp.arange(1.0, 6.0).reshape(1, 5, 1, 1, 1)
    mask = jnp.asarray([0, 1, 0, 0, 1], bool).reshape(video.shape)
    np.testing.assert_array_equal(generation.filled(video, mask).ravel(), [2, 2, 2, 2, 5])
    nothing = generation.filled(video, jnp.zeros_like(mask))
    np.testing.assert_array_equal(nothing, jnp.zeros_like(video))


def test_a_clip_does_not_depend_on_its_neighbours(setup):
    model, params, text = setup
    keys = jax.random.split(jax.random.key(5))
    both = model.generate(params, text, None, keys)
    alone = model.generate(params, jax.tree.map(lambda x: x[1:], text), None, keys[1:])
    np.testing.assert_array_equal(both[1:], alone)


def test_steps_are_told(setup):
    model, params, text = setup
    told = []
    keys = jax.random.split(jax.random.key(5))
    known = content((np.arange(5) < 3)[None, :, None, None, None])
    one_by_one = model.generate(params, text, None, keys, on_step=lambda *now: told.append(now))
    assert [now[:2] for now in told] == [(1, 3), (2, 3), (3, 3)]
    np.testing.assert_array_equal(told[-1][2](), one_by_one)  # the prediction is a clip
    told.clear()
    given = {"known": known, "on_step": lambda *now: told.append(now[2]())}
    model.generate(params, text, None, keys, **given)
    for predicted in told:
        np.testing.assert_array_equal(predicted[:, :3], known.video[:, :3])
    np.testing.assert_array_equal(one_by_one, model.generate(params, text, None, keys))
