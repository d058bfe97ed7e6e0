"""A chain of stages: do they fit, what sizes can it make, and what does each stage get to see?"""

import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet as tiny
from fake_models import FakeSampled

from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.cascade import STAGES, Cascade, stage_keys
from vidgen.imagen.conditioning import NoLowRes, SpatialUpsample, TemporalUpsample
from vidgen.imagen.stage import DiffusionStage
from vidgen.model import SampledModel
from vidgen.types import TextEmbedding, VideoShape

# Frames x height x width and rate of Imagen Video, fig. 6, and what multiplies them.
PUBLISHED = {
    "base": (16, 24, 40, 3.0, NoLowRes()),
    "tsr1": (32, 24, 40, 6.0, TemporalUpsample()),
    "ssr1": (32, 48, 80, 6.0, SpatialUpsample()),
    "ssr2": (32, 192, 320, 6.0, SpatialUpsample(factor=4)),
    "tsr2": (64, 192, 320, 12.0, TemporalUpsample()),
    "tsr3": (128, 192, 320, 24.0, TemporalUpsample()),
    "ssr3": (128, 768, 1280, 24.0, SpatialUpsample(factor=4)),
}


def published(*names):
    """Real stages at the published sizes; their networks are never run."""
    stages = []
    for name in names or PUBLISHED:
        frames, height, width, fps, conditioner = PUBLISHED[name]
        shape = VideoShape(frames=frames, height=height, width=width, fps=fps)
        network = tiny.network()  # a stride of 2
        stages.append(
            DiffusionStage(name=name, shape=shape, network=network, conditioner=conditioner)
        )
    return stages


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fake(FakeSampled):
    """Adds its weight and the sum of its text to what it is given, twice as many frames of it."""

    sampler: SamplerSpec = SamplerSpec()
    factor: int = 2
    seen: list = dataclasses.field(default_factory=list, compare=False)

    @property
    def input_shape(self):
        if self.factor == 1:
            return None
        frames, fps = self.shape.frames // self.factor, self.shape.fps / self.factor
        return dataclasses.replace(self.shape, frames=frames, fps=fps)

    def generate(self, params, text, low_res, keys, **options):
        self.seen.append({"low_res": low_res, "rows": len(keys), **options})
        noise = jax.vmap(lambda key: jax.random.normal(key, self.shape.thwc))(keys)
        low = 0.0 if low_res is None else jnp.repeat(low_res, self.factor, axis=1)
        shift = params["w"] + text.tokens.sum((1, 2))
        return low + 0.1 * noise + shift[:, None, None, None, None]


def fakes():
    """base and tsr1 of 2 and 4 frames."""
    shape = VideoShape(frames=2, height=2, width=3, fps=2.0)
    longer = dataclasses.replace(shape, frames=4, fps=4.0)
    return Cascade([Fake(shape=shape, factor=1), Fake(name="tsr1", shape=longer)])


def text(n=3):
    tokens = jnp.linspace(-1.0, 1.0, n)[:, None, None] * jnp.ones((n, 2, 4)) / 8
    return TextEmbedding(tokens=tokens, mask=jnp.ones((n, 2), bool))


def keys(n=3):
    return jax.random.split(jax.random.key(0), n)


def load(name):
    return {"w": jnp.float32(0.1 if name == "base" else 0.2)}


def sample(stage, params, text, low_res, keys, known):
    """One batch on the default device."""
    options = {} if known is None else {"known": jax.tree.map(jnp.asarray, known)}
    low_res = None if low_res is None else jnp.asarray(low_res)
    return stage.generate(params, jax.tree.map(jnp.asarray, text), low_res, keys, **options)


def generate(chain, words=None, draws=None, *, load=load, **options):
    """What `chain` makes, part by part; of three clips unless told otherwise."""
    words, draws = text() if words is None else words, keys() if draws is None else draws
    return chain.generate(load, words, draws, sample=sample, **options)


def made(chain, **options):
    """{stage: all its videos}."""
    found = {}
    for part in generate(chain, **options):
        found.setdefault(part.stage, []).append(part.video)
    return {name: np.concatenate(parts) for name, parts in found.items()}


# ---- do they fit ---------------------------------------------------------------------------------


def test_the_published_stages_fit():
    chain = Cascade(published())
    assert chain.names == STAGES == tuple(PUBLISHED)
    assert str(chain.shape) == "128x768x1280" and chain.input_shape is None
    assert chain.factors == (8, 32)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_real_stage_is_a_stage(name):
    (stage,) = published(name)
    assert isinstance(stage, SampledModel) and Cascade([stage]).shape == stage.shape


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("base", "ssr1"),
            "ssr1 takes clips of 32 frames of 24x40 at 6 fps, but base gives 16 frames of 24x40 "
            "at 3 fps: tsr1 is missing between them.",
        ),
        (("ssr1", "ssr3"), "ssr2 and tsr2 and tsr3 are missing between them."),
        (("tsr1", "base"), "stage base makes video from text alone; it cannot come after tsr1."),
        (("tsr2", "ssr1"), "but tsr2 gives 64 frames of 192x320 at 12 fps."),
        (("base", "base"), "the same name: base, base"),
    ],
)
def test_stages_that_do_not_fit(names, words):
    with pytest.raises(ValueError) as caught:
        Cascade(published(*names))
    assert words in str(caught.value)


def test_frame_rates_must_fit_too():
    base, tsr1 = published("base", "tsr1")
    slow = dataclasses.replace(tsr1, shape=dataclasses.replace(tsr1.shape, fps=5.0))
    with pytest.raises(ValueError, match=r"tsr1 .* 2\.5 fps.* base .* 3 fps"):
        Cascade([base, slow])


def test_a_stage_whose_factor_does_not_divide_its_own_clip():
    (ssr2,) = published("ssr2")
    odd = dataclasses.replace(ssr2, shape=dataclasses.replace(ssr2.shape, height=191))
    with pytest.raises(ValueError, match="stage ssr2: .*do not divide"):
        _ = Cascade([odd]).input_shape


def test_no_stage_at_all():
    with pytest.raises(ValueError, match="cascade .*one stage"):
        Cascade([])


def test_parts():
    chain = Cascade(published("ssr1", "ssr2", "tsr2"))
    assert chain.names == ("ssr1", "ssr2", "tsr2")
    assert str(chain.input_shape) == "32x24x40" and str(chain.shape) == "64x192x320"


# ---- sizes ---------------------------------------------------------------------------------------


def test_sizes_are_worked_back_from_the_end():
    chain = Cascade(published()).sized(frames=256, height=1024, width=2048)
    assert [str(stage.shape) for stage in chain.stages] == [
        *("32x32x64", "64x32x64", "64x64x128", "64x256x512"),
        *("128x256x512", "256x256x512", "256x1024x2048"),
    ]
    assert chain.shape.fps == 24.0
    assert Cascade(published()).sized() == Cascade(published())


def test_multiples_hold_factors_and_strides():
    assert Cascade(published()).multiples == (8, 64)  # the base needs even frames: 32 x 2
    assert Cascade(published("ssr2")).multiples == (1, 4)
    assert Cascade(published("base")).multiples == (1, 2)
    assert Cascade(published("ssr1", "ssr2")).multiples == (1, 8)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ({"frames": 100}, "100 frames: it must be a multiple of 8; nearest: 96 and 104"),
        ({"height": 100}, "100 pixels of height: it must be a multiple of 64; nearest: 64 and 128"),
        ({"width": 7}, "7 pixels of width: it must be a multiple of 64; nearest: 64."),
        ({"frames": -3}, "nearest: 8."),
    ],
)
def test_sizes_that_cannot_be_made(size, words):
    with pytest.raises(ValueError) as caught:
        Cascade(published()).sized(**size)
    assert words in str(caught.value)


# ---- sampling ------------------------------------------------------------------------------------


def test_each_stage_gets_the_clipped_video_of_the_one_before():
    chain = fakes()
    videos = made(chain)
    assert videos["base"].shape == (3, 2, 2, 3, 3) and videos["tsr1"].shape == (3, 4, 2, 3, 3)
    assert np.abs(videos["base"]).max() > 1  # or this test would see nothing
    given = chain.stages[1].seen[0]["low_res"]
    np.testing.assert_array_equal(given, np.clip(videos["base"], -1, 1))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_videos_do_not_depend_on_the_batch(batch_size):
    whole, chain = made(fakes()), fakes()
    videos = made(chain, batch_size={"base": batch_size, "tsr1": 2})
    for name, video in whole.items():
        np.testing.assert_array_equal(videos[name], video)
    # A last, smaller batch is filled up: one program a stage.
    assert {call["rows"] for call in chain.stages[0].seen} == {batch_size}


def test_a_part_makes_what_the_whole_would_have_made():
    chain = fakes()
    whole = made(chain)
    first = made(Cascade(chain.stages[:1]))
    second = made(Cascade(chain.stages[1:]), low_res=first["base"])
    np.testing.assert_array_equal(first["base"], whole["base"])
    np.testing.assert_array_equal(second["tsr1"], whole["tsr1"])


def test_every_stage_draws_noise_of_its_own():
    data = [np.asarray(jax.random.key_data(stage_keys(keys(), name))) for name in STAGES]
    assert len({row.tobytes() for rows in data for row in rows}) == 3 * len(STAGES)
    np.testing.assert_array_equal(data[0], jax.random.key_data(keys()))  # of the base: the clip's
    np.testing.assert_array_equal(data[1][0], PINNED_TSR1)


PINNED_TSR1 = [419755238, 4292612257]


def test_the_next_weights_are_loaded_while_a_stage_runs_and_the_former_are_gone():
    """Each stage begins to sample when the next one is being loaded, and not before."""
    shape = VideoShape(frames=2, height=2, width=3, fps=2.0)
    longer = [dataclasses.replace(shape, frames=n, fps=float(n)) for n in (2, 4, 8, 16)]
    names = ("base", "tsr1", "tsr2", "tsr3")
    chain = Cascade(
        [
            Fake(name=name, shape=clip, factor=2 if name != "base" else 1)
            for name, clip in zip(names, longer, strict=True)
        ]
    )
    begun = {name: threading.Event() for name in names}
    sampled = {name: threading.Event() for name in names}
    size, there = 1_000_003, {}  # no other array has this size

    def resident():
        return sorted(float(x[0]) for x in jax.live_arrays() if x.shape == (size,))

    def load_big(name):
        index = names.index(name)
        there[name] = resident()
        begun[name].set()
        # Of the stage that runs meanwhile: this load ends after its clips are made.
        assert index == 0 or sampled[names[index - 1]].wait(60)
        return load(name) | {"big": jnp.full(size, float(index))}

    def sample_big(stage, params, *arguments):
        index = names.index(stage.name)
        assert index == 3 or begun[names[index + 1]].wait(60)
        made = np.asarray(sample(stage, params, *arguments))
        assert float(params["big"][0]) == index
        sampled[stage.name].set()
        return made

    parts = list(chain.generate(load_big, text(), keys(), sample=sample_big))
    assert there == {"base": [], "tsr1": [0.0], "tsr2": [1.0], "tsr3": [2.0]}
    assert resident() == []
    low_res = None
    for stage, part in zip(chain.stages, parts, strict=True):  # the same to the bit, one by one
        (alone,) = generate(Cascade([stage]), low_res=low_res)
        np.testing.assert_array_equal(alone.video, part.video)
        low_res = np.clip(part.video, -1, 1)


def test_weights_that_cannot_be_loaded_stop_the_chain_after_the_stage_before():
    def load_first(name):
        if name == "tsr1":
            raise FileNotFoundError("no weights of tsr1")
        return load(name)

    parts = generate(fakes(), load=load_first)
    assert next(parts).stage == "base"
    with pytest.raises(FileNotFoundError, match="no weights of tsr1"):
        next(parts)


def test_videos_come_as_soon_as_they_are_made():
    chain = fakes()
    parts = generate(chain, batch_size={"base": 2})
    first = next(parts)
    assert (first.stage, first.start, len(first.video)) == ("base", 0, 2)
    assert len(chain.stages[0].seen) == 1
    assert [(p.stage, p.start, len(p.video)) for p in parts] == [("base", 2, 1), ("tsr1", 0, 3)]


def test_each_stage_may_have_its_own_encoder():
    texts = {"base": text(), "tsr1": jax.tree.map(jnp.zeros_like, text())}
    parts = list(generate(fakes(), texts.__getitem__))
    same = list(generate(fakes()))
    np.testing.assert_array_equal(parts[0].video, same[0].video)
    difference = same[1].video - parts[1].video
    wanted = np.broadcast_to(
        np.asarray(text().tokens.sum((1, 2)))[:, None, None, None, None], difference.shape
    )
    np.testing.assert_allclose(difference, wanted, atol=1e-6)


def test_known_content_is_made_for_the_size_of_each_stage():
    chain, asked = fakes(), []

    def known(shape):
        asked.append(shape)
        return np.full(shape.thwc, 0.5, np.float32), np.arange(shape.frames)[:, None, None] < 1

    list(generate(chain, known=lambda s: _whole(known(s)), batch_size={}))
    assert asked == [stage.shape for stage in chain.stages]
    for stage in chain.stages:
        seen = stage.seen[0]["known"]
        assert seen.video.shape == (3, *stage.shape.thwc)
        assert seen.mask.shape == (3, *stage.shape.thwc[:3], 1)
        assert seen.mask[:, 0].all() and not seen.mask[:, 1:].any()


def _whole(content):
    video, mask = content
    return video, np.broadcast_to(mask, video.shape[:3])


@pytest.mark.parametrize(
    ("first", "low_res", "words"),
    [
        ("base", np.zeros((3, 2, 2, 3, 3), np.float32), "stage base .*takes no video"),
        ("tsr1", None, "tsr1 .*2 frames of 2x3 at 2 fps; give one"),
        ("tsr1", np.zeros((3, 4, 2, 3, 3), np.float32), "tsr1 .*2 frames of .*not from 4x2x3"),
    ],
)
def test_a_wrong_video_to_start_from(first, low_res, words):
    chain = Cascade([stage for stage in fakes().stages if stage.name == first])
    with pytest.raises(ValueError, match=words):
        next(generate(chain, low_res=low_res))


def test_real_stages_with_known_frames_and_of_another_size():
    """Two diffusion stages, end to end, twice as wide as they were meant to be."""
    level = tiny.LevelSpec(width=8, blocks=1, text="attention", temporal="conv", head_dim=8)
    network = tiny.network((level,), cond_width=16, cond_layers=1, pool_queries=1)
    shape = VideoShape(frames=2, height=4, width=4, fps=2.0)
    large = dataclasses.replace(shape, height=8, width=8)
    settings = {"network": network, "sampler": SamplerSpec(kind="ddim", steps=2)}
    base = DiffusionStage(name="base", shape=shape, **settings)
    ssr1 = DiffusionStage(name="ssr1", shape=large, conditioner=SpatialUpsample(), **settings)
    chain = Cascade([base, ssr1]).sized(width=16)
    words = tiny.text(2)

    def init(name):
        (stage,) = (s for s in (base, ssr1) if s.name == name)
        spec = stage.batch_spec(2, 5, 12)
        return jax.tree.map(
            lambda x: 0.1 * tiny.normal(0, *x.shape),
            tiny.nn.meta.unbox(jax.eval_shape(stage.init, jax.random.key(0), spec)),
        )

    def known(shape):
        mask = np.zeros(shape.thwc[:3], bool)
        mask[0] = True
        return np.full(shape.thwc, 0.25, np.float32), mask

    parts = list(generate(chain, words, keys(2), load=init, known=known))
    assert [p.video.shape for p in parts] == [(2, 2, 4, 8, 3), (2, 2, 8, 16, 3)]
    for part in parts:
        np.testing.assert_allclose(part.video[:, 0], 0.25, atol=1e-6)
        assert np.isfinite(part.video).all() and np.abs(part.video[:, 1] - 0.25).max() > 0.1
