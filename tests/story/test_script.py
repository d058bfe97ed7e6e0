"""What a story may hold, whoever writes it."""

import json

import pytest

from vidgen.story.script import FirstFrames, Scene, Story, StoryError


@pytest.mark.parametrize(
    "scene, words",
    [
        (Scene(" "), "prompt is empty"),
        (Scene("a", frames=0), "frames is 0"),
        (Scene("a", seconds=0), "seconds is 0"),
        (Scene("a", seconds=float("inf")), "seconds is inf"),
        (Scene("a", frames=3, seconds=1), "frames.*seconds.*keep one"),
        (Scene("a", seed=-1), "seed is -1"),
        (Scene("a", seed=2**32), r"seed is 4294967296.*2\^32"),
        (Scene("a", guidance=float("nan")), "guidance is nan"),
        (Scene("a", steps=0), "steps is 0"),
        (Scene("a", transition=-1), "transition is -1"),
        (Scene("a", overlap=-1), "overlap is -1"),
    ],
)
def test_a_scene_that_is_none_is_named(scene, words):
    with pytest.raises(StoryError, match=f"^my.yaml: scene 2: .*{words}"):
        Story([Scene("a"), scene], source="my.yaml")


def test_a_story_that_is_none():
    with pytest.raises(StoryError, match="my.yaml: no scene"):
        Story([], source="my.yaml")
    with pytest.raises(StoryError, match="scene 1: transition is 1; .*before"):
        Story([Scene("a", transition=1)])
    with pytest.raises(StoryError, match="fit is 'loose'.*exact, nearest, trim"):
        Story([Scene("a")], fit="loose")
    with pytest.raises(StoryError, match="frames is 0"):
        Story([Scene("a")], frames=0)


def test_identity_is_plain_and_complete():
    story = Story([Scene("a", 11)], seed=3, first=FirstFrames(path="x.npy"), source="one.yaml")
    found = json.loads(json.dumps(story.identity()))
    assert found["scenes"][0] == {
        "prompt": "a",
        "frames": 11,
        "seconds": None,
        "seed": None,
        "guidance": None,
        "steps": None,
        "transition": 0,
        "overlap": None,
        "negative": None,
    }
    assert found["seed"] == 3 and found["first"]["path"] == "x.npy"
    moved = Story([Scene("a", 11)], seed=3, first=FirstFrames(path="x.npy"), source="two.yaml")
    assert moved.identity() == story.identity()
    assert Story([Scene("a", 17)]).identity() != Story([Scene("a", 11)]).identity()
