"""Phenaki as a user has it: train a tokenizer, train a transformer on it, make clips and films."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
import tiny_cascade
from tiny_phenaki import run

from vidgen import traced
from vidgen.cli import main
from vidgen.data.video.encode import write_video
from vidgen.diffusion import sampling
from vidgen.inference.generate import Generate
from vidgen.story.generate_story import GenerateStory
from vidgen.story.resumable_video import ResumableVideo
from vidgen.train import weights

pytestmark = pytest.mark.usefixtures("kept_programs", "shared_steps")


@pytest.fixture
def trained(phenaki):
    """A folder that holds cvivit/ and maskgit/, each trained for two steps."""
    return phenaki


@pytest.fixture
def generate(trained, tmp_path):
    """Runs `vidgen generate`; returns the array that it wrote."""

    def call(*arguments, model=trained):
        run("generate", f"--model={model}", "-o", tmp_path / "out.npy", *arguments)
        return np.load(tmp_path / "out.npy")

    return call


def test_training_shows_what_it_learns(trained):
    assert (trained / "cvivit" / "samples" / "step_2.png").exists()
    assert (trained / "maskgit" / "samples" / "step_2.png").exists()
    config = (trained / "maskgit" / "config.gin").read_text()
    # The transformer's own configuration says what its tokenizer is.
    assert "tokenizer/quantizer.VectorQuantizer.codes = 16\n" in config


def test_a_clip(generate):
    video = generate("a tiger", "--steps=3", "--temperature=2", "--guidance=0.5")
    assert video.shape == (5, 16, 16, 3) and np.abs(video).max() <= 1
    again = generate("a tiger", "--steps=3", "--temperature=2", "--guidance=0.5")
    np.testing.assert_array_equal(video, again)


def test_both_folders_can_be_moved(trained, generate, tmp_path):
    before = generate("a tiger")
    shutil.copytree(trained, tmp_path / "moved")
    trained.rename(trained.with_name("away"))
    try:
        np.testing.assert_array_equal(generate("a tiger", model=tmp_path / "moved"), before)
    finally:
        trained.with_name("away").rename(trained)


@pytest.mark.parametrize("flag, kept", [("--first", slice(0, 1)), ("--last", slice(4, 5))])
def test_a_picture_that_a_clip_begins_or_ends_with(generate, tmp_path, flag, kept):
    picture = np.linspace(-1, 1, 16 * 16 * 3).reshape(1, 16, 16, 3).astype(np.float32)
    write_video(tmp_path / "picture.png", picture, 8.0, min_side=0)
    video = generate("a tiger", f"{flag}={tmp_path / 'picture.png'}")
    np.testing.assert_allclose(video[kept], picture, atol=1 / 127)


def test_a_part_of_a_video_made_anew(generate, tmp_path):
    video = np.random.default_rng(0).uniform(-1, 1, (5, 16, 16, 3)).astype(np.float32)
    np.save(tmp_path / "video.npy", video)
    mask = np.full((1, 16, 16, 3), -1, np.float32)
    mask[:, :, 8:] = 1
    write_video(tmp_path / "mask.png", mask, 8.0, min_side=0)
    files = (f"--inpaint={tmp_path / 'video.npy'}", f"--mask={tmp_path / 'mask.png'}")
    found = generate("a tiger", *files)
    np.testing.assert_allclose(found[:, :, :8], video[:, :, :8], atol=1 / 127)
    assert np.abs(found[:, :, 8:] - video[:, :, 8:]).mean() > 0.1


def test_a_film_of_three_scenes(generate):
    film = generate("--story=a tiger. then a frog. then a crab", "--frames=17", "--context=3")
    assert film.shape == (17, 16, 16, 3) and film.dtype == np.uint8


def test_the_beginning_of_a_film_does_not_depend_on_its_length(generate):
    short = generate("--story=a tiger", "--frames=7", "--context=3")
    long = generate("--story=a tiger", "--frames=11", "--context=3")
    np.testing.assert_array_equal(long[:7], short)


STORY = """seed: 5
frames: 13
steps: 2
guidance: 3
scenes:
- a tiger
- {prompt: a frog and a crab, transition: 1, seed: 6, steps: 3, guidance: 0}
"""


@pytest.mark.parametrize("flag", ["seed=7", "steps=1", "guidance=0.5", "frames=17"])
def test_a_flag_wins_over_what_a_story_says(trained, tmp_path, monkeypatch, flag):
    """The run is as if the story did not say it."""
    key, runs = flag.partition("=")[0], []
    silent = re.sub(rf"{key}: \d+\n|, {key}: \d+", "", STORY)
    monkeypatch.setattr(GenerateStory, "__call__", lambda tell: runs.append(tell))
    for number, text in enumerate((STORY, silent)):
        (tmp_path / f"{number}.yaml").write_text(text)
        run("generate", f"--model={trained}", f"--story={tmp_path / f'{number}.yaml'}", f"--{flag}",
            "--context=3")  # fmt: skip
    found, expected = ([sampled(tell, part) for part in tell.segments] for tell in runs)
    assert silent != STORY and found == expected
    assert {"seed": 7, "steps": 1, "guidance": 0.5, "frames": 17}[key] in found[-1].values()


@pytest.mark.parametrize(
    "what, mode", [("--story=a. then b", GenerateStory), ("a tiger", Generate)]
)
def test_a_flag_wins_over_gin_and_gin_over_what_no_flag_says(trained, monkeypatch, what, mode):
    runs = []
    monkeypatch.setattr(mode, "__call__", lambda self: runs.append(self))
    command = ("generate", f"--model={trained}", what, f"--gin.{mode.__name__}.seed=7")
    command += (f"--gin.{mode.__name__}.output='mine.npy'",)
    command += ("--context=3",) if mode is GenerateStory else ()
    run(*command)
    run(*command, "--seed=0", "-o", "flag.npy")
    assert [(one.seed, one.output) for one in runs] == [(7, "mine.npy"), (0, "flag.npy")]


def sampled(tell, part):
    """How a part of a film is sampled."""
    model = tell._model_of(part)
    return {
        "seed": part.seed,
        "noise": part.draws,
        "steps": model.sampler.steps,
        "guidance": model.guidance.weight,
        "frames": part.end_frame,
    }


@pytest.fixture
def light(trained, tmp_path):
    """The same model with a weight file in the place of checkpoints."""
    for name in ("cvivit", "maskgit"):
        (tmp_path / "light" / name).mkdir(parents=True)
        config = (
            (trained / name / "config.gin")
            .read_text()
            .replace(str(trained), str(tmp_path / "light"))
        )
        (tmp_path / "light" / name / "config.gin").write_text(config)
        with weights.open_weights(trained / name) as stored:
            weights.write(tmp_path / "light" / name, stored.restore_params(), 2)
    return tmp_path / "light"


def test_a_film_passes_from_one_prompt_to_the_next(light, generate, tmp_path):
    change_weights(light / "maskgit")  # a fresh network does not read its text
    films = {}
    for number in (0, 1):
        second = f"{{prompt: a frog, frames: 4, transition: {number}}}"
        (tmp_path / "s.yaml").write_text(f"- {{prompt: a tiger, frames: 5}}\n- {second}")
        flags = (f"--story={tmp_path / 's.yaml'}", "--context=3", "--steps=2")
        films[number] = generate(*flags, model=light)
    np.testing.assert_array_equal(films[0][:5], films[1][:5])
    assert not np.array_equal(films[0][5:7], films[1][5:7])


@pytest.mark.parametrize("name", ["cvivit", "maskgit"])
def test_an_interrupted_film_does_not_go_on_with_other_weights(
    light, tmp_path, capsys, monkeypatch, name
):
    """The folder and the step are as they were."""
    command = ["generate", f"--model={light}", "-o", str(tmp_path / "film.npy"), "--context=3"]
    command += ["--story=a tiger. then a frog", "--frames=9", "--steps=1"]
    append, full = ResumableVideo.append, OSError(28, "No space left on device", "film.npy.partial")

    def fail_at_the_second(self, index, *arguments):
        if index:
            raise full
        append(self, index, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ResumableVideo, "append", fail_at_the_second)
        assert main.main(command) == 2
    (before,) = (tmp_path / "film.npy.partial").glob("000000.npy")
    first = np.load(before)
    change_weights(light / name)
    capsys.readouterr()
    assert main.main(command) == 2
    assert "model weights is" in capsys.readouterr().err and before.exists()
    assert main.main([*command, "--restart"]) == 0
    assert not np.array_equal(np.load(tmp_path / "film.npy")[:5], first)


def change_weights(folder):
    """Others in the folder, of the same step."""
    with weights.open_weights(folder) as stored:
        params = stored.restore_params()
    rng = np.random.default_rng(0)
    changed = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), params)
    weights.write(folder, changed, 2)


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """A folder with two stages of a cascade, their weights random."""
    folder = tmp_path_factory.mktemp("cascade")
    tiny_cascade.write(folder, ("tsr1", "ssr1"))
    return folder


def test_a_film_through_stages_of_a_cascade(generate, cascade, tmp_path, monkeypatch):
    monkeypatch.setattr(traced, "enabled", False)  # a step that is kept is not compiled by this one
    story = ("--story=a tiger. then a frog", "--frames=17", "--context=3", "--temperature=2")
    flags = ("--upscale=tsr1,ssr1", f"--upscale_model={cascade}", "--keep_stages")
    sampling.compiled_step.clear_cache()  # other files compile steps of these stages too
    film = generate(*story, *flags)
    assert sampling.compiled_step._cache_size() == 2  # 3 chunks, and 3
    assert film.shape == (34, 32, 32, 3) and film.dtype == np.uint8
    small, smooth = (np.load(tmp_path / f"out.{name}.npy") for name in ("maskgit", "tsr1"))
    assert small.shape == (17, 16, 16, 3) and smooth.shape == (34, 16, 16, 3)
    np.testing.assert_array_equal(generate(*story), small)  # the story is the same without
    assert len({frame.tobytes() for frame in film}) == 34


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--story=a", "--upscale=ssr1"], "there is no trained ssr1"),
        (["--story=a", "--upscale=base"], "no trained base"),
        (["--story=a", "--upscale_model=x"], "the stages of --upscale are, which is missing"),
        (["a tiger", "--upscale=ssr1"], "--upscale is for"),
        (["--story=a", "--keep_stages"], "--keep_stages is not for"),
    ],
)
def test_what_cannot_be_upscaled(trained, capsys, flags, words):
    assert main.main(["generate", f"--model={trained}", *flags]) == 2
    assert words in capsys.readouterr().err


def test_no_checkpoint_to_upscale_with(trained, cascade, tmp_path, capsys):
    (tmp_path / "ssr1").mkdir()
    shutil.copy(cascade / "ssr1" / "config.gin", tmp_path / "ssr1")
    flags = ["--story=a", "--context=3", "--upscale=ssr1", f"--upscale_model={tmp_path}"]
    assert main.main(["generate", f"--model={trained}", *flags, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    for title in (trained / "maskgit", tmp_path / "ssr1", "the run", "the upscaling"):
        assert f"#### {title}\n" in printed
    output = tmp_path / "new" / "film.npy"
    assert main.main(["generate", f"--model={trained}", *flags, "-o", str(output)]) == 2
    assert "checkpoint" in capsys.readouterr().err and not output.parent.exists()


def test_what_phenaki_does_not_have(trained, capsys):
    for flags, words in (
        (["a tiger", "--gamma=0.3"], "--gamma: maskgit is a kind of model that has no such"),
        (["a tiger", "--frames=6"], "got 6, the nearest is 5 or 7"),
        (["--story=a. then b", "--context=4"], "context of 4 known frames"),
    ):
        assert main.main(["generate", f"--model={trained}", *flags]) == 2
        assert words in capsys.readouterr().err


def test_a_tokenizer_makes_no_video(trained, capsys):
    assert main.main(["generate", "a tiger", f"--model={trained / 'cvivit'}"]) == 2
    assert "makes no video" in capsys.readouterr().err


def test_training_from_tokens_gives_the_numbers_of_the_videos(trained, tmp_path, capsys):
    """Files as long as a clip, so that there is one way to cut them."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        path = tmp_path / "videos" / f"{name}.webp"
        path.parent.mkdir(exist_ok=True)
        video = np.repeat(np.repeat(rng.uniform(-1, 1, (5, 4, 4, 3)), 4, 1), 4, 2)
        write_video(path, video.astype(np.float32), 8, min_side=0)
        path.with_suffix(".txt").write_text(f"a clip called {name}")
    model = ["--gin_file=experiments/phenaki_maskgit_tiny.gin", "--gin_file=data/folder.gin"]
    model += [f"--gin_file={trained / 'small.gin'}", f"--gin.TOKENIZER_DIR={trained / 'cvivit'}"]
    model += [f"--gin.DATA_DIR={tmp_path / 'videos'}"]
    cache = f"--gin.TOKEN_CACHE={tmp_path / 'tokens'}"
    run("encode", *model, "--gin_file=runs/encode_tokens.gin", cache)
    said = "4 examples are in " + str(tmp_path / "tokens") + ", 0 of them cannot be used"
    assert said in capsys.readouterr().err
    short = ["--gin.TRAIN_STEPS=3", "--gin.Train.log_every=1", "--gin.BATCH_SIZE=2"]
    run("train", *model, *short, f"--gin.MODEL_DIR={tmp_path / 'online'}")
    model += ["--gin_file=data/tokens.gin", cache]
    run("train", *model, *short, f"--gin.MODEL_DIR={tmp_path / 'offline'}")
    losses = [
        [
            json.loads(x)["loss"]
            for x in (tmp_path / name / "metrics.jsonl").read_text().split("\n")[:3]
        ]
        for name in ("online", "offline")
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    assert len(set(losses[0])) == 3
    manifest = tmp_path / "tokens" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"tokenizer": "another"}))
    flags = [*model, *short, f"--gin.MODEL_DIR={tmp_path / 'refused'}"]
    assert main.main(["train", *map(str, flags)]) == 2
    assert "were made by the tokenizer another; this run has" in capsys.readouterr().err
