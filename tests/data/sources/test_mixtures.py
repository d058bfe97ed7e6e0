"""Mixtures: the rates, and independence of processes and of restarts."""

import collections
import dataclasses

import numpy as np
import pytest

from vidgen.data.pipeline import Pipeline
from vidgen.data.source import Example, Source
from vidgen.data.sources.images import Joint
from vidgen.data.sources.mixtures import Mixture
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=3, height=2, width=2)
STILL = dataclasses.replace(SHAPE, frames=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named(Source):
    """Example i has the caption "name i"."""

    name: str
    count: int = 10
    shape: VideoShape = SHAPE

    def __len__(self):
        return self.count

    def load(self, index, rng):
        return Example(video=np.zeros(self.shape.thwc, np.uint8), caption=f"{self.name} {index}")


def drawn(source, count, seed=0):
    rng = np.random.default_rng(seed)
    return [source.load(i, rng) for i in range(count)]


def test_rates():
    mixture = Mixture(sources=[Named(name=n) for n in "abc"], rates=(8, 0, 2))
    assert isinstance(mixture, Source) and (len(mixture), mixture.shape) == (30, SHAPE)
    counts = collections.Counter(example.caption[0] for example in drawn(mixture, 4000))
    assert set(counts) == {"a", "c"}
    assert counts["a"] / 4000 == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / 4000))


def test_without_rates_all_examples_are_alike():
    mixture = Mixture(sources=[Named(name="a", count=1), Named(name="b", count=3)])
    counts = collections.Counter(example.caption for example in drawn(mixture, 4000))
    assert len(counts) == 4
    for count in counts.values():
        assert count / 4000 == pytest.approx(0.25, abs=4 * np.sqrt(0.19 / 4000))


def test_videos_and_two_sets_of_images():
    """Phenaki's 80/10/10, all in batches of one shape with a caption for each frame."""
    images = Mixture(sources=[Named(name=n, shape=STILL) for n in "ij"], rates=(0.5, 0.5))
    joint = Joint(videos=Named(name="v"), images=images, image_rate=0.2)
    counts = collections.Counter()
    for example in drawn(joint, 3000):
        packed = not isinstance(example.caption, str)
        counts.update([caption[0] for caption in example.caption] if packed else "vvv")
    total = sum(counts.values())
    for name, share in (("v", 0.8), ("i", 0.1), ("j", 0.1)):
        assert counts[name] / total == pytest.approx(share, abs=0.03)
    assert Mixture(sources=[joint, Named(name="w")]).captions_per_clip == 3


def test_processes_and_restarts_change_nothing():
    source = Mixture(sources=[Named(name="a"), Named(name="b")], rates=(1, 3))
    pipeline = Pipeline(source=source, batch_size=4, seed=1)
    one = pipeline.iterator()
    whole = [next(one)["caption"] for _ in range(8)]
    for count in (2, 4):
        parts = [pipeline.iterator(process=(p, count)) for p in range(count)]
        for batch in whole:
            shared = [next(part)["caption"] for part in parts]
            assert sum(shared, []) == batch
    again = pipeline.iterator()
    for _ in range(3):
        next(again)
    restarted = pipeline.iterator()
    restarted.set_states([again.get_state()])
    assert [next(restarted)["caption"] for _ in range(5)] == whole[3:]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sources": ()}, "sources is empty"),
        ({"sources": (Named(name="a"), 3)}, r"sources\[1\] is 3, .*no source"),
        ({"sources": (Named(name="a", count=0),)}, r"sources\[0\] is empty"),
        (
            {"sources": (Named(name="a"), Named(name="b", shape=STILL))},
            r"sources\[1\] .* 1x2x2 .* 3x2x2",
        ),
        ({"rates": (1,)}, "rates .* 1 .* 2 sources"),
        ({"rates": (1, -1)}, r"rates is \(1, -1\); .*>= 0"),
        ({"rates": (0, 0)}, r"rates is \(0, 0\); .*not all 0"),
    ],
)
def test_wrong_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        Mixture(**{"sources": (Named(name="a"), Named(name="b"))} | settings)
