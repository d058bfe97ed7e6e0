"""The reader of story films against films whose truth is known, and in closed form."""

import dataclasses
import sys

import numpy as np
import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import story_probe  # noqa: E402

from vidgen.data.video.transforms import to_float  # noqa: E402
from vidgen.sprites import probe  # noqa: E402
from vidgen.sprites.scenes import GROWTH, MOTIONS, WALLS  # noqa: E402
from vidgen.sprites.sprites import Sprites  # noqa: E402
from vidgen.types import VideoShape  # noqa: E402

CLIP = VideoShape(frames=11, height=8, width=8)
STORY = Sprites(shape=CLIP, turns=0.5, arrivals=0.2)
CLIPS = Sprites(shape=VideoShape(frames=8, height=16, width=16), split="all")


def draw(triple):
    return np.asarray(to_float(CLIPS.render(CLIPS.scene_of(*triple, np.random.default_rng(0)))))


def only(subject):
    """Fewer candidates are quicker to compare, where the subject is not the question."""
    return dataclasses.replace(CLIPS, subjects=(subject,))


def states(scene, shape=CLIP):
    """(y, x, size relative to the scene's own) per frame."""
    return np.concatenate([scene.path(shape), scene.sides(shape)[:, None] / scene.scale], axis=1)


FILMS = Sprites(shape=VideoShape(frames=11, height=24, width=24), split="all")


def film_parts(count):
    """(frames, triple, (y, x, side) per frame) of parts in which the motion is seen."""
    rng, found = np.random.default_rng(0), []
    while len(found) < count:
        subject, background = str(rng.choice(FILMS.subjects)), str(rng.choice(FILMS.backgrounds))
        plan = [(str(rng.choice(FILMS.motions)), int(rng.integers(6, 20))) for _ in range(3)]
        scene, shape = story_probe.film(FILMS, subject, background, plan, rng)
        video, begin = np.asarray(to_float(FILMS.render(scene, shape))), 0
        path = np.concatenate([scene.path(shape), scene.sides(shape)[:, None]], axis=1)
        for motion, frames in plan:
            part = slice(begin, begin + frames)
            moved = np.ptp(path[part], axis=0)[np.nonzero(MOTIONS[motion])[0]]
            if motion == "standing still" or moved.max() > 0.13:
                found.append((video[part], (subject, motion, background), path[part]))
            begin += frames
    return found[:count]


@pytest.fixture(scope="module")
def films():
    return film_parts(60)


def test_true_parts_of_films_are_read_right(films):
    """Anywhere on the canvas, of any size, and standing at a wall in the end."""
    readings = [story_probe.read_part(video, only(triple[0])) for video, triple, _ in films]
    found = probe.accuracy(readings, [triple for _, triple, _ in films])
    assert found["motion"] >= 0.95 and found["background"] == 1.0


def test_subjects_of_parts_of_films_are_read_right(films):
    some = films[::4]
    readings = [story_probe.read_part(video, FILMS) for video, _, _ in some]
    assert probe.accuracy(readings, [triple for _, triple, _ in some])["subject"] == 1.0
    assert np.median([reading.error for reading in readings]) < 0.15
    noise = np.random.default_rng(0).uniform(-1, 1, (8, 24, 24, 3)).astype(np.float32)
    assert story_probe.read_part(noise, FILMS).error > 0.5


def test_a_sprite_is_followed_to_where_it_is(films):
    """Its true place and size; worse where much of it is outside of the canvas."""
    away, larger = [], []
    for video, (subject, _, background), path in films[:30]:
        found = story_probe.follow(video, subject, background, FILMS)
        away.append(np.median(np.abs(found.path - path[:, :2])))
        larger.append(np.median(np.abs(found.sides / path[:, 2] - 1)))
    assert np.median(away) < 0.005 and max(away) < 0.04
    assert np.median(larger) < 0.03 and max(larger) < 0.15


def test_an_ordinary_clip_is_a_part_as_well():
    for motion in CLIPS.motions:
        triple = ("whale", motion, "pink")
        assert story_probe.read_part(draw(triple), only("whale")).triple == triple


def test_an_empty_part_and_a_short_one():
    empty = np.zeros((6, 16, 16, 3), np.float32)
    assert story_probe.read_part(empty, only("frog")).motion == "standing still"
    with pytest.raises(ValueError, match="a part of 2 frames"):
        story_probe.read_part(empty[:2], CLIPS)


LEAST = 0.4 * FILMS.frame_time


def bent(turn, before=(0.1, 0.0, 0.0), after=(0.0, -0.1, 0.0), frames=24):
    """States whose move to frame `turn` is the first of another motion."""
    moves = np.array([before] * (turn - 1) + [after] * (frames - turn))
    return np.concatenate([np.zeros((1, 3)), np.cumsum(moves, axis=0)])


@pytest.mark.parametrize("late", [-4, -1, 0, 1, 4])
def test_the_first_move_of_another_motion_is_found(late):
    assert story_probe.motion_change(bent(12 + late), 12, LEAST) == 12 + late


def test_a_motion_that_goes_on_does_not_change():
    assert story_probe.motion_change(bent(12, after=(0.1, 0.0, 0.0)), 12, LEAST) is None
    slower = bent(12, after=(0.07, 0.0, 0.0))
    assert story_probe.motion_change(slower, 12, LEAST) is None
    assert story_probe.motion_change(slower, 12, 0.02) == 12


def test_too_little_film_to_see_a_change():
    assert story_probe.motion_change(bent(1, frames=2), 1, LEAST) is None
    assert story_probe.picture_change(np.zeros((2, 4, 4, 3)), 1) is None


@pytest.mark.parametrize("cut", [9, 12, 14])
def test_a_cut_stands_out(cut):
    rng = np.random.default_rng(0)
    video = rng.uniform(-0.05, 0.05, (24, 8, 8, 3))
    assert story_probe.picture_change(video, 12) is None
    video[cut:] += 0.4
    assert story_probe.picture_change(video, 12) == cut


def test_turns_of_true_films_are_found_and_are_no_cuts():
    rng, motions = np.random.default_rng(0), FILMS.motions[:4]
    for subject in ("tiger", "frog", "crab", "panda"):
        for begin in (7, 9):
            first, second = rng.choice(motions, 2, replace=False).tolist()
            parts = [(first, begin), (second, 4)]
            while True:  # both motions go on from frame to frame
                scene, shape = story_probe.film(FILMS, subject, "green", parts, rng)
                moves = np.abs(np.diff(scene.path(shape), axis=0)).sum(1)
                if moves.min() > 0.9 * moves.max():
                    break
            video = np.asarray(to_float(FILMS.render(scene, shape)))
            states = story_probe.follow(video, subject, "green", FILMS).states
            found = story_probe.motion_change(states, begin, LEAST)
            assert abs(found - begin) <= 1, (subject, parts)
            assert story_probe.picture_change(video, begin) is None


def test_another_sprite_is_a_cut():
    clips = [
        FILMS.render(FILMS.scene_of(name, "moving up", "blue", np.random.default_rng(i)))
        for i, name in enumerate(("frog", "star"))
    ]
    assert story_probe.picture_change(np.asarray(to_float(np.concatenate(clips))), 11) == 11


def test_a_film_does_one_thing_after_the_other():
    parts = [("moving right", 11), ("moving up", 12), ("standing still", 3), ("shrinking", 6)]
    scene, shape = story_probe.film(STORY, "tiger", "green", parts, np.random.default_rng(0))
    video, found = STORY.render(scene, shape), states(scene, shape)
    assert video.shape == (32, 8, 8, 3) and scene.motion == "shrinking"
    moves, step = np.diff(found, axis=0), scene.travel / 10
    # frame 11 shows the first move of the second part, from where frame 10 was
    np.testing.assert_allclose(moves[:10, 1], step)
    np.testing.assert_allclose(moves[10, :2], [max(-step, WALLS[0] - found[10, 0]), 0], atol=1e-9)
    assert found[22, 0] == pytest.approx(max(WALLS[0], found[10, 0] - 12 * step))
    np.testing.assert_allclose(moves[22:25], 0, atol=1e-9)
    smaller = np.maximum(found[25, 2] - 2 * GROWTH / 10 * np.arange(1, 7), 1 - GROWTH)
    np.testing.assert_allclose(found[26:, 2], smaller)
    again, _ = story_probe.film(STORY, "tiger", "green", parts, np.random.default_rng(0))
    assert again == scene


def test_a_long_way_right_ends_at_the_wall():
    parts = [("moving right", 40)]
    scene, shape = story_probe.film(STORY, "frog", "red", parts, np.random.default_rng(1))
    x = scene.path(shape)[:, 1]
    assert x[0] <= WALLS[1] - scene.travel and (x[20:] == WALLS[1]).all()


def test_a_film_needs_frames():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="1 frame or more"):
        story_probe.film(STORY, "frog", "red", [("moving right", 5), ("growing", 0)], rng)
