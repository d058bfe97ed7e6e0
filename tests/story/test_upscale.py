"""Films through up-sampling stages, with stages that repeat pixels and frames.

Tests of vidgen/inference/upscale_stages.py too.
"""

import dataclasses
import weakref

import jax
import numpy as np
import pytest
import toy_training as toy
from fake_models import FakeSampled

from vidgen.imagen.cascade import stage_keys
from vidgen.inference import upscale_stages
from vidgen.inference.per_stage import PerStage
from vidgen.inference.sampling_settings import Sampling
from vidgen.inference.stages import Stage
from vidgen.story.generate_story import GenerateStory
from vidgen.story.resumable_video import ResumableVideo, ResumeError
from vidgen.story.script import Scene, Story
from vidgen.story.upscale import Upscale
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=5, height=4, width=6, fps=8.0)
STORY = Story([Scene("a", frames=5), Scene("b", frames=8), Scene("c", frames=4)])  # 17


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    steps: int = 2
    kind: str = "ddim"
    weight: float = 1.0
    low: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(FakeSampled):
    """What both kinds of models have; `calls` keeps what they were given."""

    name: str
    shape: VideoShape = SHAPE
    sampler: Spec = Spec()
    calls: list = dataclasses.field(default_factory=list, compare=False, repr=False)
    stop_at: int = dataclasses.field(default=10**9, repr=False)

    def called(self, on_step, **given):
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append(given)
        on_step(1, 1, lambda: None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teller(Toy):
    """Each frame's corner is a step brighter than the one before; the rest is noise."""

    name: str = "maskgit"
    input_shape: VideoShape | None = None
    patch_time: int = 1

    def generate(self, params, text, low_res, keys, *, on_step, known):
        self.called(on_step, text=text)
        mask = np.asarray(known.mask)[0, :, 0, 0, 0]
        given = np.asarray(known.video)[0, mask]
        new = rng(keys).uniform(-1, 1, self.shape.thwc)[len(given) :]
        level = given[-1, 0, 0, 0] if len(given) else -1.0
        new[:, 0, 0, 0] = level + (1 + np.arange(len(new))) / 64
        return jax.numpy.asarray(np.concatenate([given, new])[None], np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nearest(Toy):
    """Repeats frames `time` and pixels `space` times; adds params times noise to what is new."""

    time: int = 1
    space: int = 1
    stride: int = 1

    @property
    def input_shape(self):
        if self.time == self.space == 1:
            return None
        h, w = self.shape.height // self.space, self.shape.width // self.space
        frames = self.shape.frames // self.time
        return dataclasses.replace(self.shape, frames=frames, height=h, width=w)

    def generate(self, params, text, low_res, keys, *, on_step, known):
        self.called(on_step, text=text, low_res=low_res, keys=keys, known=known)
        assert known.video.shape == (1, *self.shape.thwc)
        up = nearest(np.asarray(low_res)[0], self.time, self.space)
        mask, video = np.asarray(known.mask)[0], np.asarray(known.video)[0]
        noise = rng(keys).normal(size=up.shape) + video.mean()
        return np.where(mask, video, up + params * noise)[None].astype(np.float32)


def rng(keys):
    return np.random.default_rng(np.asarray(jax.random.key_data(keys))[0])


ALIVE = []


@pytest.fixture(autouse=True)
def no_weights():
    ALIVE.clear()  # a run that was interrupted leaves some in its error


class Ready(Stage):
    """Needs no folder."""

    def check(self, step=None):
        if self.model_dir == "nowhere":
            raise FileNotFoundError("no checkpoint in nowhere")

    def load(self, step=None, mesh=None):
        assert not [one for one in ALIVE if one() is not None], "two stages on the device"
        weights = np.full((), float(self.model_dir))
        ALIVE.append(weakref.ref(weights))  # watched going away
        return weights


def nearest(video, time, space):
    return np.repeat(np.repeat(np.repeat(video, time, 0), space, 1), space, 2)


def spatial(name="ssr1", frames=4, **settings):
    shape = VideoShape(frames=frames, height=32, width=32, fps=24.0)  # trained on other sizes
    return Nearest(name=name, shape=shape, space=2, **settings)


def temporal(name="tsr2", frames=6, time=3, **settings):
    shape = VideoShape(frames=frames, height=32, width=32, fps=24.0)
    return Nearest(name=name, shape=shape, time=time, **settings)


def ready(model, scale=0.0):
    return Ready(model=model, text_encoder=toy.ToyEncoder(), model_dir=str(scale))


def run(tmp_path, *stages, story=STORY, teller=None, noise=0.0, tell=None, **settings):
    given = {"output": str(tmp_path / "film.npy"), "context_frames": 1} | (tell or {})
    told = GenerateStory(stage=ready(teller or Teller()), story=story, **given)
    return Upscale(generate=told, stages=[ready(stage, noise) for stage in stages], **settings)


def film_of(tmp_path, story=STORY, **settings):
    (tmp_path / "small").mkdir(exist_ok=True)
    told = run(tmp_path / "small", story=story, **settings).generate
    return np.load(told())


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 16, 17])
def test_films_of_any_length(tmp_path, frames):
    story = Story([Scene("a", frames=frames)], fit="trim")
    whole = film_of(tmp_path, story)
    film = np.load(run(tmp_path, spatial(), temporal(), story=story)())
    assert film.dtype == np.uint8 and len(film) == 3 * frames
    np.testing.assert_array_equal(film, nearest(whole, 3, 2))
    assert {p.name for p in tmp_path.iterdir()} == {"film.npy", "small"}


@pytest.mark.parametrize("stage", [spatial(), temporal(frames=12)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.99])
def test_overlaps(tmp_path, stage, overlap):
    stage = dataclasses.replace(stage, calls=[])
    film = np.load(run(tmp_path, stage, overlap=overlap)())
    np.testing.assert_array_equal(film, nearest(film_of(tmp_path), stage.time, stage.space))
    known = {int(call["known"].mask.sum()) for call in stage.calls[1:]}
    assert known == {{0.0: 0, 0.5: 2, 0.99: 3}[overlap] * stage.time}


@pytest.mark.parametrize("stage, known", [(spatial(frames=8), 2), (temporal(frames=12), 3)])
def test_a_chunk_knows_the_last_frames_of_the_one_before(tmp_path, stage, known):
    stage = dataclasses.replace(stage, calls=[])
    film = np.load(run(tmp_path, stage, noise=0.3)())
    assert len(stage.calls) >= 3
    end = 0
    for number, call in enumerate(stage.calls):
        mask = np.asarray(call["known"].mask)[0, :, 0, 0, 0]
        count = known if number else 0
        np.testing.assert_array_equal(mask, np.arange(stage.shape.frames) < count)
        given = np.rint((np.asarray(call["known"].video)[0, :count] + 1) * 127.5)
        np.testing.assert_array_equal(given, film[end - count : end])
        end += stage.shape.frames - count
    source = nearest(film_of(tmp_path), stage.time, stage.space)
    assert (film != source).mean() > 0.5


def test_each_chunk_draws_its_own_noise(tmp_path):
    stages = [spatial(), spatial("ssr2")]
    run(tmp_path, *stages, tell={"seed": 3})()
    found = [jax.random.key_data(c["keys"][0]).tolist() for s in stages for c in s.calls]
    seed = jax.random.key(3)
    chunks = range(len(found) // 2)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(seed, np.arange(len(chunks)))
    expected = [key for stage in stages for key in stage_keys(keys, stage.name)]
    assert found == [jax.random.key_data(key).tolist() for key in expected]
    assert len({tuple(key) for key in found}) == len(found) >= 10


def test_the_text_is_that_of_the_scene_in_which_a_chunk_begins(tmp_path):
    slow, stage = temporal(), spatial(frames=8)  # chunks of the second begin at 0, 8, 14, ...
    run(tmp_path, slow, stage)()
    begins = [0, *range(8, 51, 6)]
    prompts = ["a" if begin < 15 else "b" if begin < 39 else "c" for begin in begins]
    assert len(stage.calls) == len(prompts)
    for call, prompt in zip(stage.calls, prompts, strict=True):
        np.testing.assert_array_equal(call["text"].tokens, toy.ToyEncoder()([prompt]).tokens)


def test_one_program_a_stage_and_one_stage_at_a_time(tmp_path):
    stages = [temporal(), spatial()]
    run(tmp_path, *stages)()  # `Ready.load` looks whether other weights are there
    for stage in stages:
        shapes = [jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), c) for c in stage.calls]
        assert len(shapes) > 3 and all(shape == shapes[0] for shape in shapes)
    assert stages[1].calls[0]["low_res"].shape == (1, 4, 4, 6, 3)


@pytest.mark.parametrize("teller, slow, large", [(2, 99, 99), (99, 3, 99), (99, 99, 0), (9, 9, 7)])
def test_an_interrupted_film_goes_on_and_is_the_same(tmp_path, teller, slow, large):
    (tmp_path / "whole").mkdir()
    whole = np.load(run(tmp_path / "whole", temporal(), spatial(), noise=0.2)())
    models = Teller(stop_at=teller), temporal(stop_at=slow), spatial(stop_at=large)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *models[1:], teller=models[0], noise=0.2)()
    assert not (tmp_path / "film.npy").exists()
    ALIVE.clear()
    rest = Teller(), temporal(), spatial()
    film = np.load(run(tmp_path, *rest[1:], teller=rest[0], noise=0.2)())
    np.testing.assert_array_equal(film, whole)
    for before, after, count in zip(models, rest, (4, 16, 17), strict=True):
        assert len(before.calls) + len(after.calls) == count, before.name
    assert {p.name for p in tmp_path.iterdir()} == {"film.npy", "whole"}


def test_every_film_can_be_kept(tmp_path):
    run(tmp_path, temporal(), spatial(), keep_stages=True)()
    small, smooth, film = (
        np.load(tmp_path / f"film.{name}npy") for name in ("maskgit.", "tsr2.", "")
    )
    np.testing.assert_array_equal(smooth, nearest(small, 3, 1))
    np.testing.assert_array_equal(film, nearest(small, 3, 2))
    assert len(list(tmp_path.iterdir())) == 3


def test_frames_a_second(tmp_path):
    passes = run(tmp_path, temporal(), spatial(), temporal("tsr3", frames=8, time=4)).passes
    assert [one.upscaled.fps for one in passes] == [24, 24, 96]
    assert [one.upscaled.thwc for one in passes] == [(51, 4, 6, 3), (51, 8, 12, 3), (204, 8, 12, 3)]


def test_other_settings_are_not_mixed_into_an_unfinished_film(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, spatial(stop_at=2))()
    ALIVE.clear()
    other = {"sampling": Sampling(steps=PerStage(None, {"ssr1": 7}))}
    teller = Teller()
    for changed in ({"tell": other}, {"overlap": 0.5}, {"tell": {"seed": 1}}):
        with pytest.raises(ResumeError, match="--restart"):
            run(tmp_path, spatial(), teller=teller, **changed)()
    assert not teller.calls
    stage = spatial()
    run(tmp_path, stage, teller=teller, tell=other | {"restart": True})()
    assert len(teller.calls) == 4 and len(stage.calls) == 6


def test_other_weights_are_not_mixed_into_an_unfinished_film(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, spatial(stop_at=2), noise=0.1)()
    ALIVE.clear()
    upscaling, teller = run(tmp_path, spatial(), noise=0.1), Teller()
    told = dataclasses.replace(upscaling.generate, stage=ready(teller, 0.5))
    for changed in (run(tmp_path, spatial(), noise=0.2, teller=teller), told):
        changed = changed if changed is not told else dataclasses.replace(upscaling, generate=told)
        with pytest.raises(ResumeError, match="weights is .* there and"):
            changed()
    assert not teller.calls


def test_weights_that_change_while_a_film_is_made_are_told(tmp_path):
    """As where training goes on, and a stage reads a later checkpoint than the film began with."""
    reads = []

    class Training(Ready):
        def load(self, step=None, mesh=None):
            reads.append(step)
            return np.full((), float(len(reads)))

    upscaling = run(tmp_path, spatial())
    stage = Training(model=spatial(), text_encoder=toy.ToyEncoder(), model_dir="runs/ssr1")
    with pytest.raises(ResumeError, match="weights of ssr1 .*runs/ssr1 .*--step=ssr1=N"):
        dataclasses.replace(upscaling, stages=[stage])()


def test_the_seed_of_the_run_wins_over_that_of_the_story(tmp_path):
    story = dataclasses.replace(STORY, seed=3)
    for seed, expected in ((None, 3), (9, 9)):
        passes = run(tmp_path, spatial(), story=story, tell={"seed": seed}).passes
        assert {segment.seed for segment in passes[0].segments} == {expected}


def test_sampling_is_asked_for_by_stage(tmp_path):
    sampling = Sampling(steps=PerStage(None, {"ssr1": 9}), guidance=PerStage(3.0, {"ssr1": 0.5}))
    upscaling = run(tmp_path, spatial(), spatial("ssr2"), tell={"sampling": sampling})
    found = [(p.model.sampler.steps, p.model.guidance.weight) for p in upscaling.passes]
    assert found == [(9, 0.5), (2, 3.0)]
    assert upscaling.generate.model.guidance.weight == 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenSpec(Spec):
    temperature: float = 1.0


def test_a_temperature_is_for_the_tokens(tmp_path):
    teller, sampling = Teller(sampler=TokenSpec()), Sampling(temperature=PerStage(4.0))
    upscaling = run(tmp_path, spatial(), teller=teller, tell={"sampling": sampling})
    assert upscaling.generate.model.sampler.temperature == 4.0
    assert upscaling.passes[0].model.sampler == Spec()
    sampling = Sampling(temperature=PerStage(None, {"ssr1": 4.0}))
    with pytest.raises(ValueError, match="--temperature: ssr1 .*no such setting"):
        run(tmp_path, spatial(), tell={"sampling": sampling})


@pytest.mark.parametrize(
    "stages, settings, words",
    [
        ([Nearest(name="base")], {}, "--upscale=base"),
        ([spatial(stride=8)], {}, "4x6 .* ssr1: .*width .* 4 or 8"),
        ([spatial(), spatial("ssr2", stride=16)], {}, "4x6 .* ssr1, ssr2: .*width .* 4 or 8"),
        ([temporal(stride=5)], {}, "4x6 .* tsr2: .*height .*multiple of 5"),
        ([spatial()], {"overlap": 1.0}, "overlap is 1.0"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_made(tmp_path, stages, settings, words):
    with pytest.raises(ValueError, match=words):
        run(tmp_path, *stages, **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_checkpoint_or_format_is_told_before_anything_is_made(tmp_path):
    teller = Teller()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(tmp_path, spatial(), teller=teller, noise="nowhere")()
    with pytest.raises(ValueError, match="mov"):
        run(tmp_path, spatial(), teller=teller, tell={"output": str(tmp_path / "a.mov")})()
    assert list(tmp_path.iterdir()) == [] and not teller.calls


def test_broken_weights_are_told(tmp_path):
    with pytest.raises(ValueError, match="stage ssr1 .*NaN"):
        run(tmp_path, spatial(), noise=float("nan"))()


# ---- parts of it ---------------------------------------------------------------------------------


def test_frames_of_a_film_are_read_from_the_disk(tmp_path):
    video = np.random.default_rng(0).integers(0, 256, (10, 4, 6, 3), dtype=np.uint8)
    told = (tmp_path / "film.npy", VideoShape(frames=1, height=4, width=6))
    with ResumableVideo(*told, identity={}) as film:
        film.resume()
        assert film.read(0, 3).shape == (0, 4, 6, 3)
        for index, (begin, end) in enumerate([(0, 3), (3, 4), (4, 10)]):
            film.append(index, video[begin:end])
    with ResumableVideo(*told, identity={}) as film:
        film.resume()
        for begin in range(11):
            for end in range(begin, 14):
                np.testing.assert_array_equal(film.read(begin, end), video[begin:end])
        film.discard()
    assert list(tmp_path.iterdir()) == []


def folders(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.gin").write_text("")


def test_where_the_stages_are(tmp_path):
    folders(tmp_path, "p/maskgit", "p/ssr1", "c/base", "c/tsr1", "c/ssr1", "c/ssr2", "alone")
    model, cascade = str(tmp_path / "p"), tmp_path / "c"
    find = upscale_stages.find
    assert find(None, model) == ()
    assert find("ssr1", model) == (tmp_path / "p" / "ssr1",)
    assert find("ssr1", f"{model}/maskgit") == (tmp_path / "p" / "ssr1",)
    assert find("tsr1, ssr2", model, str(cascade)) == (cascade / "tsr1", cascade / "ssr2")
    assert find("ssr1", model, str(cascade / "base")) == (cascade / "base",)  # its name is checked
    assert find("ssr1", model, str(tmp_path / "alone")) == (tmp_path / "alone",)
    with pytest.raises(FileNotFoundError, match="no trained ssr2 in .*, which has maskgit, ssr1;"):
        find("ssr1,ssr2", model)
    with pytest.raises(FileNotFoundError, match="ssr1 in nowhere.* no stage"):
        find("ssr1", model, "nowhere")
    with pytest.raises(ValueError, match="--upscale=ssr2: .*stage ssr1, not ssr2"):
        upscale_stages.check_names([ready(spatial())], [cascade], "ssr2")


@pytest.mark.parametrize(
    "names, error, words",
    [
        ("ssr9", FileNotFoundError, "ssr9 .* which has tsr1, ssr1, ssr2"),
        ("", FileNotFoundError, "which has tsr1, ssr1, ssr2"),
        ("ssr2,ssr1", ValueError, "--upscale=ssr1,ssr2"),
        ("ssr1,ssr1", ValueError, "--upscale=ssr1[.]"),
    ],
)
def test_names_of_stages(names, error, words, tmp_path):
    folders(tmp_path, "tsr1", "ssr1", "ssr2")
    with pytest.raises(error, match=words):
        upscale_stages.find(names, str(tmp_path))
