"""The whole run on a toy model: files, exact resume, kill -9, signals, and wrong input.

Tests of vidgen/train/callbacks.py, vidgen/train/profiler.py, vidgen/train/signals.py too.
"""

import dataclasses
import functools
import gzip
import json
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_training as toy
from fake_models import FakeTokenizer

from vidgen import allocator
from vidgen.train.callbacks import HeldOutLoss, SampleReconstructions, SampleUpsampled, SampleVideos
from vidgen.train.checkpoints import Checkpointer, CheckpointSettings
from vidgen.train.guard import DivergencePolicy, TrainingDiverged
from vidgen.train.train import Train
from vidgen.types import VideoShape


@functools.cache
def plain():
    """The trainer of most runs, whose step is traced once."""
    return toy.make_trainer()


def make(model_dir, *, trainer=None, **settings):
    values = {
        "dataset": toy.ToyData(),
        "text_encoder": toy.ToyEncoder(),
        "train_steps": 12,
        "log_every": 4,
        "checkpoint_every": 3,
        "checkpoints": CheckpointSettings(keep=100),
    }
    return Train(trainer=trainer or plain(), model_dir=str(model_dir), **(values | settings))


def lines(model_dir):
    return [json.loads(x) for x in (model_dir / "metrics.jsonl").read_text().splitlines()]


TRAINED = ("step", "loss", "grad_norm", "error_max", "learning_rate")


def numbers(model_dir):
    """What training decides, without what the clock does."""
    return [{name: line[name] for name in TRAINED} for line in lines(model_dir)]


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its folder and last state."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, make(folder)()


def test_uninterrupted_run(whole, capsys):
    folder, state = whole
    assert int(state.step) == 12
    found = lines(folder)
    assert [line["step"] for line in found] == [4, 8, 12]
    assert list(found[0])[:2] == ["step", "loss"]
    rates = {"seconds_per_step", "examples_per_second", "data_wait_fraction", "flops_per_second"}
    assert rates | {"host_memory_gib", "param_norm", "update_norm"} <= set(found[1])
    assert found[1]["loss"] < found[0]["loss"]
    with Checkpointer(folder, read_only=True) as checkpointer:
        assert checkpointer.steps() == [3, 6, 9, 12]
        assert_equal(checkpointer.restore_params(), state.ema)
    # The same command again has nothing left to do, and says so.
    make(folder)()
    assert "step 12 is saved" in capsys.readouterr().err
    assert lines(folder) == found


def test_a_model_dir_in_the_home_folder(tmp_path, monkeypatch):
    """A shell leaves the ~ of --gin.MODEL_DIR=~/m as it is."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    sampler = SampleVideos(prompts=("gray 3",), every=2, suffix="npy")
    make("~/m", train_steps=2, sample_writer=sampler)()
    assert list((tmp_path / "here").iterdir()) == []
    found = {path.name for path in (tmp_path / "home" / "m").iterdir()}
    assert found == {"checkpoints", "metrics.jsonl", "samples", "tensorboard"}


def test_console_reads_well(tmp_path, capsys):
    make(tmp_path, train_steps=8)()
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("training 2.3 k parameters on 1 device(s)")
    assert said[1].startswith("step 1/8  loss 0.") and said[1].endswith("s with compiling")
    assert said[2].startswith("step 4/8  loss 0.") and "s/step" in said[2] and "left" in said[2]
    assert said[-1].startswith("step 8 is saved in")
    assert "\r" not in "".join(said)  # not a terminal: no moving line


class Interrupted(Exception):
    pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calling(toy.ToyData):
    """Calls `call(at)` before batch `at`."""

    at: int
    call: Callable[[int], None]

    def iterator(self, *, process=(0, 1)):
        inner = super().iterator(process=process)

        class Watched(type(inner)):
            def __next__(this):
                if this.at == self.at:
                    self.call(this.at)
                return super().__next__()

        inner.__class__ = Watched
        return inner


def crash(step):
    raise Interrupted


@pytest.mark.parametrize("at", [5, 8])
def test_crash_then_resume_is_bit_equal(tmp_path, whole, at):
    """Checkpoints (every 3) and log lines (every 4) do not coincide: the sums are saved too."""
    with pytest.raises(Interrupted):
        make(tmp_path, dataset=Calling(at=at, call=crash))()
    state = make(tmp_path)()
    folder, expected = whole
    assert_equal(state, expected)
    assert numbers(tmp_path) == numbers(folder)


SCRIPT = """
import os
import sys
import time
import toy_training as toy
from fake_models import FakeTokenizer
from vidgen.train.train import Train
from vidgen.train.checkpoints import CheckpointSettings

class Held(toy.ToyData):
    def iterator(self, *, process=(0, 1)):
        inner = super().iterator(process=process)
        class Waiting(type(inner)):
            def __next__(self):
                while self.at == int(sys.argv[2]) and not os.path.exists(f"{sys.argv[1]}.go"):
                    time.sleep(0.01)
                return super().__next__()
        inner.__class__ = Waiting
        return inner

Train(trainer=toy.make_trainer(), dataset=Held(), text_encoder=toy.ToyEncoder(),
      model_dir=sys.argv[1], train_steps=12, log_every=4, checkpoint_every=3,
      checkpoints=CheckpointSettings(keep=100))()
"""


@pytest.fixture(scope="module")
def start(warm, tmp_path_factory):
    """Starts a process that trains in FOLDER; batch `until` comes when there is FOLDER.go."""
    script = tmp_path_factory.mktemp("script") / "script.py"
    script.write_text(SCRIPT)

    def start(model_dir, *, until=-1):
        return warm.start(script, model_dir, until, stderr=subprocess.PIPE, text=True)

    return start


def wait_for(condition, process):
    end = time.monotonic() + 90
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.02)


def test_kill_9_then_the_same_command_is_bit_equal(start, tmp_path, whole):
    process = start(tmp_path, until=10)
    wait_for(lambda: (tmp_path / "checkpoints" / "6").is_dir(), process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "checkpoints" / "12").exists()
    again = start(tmp_path)
    errors = again.communicate(timeout=90)[1]
    assert again.returncode == 0, errors
    assert "resuming from step" in errors
    folder, expected = whole
    assert numbers(tmp_path) == numbers(folder)
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        assert_equal(checkpointer.restore_params(averaged=False), expected.params)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 0)], ids=["SIGTERM", "SIGINT"]
)
def test_signal_saves_and_ends_well(start, tmp_path, number, status):
    """A preempted run says by its status that it wants to be run again."""
    folder = tmp_path / "run"
    process = start(folder, until=6)
    wait_for(lambda: (folder / "checkpoints" / "3").is_dir(), process)
    process.send_signal(number)
    stops = f"{number.name}: stopping after this step"
    errors = ""
    while stops not in errors:
        line = process.stderr.readline()
        assert line, errors
        errors += line
    (tmp_path / "run.go").touch()
    errors += process.communicate(timeout=60)[1]
    assert process.returncode == status, errors
    assert "re-running the same command resumes" in errors
    with Checkpointer(folder, read_only=True) as checkpointer:
        assert 3 <= checkpointer.latest_step() < 12
        assert f"step {checkpointer.latest_step()} is saved" in errors


def test_a_checkpoint_that_cannot_be_written_is_tried_again(tmp_path, whole, capsys):
    """A limit on file size stands in for a full disk, on which somebody then makes room."""
    settings = CheckpointSettings(keep=100, retries=5, retry_seconds=0.5, asynchronous=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def full(step):
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
        after = threading.Timer(0.7, resource.setrlimit, (resource.RLIMIT_FSIZE, (soft, hard)))
        after.start()

    try:
        state = make(tmp_path, checkpoints=settings, dataset=Calling(at=5, call=full))()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert_equal(state, whole[1])
    told = capsys.readouterr().err
    assert "cannot write a checkpoint" in told and "Trying again in 0.5 s" in told
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        assert checkpointer.steps() == [3, 6, 9, 12]


def test_time_limit_stops_with_a_checkpoint(tmp_path, whole):
    make(tmp_path, time_limit_minutes=1e-9)()
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        assert checkpointer.steps() == [0]
    state = make(tmp_path)()  # and the next call goes on as if nothing had been
    assert_equal(state, whole[1])


class Exploding(toy.ToyModel):
    """The loss stops being a number once the parameter `count` is 3."""

    def init(self, key, batch):
        return super().init(key, batch) | {"count": jnp.zeros(())}

    def loss(self, params, frozen, batch, key, *, train):
        loss, metrics = super().loss(params, frozen, batch, key, train=train)
        return jnp.where(params["count"] >= 3, jnp.nan, loss), metrics


@dataclasses.dataclass(frozen=True)
class Counter:
    """An optimizer that adds one to `count` and leaves the rest."""

    learning_rate: float = 0.0

    def build(self):
        def update(grads, state, params=None):
            return jax.tree.map(jnp.zeros_like, grads) | {"count": jnp.ones(())}, state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def test_divergence_stops_and_keeps_the_good_checkpoint(tmp_path):
    t = toy.make_trainer(model=Exploding(), optimizer=Counter())
    with pytest.raises(TrainingDiverged, match=r"diverged at step 4 .*loss is nan.*checkpoint 3"):
        make(tmp_path, trainer=t)()
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        assert checkpointer.steps() == [3]
        assert float(checkpointer.restore_params(averaged=False)["count"]) == 3.0
    assert not (tmp_path / "metrics.jsonl").exists()  # the line of step 4 was due, and is not kept


class Spiky(toy.ToyModel):
    """The loss of some steps is what `SPIKES` says; the key of a step tells which it is."""

    def loss(self, params, frozen, batch, key, *, train):
        loss, metrics = super().loss(params, frozen, batch, key, train=train)
        for step, factor in SPIKES.items():
            base = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 1), step - 1)
            now = jnp.all(jax.random.key_data(base) == jax.random.key_data(key))
            loss = loss * jnp.where(now, factor, 1.0)
        return loss, metrics


SPIKES = {6: float("nan"), 9: 1e6}


def test_bad_steps_are_skipped_and_named(tmp_path, caplog):
    guard = DivergencePolicy(policy="skip", spike=5, average=3)
    trainer = toy.make_trainer(model=Spiky(), guard=guard)
    with caplog.at_level("WARNING", logger="vidgen"):
        state = make(tmp_path / "skip", trainer=trainer, log_every=1)()
    told = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(told) == 2 and told[0] == "step 6 is skipped: loss is nan, grad_norm is nan"
    assert told[1].startswith("step 9 is skipped: loss is ") and ", over " in told[1]
    skipped = [line for line in lines(tmp_path / "skip") if line["skipped"]]
    assert [line["step"] for line in skipped] == [6, 9] and int(state.step) == 12
    assert [line["loss"] for line in skipped] == [None, None]  # none was counted
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    # Interrupted, it is the same: the limits are part of a checkpoint.
    for steps in (7, 8, 12):
        again = make(tmp_path / "again", trainer=trainer, train_steps=steps, log_every=2)()
    assert_equal(again.params, state.params)
    losses = {line["step"]: line["loss"] for line in lines(tmp_path / "skip")}
    found = {line["step"]: (line["loss"], line["skipped"]) for line in lines(tmp_path / "again")}
    assert found[6] == (pytest.approx(losses[5]), 0.5)  # the mean of the step that counts


def test_a_spike_stops_where_the_policy_says_so(tmp_path):
    trainer = toy.make_trainer(model=Spiky(), guard=DivergencePolicy(spike=5, average=3))
    with pytest.raises(
        TrainingDiverged, match="at step 6 .*loss is nan.*DivergencePolicy.policy = 'skip'"
    ):
        make(tmp_path, trainer=trainer)()


def test_too_many_bad_steps_in_a_row_stop_all_the_same(tmp_path):
    guard = DivergencePolicy(policy="skip", patience=3)
    trainer = toy.make_trainer(model=Exploding(), optimizer=Counter(), guard=guard)
    with pytest.raises(TrainingDiverged, match="step 6 .* 3 bad steps"):
        make(tmp_path, trainer=trainer)()


def test_profile(tmp_path, whole, caplog):
    """A trace of the steps that were asked for, and the same training."""
    with caplog.at_level("INFO", logger="vidgen"):
        state = make(tmp_path, profile="3:5")()
    assert_equal(state, whole[1])
    assert f"the trace of 2 step(s) is in {tmp_path}/profile" in caplog.text
    traces = list((tmp_path / "profile").rglob("*.trace.json.gz"))
    assert len(traces) == 1
    events = json.loads(gzip.decompress(traces[0].read_bytes()))["traceEvents"]
    steps = {e["args"]["step_num"] for e in events if "step_num" in e.get("args", {})}
    assert {str(step) for step in steps} == {"3", "4"}


@pytest.mark.parametrize("profile", ["3", "5:3", "0:3", "a:b"])
def test_wrong_profile(tmp_path, profile):
    with pytest.raises(ValueError, match=f"--profile={profile}: expected START:STOP"):
        make(tmp_path, profile=profile)


def test_samples_and_held_out_loss(tmp_path, whole):
    sampler = SampleVideos(prompts=("gray 3", "gray 250", "gray 9"), every=6, suffix="npy", seed=1)
    held_out = HeldOutLoss(dataset=toy.ToyData(), every=6, batches=2)
    state = make(tmp_path, sample_writer=sampler, held_out=held_out)()
    assert_equal(state, whole[1])  # neither touches training
    by_step = {line["step"]: line for line in lines(tmp_path)}
    assert list(by_step) == [4, 6, 8, 12]
    assert "loss" not in by_step[6] and by_step[6]["eval_loss"] > by_step[12]["eval_loss"]
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [
        "step_12.npy",
        "step_6.npy",
    ]
    clips = np.load(tmp_path / "samples" / "step_12.npy")
    assert clips.shape == (3, *toy.SHAPE.thwc)
    # Clip 1 by hand: from the averaged weights, its own key and its own prompt.
    text = toy.ToyEncoder()(["gray 250"])
    keys = jax.random.fold_in(jax.random.key(1), 1)[None]
    alone = jax.jit(toy.ToyModel().generate)(state.ema, text, None, keys)
    np.testing.assert_allclose(clips[1], alone[0], rtol=1e-4, atol=1e-6)


def test_holes_are_set_aside_whenever_programs_were_compiled(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(allocator, "set_holes_aside", lambda: calls.append(len(calls)))
    held_out = HeldOutLoss(dataset=toy.ToyData(), every=6, batches=2)
    make(tmp_path, trainer=toy.make_trainer(), held_out=held_out, log_every=1)()
    assert len(calls) == 2  # after the first step, and after the first held-out loss


def test_sample_sheet_is_written(tmp_path):
    make(tmp_path, train_steps=2, sample_writer=SampleVideos(prompts=("gray 3",), every=2))()
    assert (tmp_path / "samples" / "step_2.png").read_bytes().startswith(b"\x89PNG")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doubler(toy.ToyModel):
    """A "stage" that repeats the frames it is given, plus a tenth."""

    def degrade(self, video):
        return video[:, ::2, ::2]

    def generate(self, params, text, low_res, keys, *, on_step=None, known=None):
        return jnp.repeat(jnp.repeat(low_res, 2, axis=1), 2, axis=2) + 0.1


def test_restored_clips_are_shown_between_what_was_given_and_the_truth(tmp_path):
    sampler = SampleUpsampled(dataset=toy.ToyData(), every=2, count=2, suffix="npy")
    make(
        tmp_path, trainer=toy.make_trainer(model=Doubler()), train_steps=2, sample_writer=sampler
    )()
    clips = np.load(tmp_path / "samples" / "step_2.npy")
    assert clips.shape == (6, *toy.SHAPE.thwc)
    raw = next(toy.ToyData().iterator())["video"][:2] / 127.5 - 1
    np.testing.assert_allclose(clips[2::3], raw, atol=1e-6)
    np.testing.assert_allclose(clips[0::3], clips[2::3], atol=1e-6)  # plain gray, made small
    np.testing.assert_allclose(clips[1::3], clips[0::3] + 0.1, atol=1e-6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Darkening(toy.ToyModel, FakeTokenizer):
    """A tokenizer that loses a tenth of the brightness."""

    name: str = "dark"
    shape: VideoShape = toy.SHAPE

    def reconstruct(self, params, video):
        return video - 0.1


def test_reconstructed_clips_are_shown_above_the_truth(tmp_path):
    sampler = SampleReconstructions(dataset=toy.ToyData(), every=2, count=2, suffix="npy")
    make(
        tmp_path, trainer=toy.make_trainer(model=Darkening()), train_steps=2, sample_writer=sampler
    )()
    clips = np.load(tmp_path / "samples" / "step_2.npy")
    raw = next(toy.ToyData().iterator())["video"][:2] / 127.5 - 1
    np.testing.assert_allclose(clips[1::2], raw, atol=1e-6)
    np.testing.assert_allclose(clips[0::2], np.clip(raw - 0.1, -1, 1), atol=1e-6)


def test_a_model_that_cannot_reconstruct(tmp_path):
    sampler = SampleReconstructions(dataset=toy.ToyData(), every=2)
    with pytest.raises(ValueError, match="TokenizerModel.*ToyModel"):
        make(tmp_path, sample_writer=sampler)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader(toy.ToyModel):
    """Generates with what a frozen network holds."""

    def merge_params(self, params, frozen):
        return {"own": params, **frozen}

    def loss(self, params, frozen, batch, key, *, train):
        assert frozen["brightness"].shape == ()
        return super().loss(params, frozen, batch, key, train=train)

    def generate(self, params, text, low_res, keys, *, on_step=None, known=None):
        return jnp.full((len(keys), *self.shape.thwc), params["brightness"])


def test_a_model_samples_with_the_networks_that_it_reads(tmp_path):
    trainer = toy.make_trainer(model=Reader())
    sampler = SampleVideos(prompts=("gray 3",), every=2, suffix="npy")
    frozen = functools.partial(dict, brightness=np.float32(0.25))
    make(tmp_path, trainer=trainer, train_steps=2, sample_writer=sampler, frozen=frozen)()
    assert (np.load(tmp_path / "samples" / "step_2.npy") == 0.25).all()


def test_wrong_restored_clips():
    with pytest.raises(ValueError, match="count is 0"):
        SampleUpsampled(dataset=toy.ToyData(), every=1, count=0)


def test_data_that_ends_early(tmp_path, capsys):
    class Short(toy.ToyData):
        def iterator(self, *, process=(0, 1)):
            inner = super().iterator(process=process)
            inner.__class__ = type("Ending", (type(inner),), {"__next__": _five})
            return inner

    state = make(tmp_path, dataset=Short())()
    assert int(state.step) == 5
    assert "the data ended at step 5" in capsys.readouterr().err


def _five(self):
    if self.at == 5:
        raise StopIteration
    return toy.ToyIterator.__next__(self)


def test_model_dir_that_is_a_file(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(ValueError, match="MODEL_DIR .*/x' is a file"):
        make(tmp_path / "x")()
    with pytest.raises(ValueError, match="cannot be written"):
        make(tmp_path / "x" / "y")()
    with pytest.raises(ValueError, match="MODEL_DIR is empty"):
        make("")


def test_clips_of_another_shape(tmp_path):
    shape = VideoShape(frames=2, height=8, width=8, channels=1)
    t = toy.make_trainer(model=toy.ToyModel(shape=shape))
    with pytest.raises(ValueError, match=r"\(8, 2, 4, 4, 1\).*\(8, 2, 8, 8, 1\)"):
        make(tmp_path, trainer=t)()


def test_checkpoint_of_another_model(tmp_path):
    make(tmp_path, train_steps=1)()
    t = toy.make_trainer(model=toy.ToyModel(network=toy.Regressor(hidden=8)))
    with pytest.raises(ValueError, match=r"checkpoints/1 .*in_bias is \(16,\).*\(8,\)"):
        make(tmp_path, trainer=t)()


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"train_steps": 0}, "train_steps is 0"),
        ({"log_every": 0}, "log_every is 0"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"time_limit_minutes": 0.0}, "time_limit_minutes is 0.0"),
    ],
)
def test_wrong_settings(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        make(tmp_path, **settings)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"prompts": ()}, "prompts is empty"),
        ({"every": 0}, "every is 0"),
        ({"suffix": "avi"}, "mp4"),
    ],
)
def test_wrong_sampler(settings, words):
    with pytest.raises(ValueError, match=words):
        SampleVideos(**({"prompts": ("a",), "every": 1} | settings))


def test_sampler_needs_a_model_that_generates(tmp_path):
    t = toy.make_trainer(model=FakeTokenizer())
    with pytest.raises(ValueError, match="Generator.*FakeTokenizer"):
        make(tmp_path, trainer=t, sample_writer=SampleVideos(prompts=("a",), every=1))


def test_a_sampler_writes_a_format_that_plays_at_the_rate_of_the_model(tmp_path):
    model = toy.ToyModel(shape=dataclasses.replace(toy.ToyModel().shape, fps=60.0))
    sampler = SampleVideos(prompts=("a",), every=1, suffix="gif")
    with pytest.raises(ValueError, match="60 frames .*[.]gif .*0.002 to 50"):
        make(tmp_path, trainer=toy.make_trainer(model=model), sample_writer=sampler)


def test_wrong_held_out():
    with pytest.raises(ValueError, match="batches is 0"):
        HeldOutLoss(dataset=toy.ToyData(), every=1, batches=0)
