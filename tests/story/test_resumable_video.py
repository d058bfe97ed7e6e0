"""Films that are killed, continued, begun anew; what a person sees meanwhile.

Tests of vidgen/story/progress_bar.py too.
"""

import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import tracemalloc

import av
import film_to_kill
import numpy as np
import pytest
from places import HELPERS, PYTHONPATH

from vidgen.story import progress_bar, resumable_video
from vidgen.story.progress_bar import StoryProgress
from vidgen.story.resumable_video import ResumableVideo, ResumeError
from vidgen.story.script import Scene, Story
from vidgen.story.segments import plan
from vidgen.types import VideoShape

SIZE = {"frames": 1, "height": 4, "width": 6, "fps": 8.0}
SCRIPT = HELPERS / "film_to_kill.py"

IDENTITY = {"story": {"scenes": [{"prompt": "a tiger"}, {"prompt": "it sleeps"}]}, "seed": 3}


def new_film(path, identity=None, restart=False, **size):
    identity = IDENTITY if identity is None else identity
    return ResumableVideo(path, VideoShape(**SIZE | size), identity=identity, restart=restart)


def frames_of(value, count=3):
    return np.full((count, 4, 6, 3), value, np.uint8)


def test_whole_film(tmp_path):
    video = np.random.default_rng(0).integers(0, 256, (9, 4, 6, 3), dtype=np.uint8)
    path = tmp_path / "film.npy"
    with new_film(path) as film:
        assert film.resume() == (0, None)
        for index in range(3):
            film.append(index, video[3 * index : 3 * index + 3], np.full((1, 4, 6, 3), index, "f4"))
            assert film.frames == 3 * index + 3 and not path.exists()
            assert (np.load(film.growing) == video[: film.frames]).all()
        assert film.finish() == path
    assert (np.load(path) == video).all()
    assert [p.name for p in tmp_path.iterdir()] == ["film.npy"]


def test_goes_on_with_the_exact_context(tmp_path):
    context = np.random.default_rng(1).normal(size=(2, 4, 6, 3)).astype(np.float32)
    path = tmp_path / "film.npy"
    with new_film(path) as film:
        film.resume()
        film.append(0, frames_of(1))
        film.append(1, frames_of(2), context)
    assert not path.exists()
    with new_film(path) as film:
        begin, resumed = film.resume()
        assert begin == 2 and film.frames == 6
        assert resumed.dtype == context.dtype and (resumed == context).all()
        film.append(2, frames_of(3))
        film.finish()
    assert np.load(path)[:, 0, 0, 0].tolist() == [1] * 3 + [2] * 3 + [3] * 3


@pytest.mark.parametrize("kills", [(0, 3, 4), (7,)])
def test_killed_between_segments_loses_nothing_that_was_finished(tmp_path, kills):
    segments = 20
    path = tmp_path / "film.npy"
    environment = os.environ | {"PYTHONPATH": PYTHONPATH}
    command = [sys.executable, SCRIPT, path, str(segments)]
    safe = -1
    for extra in kills:
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            begin = int(process.stdout.readline())
            assert begin >= safe + 1
            safe = begin
            while safe < begin + extra:
                safe = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            process.wait()
            # what it still said before it died is safe as well
            safe = max([safe, *map(int, process.stdout.read().split())])
        if path.exists():
            break
    begin, _ = film_to_kill.tell(path, segments) if not path.exists() else (segments, path)
    assert begin >= safe + 1
    film_to_kill.tell(tmp_path / "whole.npy", segments)
    assert (np.load(path) == np.load(tmp_path / "whole.npy")).all()
    assert {p.name for p in tmp_path.iterdir()} == {"film.npy", "whole.npy"}


class _Dies(BaseException):
    """Stands for a kill; the real ones above cannot be aimed so well."""


def _deaths(tmp_path, monkeypatch, at):
    """Makes a film that dies at the `at`-th change of the disk, then goes on; True if it died."""
    count = iter(range(10_000))

    def dying(function):
        def wrapped(*args, **kwargs):
            if next(count) == at:
                raise _Dies
            return function(*args, **kwargs)

        return wrapped

    path = tmp_path / str(at) / "film.npy"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying(os.replace))
        patch.setattr(os, "fsync", dying(os.fsync))
        patch.setattr(
            resumable_video.video_stream, "remove", dying(resumable_video.video_stream.remove)
        )
        patch.setattr(pathlib.Path, "rmdir", dying(pathlib.Path.rmdir))
        try:
            film_to_kill.tell(path, 3)
            died = False
        except _Dies:
            died = True
    if died:
        film_to_kill.tell(path, 3)
    whole = np.concatenate([*_all_segments(3)])
    assert (np.load(path) == whole).all()
    assert [p.name for p in path.parent.iterdir()] == ["film.npy"]
    return died


def _all_segments(count):
    state = None
    for index in range(count):
        frames, state = film_to_kill.make(index, state)
        yield np.rint((frames + 1) * 127.5).astype(np.uint8)


def test_dying_at_any_change_of_the_disk(tmp_path, monkeypatch):
    at = 0
    while _deaths(tmp_path, monkeypatch, at):
        at += 1
    assert at > 15  # every file is synchronized and renamed


def test_another_story_is_refused(tmp_path):
    path = tmp_path / "film.npy"
    with new_film(path) as film:
        film.resume()
        film.append(0, frames_of(1))
    other = {"story": {"scenes": [{"prompt": "a tiger"}, {"prompt": "it roars"}]}, "seed": 4}
    with pytest.raises(ResumeError) as error:
        new_film(path, other)
    text = str(error.value)
    assert 'story scenes 2 prompt is "it sleeps" there and "it roars" here' in text
    assert "seed is 3 there and 4 here" in text and "--restart" in text
    with pytest.raises(ResumeError, match="film width is 6 there and 8 here"):
        new_film(path, width=8)
    longer = {"story": {"scenes": [1, 2, 3]}, "seed": 3}
    with pytest.raises(ResumeError, match="scenes is 2 items there and 3 items here"):
        new_film(path, longer)
    many = {str(i): i for i in range(9)}
    with pytest.raises(ResumeError, match="and 8 more"):
        new_film(path, many)
    with new_film(path) as film:  # none of these has harmed it
        assert film.resume()[0] == 1
    with new_film(path, other, restart=True) as film:
        assert film.resume() == (0, None)
        film.append(0, frames_of(9))
        film.finish()
    assert (np.load(path) == 9).all() and len(np.load(path)) == 3


def test_a_folder_that_is_no_film_is_left_alone(tmp_path):
    folder = tmp_path / "film.mp4.partial"
    folder.mkdir()
    (folder / "000000.npy").write_bytes(b"mine")
    for restart in (False, True):
        with pytest.raises(ResumeError, match="film.mp4.partial holds 000000.npy"):
            new_film(tmp_path / "film.mp4", restart=restart)
    assert (folder / "000000.npy").read_bytes() == b"mine"


def test_files_of_others_stay(tmp_path):
    with new_film(tmp_path / "film.npy") as film:
        film.resume()
        film.append(0, frames_of(1))
        (film.folder / "notes.txt").write_text("mine")
        film.finish()
    assert [p.name for p in film.folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["state.npz", "000000.npy", "identity.json"])
def test_damage_is_told(tmp_path, name):
    path = tmp_path / "film.npy"
    with new_film(path) as film:
        film.resume()
        film.append(0, frames_of(1), np.zeros((1, 4, 6, 3), "f4"))
    (film.folder / name).write_bytes(b"x")
    with pytest.raises(ResumeError, match=f"{name} .*--restart"):
        with new_film(path) as film:
            film.resume()
    with new_film(path, restart=True) as film:
        assert film.resume() == (0, None)


def test_one_process_at_a_time(tmp_path):
    with new_film(tmp_path / "film.npy"):
        with pytest.raises(ResumeError, match="another process .*film.npy.partial"):
            new_film(tmp_path / "film.npy")
    new_film(tmp_path / "film.npy").close()


def test_wrong_use(tmp_path):
    with pytest.raises(ValueError, match="'.mov'"):
        new_film(tmp_path / "film.mov")
    with pytest.raises(ValueError, match="60 frames a second"):
        new_film(tmp_path / "film.gif", fps=60.0)
    assert not list(tmp_path.iterdir())
    with new_film(tmp_path / "film.npy") as film:
        with pytest.raises(ValueError, match="`resume`"):
            film.append(0, frames_of(1))
        film.resume()
        with pytest.raises(ValueError, match="`resume` was called"):
            film.resume()
        with pytest.raises(ValueError, match=r"film\.npy .*no frame yet"):
            film.finish()
        with pytest.raises(ValueError, match="segment 1 .* 0"):
            film.append(1, frames_of(1))
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.png").write_bytes(b"")
    with new_film(tmp_path / "frames.png") as film:
        with pytest.raises(OSError, match=r"already.*frames\.png"):
            film.resume()


def test_a_stopped_film_can_be_watched(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_film(tmp_path / "film.mp4") as film:
        film.resume()
        film.append(0, frames_of(100))
        raise KeyboardInterrupt
    with av.open(str(tmp_path / "film.mp4.partial" / "film.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3
    with new_film(tmp_path / "film.mp4") as film:
        assert film.resume() == (1, None)
        film.append(1, frames_of(100))
        film.finish()
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6


def test_png_film(tmp_path):
    with new_film(tmp_path / "film.png") as film:
        film.resume()
        film.append(0, frames_of(1))
        assert film.finish() == tmp_path / "film"
    assert len(list((tmp_path / "film").iterdir())) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["film"]


def test_memory_is_flat(tmp_path):
    frames = np.zeros((6, 64, 64, 3), np.float32)
    with new_film(tmp_path / "film.npy", height=64, width=64) as film:
        film.resume()
        film.append(0, frames, frames[-5:])
        tracemalloc.start()
        try:
            for index in range(1, 40):
                film.append(index, frames, frames[-5:])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 5 * frames.nbytes


def test_identity_is_written_for_people(tmp_path):
    story = Story([Scene("a tiger")])
    with new_film(tmp_path / "film.npy", {"story": story.identity()}) as film:
        text = (film.folder / "identity.json").read_text()
    assert json.loads(text)["story"]["scenes"][0]["prompt"] == "a tiger"


@pytest.fixture
def segments():
    return plan(Story([Scene("a", 17), Scene("b", 12)]), 11, 5, 2, 8)


def test_progress_shows_scene_segment_frames_and_time(segments, monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with StoryProgress(segments) as progress:
        for segment in segments:
            progress.begin(segment)
            progress.step(1, 2, lambda: None)
            now[0] += 50.0 if segment.index == 0 else 6.0  # the first one compiles
            progress.end(segment)
    shown = capsys.readouterr().err
    assert "scene 1/2 segment 1/4" in shown and "scene 2/2 segment 3/4" in shown
    assert "17/29 frames, 12s left" in shown  # a second a frame
    assert "29/29 frames" in shown and "50s" not in shown


def test_progress_without_a_terminal(segments, caplog):
    caplog.set_level(logging.INFO)
    with StoryProgress(segments, begin=1) as progress:
        for segment in segments[1:]:
            progress.begin(segment)
            progress.step(1, 2, lambda: None)
            progress.end(segment)
    texts = [record.message for record in caplog.records]
    assert [text.split(" frames")[0] for text in texts] == [
        "scene 1/2 segment 2/4, 11/29",
        "scene 2/2 segment 3/4, 17/29",
    ]
