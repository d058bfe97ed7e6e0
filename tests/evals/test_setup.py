"""What an evaluation asks of a stage where its data is pictures."""

import pytest

from vidgen.evals import setup
from vidgen.imagen.conditioning import SpatialUpsample, TemporalUpsample
from vidgen.imagen.denoiser import DenoisingNetwork
from vidgen.imagen.stage import DiffusionStage
from vidgen.inference.sampling_settings import Sampling
from vidgen.inference.stages import Stage
from vidgen.sprites.sprites import Sprites
from vidgen.text.byte_encoder import ByteEncoder
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=4, height=8, width=8)
PICTURE = VideoShape(frames=1, height=8, width=8)


class Unused(DenoisingNetwork):
    """Stands for a network that is not run."""

    def init(self, rngs, *args, **kwargs):
        raise NotImplementedError

    def apply(self, variables, *args, **kwargs):
        raise NotImplementedError


def task(monkeypatch, data, conditioner, **changes):
    """What restores clips of this shape."""
    monkeypatch.setattr(Stage, "check", lambda self, step: None)
    monkeypatch.setattr(Stage, "load", lambda self, step: None)
    monkeypatch.setattr(Stage, "identity", lambda self, params: "of no weights")
    model = DiffusionStage(name="sr", shape=SHAPE, network=Unused(), conditioner=conditioner)
    encoder = ByteEncoder(dim=4, length=8)
    stage = Stage(model=model, text_encoder=encoder, model_dir="m")
    source = Sprites(shape=data)
    subject = setup.EvalModel(model=model, text_encoder=encoder, source=source)
    return setup.choose_task(subject, [stage], None, "m", Sampling(**changes), None)


def test_a_stage_restores_pictures_one_by_one(monkeypatch):
    spatial, temporal = SpatialUpsample(factor=2), TemporalUpsample(factor=2)
    assert task(monkeypatch, SHAPE, spatial).shape.frames == 4
    single = task(monkeypatch, PICTURE, spatial, steps=3)
    assert single.shape.thwc == (1, 8, 8, 3) and single.stage.model.sampler.steps == 3
    assert task(monkeypatch, SHAPE, temporal).shape.frames == 4
    with pytest.raises(ValueError, match="sr .*pictures"):
        task(monkeypatch, PICTURE, temporal)
