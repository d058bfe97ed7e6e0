"""Prompts to files: what a clip depends on, names of files, settings, and every wrong input.

Tests of vidgen/inference/clips.py too.
"""

import dataclasses
import errno

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_models import FakeSampled

from vidgen.data.video import encode
from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.inference.generate import Generate, clip_key
from vidgen.inference.per_stage import PerStage
from vidgen.inference.sampling_settings import Sampling
from vidgen.inference.stages import Stage
from vidgen.text.byte_encoder import ByteEncoder
from vidgen.train.checkpoints import Checkpointer
from vidgen.train.state import TrainState
from vidgen.types import TextEmbedding, VideoBatch, VideoShape

ENCODER = ByteEncoder(dim=4, length=8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FakeStage(FakeSampled):
    """A clip is noise of its key, shifted by its text, its weights and its settings."""

    sampler: SamplerSpec = SamplerSpec(kind="ddim", steps=3)
    guidance: GuidanceSpec = GuidanceSpec(weight=1.0, low=0.5)
    input_shape: VideoShape | None = None

    def init(self, key, batch):
        del key, batch
        return {"w": jnp.zeros(3)}

    def batch_spec(self, batch_size, text_length, text_dim, *, captions_per_clip=1):
        spec = jax.ShapeDtypeStruct
        text = TextEmbedding(
            tokens=spec((batch_size, text_length, text_dim), jnp.float32),
            mask=spec((batch_size, text_length), bool),
        )
        video = spec((batch_size, *self.shape.thwc), jnp.float32)
        return VideoBatch(video=video, text=text, independent_frames=spec((batch_size,), bool))

    def generate(self, params, text, low_res, keys, *, on_step=None, known=None):
        assert low_res is None and known is None
        for step in range(self.sampler.steps if on_step else 0):
            on_step(step + 1, self.sampler.steps, lambda: None)
        noise = jax.vmap(lambda key: jax.random.normal(key, self.shape.thwc))(keys)
        shift = jnp.sum(text.tokens, (1, 2)) + jnp.sum(params["w"]) + self.guidance.weight
        return jnp.tanh(noise + shift[:, None, None, None, None] / self.sampler.steps)


FAST, SLOW = (
    FakeStage(shape=VideoShape(frames=2, height=4, width=4, fps=fps)) for fps in (60.0, 0.001)
)


def save(folder, w=0.5, step=1, ema=None):
    state = TrainState(
        step=jnp.array(step),
        params={"w": jnp.full(3, w)},
        opt_state={},
        ema=None if ema is None else {"w": jnp.full(3, ema)},
    )
    with Checkpointer(folder) as checkpointer:
        checkpointer.save(step, state)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save(folder)
    return str(folder)


def generate(*prompts, model_dir="nowhere", model=None, **settings):
    """The run of one fake stage; settings of its sampling are told apart by their names."""
    stage = Stage(model=model or FakeStage(), text_encoder=ENCODER, model_dir=model_dir)
    names = {field.name for field in dataclasses.fields(Sampling)}
    sampling = Sampling(**{n: v for n, v in settings.items() if n in names})
    others = {n: v for n, v in settings.items() if n not in names}
    run = {"stages": [stage], "prompts": prompts, "sampling": sampling}
    return Generate(**run | others)


@pytest.fixture
def run(model_dir, tmp_path):
    def make(*prompts, **settings):
        settings = {"model_dir": model_dir, "output": str(tmp_path / "o.npy")} | settings
        return [np.load(path) for path in generate(*prompts, **settings)()]

    return make


def test_one_clip_takes_the_name_given(run, tmp_path, capsys):
    (video,) = run("a cat")
    assert video.shape == (2, 4, 4, 3) and np.abs(video).max() <= 1
    assert [p.name for p in tmp_path.iterdir()] == ["o.npy"]
    assert capsys.readouterr().out == f"{tmp_path / 'o.npy'}\n"


def test_several_clips_are_numbered_prompt_by_prompt(run, tmp_path):
    videos = run("a", "b", num_samples=2, output=str(tmp_path / "new" / "x.y.npy"))
    names = sorted(p.name for p in (tmp_path / "new").iterdir())
    assert names == ["x.y-000.npy", "x.y-001.npy", "x.y-002.npy", "x.y-003.npy"]
    np.testing.assert_array_equal(videos[2], run("b")[0])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_a_clip_depends_on_nothing_beside_it(run, batch_size):
    alone = run("a cat")[0]
    among = run("x", "y", "a cat", "z", batch_size=batch_size)[2]
    np.testing.assert_array_equal(alone, among)


def test_a_clip_depends_on_seed_prompt_and_sample(run):
    base, second = run("a cat", num_samples=2)
    (other_seed,) = run("a cat", seed=1)
    (other_prompt,) = run("a dog")
    for other in (second, other_seed, other_prompt):
        assert np.abs(base - other).max() > 0.1


def test_keys_are_pinned():
    """A saved seed must give the same clip in the next version."""
    data = jax.random.key_data(clip_key(7, "a cat", 2))
    np.testing.assert_array_equal(data, PINNED_KEY)


PINNED_KEY = [219226520, 1579670596]


def test_an_empty_prompt_is_video_without_text_and_without_guidance():
    """Both halves of guidance are the same: one is evaluated, and the weight changes nothing."""
    seen = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Noting(FakeStage):
        def generate(self, params, text, *rest, **more):
            seen.append((bool(np.any(text.mask)), self.guidance.is_unguided))
            return super().generate(params, text, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "load", lambda self, *_: {"w": jnp.zeros(3)})
        made = generate("", " ", "a", model=Noting(), batch_size=1).videos()
        assert [clip.prompt for clip, _ in made] == ["", " ", "a"]
    assert seen == [(False, True), (False, True), (True, False)]


def test_settings_override_the_models_own(run):
    made = generate("a", steps=9, sampler="dpmpp_2m", guidance=0.0, threshold="dynamic")
    (model,) = made.chain.stages
    assert model.sampler == SamplerSpec(kind="dpmpp_2m", steps=9)
    assert model.guidance.is_unguided  # the oscillation of the model's own guidance is off too
    assert model.guidance.threshold == "dynamic"
    assert np.abs(run("a")[0] - run("a", steps=9)[0]).max() > 1e-3
    (other,) = generate("a", guidance=(15.0, 1.0), gamma=0.5, reconstruction=5.0).chain.stages
    assert other.guidance == GuidanceSpec(weight=15.0, low=1.0, reconstruction=5.0)
    assert other.sampler == SamplerSpec(kind="ddim", steps=3, gamma=0.5)


def test_settings_by_stage_leave_the_others_their_own():
    (model,) = generate("a", steps=PerStage(None, {"base": 9}), gamma=PerStage(0.7)).chain.stages
    assert model.sampler == SamplerSpec(kind="ddim", steps=9, gamma=0.7)
    (model,) = generate("a", steps=PerStage(None, {"tsr1": 9})).chain.stages
    assert model == FakeStage()


def test_another_size(run):
    (video,) = run("a", frames=5, size=(6, 8), model=SizedStage())
    assert video.shape == (5, 6, 8, 3)
    with pytest.raises(ValueError, match="cannot make 5 pixels of height: .* of 2; .* 4 and 6"):
        generate("a", size=(5, 8), model=SizedStage())


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizedStage(FakeStage):
    stride: int = 2


def test_averaged_weights_and_a_chosen_step(run, tmp_path):
    folder = tmp_path / "model"
    save(folder, w=9.0, ema=0.5, step=1)
    save(folder, w=9.0, ema=0.25, step=2)
    np.testing.assert_array_equal(run("a", model_dir=str(folder), checkpoint_step=1), run("a"))
    assert np.abs(run("a", model_dir=str(folder))[0] - run("a")[0]).max() > 1e-3


def test_a_file_of_that_name_is_replaced(run, tmp_path):
    (tmp_path / "o.npy").write_bytes(b"old")
    assert run("a")[0].shape == (2, 4, 4, 3)


@pytest.mark.parametrize("suffix", encode.SUFFIXES)
def test_the_suffix_is_the_format(run, model_dir, tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    generate("a", model_dir=model_dir, output=str(path))()
    assert path.stat().st_size > 50


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompts": []}, "no prompt"),
        ({"frames": 0}, "cannot make 0 frames"),
        ({"threshold": "hard"}, "'hard'.*none, static, dynamic"),
        ({"gamma": 2.0}, "gamma is 2"),
        ({"reconstruction": -1.0}, "reconstruction is -1"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"sampler": "leap"}, "'leap'.*dpmpp_2m.*ddim"),
        ({"steps": 0}, "steps is 0"),
        ({"guidance": -1.0}, "weight is -1"),
        ({"output": "clip.avi"}, "'.avi'; choose .*.mp4"),
        ({"output": "clip"}, "'clip': unknown suffix"),
        ({"output": "a.gif", "model": FAST}, "60 frames .*[.]gif .*0.002 to 50"),
        ({"output": "a.webm", "model": SLOW}, "at 0.001 frames a second"),
    ],
)
def test_wrong_settings_stop_before_anything_is_loaded(settings, words):
    with pytest.raises(ValueError, match=words):
        generate(**{"prompts": ["a"]} | settings)


def test_missing_checkpoints(run, tmp_path, model_dir):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run("a", model_dir=str(tmp_path / "nowhere"))
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        run("a", model_dir=str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="step 5.*there are \\[1\\]"):
        run("a", checkpoint_step=5)


def test_broken_weights_give_a_sentence_and_no_file(run, tmp_path):
    save(tmp_path / "broken", w=np.nan)
    with pytest.raises(ValueError, match="--step"):
        run("a", model_dir=str(tmp_path / "broken"))
    assert not (tmp_path / "o.npy").exists()


def test_a_folder_that_cannot_be_written_is_found_before_sampling(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(FakeStage, "generate", lambda *args, **kwargs: pytest.fail("sampled"))
    with pytest.raises(OSError, match="choose another --output"):
        run("a", output=str(tmp_path / "file" / "o.npy"))


def test_a_full_disk_leaves_the_old_file(run, tmp_path, monkeypatch):
    (tmp_path / "o.npy").write_bytes(b"old")

    def full(self, data):
        with open(self, "wb") as stream:
            stream.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError) as caught:
        run("a")
    assert caught.value.errno == errno.ENOSPC
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("o.npy", b"old")]
