"""StoryBench's three kinds of task, with the number of each frame in the picture.

Tests of vidgen/story/storybench_task_files.py too.
"""

import dataclasses
import json
import os

import numpy as np
import pytest
import story_tasks
import toy_training as toy
from counting_model import Counter, Ready

from vidgen.story import storybench_task_files
from vidgen.story.generate_story import GenerateStory
from vidgen.story.generate_storybench import StoryBenchmark

STARTS, ENDS, FRAMES = [0.5, 2.5, 4.25], [2.5, 4.3, 5.0], 40  # the last ends with the video


@pytest.fixture
def video(tmp_path):
    number = 6 * np.arange(FRAMES, dtype=np.uint8)[:, None, None, None]
    np.save(tmp_path / "true.npy", np.broadcast_to(number, (FRAMES, 16, 16, 3)))
    return tmp_path / "true.npy"


def numbers(video):
    """The frames of a film, by their brightness."""
    pixels = np.asarray(video)[:, 0, 0, 0]
    pixels = pixels if pixels.dtype == np.uint8 else (pixels + 1) * 127.5
    return np.rint(pixels / 6).astype(int).tolist()


def benchmark(tmp_path, entries, model=None, stage=Ready, **settings):
    tasks = tmp_path / "tasks.json"
    tasks.write_text(json.dumps(entries))
    made_by = stage(model=model or Counter(), text_encoder=toy.ToyEncoder(), model_dir="runs/p")
    first = storybench_task_files.parse(tasks.read_text(), "0")
    generate = GenerateStory(stage=made_by, story=first)
    return StoryBenchmark(generate=generate, tasks=tasks, output=tmp_path / "out", **settings)


def known(model):
    """The frames that each film was given to begin with."""
    found = []
    for _, _, content, _ in model.calls:
        mask = np.asarray(content.mask)[0, :, 0, 0, 0]
        found.append(numbers(np.asarray(content.video)[0, mask]))
    return found


def film(folder, name):
    with np.load(folder / f"{name}.npz") as content:
        return content["video"]


@pytest.mark.parametrize(
    "kind, shown, truths",
    [
        ("story_gen", [[]], {"story_gen": range(0, 36)}),
        # 4 frames before the first action and 4 of it may be seen: 3 to 7 are whole tokens.
        ("story_cont", [[3, 4, 5, 6, 7]], {"story_cont": range(8, 40)}),
        (
            "action_exe",
            [[1, 2, 3], [15, 16, 17, 18, 19], [29, 30, 31, 32, 33]],
            {
                "action_exe_0": range(4, 20),
                "action_exe_1": range(20, 34),
                "action_exe_2": range(34, 40),
            },
        ),
    ],
)
def test_what_is_shown_and_what_is_true(tmp_path, video, kind, shown, truths):
    entries = story_tasks.built(STARTS, ENDS, video, FRAMES)[kind]
    model = Counter()
    made, truth = benchmark(tmp_path, entries, model)()
    first_calls = [call for call in known(model) if call in shown]
    assert first_calls[: len(shown)] == shown and known(model)[0] == shown[0]
    for entry in entries:
        name, frames = entry["comment"], sum(entry["exact_frames_per_prompt"])
        assert len(film(made, name)) == frames
        assert numbers(film(truth, name)) == list(truths[name])[:frames]
        assert len(film(truth, name)) == frames


def test_a_film_goes_on_right_after_the_frames_it_was_shown(tmp_path, video):
    """What the model counts from is the last frame that may be seen."""
    entries = story_tasks.built(STARTS, ENDS, video, FRAMES)["action_exe"]
    made, _ = benchmark(tmp_path, entries)()
    for entry in entries:
        begin = film(made, entry["comment"])[0, 0, 0, 0]
        last = 6 * (entry["npz_video_end_frame"] - 1)
        assert begin == pytest.approx(last + 127.5 / 64, abs=1)


def test_short_actions_are_told_all_the_same(tmp_path, video):
    entries = story_tasks.built([0, 0.25, 0.5], [0.25, 0.5, 5], video, FRAMES)["story_gen"]
    assert entries[0]["exact_frames_per_prompt"] == [2, 2, 36]
    made, truth = benchmark(tmp_path, entries)()
    assert len(film(made, "story_gen")) == len(film(truth, "story_gen")) == 40


def test_films_are_not_made_again(tmp_path, video):
    entries = story_tasks.built(STARTS, ENDS, video, FRAMES)["story_cont"]
    made, _ = benchmark(tmp_path, entries)()
    before = (made / "story_cont.npz").stat().st_mtime_ns
    model = Counter()
    benchmark(tmp_path, entries, model)()
    assert not model.calls and (made / "story_cont.npz").stat().st_mtime_ns == before
    benchmark(tmp_path, entries, model, samples=2)()
    assert model.calls and film(made, "story_cont").shape == (32, 16, 32, 3)


class OtherWeights(Ready):
    """Those of the folder have changed."""

    def load(self, step=None, mesh=None):
        return np.float32(1 / 32)


@pytest.mark.parametrize("what", ["weights", "text", "shown", "seed"])
def test_films_of_something_else_are_refused(tmp_path, video, what):
    entries = story_tasks.built(STARTS, ENDS, video, FRAMES)["story_cont"]
    benchmark(tmp_path, entries)()
    settings = {"stage": OtherWeights} if what == "weights" else {}
    if what == "text":
        entries[0]["texts"][0] = "something else"
    if what == "shown":
        times, pixels = video.stat(), np.load(video)
        np.save(video, 255 - pixels)
        os.utime(video, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = benchmark(tmp_path, entries, **settings)
    if what == "seed":
        again = dataclasses.replace(again, generate=dataclasses.replace(again.generate, seed=3))
    with pytest.raises(ValueError, match=r"story_cont\.0\.npy .*something else: .* there"):
        again()


def test_two_entries_of_one_name_are_two_films(tmp_path, video):
    entries = story_tasks.built(STARTS, ENDS, video, FRAMES)["action_exe"][:2]
    entries = [entry | {"comment": "one"} for entry in entries]
    made, truth = benchmark(tmp_path, entries)()
    names = [sorted(path.name for path in folder.iterdir()) for folder in (made, truth)]
    assert names == [["one.00001.npz", "one.npz"]] * 2
    assert [numbers(film(truth, name))[0] for name in ("one", "one.00001")] == [4, 20]


def test_a_task_that_contradicts_itself_is_told_before_a_film_is_made(tmp_path, video):
    entries = story_tasks.built(STARTS, ENDS, video, FRAMES)["action_exe"]
    entries[2]["npz_gt_video_start_frame"] = 39
    model = Counter()
    with pytest.raises(ValueError, match="tasks.json#2: .* frame 34"):
        benchmark(tmp_path, entries, model)()
    assert not model.calls
