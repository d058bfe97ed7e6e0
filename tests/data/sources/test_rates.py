"""Clips at rates that are drawn: what they show, and what batches say of them."""

import dataclasses

import numpy as np
import pytest
from toy_training import ToyEncoder

from vidgen.data.pipeline import Pipeline
from vidgen.data.source import Example, Source
from vidgen.data.sources.mixtures import Mixture
from vidgen.data.sources.rates import Rates
from vidgen.sprites.sprites import Sprites
from vidgen.train.batches import encode_batch
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=4, height=2, width=2, fps=8.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clock(Source):
    """Frame k shows the time k/fps in 32nds of a second."""

    shape: VideoShape = SHAPE
    size: int = 5

    def __len__(self):
        return self.size

    def captions(self):
        return iter(["a"] * self.size)

    def load(self, index, rng):
        time = np.arange(self.shape.frames) / self.shape.fps * 32
        video = np.broadcast_to(time[:, None, None, None], self.shape.thwc)
        return Example(video=video.astype(np.uint8), caption="a")


def test_each_clip_is_cut_at_the_rate_that_it_names():
    rates = Rates(source=Clock(), fps=(2.0, 8.0, 16.0))
    rng = np.random.default_rng(0)
    found = [rates.load(i % 5, rng) for i in range(300)]
    for example in found:
        assert example.video[:, 0, 0, 0].tolist() == [int(k * 32 / example.fps) for k in range(4)]
    shares = [np.mean([example.fps == fps for example in found]) for fps in rates.fps]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.08)


def test_it_is_the_source_otherwise():
    rates = Rates(source=Clock(), fps=(2.0,))
    assert (len(rates), list(rates.captions()), rates.shape) == (5, ["a"] * 5, SHAPE)
    assert rates.captions_per_clip == 1 and rates.stored_files == ()
    small = VideoShape(frames=2, height=2, width=2, fps=4.0)
    assert rates.for_evaluation(small) == Clock(shape=small)


def test_batches_name_the_rates_and_those_of_other_sources_do_not():
    def batch(source):
        iterator = Pipeline(source=source, batch_size=6).iterator()
        found = encode_batch(next(iterator), ToyEncoder())
        iterator.close()
        return found

    found = batch(Rates(source=Clock(), fps=(2.0, 16.0)))
    assert found.fps.dtype == np.float32 and found.fps.shape == (6,)
    assert set(found.fps.tolist()) == {2.0, 16.0}
    assert batch(Clock()).fps is None


def test_sprites_of_a_length_in_time_move_less_at_a_higher_rate():
    shape = VideoShape(frames=4, height=16, width=16, fps=4.0)
    sprites = Sprites(shape=shape, duration=1.0, motions=("moving right",))
    slow, fast = (
        dataclasses.replace(sprites, shape=dataclasses.replace(shape, fps=fps)).frame_time
        for fps in (4.0, 8.0)
    )
    assert slow == 2 * fast
    with pytest.raises(ValueError, match=r"duration .*1\.0 s, .* 2 s"):
        Rates(source=sprites, fps=(2.0, 4.0))


@pytest.mark.parametrize("fps", [(), (0.0,), (8.0, -1.0), (float("inf"),)])
def test_wrong_rates_are_explained(fps):
    with pytest.raises(ValueError, match=r"Rates\.fps is \(.*positive"):
        Rates(source=Clock(), fps=fps)


@pytest.mark.parametrize("source", [Mixture(sources=[Clock()]), 3])
def test_a_source_without_a_shape_of_its_own_is_refused(source):
    with pytest.raises(ValueError, match=f"Rates.source .* {type(source).__name__};"):
        Rates(source=source, fps=(8.0,))
