"""Videos of a cascade that are longer than its clips: exact chunks, and the whole command."""

import numpy as np
import pytest
import tiny_cascade
from constant_clips import SHAPE, constant_in_time, stage
from told import Told
from toy_training import ToyEncoder

from vidgen.cli import main
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.conditioning import NoLowRes, TemporalUpsample
from vidgen.imagen.earlier_frames import EarlierFrames
from vidgen.inference.stages import Stage
from vidgen.story import long_video
from vidgen.story.generate_story import GenerateStory
from vidgen.story.script import Scene, Story

STAGES = ("base", "tsr1", "ssr1")


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
    with pytest.raises(ValueError, match="context is 4 frames, and base was trained .* at most 3"):
        GenerateStory(stage=ready(EarlierFrames(frames=3)), context_frames=4, **tell)


def test_a_base_that_was_not_trained_to_go_on_is_told_of(caplog):
    assert long_video.split([ready(EarlierFrames())])[1] == []
    assert not caplog.records
    long_video.split([ready(NoLowRes())])
    assert "base was not trained on earlier frames" in caplog.text


def test_a_story_begins_with_a_model_that_makes_video_from_text():
    with pytest.raises(ValueError, match="begins with a model that makes video from text, and tsr"):
        long_video.split([ready(TemporalUpsample(), name="tsr1")])


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """base 8 x 16 x 16 with earlier frames, tsr1 16 x 16 x 16, ssr1 16 x 32 x 32."""
    folder = tmp_path_factory.mktemp("cascade")
    tiny_cascade.write(folder, ("base",), layers=["models/imagen/earlier_frames.gin"])
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
    ],
)
def test_wrong_flags(vidgen, tmp_path, arguments, words):
    vidgen(*arguments).assert_sentence(*words)
    assert list(tmp_path.iterdir()) == []
