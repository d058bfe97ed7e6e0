"""Stories read from text, YAML and StoryBench's JSON; mistakes name file, scene and key."""

import json

import pytest
from story_tasks import built, task

from vidgen.story import script
from vidgen.story.parse import load
from vidgen.story.script import FirstFrames, Scene, Story, StoryError
from vidgen.story.segments import plan
from vidgen.story.storybench_task_files import true_frames


def write(tmp_path, text, name="story.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(tmp_path, text, name="story.yaml", entry=""):
    path = write(tmp_path, text, name)
    with pytest.raises(StoryError) as error:
        load(path + entry)
    assert str(error.value).startswith(path)
    return str(error.value).removeprefix(path)


@pytest.mark.parametrize(
    "text, prompts",
    [
        ("a cat sits. then it jumps. then it runs", ["a cat sits", "it jumps", "it runs"]),
        ("A cat sits; Then it jumps. THEN, it runs.", ["A cat sits", "it jumps", "it runs"]),
        ("a cat.\nThen a dog", ["a cat", "a dog"]),
        ("a cat sits and then jumps", ["a cat sits and then jumps"]),
        ("a cat. thence a dog. authentic", ["a cat. thence a dog. authentic"]),
        ("a cat at 3.5 m. then a dog", ["a cat at 3.5 m", "a dog"]),
        ("  just one scene.  ", ["just one scene"]),
    ],
)
def test_short_form(text, prompts):
    assert load(text) == Story([Scene(prompt) for prompt in prompts])


def test_short_form_with_frames_and_without_scenes():
    assert load("a. then b", frames=23).frames == 23
    for text, number in (("", 1), ("a. then", 2), ("a. then. then b", 2), (". then b", 1)):
        with pytest.raises(StoryError, match=f"scene {number}: prompt is empty"):
            load(text)


WHOLE = """
seed: 5
guidance: 1.5
steps: 24
frames: 71
fit: nearest
scenes:
  - prompt: a cat sits on a wall
    frames: 23
  - prompt: "yes: it jumps"
    seconds: 3
    seed: 0x10
    guidance: 2
    steps: 12
    transition: 1
    overlap: 0
  - it runs away
"""


def test_yaml(tmp_path):
    path = write(tmp_path, WHOLE)
    assert load(path) == Story(
        [
            Scene("a cat sits on a wall", 23),
            Scene(
                "yes: it jumps",
                seconds=3,
                seed=16,
                guidance=2,
                steps=12,
                transition=1,
                overlap=0,
            ),
            Scene("it runs away"),
        ],
        seed=5,
        guidance=1.5,
        steps=24,
        frames=71,
        fit="nearest",
        source=path,
    )


def test_list_alone_byte_order_mark_and_json(tmp_path):
    path = write(tmp_path, "\ufeff- ein Kätzchen\n- prompt: b\n  frames: 6\n", "s.yml")
    assert load(path) == Story([Scene("ein Kätzchen"), Scene("b", 6)], source=path)
    path = write(tmp_path, '{"scenes": [{"prompt": "a", "frames": 11}, "b"]}', "s.json")
    assert load(path) == Story([Scene("a", 11), Scene("b")], source=path)


@pytest.mark.parametrize(
    "text, words",
    [
        (
            "scenes:\n- prompt: a\n- promt: b\n",
            ": scene 2 (line 3): unknown key 'promt'; did you mean prompt? The keys are prompt, "
            "frames, seconds, seed, guidance, steps, negative, transition, overlap.",
        ),
        ("scenes: [a]\nsceens: 3", " (line 2): unknown key 'sceens'; did you mean scenes? "),
        ("- {prompt: a, xyz: 1}", ": scene 1 (line 1): unknown key 'xyz'. The keys are "),
        ("- {prompt: a, [1]: 1}", ": scene 1 (line 1): unknown key '?'"),
        ("- {prompt: a, <<: {frames: 3}}", ": scene 1 (line 1): unknown key '<<'"),
        (
            "- a\n- prompt: b\n  frames: 6\n  prompt: c",
            ": scene 2 (line 4): the key prompt is there twice; keep one.",
        ),
        ("scenes: [a]\nscenes: [b]", " (line 2): the key scenes is there twice"),
        ("- frames: 6", ": scene 1 (line 1): the key prompt is missing"),
        ("seed: 6", ": the key scenes is missing"),
        (
            "- prompt: a\n  frames: 6.5",
            ": scene 1: frames (line 2) is '6.5'; it must be a whole number.",
        ),
        ("- {prompt: a, frames: six}", ": scene 1: frames (line 1) is 'six'; it must be a whole"),
        ("- {prompt: a, frames: yes}", ": scene 1: frames (line 1) is 'yes'; it must be a whole"),
        ("- {prompt: a, frames: [6]}", ": scene 1: frames (line 1) must be a whole number, not"),
        ("- {prompt: a, seed: }", ": scene 1: seed (line 1) is empty; it must be a whole number."),
        ("- {prompt: a, seconds: long}", ": scene 1: seconds (line 1) is 'long'; it must be a num"),
        (
            "- a\n- prompt: 1984",
            ": scene 2: prompt (line 2) is '1984'; it must be text, and YAML reads this as int: "
            "put it in quotes.",
        ),
        ("- no", ": scene 1: prompt (line 1) is 'no'; it must be text, and YAML reads this as boo"),
        ("- 2024-99-99", ": scene 1: prompt (line 1) is '2024-99-99'; it must be text"),
        ("- prompt: ''", ": scene 1: prompt is empty"),
        ("- prompt:", ": scene 1: prompt (line 1) is empty; it must be text."),
        ("- [a]", ": scene 1 (line 1) must be a prompt or keys"),
        ("scenes: a", ": scenes (line 1) must be a list"),
        ("- !!python/object:os.system a", ": scene 1: prompt (line 1) is 'a'; it must be text"),
        ("&a [*a]", ": scene 1 (line 1) must be a prompt"),
        ("scenes: []", ": no scene"),
        ("fit: loose\nscenes: [a]", ": fit is 'loose'; choose exact, nearest, trim."),
        ("scenes: [a", ": not valid YAML: "),
        ("- a\n---\n- b", ": not valid YAML: "),
        ("- a: b: c", ": not valid YAML: mapping values are not allowed here (line 1)."),
        ("a cat", ": expected a list of scenes"),
        ("", ": expected a list of scenes"),
    ],
)
def test_mistakes_in_yaml(tmp_path, text, words):
    assert refused(tmp_path, text).startswith(words)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.yaml"):
        load(str(tmp_path / "none.yaml"))
    path = tmp_path / "s.yaml"
    path.write_bytes(b"- \xff\xfe")
    with pytest.raises(StoryError, match=r"s\.yaml: .*UTF-8"):
        load(str(path))
    path = write(tmp_path, "- a")
    with pytest.raises(StoryError, match=r"story\.yaml .*one story.*#2"):
        load(path + "#2")


def test_frames_that_are_asked_for_win_over_those_of_a_file(tmp_path):
    path = write(tmp_path, "frames: 71\nscenes: [a, b]")
    assert (load(path).frames, load(path, frames=23).frames) == (71, 23)
    path = write(tmp_path, "scenes: [{prompt: a, frames: 11}]")
    with pytest.raises(StoryError, match="frames is 17.* 11 frames"):
        plan(load(path, frames=17), 11, 5, 2, 8)


def test_storybench_tasks(tmp_path):
    entries = [
        task(background="There is a floor."),
        task(comment="oops_2", npz_video_end_frame=4, storybench_mode="story_cont"),
    ]
    path = write(tmp_path, json.dumps(entries), "tasks.json")
    first = load(path + "#0")
    assert first == load(path + "#oops_1")
    assert [s.prompt for s in first.scenes] == [
        "A man dances. There is a floor.",
        "He falls. There is a floor.",
    ]
    assert first.first is None and first.source == path + "#0"
    segments = plan(first, 11, 5, 2, 8)
    assert [s.frames for s in segments] == [11, 6, 3, 6, 3]
    assert plan(first, 11, 5, 2, 16)[-1].end_frame == 58  # twice the rate, twice the frames
    second = load(path + "#oops_2")
    assert second.first == FirstFrames(path="videos/a.npy", start=0, end=4, fps=8.0)
    assert second.scenes[0].prompt == "A man dances."
    alone = write(tmp_path, json.dumps(entries[:1]), "alone.json")
    assert load(alone).scenes == first.scenes


def test_the_true_film_of_a_task_begins_where_the_film_begins(tmp_path):
    """The frames of the three kinds of task, as in the published files."""
    kinds = built([0.5, 2.5], [2.5, 5], tmp_path / "a.npy", 38)
    shown = {kind: [e["npz_video_end_frame"] for e in entries] for kind, entries in kinds.items()}
    assert shown == {"story_gen": [0], "story_cont": [8], "action_exe": [4, 20]}
    found = {kind: [true_frames(e, "t") for e in entries] for kind, entries in kinds.items()}
    assert found == {
        "story_gen": [(0, None)],
        "story_cont": [(8, None)],
        "action_exe": [(4, 20), (20, 38)],
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"npz_gt_video_start_frame": 4, "skip_frames_after_generation": 4},
        {"npz_video_end_frame": 4},
        {"npz_video_end_frame": 4, "npz_gt_video_start_frame": 8},
        {"npz_video_end_frame": 4, "skip_frames_after_generation": 6},
    ],
)
def test_a_true_film_that_begins_elsewhere_is_refused(changes):
    with pytest.raises(StoryError, match="t.json#1: .* frame [04], npz_video_end"):
        true_frames(task(**changes), "t.json#1")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"texts": None}, ": texts is None; it must be a list"),
        ({"texts": ["a", 3]}, ": scene 2: texts is 3; it must be text."),
        ({"texts": ["a", " "]}, ": scene 2: prompt is empty"),
        ({"exact_frames_per_prompt": [3]}, ": exact_frames_per_prompt has 1 items for 2 scenes."),
        (
            {"exact_frames_per_prompt": [3, 0]},
            ": scene 2: exact_frames_per_prompt is 0; it must be 1 or more.",
        ),
        (
            {"exact_frames_per_prompt": [3, 2.5]},
            ": scene 2: exact_frames_per_prompt is 2.5; it must be a whole number.",
        ),
        ({"durations": [1, 2]}, ": durations are not read"),
        ({"background": 3}, ": background is 3; it must be text or null."),
        ({"npz_video_end_frame": "4"}, ": npz_video_end_frame is '4'"),
        ({"npz_video_end_frame": -1}, ": npz_video_end_frame is -1; it must be a whole number"),
        ({"npz_video_start_frame": True}, ": npz_video_start_frame is True"),
        ({"npz_video": 3}, ": npz_video is 3; it must be a path or null."),
        ({"text": []}, ": unknown key 'text'; did you mean texts?"),
    ],
)
def test_mistakes_in_storybench(tmp_path, changes, words):
    assert refused(tmp_path, json.dumps([task(**changes)]), "s.json").startswith(words)


def test_choice_among_storybench_entries(tmp_path):
    entries = json.dumps([task(), task(comment="oops_2")])
    text = refused(tmp_path, entries, "s.json")
    assert "holds 2 stories; choose one with" in text and "s.json#oops_1." in text
    text = refused(tmp_path, entries, "s.json", "#2")
    assert "has no story '2': 0 ... 1, or such as 'oops_2'." in text
    assert "not valid JSON" in refused(tmp_path, "[{]", "s.json")
    assert "expected a list of objects" in refused(tmp_path, "[1]", "s.json")
    text = refused(tmp_path, '[{"texts": [], "texts": []}]', "s.json")
    assert ": the key texts is there twice" in text


def test_unknown_key_without_a_near_one():
    assert script.unknown_key("q", ["a", "b"]) == "unknown key 'q'. The keys are a, b."


def test_a_negative_prompt_of_a_story_and_of_a_scene(tmp_path):
    text = "negative: blurred\nscenes:\n  - a\n  - {prompt: b, negative: dark}\n"
    story = load(write(tmp_path, text))
    assert (story.negative, [scene.negative for scene in story.scenes]) == (
        "blurred",
        [None, "dark"],
    )
    assert [s.negative for s in plan(story, 11, 5, 2, 8)] == 3 * ["blurred"] + 3 * ["dark"]
    message = refused(tmp_path, "scenes: [{prompt: a, negative: 3}]")
    assert "negative (line 1) is '3'; it must be text" in message
