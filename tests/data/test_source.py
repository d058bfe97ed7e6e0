"""What every source has without saying so, and how one is made ready for an evaluation."""

import dataclasses

import numpy as np
import pytest

from vidgen.data.source import BadExample, Example, Source, TokenExample, captioned
from vidgen.data.sources.images import Joint
from vidgen.data.sources.mixtures import Mixture
from vidgen.sprites.sprites import Sprites
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=3, height=4, width=4)
LARGE = VideoShape(frames=5, height=8, width=6)
STILL = dataclasses.replace(SHAPE, frames=1)
VIDEO = np.zeros(SHAPE.thwc, np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(Source):
    """Says nothing but what it has to."""

    shape: VideoShape = SHAPE

    def __len__(self):
        return 1

    def load(self, index, rng):
        raise BadExample("a.mp4", "damaged")


def test_a_source_of_three_members_has_the_others():
    source = Plain()
    assert source.captions_per_clip == 1 and list(source.stored_files) == []
    with pytest.raises(ValueError, match="Plain .*TEXT_ENCODER"):
        source.captions()
    assert source.for_evaluation(LARGE) == Plain(shape=LARGE)
    with pytest.raises(TypeError, match="load"):
        type("Half", (Source,), {"__len__": lambda self: 1})()


def test_sprites_are_evaluated_by_one_caption_for_what_they_show():
    source = Sprites(shape=SHAPE).for_evaluation(LARGE)
    assert (source.shape, source.templates) == (LARGE, 1)


def test_mixtures_are_evaluated_as_their_sources_are():
    mixture = Mixture(sources=[Sprites(shape=SHAPE), Plain()], rates=(1, 3)).for_evaluation(LARGE)
    assert mixture.shape == LARGE and mixture.rates == (1, 3)
    assert [source.shape for source in mixture.sources] == [LARGE, LARGE]
    assert mixture.sources[0].templates == 1


def test_of_a_joint_set_the_videos_are_evaluated_or_the_images():
    images = Sprites(shape=SHAPE, stills=True)
    joint = Joint(videos=Plain(), images=images, image_rate=0.5)
    assert joint.for_evaluation(LARGE) == Plain(shape=LARGE)
    still = joint.for_evaluation(dataclasses.replace(LARGE, frames=1))
    assert still.stills and still.shape.thwc == (1, 8, 6, 3)


def test_a_caption_is_drawn_and_the_others_are_kept():
    rng = np.random.default_rng(0)
    drawn = {captioned(VIDEO, ("a", "b"), rng).caption for _ in range(30)}
    assert drawn == {"a", "b"}
    assert captioned(VIDEO, ("a", "b"), rng).captions == ("a", "b")
    one = captioned(VIDEO, ("a",), rng)
    assert (one.caption, one.captions, one.first_caption) == ("a", (), "a")
    assert captioned(VIDEO, (), rng).caption == ""


def test_what_evaluations_and_batches_take_of_an_example():
    example = Example(video=VIDEO, caption="b", captions=("a", "b"))
    assert example.first_caption == "a" and list(example.content) == ["video"]
    assert Example(video=VIDEO, caption=("x", "y", "z")).first_caption == "x"
    tokens = TokenExample(tokens=np.zeros((1, 2, 2), np.int32), caption="")
    assert list(tokens.content) == ["tokens"]


def test_a_bad_example_names_its_file():
    bad = BadExample("a.mp4", "damaged")
    assert (bad.path, bad.reason, str(bad)) == ("a.mp4", "damaged", "a.mp4: damaged")
