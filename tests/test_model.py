"""What models declare, and the defaults of what they leave out."""

import dataclasses

import jax.numpy as jnp
import pytest
from fake_models import FakeSampled, FakeTokenizer

from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.distillation import Distillation
from vidgen.imagen.stage import DiffusionStage
from vidgen.model import Generator, Model, SampledModel, Student, TokenizerModel
from vidgen.phenaki.critic import CriticModel
from vidgen.phenaki.masked_model import MaskedVideoModel
from vidgen.phenaki.tokenizer import VideoTokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled(FakeSampled):
    sampler: SamplerSpec = SamplerSpec(steps=3)

    def generate(self, params, text, low_res, keys, *, on_step=None, known=None):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("cls", "kinds"),
    [
        (DiffusionStage, {Model, Generator, SampledModel}),
        (MaskedVideoModel, {Model, Generator, SampledModel}),
        (Distillation, {Model, Generator, Student}),
        (CriticModel, {Model}),
        (VideoTokenizer, {Model, TokenizerModel}),
    ],
)
def test_what_the_models_of_the_papers_can_do(cls, kinds):
    declared = {Model, Generator, SampledModel, Student, TokenizerModel}
    assert {kind for kind in declared if issubclass(cls, kind)} == kinds


def test_the_defaults_of_what_a_model_leaves_out():
    model = Sampled(guidance=GuidanceSpec(weight=2.0, low=1.0, threshold="static"))
    assert model.frozen_networks == {} and model.merge_params({"w": 1}, None) == {"w": 1}
    assert (model.input_shape, model.operators, model.published_parameters) == (None, None, None)
    assert (model.stride, model.patch_time, model.lacks_single_frames) == (1, 1, False)
    assert model.degrade(jnp.zeros((1, 2, 4, 4, 3))) is None
    assert model.without_guidance().guidance == GuidanceSpec(weight=0.0, threshold="static")


def test_a_model_must_say_what_it_is_declared_to_do():
    with pytest.raises(TypeError, match="generate"):
        FakeSampled(sampler=SamplerSpec())


def test_a_tokenizer_reconstructs_by_its_halves():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Signs(FakeTokenizer):
        def encode(self, params, video):
            return (video[..., 0] > 0).astype(jnp.int32)

        def decode(self, params, tokens):
            return jnp.repeat(2.0 * tokens[..., None] - 1.0, 3, axis=-1)

    video = jnp.linspace(-0.9, 0.8, 8).reshape(1, 1, 2, 4, 1).repeat(3, axis=-1)
    assert (Signs().reconstruct(None, video) == jnp.sign(video)).all()
