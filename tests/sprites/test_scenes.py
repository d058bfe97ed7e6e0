"""Worlds with walls: courses, turns, arrivals, films; and that a world without is as it was."""

import dataclasses
import hashlib

import numpy as np
import pytest

from vidgen.config import gin_utils
from vidgen.sprites import scenes as sprite_scenes
from vidgen.sprites.scenes import GROWTH, MOTIONS, WALLS, SpriteMotion
from vidgen.sprites.sprites import Sprites
from vidgen.types import VideoShape

SMALL = VideoShape(frames=8, height=16, width=16)
CLIP = VideoShape(frames=11, height=8, width=8)
STORY = Sprites(shape=CLIP, turns=0.5, arrivals=0.2)
MIDDLE = (0.5, 0.5, 1.0)


def times(*values):
    return np.array(values, float)


def scenes(source, count=300):
    return [source.scene(17 * i, np.random.default_rng(i)) for i in range(count)]


def states(scene, shape=CLIP):
    """(y, x, size relative to the scene's own) per frame."""
    return np.concatenate([scene.path(shape), scene.sides(shape)[:, None] / scene.scale], axis=1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "9c6c6adaf256cb2f"),
        ({"duration": 2.0}, "aab40aa6700f5bf3"),
        ({"stills": True}, "60cb04a5a1ead4a0"),
        ({"motions": tuple(MOTIONS), "split": "held_out"}, "32e8074843e58430"),
    ],
)
def test_clips_without_walls_stay_as_models_were_trained_on(settings, expected):
    """Hashes of the pixels and captions from before there were walls."""
    source, found = Sprites(shape=SMALL, **settings), hashlib.sha256()
    for i in range(24):
        example = source.load(i * 7, np.random.default_rng(i))
        found.update(example.video.tobytes() + example.caption.encode())
    assert found.hexdigest()[:16] == expected


def test_a_course_of_one_motion_is_a_line_up_to_the_wall():
    course = SpriteMotion(begin=MIDDLE, parts=(("moving right", 1.0),), travel=0.4)
    found = course.at(times(0, 0.25, 0.5, 0.75, 1, 9))
    np.testing.assert_allclose(found[:, 0], 0.5)
    np.testing.assert_allclose(found[:, 1], [0.5, 0.6, 0.7, 0.8, 0.8, 0.8])
    np.testing.assert_allclose(found[:, 2], 1.0)


@pytest.mark.parametrize(("motion", "sign"), [("growing", 1), ("shrinking", -1)])
def test_size_stays_within_what_growth_reaches(motion, sign):
    course = SpriteMotion(begin=MIDDLE, parts=((motion, 1.0),), travel=0.4)
    found = course.at(times(0, 0.25, 0.5, 3))[:, 2]
    np.testing.assert_allclose(found, 1 + sign * np.array([0, 0.2, GROWTH, GROWTH]))


def test_parts_follow_each_other_from_where_the_last_one_was_stopped():
    parts = (("moving left", 2.0), ("moving down", 0.5), ("growing", 0.25), ("moving right", 1.0))
    course = SpriteMotion(begin=MIDDLE, parts=parts, travel=0.4)
    at_turns = course.at(times(2.0, 2.5, 2.75, 3.25))
    expected = [(0.5, 0.2, 1.0), (0.7, 0.2, 1.0), (0.7, 0.2, 1.2), (0.7, 0.4, 1.2)]
    np.testing.assert_allclose(at_turns, expected)


@pytest.mark.parametrize("before", [None, *MOTIONS])
@pytest.mark.parametrize("motion", MOTIONS)
def test_there_is_room_for_the_motion_and_no_wall_is_passed(before, motion):
    rng, low = np.random.default_rng(0), (WALLS[0], WALLS[0], 1 - GROWTH)
    high = (WALLS[1], WALLS[1], 1 + GROWTH)
    begins = []
    for _ in range(30):
        part = (before, 0.5) if before else None
        course = sprite_scenes.draw_course(motion, 0.5, 0.25, rng, before=part)
        turn = 0.5 if before else 0.0
        found = course.at(np.linspace(0, turn + 3, 50))
        assert (found >= np.array(low) - 1e-9).all() and (found <= np.array(high) + 1e-9).all()
        moved = np.diff(course.at(times(turn, turn + 0.25)), axis=0)[0]
        np.testing.assert_allclose(moved, sprite_scenes.rates(motion, 0.5) / 4, atol=1e-9)
        begins.append(course.begin)
    assert np.ptp(begins, axis=0).min() > 0.12


def test_turns_are_seen_and_end_with_the_motion_of_the_caption():
    found = scenes(STORY)
    turned = [s for s in found if len(s.course.parts) == 2]
    assert 0.4 < len(turned) / len(found) < 0.6
    lengths = {round(scene.course.parts[0][1] * 10) for scene in turned}
    assert lengths == {1, 2, 3, 4, 5}
    for scene in turned:
        (first, length), (last, _) = scene.course.parts
        assert STORY.parse_caption(STORY.caption(scene))[1] == last == scene.motion != first
        turn = round(length * 10)
        moves, step = np.diff(states(scene), axis=0), sprite_scenes.rates(last, scene.travel) / 10
        np.testing.assert_allclose(moves[turn], step, atol=1e-9)
        half = np.abs(moves[turn:].sum(0)) - np.abs(step) * (10 - turn) / 2
        assert (half > -1e-9).all(), "half of the caption's motion is seen, or more"
    firsts = {scene.course.parts[0][0] for scene in turned}
    assert firsts == set(STORY.motions)


def test_nothing_jumps_and_no_speed_is_new():
    for scene in scenes(STORY):
        moves = np.abs(np.diff(states(scene), axis=0))
        most = np.array([scene.travel, scene.travel, 2 * GROWTH]) / 10
        assert (moves <= most + 1e-9).all()


def test_clips_without_a_turn_begin_anywhere_and_show_half_of_their_motion():
    plain = Sprites(shape=CLIP, turns=1e-9)
    begins = []
    for scene in scenes(plain):
        ((motion, _),) = scene.course.parts
        found = states(scene)
        moved = np.abs(found[-1] - found[0])
        needed = np.abs(sprite_scenes.rates(motion, scene.travel)) / 2
        assert motion == scene.motion and (moved >= needed - 1e-9).all()
        begins.append(found[0])
    assert np.ptp(begins, axis=0).min() > 0.55


def test_arrivals_come_to_a_wall_soon_or_stand_there():
    source = Sprites(shape=CLIP, arrivals=1.0, motions=("moving right",))
    found = [states(scene)[:, 1] for scene in scenes(source)]
    moved = np.array([x[-1] - x[0] for x in found])
    assert 0.3 < np.mean(moved == 0) < 0.8 and np.mean(moved > 0.1) > 0.15
    assert all(x[0] == WALLS[1] for x in found if x[-1] == x[0])


def test_training_shows_no_held_out_triple_before_a_turn():
    source = Sprites(shape=CLIP, turns=1.0, subjects=("tiger",), held_out_fraction=0.5)
    held_out, seen = set(source.triples("held_out")), set()
    for scene in scenes(source, 200):
        seen |= {(scene.subject, motion, scene.background) for motion, _ in scene.course.parts}
    assert len(seen) > 30 and not seen & held_out
    others = dataclasses.replace(source, split="held_out")
    assert any(len(scene.course.parts) == 2 for scene in scenes(others, 20))


def test_a_longer_scene_slows_the_clip_down_and_its_turn_stays_in_the_clip():
    source = Sprites(shape=CLIP, turns=1.0, duration=2 * 10 / 8)
    for scene in scenes(source, 50):
        assert scene.start == 0 and 0.05 - 1e-9 <= scene.course.parts[0][1] <= 0.25 + 1e-9
        moves = np.abs(np.diff(states(scene), axis=0))
        assert (moves <= np.array([scene.travel, scene.travel, 2 * GROWTH]) / 20 + 1e-9).all()


def test_stills_have_no_turns():
    ordinary = Sprites(shape=CLIP, stills=True)
    turning = Sprites(shape=CLIP, stills=True, turns=0.5, arrivals=0.1)
    for index in range(5):
        again = np.random.default_rng(index), np.random.default_rng(index)
        assert ordinary.scene(index, again[0]) == turning.scene(index, again[1])


def test_the_layer_for_stories_gives_the_sprites_turns():
    files = ["experiments/phenaki_maskgit_tiny.gin", "data/sprite_turns.gin"]
    with gin_utils.session(files):
        source = gin_utils.build(Sprites)
    assert (source.turns, source.arrivals) == (0.1, 0.02)
    assert source.shape == VideoShape(frames=5, height=16, width=16)
