"""Generations one after the other, stopped at any time, and nothing left of them.

Tests of vidgen/web/views.py, vidgen/cli/web_command.py too.
"""

import argparse
import io
import threading

import numpy as np
import pytest
from PIL import Image

from vidgen.cli import errors, web_command
from vidgen.inference.preview import StepPreview
from vidgen.web import jobs, views
from vidgen.web.commands import Command
from vidgen.web.jobs import WAITING, Worker, picture_of, step_of

SECONDS = 30  # of patience


def preview(step=1, video=None, **changes):
    video = np.zeros((1, 2, 4, 4, 3), np.float32) if video is None else video
    fields = {
        "stage": "base", "stages": ("base", "tsr1"), "step": step, "steps": 4, "window": 0,
        "windows": 1, "prompts": ("a",), "fps": 8.0, "predict": lambda: video,
    }  # fmt: skip
    return StepPreview(**fields | changes)


class Runs:
    """Builds runs that write the prompt, step by step as they are let."""

    def __init__(self):
        self.began, self.running, self.most = [], 0, 0
        self.may_step = threading.Semaphore(0)
        self.stepped = threading.Semaphore(0)

    def build(self, words, look):
        prompt = words[-1]
        (output,) = (w.partition("=")[2] for w in words if w.startswith("--output="))
        if prompt == "wrong":
            raise ValueError(f"{output}, {self.upload} are wrong ('{str(self.upload)[:-9]}).")

        def run():
            self.began.append(prompt)
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                with open(f"{output}.part", "w"):
                    for step in range(1, 5):
                        assert self.may_step.acquire(timeout=SECONDS)
                        self.stepped.release()
                        look(preview(step))
                with open(output, "w") as file:
                    file.write(prompt)
                print(output)
            finally:
                self.running -= 1

        return run

    def steps(self, count):
        for _ in range(count):
            self.may_step.release()
        for _ in range(count):
            assert self.stepped.acquire(timeout=SECONDS)


def ended(*all_jobs):
    """Waits for them."""
    done = threading.Event()
    for _ in range(SECONDS * 100):
        if all(job.has_ended for job in all_jobs):
            return
        done.wait(0.01)
    raise AssertionError([job.state for job in all_jobs])


@pytest.fixture
def runs():
    return Runs()


@pytest.fixture
def worker(runs):
    worker = Worker(runs.build, lambda error: errors.sentence(error)[0])
    yield worker
    closing = threading.Thread(target=worker.close)
    closing.start()
    while closing.is_alive():  # a step that runs ends, and only then is it seen that all stop
        runs.may_step.release()
        closing.join(0.01)
    assert not worker._folder.exists()


def test_one_after_the_other_in_the_order_in_which_they_came(worker, runs, capsys):
    asked = [worker.submit(Command(prompt=prompt)) for prompt in "abc"]
    assert [worker.ahead(job) for job in asked] == [0, 1, 2]
    runs.steps(12)
    ended(*asked)
    assert (runs.began, runs.most) == (["a", "b", "c"], 1)
    assert [job.video.read_text() for job in asked] == ["a", "b", "c"]
    assert [job.state for job in asked] == ["done"] * 3
    assert all(job.picture is None and job.pictures >= 1 for job in asked)
    worker.remove(asked[0])
    assert [job.video.exists() for job in asked] == [False, True, True]
    assert capsys.readouterr().out == ""


def test_one_that_runs_stops_after_its_step_and_leaves_nothing(worker, runs):
    job = worker.submit(Command(prompt="a"))
    runs.steps(2)
    assert list(worker._folder.rglob("*.part"))
    worker.stop(job)
    assert views.progress(job, 0).count("Stopping after this step") == 1
    runs.may_step.release()
    ended(job)
    assert (job.state, job.video, list(worker._folder.iterdir())) == ("stopped", None, [])
    assert "Stopped. Nothing was written." in views.progress(job, 0)
    later = worker.submit(Command(prompt="b"))
    runs.steps(5)  # the one that was let, and that nothing took
    ended(later)
    assert later.video.read_text() == "b"


def test_one_that_waits_stops_at_once(worker, runs):
    first, second, third = (worker.submit(Command(prompt=prompt)) for prompt in "abc")
    runs.steps(1)
    assert "Waiting for 2 generations before this one" in views.progress(third, worker.ahead(third))
    worker.stop(second)
    assert second.state == "stopped" and worker.ahead(third) == 1
    assert "Waiting for 1 generation before" in views.progress(third, worker.ahead(third))
    runs.steps(7)
    ended(first, third)
    assert runs.began == ["a", "c"]


def test_the_queue_has_an_end(worker, runs):
    asked = [worker.submit(Command(prompt="a")) for _ in range(WAITING + 1)]
    with pytest.raises(ValueError, match=f"{WAITING} generations"):
        worker.submit(Command(prompt="b"))
    worker.stop(asked[-1])
    assert worker.submit(Command(prompt="b")).state == "waiting"


def test_an_error_is_one_sentence_without_folders(worker, runs, tmp_path):
    runs.upload = upload = tmp_path / "0a1b2c3d" / "my.mp4"
    job = worker.submit(Command(prompt="wrong", upload=upload))
    ended(job)
    assert job.state == "failed" and list(worker._folder.iterdir()) == []
    assert job.error == "clip.mp4, my.mp4 are wrong ('my.mp4)."
    assert 'role="alert">clip.mp4, my.mp4 are wrong' in views.progress(job, 0)
    worker._build = None  # a fault of ours
    job = worker.submit(Command(prompt="a"))
    ended(job)
    assert "internal fault, TypeError" in job.error


def test_words_that_the_parser_refuses(capsys):
    def parse(words):
        argparse.ArgumentParser(prog="vidgen").parse_args(words)

    build = web_command.builder(parse)
    with pytest.raises(ValueError, match="setting .*terminal"):
        build(["--nonsense"], lambda preview: None)
    assert "--nonsense" in capsys.readouterr().err


def test_how_far_it_is():
    assert step_of(preview(1)) == jobs.Step("stage 1 of 2, base · step 1 of 4", 1 / 8)
    last = preview(4, stage="tsr1", window=2, windows=3)
    assert step_of(last) == jobs.Step("stage 2 of 2, tsr1 · part 3 of 3 · step 4 of 4", 1.0)
    told = preview(2, stage="m", stages=("m",), window=1, windows=4, scene=1)
    assert step_of(told) == jobs.Step("scene 2 · part 2 of 4 · step 2 of 4", 0.375)
    job = jobs.Job(Command())
    job.state = "running"
    assert "Loading and compiling · 0s" in views.progress(job, 0)
    job.look(preview(3))
    assert 'aria-valuenow="38"' in views.progress(job, 0)


@pytest.mark.parametrize(
    ("shape", "frames", "size"),
    [
        ((3, 16, 24, 3), 3, (48, 32)),  # enlarged
        ((40, 32, 32, 1), 14, (64, 64)),  # gray, every third frame
        ((128, 96, 400, 3), 16, (134, 32)),  # every eighth frame, every third pixel
        ((1, 8, 8, 3), 1, (64, 64)),
    ],
)
def test_pictures(shape, frames, size):
    clip = np.broadcast_to(
        np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None, None, None], shape
    )
    data = picture_of(preview(video=clip[None]))
    with Image.open(io.BytesIO(data)) as image:
        assert (getattr(image, "n_frames", 1), image.size) == (frames, size)
        image.seek(frames - 1)
        stride = -(-shape[0] // jobs.MAX_FRAMES)
        shown = 127.5 * (clip[::stride][-1, 0, 0, 0] + 1)
        assert abs(np.asarray(image.convert("RGB"), float).mean() - shown) < 3
    assert len(data) < 100_000


def test_text_of_others_is_no_html():
    assert views.message("<b>&", "error") == (
        '<p class="vg-message vg-error" role="alert">&lt;b&gt;&amp;</p>'
    )
