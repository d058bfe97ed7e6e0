"""Distances between real features grow with what is done to the clips."""

import numpy as np
import pytest
import scipy.ndimage

from vidgen.evals import distances, networks
from vidgen.evals.clips import SourceClips
from vidgen.evals.collect import ClipBatch
from vidgen.sprites.sprites import Sprites
from vidgen.types import VideoShape

WAYS = {
    "noise": lambda x, level: x + level * np.random.default_rng(0).normal(size=x.shape) / 6,
    "blur": lambda x, level: scipy.ndimage.gaussian_filter(x, (0, 0, level, level, 0)),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_kernel_distance_grows_with_the_distortion(way):
    clips = SourceClips(source=Sprites(shape=VideoShape(frames=9, height=64, width=64)), count=4)
    real = np.stack([clips.read(number)[0] for number in range(4)])
    measurement = networks.kinetics_i3d().measurement("generated")

    def features(video):
        batch = ClipBatch(np.clip(video, -1, 1).astype(np.float32), None, [""] * len(video))
        return measurement.compute(batch)

    truth = features(real)
    found = [distances.kernel(features(WAYS[way](real, level)), truth) for level in (0.5, 2)]
    assert found[0] < found[1], found
