"""The frame at which a film changes, in closed form and in films whose truth is known."""

import numpy as np
import pytest

from vidgen.data.video.transforms import to_float
from vidgen.sprites import probe, turns
from vidgen.sprites.sprites import Sprites
from vidgen.types import VideoShape

SPRITES = Sprites(shape=VideoShape(frames=11, height=24, width=24), split="all")
LEAST = 0.4 * SPRITES.frame_time


def bent(turn, before=(0.1, 0.0, 0.0), after=(0.0, -0.1, 0.0), frames=24):
    """States whose move to frame `turn` is the first of another motion."""
    moves = np.array([before] * (turn - 1) + [after] * (frames - turn))
    return np.concatenate([np.zeros((1, 3)), np.cumsum(moves, axis=0)])


@pytest.mark.parametrize("late", [-4, -1, 0, 1, 4])
def test_the_first_move_of_another_motion_is_found(late):
    assert turns.motion_change(bent(12 + late), 12, LEAST) == 12 + late


def test_a_motion_that_goes_on_does_not_change():
    assert turns.motion_change(bent(12, after=(0.1, 0.0, 0.0)), 12, LEAST) is None
    slower = bent(12, after=(0.07, 0.0, 0.0))
    assert turns.motion_change(slower, 12, LEAST) is None
    assert turns.motion_change(slower, 12, 0.02) == 12


def test_too_little_film_to_see_a_change():
    assert turns.motion_change(bent(1, frames=2), 1, LEAST) is None
    assert turns.picture_change(np.zeros((2, 4, 4, 3)), 1) is None


@pytest.mark.parametrize("cut", [9, 12, 14])
def test_a_cut_stands_out(cut):
    rng = np.random.default_rng(0)
    video = rng.uniform(-0.05, 0.05, (24, 8, 8, 3))
    assert turns.picture_change(video, 12) is None
    video[cut:] += 0.4
    assert turns.picture_change(video, 12) == cut


def test_turns_of_true_films_are_found_and_are_no_cuts():
    rng, motions = np.random.default_rng(0), SPRITES.motions[:4]
    for subject in ("tiger", "frog", "crab", "panda"):
        for begin in (7, 9):
            first, second = rng.choice(motions, 2, replace=False).tolist()
            parts = [(first, begin), (second, 4)]
            while True:  # both motions go on from frame to frame
                scene, shape = SPRITES.film(subject, "green", parts, rng)
                moves = np.abs(np.diff(scene.path(shape), axis=0)).sum(1)
                if moves.min() > 0.9 * moves.max():
                    break
            video = np.asarray(to_float(SPRITES.render(scene, shape)))
            states = probe.follow(video, subject, "green", SPRITES).states
            found = turns.motion_change(states, begin, LEAST)
            assert abs(found - begin) <= 1, (subject, parts)
            assert turns.picture_change(video, begin) is None


def test_another_sprite_is_a_cut():
    clips = [
        SPRITES.render(SPRITES.scene_of(name, "moving up", "blue", np.random.default_rng(i)))
        for i, name in enumerate(("frog", "star"))
    ]
    assert turns.picture_change(np.asarray(to_float(np.concatenate(clips))), 11) == 11
