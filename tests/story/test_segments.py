"""Stories cut into segments: closed forms, what holds for all of them, and what is refused."""

import itertools
import re

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidgen.story.generate_story import segment_key
from vidgen.story.script import Scene, Story, StoryError
from vidgen.story.segments import check_context, nearest, plan

PAPER = {"clip_frames": 11, "context_frames": 5, "patch_time": 2, "fps": 8}


def refused(story, **options):
    with pytest.raises(StoryError) as error:
        plan(story, **(PAPER | options))
    return str(error.value)


@pytest.mark.parametrize("count, frames", [(1, 11), (2, 17), (5, 35), (10, 65), (20, 125)])
def test_frames_after_n_segments(count, frames):
    segments = plan(Story([Scene("a", frames)]), **PAPER)
    assert len(segments) == count and segments[-1].end_frame == frames
    assert [s.frames for s in segments] == [11] + [6] * (count - 1)
    assert [s.context for s in segments] == [0] + [5] * (count - 1)


def test_a_thousand_frames_are_170_segments():
    segments = plan(Story([Scene("a", 1025)]), **PAPER)
    assert len(segments) == 170
    assert len(plan(Story([Scene("a", 1024)], fit="trim"), **PAPER)) == 170
    assert "nearest valid counts of frames are 1019 and 1025" in refused(Story([Scene("a", 1024)]))


def test_scenes_follow_each_other():
    story = Story([Scene("a", 17), Scene("b", 6), Scene("c", 12)])
    segments = plan(story, **PAPER)
    assert [s.scene for s in segments] == [0, 0, 1, 2, 2]
    assert [(s.part, s.parts) for s in segments] == [(0, 2), (1, 2), (0, 1), (0, 2), (1, 2)]
    assert [s.first_frame for s in segments] == [0, 11, 17, 23, 29]
    assert [s.prompts for s in segments] == [((p, 1.0),) for p in "aabcc"]


def test_a_length_that_does_not_fit_names_scene_and_nearest():
    text = refused(Story([Scene("a", 11), Scene("b", 13)], source="my.yaml"))
    assert text.startswith("my.yaml: scene 2: frames is 13, which is no whole number of segments")
    assert "(6 frames, then 6 each); the nearest valid counts of frames are 12 and 18" in text
    assert "counts of frames are 11." in refused(Story([Scene("a", 3)]))
    text = refused(Story([Scene("a", seconds=3)]))
    assert "seconds is 3 (24 frames at 8 fps)" in text
    assert "23 (2.875 s) and 29 (3.625 s)" in text


def test_nearest_and_trimmed_lengths():
    lengths = [(24, 23), (27, 29), (2, 11), (11, 11)]
    for asked, taken in lengths:
        (*_, last) = plan(Story([Scene("a", asked)], fit="nearest"), **PAPER)
        assert last.end_frame == taken
    segments = plan(Story([Scene("a", 12), Scene("b", seconds=1.2)], fit="trim"), **PAPER)
    assert [s.frames for s in segments] == [11, 1, 6, 4]
    # 1.2 s at 8 fps are 9.6 frames
    assert [s.first_frame for s in segments] == [0, 11, 12, 18]


def lengths_of(story, **options):
    segments = plan(story, **(PAPER | options))
    return [sum(s.frames for s in segments if s.scene == i) for i in range(len(story.scenes))]


def test_frames_are_shared_among_scenes_without_a_length():
    three = [Scene("a"), Scene("b"), Scene("c")]
    assert lengths_of(Story(three)) == [23, 18, 18]  # three segments each
    assert lengths_of(Story(three, frames=41)) == [17, 12, 12]
    assert lengths_of(Story(three, frames=47)) == [17, 12, 18]
    assert lengths_of(Story(three, frames=23)) == [11, 6, 6]
    assert lengths_of(Story([Scene("a"), Scene("b", 18)], frames=35)) == [17, 18]
    assert lengths_of(Story(three, frames=45, fit="trim")) == [17, 12, 16]
    assert lengths_of(Story(three, frames=45, fit="nearest")) == [17, 12, 18]
    text = refused(Story(three, frames=45, source="my.yaml"))
    assert text.startswith("my.yaml: frames is 45") and "are 41 and 47" in text
    assert "nearest valid counts of frames are 23." in refused(Story(three, frames=20))
    text = refused(Story(three, frames=20, fit="trim"))
    assert "too few for 3 scenes without a length; the nearest valid count is 23." in text
    text = refused(Story([Scene("a", 11), Scene("b", 12)], frames=24))
    assert "frames is 24, but the scenes have 23 frames; set it to 23" in text


def test_transition_mixes_two_prompts():
    story = Story([Scene("a", 11), Scene("b", 24, transition=3), Scene("c", 6)])
    prompts = [s.prompts for s in plan(story, **PAPER)]
    assert prompts == [
        (("a", 1.0),),
        (("a", 0.75), ("b", 0.25)),
        (("a", 0.5), ("b", 0.5)),
        (("a", 0.25), ("b", 0.75)),
        (("b", 1.0),),
        (("c", 1.0),),
    ]
    text = refused(Story([Scene("a", 11), Scene("b", 12, transition=2)]))
    assert "scene 2: transition is 2 segments, but the scene has 2" in text
    assert "nearest valid value is 1." in text
    same = plan(Story([Scene("a", 11), Scene("a", 12, transition=1)]), **PAPER)
    assert all(s.prompts == (("a", 1.0),) for s in same)


def test_overlap_of_a_scene():
    story = Story([Scene("a", 17), Scene("b", 11, overlap=0), Scene("c", 10 + 6, overlap=1)])
    segments = plan(story, **PAPER)
    assert [s.context for s in segments] == [0, 5, 0, 1, 5]
    assert [s.frames for s in segments] == [11, 6, 11, 10, 6]
    text = refused(Story([Scene("a", 11), Scene("b", 6, overlap=7)], source="my.yaml"))
    assert text == (
        "my.yaml: scene 2: overlap is 7, but it is longer than the context of 5 frames; the "
        "nearest valid value is 5."
    )
    text = refused(Story([Scene("a", 11), Scene("b", 6, overlap=4)]))
    assert "does not fit patches of 2 frames" in text and "value is 3 and 5." in text
    text = refused(Story([Scene("a", 11, overlap=1)]))
    assert "scene 1: overlap is 1, but nothing comes before; the nearest valid value is 0." in text


def test_given_frames():
    """A picture, or the end of a video, that the film continues from."""
    segments = plan(Story([Scene("a", 16)]), **PAPER, given_frames=1)
    assert [(s.context, s.frames, s.first_frame) for s in segments] == [(1, 10, 0), (5, 6, 10)]
    segments = plan(Story([Scene("a", 12)]), **PAPER, given_frames=5)
    assert [(s.context, s.frames) for s in segments] == [(5, 6), (5, 6)]
    assert "overlap is 3" in refused(Story([Scene("a", 11, overlap=3)]), given_frames=1)


def test_a_trimmed_scene_leaves_enough_to_continue_from():
    text = refused(Story([Scene("a", 3), Scene("b", 6, overlap=5)], fit="trim"))
    assert "scene 1: 3 frames are fewer than scene 2 continues from" in text
    assert text.endswith("the nearest valid count is 5.")
    plan(Story([Scene("a", 5), Scene("b", 6)], fit="trim"), **PAPER)
    plan(Story([Scene("a", 3), Scene("b", 6)], fit="trim"), **PAPER, given_frames=3)
    plan(Story([Scene("a", 3), Scene("b", 11, overlap=0)], fit="trim"), **PAPER)


@pytest.mark.parametrize("trimmed, known", [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (7, 5)])
def test_after_a_few_frames_a_scene_knows_as_many_as_make_whole_tokens(trimmed, known):
    segments = plan(Story([Scene("a", trimmed), Scene("b", 20)], fit="trim"), **PAPER)
    assert [s.context for s in segments][:2] == [0, known]
    assert sum(s.frames for s in segments) == trimmed + 20


def test_settings_of_scene_story_and_run():
    scenes = [Scene("a", 11), Scene("b", 12, seed=7, guidance=2.0, steps=4), Scene("c", 6)]
    segments = plan(Story(scenes, seed=3, guidance=1, steps=12), **PAPER)
    assert [(s.seed, s.draws) for s in segments] == [(3, (0,)), (7, (0, 0)), (7, (0, 1)), (3, (3,))]
    assert [s.guidance for s in segments] == [1, 2.0, 2.0, 1]
    assert [s.steps for s in segments] == [12, 4, 4, 12]
    segments = plan(Story(scenes), **PAPER)
    assert [s.seed for s in segments] == [0, 7, 7, 0] and segments[0].guidance is None
    segments = plan(Story(scenes, seed=3), **PAPER, seed=9)
    assert [(s.seed, s.draws) for s in segments] == [(9, (i,)) for i in range(4)]


def noise_of(scenes, **settings):
    """The random key of every segment."""
    segments = plan(Story(scenes, **settings), **PAPER)
    return [tuple(jax.random.key_data(segment_key(s)).tolist()) for s in segments]


def test_no_two_scenes_begin_with_the_same_noise():
    scenes = [Scene("a", 17, seed=5), Scene("a", 12, seed=5), Scene("b", 6), Scene("c", 12, seed=3)]
    for seed in (5, 3, 0):
        found = noise_of(scenes, seed=seed)
        assert len(set(found)) == len(found) == 7


def test_the_noise_of_a_scene_with_a_seed_is_its_own():
    alone = noise_of([Scene("a", 17, seed=5)])
    later = noise_of([Scene("x", 23), Scene("y", 6, seed=4), Scene("a", 12, seed=5)], seed=9)
    assert later[-2:] == alone


@pytest.mark.parametrize(
    "clip, context, patch, given, words",
    [
        (11, 4, 2, 0, "context of 4 .*clip of 11 .* 3 and 5"),
        (11, 11, 2, 0, r"context of 11 .*clip of 11 .* 9\."),
        (11, 0, 2, 0, r"context of 0 .*clip of 11 .* 1\."),
        (12, 5, 2, 0, "clip of 12 .* 11 and 13"),
        (1, 1, 2, 0, "context of 1 .*clip of 1 .*longer"),
        (11, 5, 2, 4, "beginning of 4 .*clip of 11 .* 3 and 5"),
        (11, 5, 0, 0, "patch_time is 0"),
    ],
)
def test_context_that_a_model_cannot_have(clip, context, patch, given, words):
    with pytest.raises(ValueError, match=words):
        check_context(clip, context, patch, given)


@given(st.integers(-50, 200), st.integers(1, 30), st.integers(1, 9))
def test_nearest(value, first, step):
    found = nearest(value, first, step)
    valid = range(first, 400, step)
    below, above = [n for n in valid if n <= value], [n for n in valid if n > value]
    if value == first:
        assert found == [first]
    else:
        assert found == below[-1:] + above[:1]


SCENES = st.builds(
    Scene,
    st.sampled_from("abc"),
    st.integers(1, 60) | st.none(),
    seed=st.none() | st.integers(0, 3),
    overlap=st.none() | st.integers(0, 12),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(SCENES, min_size=1, max_size=5),
    st.sampled_from(["exact", "nearest", "trim"]),
    st.none() | st.integers(1, 200),
    st.integers(1, 3),
    st.integers(1, 5),
    st.data(),
)
def test_what_holds_for_all_plans(scenes, fit, total, patch, steps, data):
    clip = 1 + patch * steps
    context = 1 + patch * data.draw(st.integers(0, steps - 1))
    given_frames = data.draw(st.sampled_from([0, *range(1, clip, patch)]))
    story = Story(scenes, frames=total, fit=fit)
    try:
        segments = plan(story, clip, context, patch, 8, given_frames=given_frames)
    except StoryError as error:
        assert re.match(r"story: (scene [1-5]|frames)", str(error)), str(error)
        assert re.search(r"set it to \d|nearest valid", str(error)), str(error)
        return
    known = given_frames
    for index, segment in enumerate(segments):
        assert segment.index == index and segment.first_frame == known - given_frames
        assert segment.context <= known  # it can only continue what is there
        assert 1 <= segment.frames <= clip - segment.context
        if fit != "trim":
            assert segment.frames == clip - segment.context
        if segment.part:
            assert segment.context == context
        assert segment.context == 0 or (segment.context - 1) % patch == 0
        known += segment.frames
    assert [s.scene for s in segments] == sorted(s.scene for s in segments)
    for i, group in itertools.groupby(segments, lambda s: s.scene):
        parts = list(group)
        made = sum(s.frames for s in parts)
        assert [s.part for s in parts] == list(range(len(parts)))
        assert {s.parts for s in parts} == {len(parts)}
        wanted = scenes[i].frames
        if wanted is not None:
            near = clip - parts[0].context, clip - context
            assert abs(made - wanted) <= (0 if fit != "nearest" else max(near))
    if total is not None and fit != "nearest":
        assert known - given_frames == total
    assert len({(s.seed, s.draws) for s in segments}) == len(segments)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80))
def test_the_nearest_counts_of_a_refusal_are_accepted(first, second):
    lengths = [first, second]
    for _ in range(3):
        scenes = [Scene("a", lengths[0]), Scene("b", lengths[1])]
        try:
            segments = plan(Story(scenes), **PAPER)
            break
        except StoryError as error:
            pattern = r"scene (\d): .*counts of frames are (\d+)(?: and (\d+))?"
            scene, *counts = (int(n) for n in re.search(pattern, str(error)).groups() if n)
            assert lengths[scene - 1] not in counts
            lengths[scene - 1] = counts[-1]
    assert segments[-1].end_frame == sum(lengths)  # two scenes, so two corrections at most
