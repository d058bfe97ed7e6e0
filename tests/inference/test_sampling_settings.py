"""What a run changes of sampling, and controls that a model cannot take."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet as tiny
import token_fakes
from PIL import Image

from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.conditioning import SpatialUpsample
from vidgen.imagen.stage import DiffusionStage
from vidgen.inference.conditioning_inputs import Init
from vidgen.inference.generate import Generate
from vidgen.inference.sampling_settings import Sampling, at_strength, takes_negative
from vidgen.inference.stages import Stage
from vidgen.model import SampledModel
from vidgen.text.byte_encoder import ByteEncoder
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=2, height=4, width=4, fps=4.0)
ENCODER = ByteEncoder(dim=4, length=8)


class Loaded(Stage):
    """Needs no folder."""

    def check(self, step=None):
        pass

    def load(self, step=None, mesh=None):
        return {}


def stage(student=False, **changes):
    return DiffusionStage(
        network=tiny.network(tiny.ONE_LEVEL), guidance_input=student,
        **{"shape": SHAPE, "guidance": GuidanceSpec(weight=1.0)} | changes,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noting(DiffusionStage):
    """Keeps what it was given, and returns zeros."""

    calls: list = dataclasses.field(default_factory=list, compare=False, repr=False)

    def generate(self, params, text, low_res, keys, **more):
        self.calls.append({"text": text, "low_res": low_res, "model": self} | more)
        return jnp.zeros((len(keys), *self.shape.thwc))


def noting(**changes):
    settings = {"shape": SHAPE, "guidance": GuidanceSpec(weight=1.0)} | changes
    return Noting(network=tiny.network(tiny.ONE_LEVEL), **settings)


def run(tmp_path, *models, prompts=("a",), **settings):
    stages = [Loaded(model=m, text_encoder=ENCODER, model_dir=f"runs/{m.name}") for m in models]
    return Generate(stages=stages, prompts=prompts, output=str(tmp_path / "o.npy"), **settings)


# ---- settings ------------------------------------------------------------------------------------


def test_every_setting_reaches_its_part():
    asked = Sampling(
        sampler="heun", churn=30.0, resample=4, resample_jump=2, guidance_rescale=0.7,
        guidance_interval=(0.2, 1.6), guidance_parallel=0.0, guidance_norm=0.1,
        guidance_momentum=-0.5,
    )  # fmt: skip
    changed = asked.apply(stage())
    assert changed.sampler == SamplerSpec(kind="heun", churn=30.0, resample=4, resample_jump=2)
    assert changed.guidance == GuidanceSpec(
        weight=1.0, rescale=0.7, interval=(0.2, 1.6), parallel=0.0, norm=0.1, momentum=-0.5
    )
    assert Sampling().apply(stage()) == stage()


def test_a_setting_of_another_kind_of_model_is_refused():
    model = token_fakes.model()
    with pytest.raises(ValueError, match="--resample: maskgit .*no such setting"):
        Sampling(resample=3).apply(model)
    with pytest.raises(ValueError, match="--guidance_rescale: maskgit .*logits"):
        Sampling(guidance_rescale=0.7).apply(model)
    with pytest.raises(ValueError, match="--strength: maskgit .*no such setting"):
        at_strength(model, 0.5)
    assert Sampling(guidance_interval=(0.0, 0.5)).apply(model).guidance.interval == (0.0, 0.5)


def test_churn_of_another_sampler_is_told(caplog):
    Sampling(sampler="ddim", churn=3.0).apply(stage(name="ssr2"))
    (record,) = caplog.records
    assert record.message == "--churn has no effect on ssr2, whose sampler is ddim, not heun"


# ---- negative prompts ----------------------------------------------------------------------------


def test_a_negative_prompt_goes_to_the_stages_that_are_guided_by_it(tmp_path):
    base, later = noting(), noting(name="ssr1", guidance=GuidanceSpec(), conditioner=upsample())
    large = dataclasses.replace(later, shape=dataclasses.replace(SHAPE, height=8, width=8))
    run(tmp_path, base, large, prompts=("a", "", "b"), batch_size=2, negative="blurred")()
    texts = [call["negative"] for call in base.calls]
    expected = np.asarray(ENCODER(["blurred"]).tokens)
    assert [len(text.tokens) for text in texts] == [2, 2]
    for text in texts:
        np.testing.assert_array_equal(text.tokens, np.repeat(expected, 2, axis=0))
    assert [call.get("negative") for call in large.calls] == [None, None]


def test_an_empty_prompt_stays_guided_where_there_is_a_negative_one(tmp_path):
    for negative, unguided in ((None, True), ("blurred", False), (" ", True)):
        base = noting()
        run(tmp_path, base, prompts=("",), negative=negative)()
        assert base.calls[0]["model"].guidance.is_unguided == unguided


def upsample():
    return SpatialUpsample(factor=2)


def test_a_negative_prompt_that_changes_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--negative .*base .*--guidance=W"):
        run(tmp_path, stage(guidance=GuidanceSpec()), negative="blurred")
    with pytest.raises(ValueError, match="--negative: .*base .*distilled student"):
        run(tmp_path, stage(student=True), negative="blurred")
    assert takes_negative(stage()) and isinstance(stage(), SampledModel)


# ---- from the middle of the schedule -------------------------------------------------------------


def test_a_picture_is_the_beginning_of_every_clip(tmp_path):
    Image.fromarray(np.full((8, 8, 3), 204, np.uint8)).save(tmp_path / "in.png")
    base, init = noting(), Init(path=str(tmp_path / "in.png"))
    run(tmp_path, base, prompts=("a", "b"), init=init, strength=0.25)()
    (call,) = base.calls
    np.testing.assert_allclose(call["init"], np.full((2, *SHAPE.thwc), 0.6), atol=1e-3)
    assert call["model"].sampler.strength == 0.25 and call["low_res"] is None


def test_a_video_in_its_own_size(tmp_path):
    video = np.random.default_rng(0).uniform(-1, 1, (6, 8, 12, 3)).astype(np.float32)
    np.save(tmp_path / "in.npy", video)
    base, init = noting(), Init(path=str(tmp_path / "in.npy"), size="own")
    made = run(tmp_path, base, init=init, strength=0.5)
    assert str(made.chain.shape) == "6x8x12"
    made()
    np.testing.assert_array_equal(base.calls[0]["init"][0], video)


def test_a_cascade_starts_at_its_base_alone(tmp_path):
    np.save(tmp_path / "in.npy", np.zeros((2, 4, 4, 3), np.float32))
    base, later = noting(), noting(
        name="ssr1", conditioner=upsample(), shape=dataclasses.replace(SHAPE, height=8, width=8)
    )  # fmt: skip
    run(tmp_path, base, later, init=Init(path=str(tmp_path / "in.npy")), strength=0.5)()
    assert "init" in base.calls[0] and "init" not in later.calls[0]
    assert later.calls[0]["model"].sampler.strength == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strength": 0.5}, "--strength .*--init=FILE.*missing"),
        ({"strength": 1.0, "init": True}, "--strength is 1.0.* 0 and 1"),
        ({"strength": 0.0, "init": True}, "--strength is 0.0"),
        ({"init": True}, "--init .*--from=STAGE.*--strength=0.6"),
        ({"sampling": Sampling(resample=3)}, "--resample .*--inpaint, --first or --last"),
    ],
)
def test_wrong_settings_stop_before_anything_is_loaded(tmp_path, settings, words):
    np.save(tmp_path / "in.npy", np.zeros((2, 4, 4, 3), np.float32))
    if "init" in settings:
        settings = settings | {"init": Init(path=str(tmp_path / "in.npy"))}
    with pytest.raises(ValueError, match=words):
        run(tmp_path, stage(), **settings)


def test_strength_is_not_for_a_stage_that_starts_from_a_video(tmp_path):
    np.save(tmp_path / "in.npy", np.zeros((2, 4, 4, 3), np.float32))
    later = noting(
        name="ssr1", conditioner=upsample(), shape=dataclasses.replace(SHAPE, height=8, width=8)
    )
    with pytest.raises(ValueError, match="--strength .*ssr1 .*--init"):
        run(tmp_path, later, init=Init(path=str(tmp_path / "in.npy")), strength=0.5)


def test_controls_at_their_defaults_leave_a_clip_as_it_was():
    """Bit for bit, from the same program: settings that say the default and none at all."""
    model = stage(sampler=SamplerSpec(kind="ddim", steps=2))
    params = tiny.random_params(model.network, *tiny.inputs(t=2, h=4, w=4))
    off = Sampling(
        guidance_rescale=0.0,
        guidance_parallel=1.0,
        guidance_momentum=0.0,
        churn=0.0,
        resample=1,
        resample_jump=3,
    )
    keys, text = jax.random.split(jax.random.key(0), 2), tiny.text(2)
    clips = [
        np.asarray(one.generate(params, text, None, keys, on_step=lambda *_: None))
        for one in (model, off.apply(model))
    ]
    np.testing.assert_array_equal(*clips)
