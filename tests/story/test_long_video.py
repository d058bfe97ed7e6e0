"""Videos of a cascade that are longer than its clips: exact chunks, and the whole command."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_cascade
from constant_clips import SHAPE, constant_in_time, stage
from told import Told
from toy_training import ToyEncoder

import vidgen as face
from vidgen.cli import main
from vidgen.data.video import transforms
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.conditioning import NoLowRes, TemporalUpsample
from vidgen.imagen.earlier_frames import EarlierFrames
from vidgen.inference.stages import Stage
from vidgen.story import long_video
from vidgen.story.generate_story import GenerateStory
from vidgen.story.script import Scene, Story
from vidgen.story.upscale import Upscale

pytestmark = pytest.mark.usefixtures("kept_programs")

STAGES = ("base", "tsr1", "ssr1")
RATES = "models/imagen/fps.gin"


class Ready(Stage):
    """Needs no folder."""

    def check(self, step=None):
        pass

    def load(self, step=None, mesh=None):
        return {}


def ready(conditioner, **settings):
    model = stage(
        constant_in_time, conditioner, sampler=SamplerSpec(kind="ddim", steps=8), **settings
    )
    return Ready(model=model, text_encoder=ToyEncoder(), model_dir="nowhere")


# ---- exact chunks --------------------------------------------------------------------------------


def test_chunks_go_on_exactly_from_one_another(tmp_path):
    """Of clips that are constant in time a video of ten chunks is one frame, to 1 in 255."""
    story = long_video.story("a", 24, [ready(EarlierFrames(frames=4))])
    run = GenerateStory(
        stage=ready(EarlierFrames(frames=4)), story=story, output=str(tmp_path / "o.npy")
    )
    assert [segment.context for segment in run.segments] == [0] + 9 * [4]
    video = np.load(run()).astype(int)
    assert video.shape == (24, *SHAPE.thwc[1:])
    assert np.abs(video - video[:1]).max() <= 1


def test_the_context_is_what_the_base_has_learned():
    tell = {"story": Story([Scene("a", frames=9)], fit="trim")}
    assert GenerateStory(stage=ready(EarlierFrames(frames=3)), **tell).context == 3
    assert GenerateStory(stage=ready(NoLowRes()), **tell).context == 5
    assert (
        GenerateStory(stage=ready(EarlierFrames(frames=3)), context_frames=2, **tell).context == 2
    )
    with pytest.raises(ValueError, match="4 frames.* base .*--context=3"):
        GenerateStory(stage=ready(EarlierFrames(frames=3)), context_frames=4, **tell)


def test_a_base_that_was_not_trained_to_go_on_is_told_of(caplog):
    assert long_video.split([ready(EarlierFrames())])[1] == []
    assert not caplog.records
    long_video.split([ready(NoLowRes())])
    assert "base was not trained on earlier frames" in caplog.text


def test_a_story_begins_with_a_model_that_makes_video_from_text():
    with pytest.raises(ValueError, match="story .*tsr1 up-samples"):
        long_video.split([ready(TemporalUpsample(), name="tsr1")])


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """base 8 x 16 x 16 with earlier frames and rates, tsr1 16 x 16 x 16, ssr1 16 x 32 x 32."""
    folder = tmp_path_factory.mktemp("cascade")
    tiny_cascade.write(folder, ("base",), layers=["models/imagen/earlier_frames.gin", RATES])
    tiny_cascade.write(folder, STAGES[1:])
    return folder


@pytest.fixture
def vidgen(cascade, tmp_path, monkeypatch, capsys):
    """Run `vidgen generate` on the cascade, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        status = main.main(["generate", f"--model={cascade}", *arguments])
        said = capsys.readouterr()
        return Told(status, said.out, said.err)

    return run


def test_a_video_in_chunks_through_all_stages(vidgen, tmp_path):
    """40 frames: 20 of the base in 4 chunks (8 + 4 + 4 + 4), which tsr1 and ssr1 enlarge."""
    done = vidgen("a tiger", "--long", "--frames=40", "--keep_stages", "-o", "o.npy")
    assert done.status == 0, done.err
    shapes = {path.name: np.load(path).shape for path in tmp_path.iterdir()}
    assert shapes == {
        "o.base.npy": (20, 16, 16, 3),
        "o.tsr1.npy": (40, 16, 16, 3),
        "o.npy": (40, 32, 32, 3),
    }
    first = vidgen("a tiger", "--long", "--frames=16", "-o", "short.npy")
    assert first.status == 0, first.err
    np.testing.assert_array_equal(np.load("short.npy")[:16], np.load("o.npy")[:16])


def test_until_ends_the_chain_and_a_story_is_told_by_the_base(vidgen):
    assert vidgen("a tiger", "--long", "--frames=12", "--until=base", "-o", "b.npy").status == 0
    assert vidgen("--story=a tiger", "--frames=12", "--until=tsr1", "-o", "t.npy").status == 0
    assert len(np.load("b.npy")) == 12 and len(np.load("t.npy")) == 24


def test_python_makes_what_the_command_makes(vidgen, cascade):
    model = face.load(cascade, until="tsr1")
    flags = {"frames": 32, "fps": 20, "seed": 3}
    said = [f"--{name}={value}" for name, value in flags.items()]
    done = vidgen("a tiger", "--long", "--until=tsr1", *said, "-o", "l.npy")
    assert done.status == 0, done.err
    made = model.generate("a tiger", long=True, **flags)
    assert (made.prompts, made.fps, list(made.stages)) == (("a tiger",), 20.0, ["tsr1"])
    np.testing.assert_array_equal(made.video[0], transforms.to_float(np.load("l.npy")))
    story = "a tiger. then a frog"
    assert vidgen(f"--story={story}", "--frames=12", "--until=tsr1", "-o", "s.npy").status == 0
    film = model.story(story, frames=12)
    np.testing.assert_array_equal(film.video, transforms.to_float(np.load("s.npy")))
    assert film.fps == 16.0 and [(s.begin, s.end) for s in film.scenes] == [(0, 16), (16, 24)]
    with pytest.raises(ValueError, match="there are 2 prompts"):
        model.generate(["a", "b"], long=True)
    with pytest.raises(ValueError, match="--long and --story .*together"):
        model.generate("a", long=True, story="b")


# ---- frame rates ---------------------------------------------------------------------------------


def told_rate(z, logsnr, cond):
    """Predicts frames whose brightness is the rate that the network is told, over 100."""
    return jnp.zeros_like(z) + cond.fps[:, None, None, None, None] / 100


def at_rates(conditioner, **settings):
    sampler = SamplerSpec(kind="ddim", steps=2)
    given = {"sampler": sampler, "fps_condition": True} | settings
    return Ready(
        model=stage(told_rate, conditioner, **given), text_encoder=ToyEncoder(), model_dir="nowhere"
    )


def test_stages_are_told_the_rate_that_was_asked_for(tmp_path):
    """base at 6 frames per second, of which tsr1 makes 12: half and all of --fps=12."""
    base = at_rates(NoLowRes(), shape=dataclasses.replace(SHAPE, fps=8.0))
    tsr1 = at_rates(
        TemporalUpsample(), name="tsr1", shape=dataclasses.replace(SHAPE, frames=12, fps=24.0)
    )
    teller = long_video.at_rate([base, tsr1], 12.0)
    story = Story([Scene("a", seconds=2.0)], fit="trim")  # 12 frames of 6 a second
    tell = GenerateStory(
        stage=teller, story=story, context_frames=1, output=str(tmp_path / "o.npy")
    )
    run = Upscale(generate=tell, stages=[tsr1], keep_stages=True)
    assert [one.upscaled.fps for one in run.passes] == [12.0]
    for path, rate, frames in ((run(), 12, 24), (tmp_path / "o.base.npy", 6, 12)):
        video = np.load(path)
        assert len(video) == frames
        np.testing.assert_allclose(transforms.to_float(video), rate / 100, atol=1 / 255)
    with pytest.raises(ValueError, match=r"--fps=12: base .* 8; .*fps\.gin"):
        long_video.at_rate([ready(NoLowRes())], 12.0)


def test_seconds_of_a_story_are_at_the_rate_that_was_asked_for(vidgen, tmp_path):
    scenes = "scenes: [{prompt: a tiger, seconds: 2}]"
    (tmp_path / "s.yaml").write_text(scenes)
    for fps, frames in ((4, 8), (6, 12)):
        done = vidgen("--story=s.yaml", f"--fps={fps}", "--until=base", "-o", f"{fps}.npy")
        assert done.status == 0, done.err
        assert len(np.load(f"{fps}.npy")) == frames


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "--long", "--frames=41"], ["cannot make 41 frames", "nearest: 40 and 42"]),
        (["a", "--long", "--frames=0", "--until=base"], ["--frames is 0"]),
        (["a", "b", "--long"], ["--long makes one video, and there are 2 prompts"]),
        (["--long"], ["no prompt given"]),
        (["--story=a", "--long"], ["--long and --story do not go together"]),
        (["a", "--long", "--upscale=ssr1"], ["--long and --upscale do not go together"]),
        (["a", "--long", "--num_samples=2"], ["--num_samples is not for --long"]),
        (["a", "--long", "--context=5"], ["context is 5 frames", "at most 4"]),
        (["a", "--long", "--until=base", "--keep_stages"], ["--keep_stages is not for"]),
        (["", "--long"], ["prompt is empty"]),
        (["a", "--long", "--fps=0"], ["--fps is 0; it must be positive"]),
    ],
)
def test_wrong_flags(vidgen, tmp_path, arguments, words):
    vidgen(*arguments).assert_sentence(*words)
    assert list(tmp_path.iterdir()) == []
