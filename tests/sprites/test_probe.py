"""The probe against clips whose truth is known."""

import dataclasses

import numpy as np
import pytest

from vidgen.data.video.transforms import to_float
from vidgen.sprites import probe
from vidgen.sprites.probe import Reading
from vidgen.sprites.scenes import BACKGROUNDS, MOTIONS
from vidgen.sprites.sprites import Sprites
from vidgen.types import VideoShape

SPRITES = Sprites(shape=VideoShape(frames=8, height=16, width=16), split="all")


def draw(triple, seed=0):
    scene = SPRITES.scene_of(*triple, np.random.default_rng(seed))
    return np.asarray(to_float(SPRITES.render(scene)))


def alone(subject):
    """Fewer candidates are quicker to compare, where the subject is not the question."""
    return dataclasses.replace(SPRITES, subjects=(subject,))


@pytest.fixture(scope="module")
def spread():
    """36 triples spread over all of them: of so many, one may be misread."""
    triples = SPRITES.triples("all")
    order = np.random.default_rng(0).permutation(len(triples))[:36]
    return [triples[i] for i in order]


@pytest.fixture(scope="module")
def readings(spread):
    return [probe.read(draw(triple, seed), SPRITES) for seed, triple in enumerate(spread)]


def test_true_clips_are_read_right(readings, spread):
    found = probe.accuracy(readings, spread)
    assert found["all"] >= 0.97
    assert found["background"] == 1.0


def test_error_tells_sprites_from_anything_else(readings):
    errors = [reading.error for reading in readings]
    assert max(errors) < 0.5
    assert np.median(errors) < 0.05
    noise = np.random.default_rng(0).uniform(-1, 1, (8, 16, 16, 3)).astype(np.float32)
    assert probe.read(noise, SPRITES).error > 0.5


@pytest.mark.parametrize(
    ("height", "width", "factor"),
    [(64, 128, 2), (100, 100, 2), (96, 64, 2), (67, 67, 1), (16, 16, 1)],
)
def test_a_large_clip_is_reduced_by_a_factor_that_divides_it(height, width, factor):
    rows = np.arange(height, dtype=np.float32)
    clip = np.broadcast_to(rows[:, None, None], (16, height, width, 3))
    small = probe.smaller(clip, pixels=32, frames=8)
    assert small.shape == (8, height // factor, width // factor, 3)
    expected = rows[::factor] + (factor - 1) / 2  # the mean of the rows that were joined
    np.testing.assert_array_equal(small[0, :, 0, 0], expected)


@pytest.mark.parametrize("motion", SPRITES.motions)
def test_one_frame_repeated_stands_still(motion):
    video = draw(("tiger", motion, "blue"))
    frozen = np.broadcast_to(video[4], video.shape).copy()
    assert probe.read(frozen, alone("tiger")).triple == ("tiger", "standing still", "blue")


@pytest.mark.parametrize(
    "motion, opposite",
    [
        ("moving left", "moving right"),
        ("moving up", "moving down"),
        ("growing", "shrinking"),
        ("standing still", "standing still"),
    ],
)
def test_a_clip_run_backwards_moves_the_other_way(motion, opposite):
    video = draw(("octopus", motion, "green"))
    assert probe.read(video, alone("octopus")).motion == motion
    assert probe.read(video[::-1].copy(), alone("octopus")).motion == opposite


def test_diagonals_are_read_where_they_are_candidates():
    both = dataclasses.replace(SPRITES, motions=tuple(MOTIONS), subjects=("crab",))
    for motion in tuple(MOTIONS)[7:]:
        scene = both.scene_of("crab", motion, "white", np.random.default_rng(1))
        video = np.asarray(to_float(both.render(scene)))
        assert probe.read(video, both).motion == motion


@pytest.mark.parametrize("background", SPRITES.backgrounds)
def test_backgrounds_are_told_apart_in_noise(background):
    rng = np.random.default_rng(0)
    video = draw(("star", "moving up", background))
    noisy = np.clip(video + 0.1 * rng.normal(size=video.shape), -1, 1).astype(np.float32)
    assert probe.read(noisy, alone("star")).background == background


def test_a_repainted_background_is_noticed():
    video = draw(("whale", "moving right", "red"))
    red, green = (np.asarray(to_float(np.uint8(BACKGROUNDS[name]))) for name in ("red", "green"))
    repainted = np.where(np.all(video == red, axis=-1, keepdims=True), green, video)
    found = probe.read(repainted, SPRITES)
    assert found.triple == ("whale", "moving right", "green")


def test_swapped_channels_are_noticed():
    video = draw(("frog", "moving right", "green"))
    found = probe.read(video[..., [0, 2, 1]], SPRITES)
    assert found.background != "green"
    assert found.error > 2 * probe.read(video, SPRITES).error


def test_another_size_than_the_candidates():
    big = VideoShape(frames=5, height=24, width=40)
    scene = SPRITES.scene_of("panda", "moving left", "pink", np.random.default_rng(2))
    video = np.asarray(to_float(SPRITES.render(scene, big)))
    assert probe.read(video, SPRITES).triple == ("panda", "moving left", "pink")


def test_accuracy_counts_each_part():
    triples = [("tiger", "moving up", "red"), ("frog", "moving up", "blue")]
    seen = [Reading("tiger", "moving up", "red", 0.0), Reading("frog", "moving up", "red", 0.0)]
    assert probe.accuracy(seen, triples) == {
        "subject": 1.0,
        "motion": 1.0,
        "background": 0.5,
        "all": 0.5,
    }


@pytest.mark.parametrize("count", [0, 2])
def test_accuracy_needs_one_truth_for_each_reading(count):
    readings = [Reading("tiger", "moving up", "red", 0.0)] * count
    with pytest.raises(ValueError, match=f"{count} readings for 1 true triples"):
        probe.accuracy(readings, [("tiger", "moving up", "red")])
