"""What a callback sees of a run, how it ends one, and the picture that is drawn.

Tests of vidgen/inference/stage_progress.py too.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training as toy
from counting_model import Counter, Ready
from fake_models import FakeSampled
from PIL import Image

from vidgen.diffusion.samplers import SamplerSpec
from vidgen.inference.generate import Generate
from vidgen.inference.preview import DrawPreview, StepPreview, StopGenerating, each
from vidgen.inference.stages import Stage
from vidgen.story.generate_story import GenerateStory
from vidgen.story.script import Scene, Story
from vidgen.text.byte_encoder import ByteEncoder
from vidgen.types import VideoShape

ENCODER = ByteEncoder(dim=4, length=8)
SHAPE = VideoShape(frames=2, height=4, width=4, fps=4.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fading(FakeSampled):
    """After step i of n every pixel of a clip is 3 i/n - 2: beyond [-1, 1] at first."""

    sampler: SamplerSpec = SamplerSpec(kind="ddim", steps=3)
    input_shape: VideoShape | None = None

    def generate(self, params, text, low_res, keys, *, on_step=None, known=None):
        for step in range(self.sampler.steps):
            level = 3 * (step + 1) / self.sampler.steps - 2
            now = jnp.full((len(keys), *self.shape.thwc), level)
            if on_step is not None:
                on_step(step + 1, self.sampler.steps, lambda now=now: now)
        return now


class Loaded(Stage):
    """Needs no folder."""

    def check(self, step=None):
        pass

    def load(self, step=None, mesh=None):
        return {}


def run(tmp_path, *prompts, look, later=None, **settings):
    models = [Fading(), *([later] if later else [])]
    stages = [Loaded(model=m, text_encoder=ENCODER, model_dir=f"runs/{m.name}") for m in models]
    output = str(tmp_path / "out.npy")
    return Generate(stages=stages, prompts=prompts, output=output, on_step=look, **settings)


def test_every_step_of_every_batch_and_stage_is_shown(tmp_path):
    later = Fading(name="tsr1", input_shape=SHAPE, sampler=SamplerSpec(kind="ddim", steps=2))
    seen = []
    run(tmp_path, "a", "b", "c", look=seen.append, later=later, batch_size=2)()
    places = [(s.stage, s.window, s.windows, s.step, s.steps) for s in seen]
    first = [("base", window, 2, step, 3) for window in (0, 1) for step in (1, 2, 3)]
    assert places == first + [("tsr1", w, 2, step, 2) for w in (0, 1) for step in (1, 2)]
    assert [s.prompts for s in seen[:6]] == 3 * [("a", "b")] + 3 * [("c",)]
    assert {s.stages for s in seen} == {("base", "tsr1")} and {s.scene for s in seen} == {None}
    # The batch of one is filled up to two; what fills it is not shown.
    assert seen[5].video.shape == (1, *SHAPE.thwc) and seen[0].video.shape == (2, *SHAPE.thwc)
    assert [s.video.mean() for s in seen[:3]] == [-1, 0, 1]
    assert seen[0].fps == SHAPE.fps and seen[0].video.dtype == np.float32


def test_a_prediction_is_computed_where_it_is_looked_at():
    asked = []

    def predict():
        asked.append(1)
        return np.zeros((1, 1, 2, 2, 3))

    shown = StepPreview(
        **{"stage": "base", "stages": ("base",), "step": 1, "steps": 2, "window": 0, "windows": 1},
        **{"prompts": ("a",), "fps": 8.0, "predict": predict},
    )
    assert not asked
    assert shown.video is shown.video and len(asked) == 1


def test_a_callback_ends_a_run_and_whole_clips_stay(tmp_path):
    def stop(preview):
        if preview.window == 1 and preview.step == 2:
            raise StopGenerating

    with pytest.raises(StopGenerating):
        run(tmp_path, "a", "b", look=stop, batch_size=1)()
    assert [p.name for p in tmp_path.iterdir()] == ["out-000.npy"]
    assert np.load(tmp_path / "out-000.npy").shape == SHAPE.thwc


@dataclasses.dataclass(frozen=True, kw_only=True)
class Telling(Counter):
    """Counts, and predicts what it was given, everywhere."""

    def generate(self, params, text, low_res, keys, *, on_step=None, known=None):
        def step(done, total, _):
            on_step(done, total, lambda: known.video)

        return super().generate(params, text, low_res, keys, on_step=step, known=known)


def film(tmp_path, look):
    stage = Ready(model=Telling(), text_encoder=toy.ToyEncoder(), model_dir="runs/p")
    story = Story([Scene("a", frames=11), Scene("b", frames=12)])
    return GenerateStory(stage=stage, story=story, output=str(tmp_path / "f.npy"), on_step=look)


def test_a_story_shows_scene_and_window_and_goes_on_after_a_stop(tmp_path):
    seen = []
    whole = np.load(film(tmp_path, seen.append)())
    places = [(s.scene, s.window, s.windows, s.step, s.prompts) for s in seen]
    scenes = [(0, 0, "a"), (1, 1, "b"), (1, 2, "b")]
    assert places == [(scene, w, 3, s, (p,)) for scene, w, p in scenes for s in (1, 2)]
    assert seen[-1].video.shape == (1, 11, 16, 16, 3) and seen[-1].stages == ("maskgit",)

    def stop(preview):
        if preview.window == 1:
            raise StopGenerating

    (tmp_path / "f.npy").unlink()
    with pytest.raises(StopGenerating):
        film(tmp_path, stop)()
    assert not (tmp_path / "f.npy").exists()
    again = []
    np.testing.assert_array_equal(np.load(film(tmp_path, again.append)()), whole)
    assert [s.window for s in again] == [1, 1, 2, 2]  # the first was finished


def test_looking_changes_nothing(tmp_path):
    seen = []
    (plain,) = [v for _, v in run(tmp_path, "a", look=None).videos()]
    (looked,) = [v for _, v in run(tmp_path, "a", look=lambda s: seen.append(s.video)).videos()]
    np.testing.assert_array_equal(plain, looked)


# ---- the picture ---------------------------------------------------------------------------------


def preview_of(video, step=1, steps=4, fps=8.0):
    names = {"stage": "base", "stages": ("base",), "window": 0, "windows": 1}
    prompts = ("a",) * len(video)
    return StepPreview(
        **names, step=step, steps=steps, prompts=prompts, fps=fps, predict=lambda: video
    )


def test_a_sheet_has_a_row_for_each_clip_and_some_of_its_frames(tmp_path):
    video = np.linspace(-1, 1, 20)[None, :, None, None, None] * np.ones((2, 20, 128, 128, 3))
    DrawPreview(tmp_path / "new" / "now.png")(preview_of(video))
    sheet = np.asarray(Image.open(tmp_path / "new" / "now.png"))
    assert sheet.shape == (2 * 128, 8 * 128, 3)
    first, last = sheet[0, 0, 0], sheet[-1, -1, 0]
    assert (first, last) == (0, 255)  # the ends are among them


def test_it_is_drawn_once_a_second_and_at_the_last_step(tmp_path):
    now = [0.0]
    draw, drawn = DrawPreview(tmp_path / "now.png", clock=lambda: now[0]), []
    for step, seconds in ((1, 0.0), (2, 0.9), (3, 1.1), (4, 1.2)):
        now[0] = seconds
        (tmp_path / "now.png").unlink(missing_ok=True)
        draw(preview_of(np.zeros((1, 2, 8, 8, 3)), step))
        drawn.append((tmp_path / "now.png").exists())
    assert drawn == [True, False, True, True]


def test_formats_play_at_a_rate_that_they_can(tmp_path):
    video = np.linspace(-1, 1, 2)[None, :, None, None, None] * np.ones((1, 2, 8, 8, 3))
    DrawPreview(tmp_path / "now.gif")(preview_of(video, fps=60.0))
    with Image.open(tmp_path / "now.gif") as drawn:
        assert drawn.size == (128, 128) and drawn.info["duration"] == 20  # ms


def test_what_cannot_be_drawn_is_told_at_once(tmp_path):
    with pytest.raises(ValueError, match="unknown suffix '.jpg'; choose"):
        DrawPreview(tmp_path / "now.jpg")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ValueError, match=r"--preview=.*a\.png .*folder"):
        DrawPreview(tmp_path / "a.png")


def test_several_callbacks_are_called_in_turn():
    said = []
    both = each(lambda s: said.append(1), lambda s: said.append(2))
    assert each() is None and both is not None
    both(preview_of(np.zeros((1, 1, 2, 2, 3))))
    assert said == [1, 2]


def test_the_prediction_of_a_real_step_stays_on_the_device_until_it_is_asked_for(tmp_path):
    from vidgen.diffusion import samplers, sampling

    shown = []
    keys = jax.random.split(jax.random.key(0), 1)
    sampling.sample(
        lambda z, logsnr, step: 0.5 * z,
        samplers.Ddim(),
        logsnrs=np.array([-2.0, 0.0, 2.0], np.float32),
        z=jnp.ones((1, 2)),
        keys=keys,
        on_step=lambda *now: shown.append(now),
    )
    assert isinstance(shown[0][2](), jax.Array)
    np.testing.assert_array_equal(shown[0][2](), 0.5)
