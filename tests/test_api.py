"""The calls of Python make what the commands make.

Tests of vidgen/loaded_model.py too.
"""

import contextlib
import gc
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_videos import squares
from places import ROOT
from readme_commands import blocks, text_of

import vidgen as face
from vidgen.assets import zoo
from vidgen.cli import main
from vidgen.data.video import transforms
from vidgen.display.sheets import SceneRow
from vidgen.evals.report import results
from vidgen.inference.preview import StopGenerating

pytestmark = pytest.mark.usefixtures("kept_programs")

PROMPT = "a tiger moving right on a green background"
FEWEST = {"sampler": "ddim", "steps": 4}  # that the students have learned
STORY = "a frog moving up on a blue background. then a frog moving down on a blue background"


@pytest.fixture(scope="module")
def base():
    return face.load("imagen_demo", until="base")


@pytest.fixture(scope="module")
def phenaki():
    return face.load("phenaki_demo")


def test_clips_are_those_of_the_command(vidgen, base, tmp_path):
    said = ("--seed=3", "--steps=4", "--sampler=ddim", "--guidance=2,base=1:0", "--num_samples=2")
    done = vidgen("generate", PROMPT, "--model=imagen_demo", "--until=base", *said, "-o", "a.npy")
    assert done.status == 0, done.err
    flags = {"seed": 3, "guidance": "2,base=1:0", "num_samples": 2}
    made = base.generate(PROMPT, **flags, **FEWEST)
    assert (made.prompts, made.fps, list(made.stages)) == ((PROMPT, PROMPT), 3.0, ["base"])
    for number in range(2):
        told = np.load(tmp_path / f"a-00{number}.npy")
        np.testing.assert_array_equal(made.video[number], told)
    np.testing.assert_array_equal(made.each_stage(1)["base"], made.video[1])


def test_films_are_those_of_the_command(vidgen, phenaki, tmp_path):
    done = vidgen("generate", f"--story={STORY}", "--frames=17", "--steps=2", "-o", "film.npy")
    assert done.status == 0, done.err
    film = phenaki.story(STORY, frames=17, steps=2)
    np.testing.assert_array_equal(film.video, transforms.to_float(np.load(tmp_path / "film.npy")))
    first, second = STORY.split(". then ")
    assert film.scenes == (SceneRow(first, 0, 11), SceneRow(second, 11, 17))
    assert film.fps == 8.0
    ids = phenaki.tokens(film.video)
    assert ids.shape == (9, 8, 8) and 0 <= ids.min() < ids.max() < 6561
    np.testing.assert_array_equal(phenaki.tokens(film.video[:11]), ids[:6])  # nothing looks ahead


def test_results_are_those_of_the_command(vidgen, tmp_path):
    said = {"clips": 2, "metrics": "flicker", "cache": str(tmp_path / "kept")} | FEWEST
    found = face.evaluate(model="imagen_demo", until="base", **said)
    flags = [f"--{name}={value}" for name, value in said.items()]
    done = vidgen("evaluate", "--model=imagen_demo", "--until=base", *flags, "-o", "told.json")
    assert done.status == 0, done.err
    told = results.load(tmp_path / "told.json")
    assert found is not None and found["metrics"] == told["metrics"]
    assert found["made"] == told["made"]


def test_a_flag_is_compared_from_the_same_noise(base):
    found = base.compare(PROMPT, "guidance", (0, 2), seed=4, **FEWEST)
    assert list(found) == ["guidance 0", "guidance 2"]
    alone = base.generate(PROMPT, seed=4, guidance=2, **FEWEST)
    np.testing.assert_array_equal(found["guidance 2"], alone.video[0])


def test_a_later_stage_starts_from_what_was_saved(base, tmp_path):
    made = base.generate(PROMPT, seed=3, **FEWEST)
    path = made.save(tmp_path / "base.npy", stage="base")
    np.testing.assert_array_equal(np.load(path), made.video[0])
    with pytest.raises(ValueError, match="no stage 'ssr9'; choose from base"):
        made.save(path, stage="ssr9")
    later = face.load("imagen_demo", first="tsr1", until="tsr1")
    assert later.generate(PROMPT, init=str(path), **FEWEST).video.shape == (1, 32, 16, 16, 3)


def test_what_a_stage_is_told_has_the_noise_that_was_asked_for():
    ssr1 = face.load("imagen_demo/ssr1")
    small = np.zeros((64, 1, 16, 16, 3), np.float32) + 0.5
    for logsnr in (0.0, 3.0):
        told = ssr1.augmented(small, logsnr=logsnr)
        assert told.shape == (64, 1, 32, 32, 3)
        alpha = float(jax.nn.sigmoid(logsnr)) ** 0.5
        assert told.mean() == pytest.approx(0.5 * alpha, abs=0.01)
    quiet = ssr1.augmented(small)  # at the demo's own level, 7
    assert 0 < np.std(quiet) < np.std(told) / 4


def test_training_is_the_command(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(main, "call", said.extend)
    folder = face.train(["a.gin", "b.gin"], MODEL_DIR="runs/a", **{"Trainer.ema_decay": 0.9})
    assert str(folder) == "runs/a"
    assert said == [
        "train",
        "--gin_file=a.gin",
        "--gin_file=b.gin",
        "--gin.MODEL_DIR='runs/a'",
        "--gin.Trainer.ema_decay=0.9",
    ]


def test_errors_are_raised_and_not_printed(tmp_path):
    with pytest.raises(ValueError, match="MODEL_DIR"):
        face.train(["experiments/imagen_base_tiny.gin"])
    with pytest.raises(ValueError, match="no_such.gin"):
        face.train(["no_such.gin"], MODEL_DIR=str(tmp_path / "a"))
    with pytest.raises(FileNotFoundError, match="no_such_model"):
        face.load("no_such_model")
    with pytest.raises(ValueError, match="load .*'steps'.*first, until"):
        face.load("imagen_demo", steps=4)
    with pytest.raises(ValueError, match="no flag 'clip_count'.*clips"):
        face.evaluate(model="imagen_demo", clip_count=3)


@pytest.mark.parametrize("flags", [{"stepps": 3}, {"until": "base"}, {"output": "a.mp4"}])
def test_a_flag_of_another_place_is_told(base, flags):
    with pytest.raises(ValueError, match=f"no flag '{next(iter(flags))}' here; choose from"):
        base.generate(PROMPT, **flags)


def test_each_kind_of_model_says_what_it_lacks(base, phenaki):
    with pytest.raises(ValueError, match="base: .*tokenizer; Phenaki"):
        base.tokens(np.zeros((11, 32, 32, 3), np.float32))
    with pytest.raises(ValueError, match="base .*text alone.*later stage"):
        base.augmented(np.zeros((1, 4, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="maskgit .*text alone.*later stage"):
        phenaki.augmented(np.zeros((1, 4, 8, 8, 3), np.float32))


# ---- the package ---------------------------------------------------------------------------------

_LAZY = """
import sys, time
start = time.perf_counter()
import vidgen
assert time.perf_counter() - start < 0.3, "importing vidgen takes long"
assert not {"jax", "numpy", "gin"} & set(sys.modules)
assert {"load", "train", "plan", "check", "evaluate", "LoadedModel"} <= set(dir(vidgen))
%s
import vidgen.api
from vidgen.train import trainer
import vidgen.plan.estimate as estimate
assert vidgen.load is vidgen.api.load and vidgen.LoadedModel is vidgen.api.LoadedModel
assert vidgen.train.trainer is trainer and vidgen.plan.estimate is estimate
calls = []
vidgen.api.train = vidgen.api.plan = lambda *args, **keywords: calls.append((args, keywords))
vidgen.train("a.gin", MODEL_DIR="b"); vidgen.plan(["c.gin"], compile=True)
assert calls == [(("a.gin",), {"MODEL_DIR": "b"}), ((["c.gin"],), {"compile": True})]
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""


@pytest.mark.parametrize("first", ["", "import vidgen.train.trainer", "vidgen.load"])
def test_the_package_is_light_and_calls_are_packages_too(first):
    done = subprocess.run(
        [sys.executable, "-c", _LAZY % first], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_not_there_is_told():
    with pytest.raises(AttributeError, match="module 'vidgen' has no attribute 'lod'"):
        _ = face.lod


def test_plans_are_those_of_the_command(vidgen, capsys):
    report = face.plan("experiments/phenaki_cvivit_tiny.gin", BATCH_SIZE=4)
    printed = capsys.readouterr().out
    told = vidgen("plan", "--gin_file=experiments/phenaki_cvivit_tiny.gin", "--gin.BATCH_SIZE=4")
    assert printed == told.out
    told = vidgen(
        "plan", "--gin_file=experiments/phenaki_cvivit_tiny.gin", "--gin.BATCH_SIZE=4", "--json"
    )
    assert json.loads(told.out) == json.loads(json.dumps(report))
    with pytest.raises(ValueError, match="unrecognized arguments: --details_=1"):
        face.plan("experiments/phenaki_cvivit_tiny.gin", details_=1)


# ---- what a loaded model does --------------------------------------------------------------------


def test_upscaled_clips_are_those_of_the_command(vidgen, tmp_path):
    video = np.random.default_rng(0).uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32)
    np.save(tmp_path / "small.npy", video)
    said = ("--model=imagen_demo", "--from=ssr1", "--until=ssr1", "--init=small.npy")
    few = ("--init_size=own", "--seed=5", "--steps=4", "--sampler=ddim", "-o", "large.npy")
    done = vidgen("generate", PROMPT, *said, *few)
    assert done.status == 0, done.err
    expected = np.load(tmp_path / "large.npy")
    assert expected.shape == (4, 32, 32, 3)
    flags = {"until": "ssr1", "init_size": "own", "seed": 5} | FEWEST
    model = face.load("imagen_demo", until="ssr2")
    made = model.upscale(video, PROMPT, first="ssr1", **flags)
    assert (made.prompts, list(made.stages)) == ((PROMPT,), ["ssr1"])
    np.testing.assert_array_equal(made.video[0], expected)
    again = face.load("imagen_demo/ssr1").upscale(tmp_path / "small.npy", PROMPT, **flags)
    np.testing.assert_array_equal(again.video, made.video)
    silent = face.load("imagen_demo/ssr1").upscale(made[0].video[:, :16, :16], **flags)
    assert silent.prompts == ("",)
    for wrong, words in (
        ({"first": "base"}, "no stage 'base' .*tsr1, ssr1, ssr2"),
        ({"first": "ssr2", "until": "tsr1"}, "until='tsr1' comes before first='ssr2'"),
    ):
        with pytest.raises(ValueError, match=words):
            model.upscale(video, **wrong)
    with pytest.raises(ValueError, match=r"video .*\(16, 16, 3\)"):
        model.upscale(video[0])


def test_frames_in_memory_are_as_good_as_files(base, tmp_path):
    """For every flag that names a video: arrays, clips, and a mask of bool."""
    start = base.generate("a panda growing on a red background", seed=1, **FEWEST)
    video, hole = start.video[0], np.zeros((16, 16), bool)
    hole[:, 8:] = True
    white = np.where(hole, np.uint8(255), np.uint8(0))[None, ..., None].repeat(3, axis=-1)
    files = {"video": video, "still": video[:1], "end": video[-1:], "hole": white}
    names = {name: str(tmp_path / f"{name}.npy") for name in files}
    for name, frames in files.items():
        np.save(names[name], frames)
    for in_memory, in_files in (
        ({"init": start[0], "strength": 0.5}, {"init": names["video"], "strength": 0.5}),
        ({"first": jnp.asarray(video[:1])}, {"first": names["still"]}),
        ({"last": video[-1:]}, {"last": names["end"]}),
        ({"inpaint": video, "mask": hole}, {"inpaint": names["video"], "mask": names["hole"]}),
    ):
        made, again = (base.generate(PROMPT, **flags, **FEWEST) for flags in (in_memory, in_files))
        np.testing.assert_array_equal(made.video, again.video)
    with pytest.raises(ValueError, match=r"video .*\(16, 16, 3\)"):
        base.generate(PROMPT, init=video[0], strength=0.5)


def test_upscaling_takes_a_stage_that_does(base):
    with pytest.raises(ValueError, match="base: no stage .*video"):
        base.upscale(np.zeros((4, 16, 16, 3), np.float32))


def test_films_are_upscaled_as_by_the_command(vidgen, phenaki, tmp_path):
    said = ("--steps=2,ssr2=4", "--sampler=ssr2=ddim", "--upscale=ssr2")
    cascade = f"--upscale_model={zoo.FOLDER / 'imagen_demo' / 'ssr2'}"
    text = "a frog moving up on a blue background. then a frog growing on a blue background"
    done = vidgen("generate", f"--story={text}", "--frames=17", *said, cascade, "-o", "film.npy")
    assert done.status == 0, done.err
    film = phenaki.story(
        text,
        frames=17,
        steps="2,ssr2=4",
        sampler="ssr2=ddim",
        upscale="ssr2",
        upscale_model=zoo.FOLDER / "imagen_demo" / "ssr2",
    )
    expected = np.load(tmp_path / "film.npy")
    assert expected.shape == (17, 64, 64, 3)
    np.testing.assert_array_equal(film.video, transforms.to_float(expected))
    assert [(scene.begin, scene.end) for scene in film.scenes] == [(0, 11), (11, 17)]
    assert film.prompt == text and film.fps == 8.0


def test_reconstruction_is_the_tokenizers(phenaki, tmp_path):
    tokenizer = face.load("phenaki_demo/cvivit")
    video = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), np.uint8)
    made = tokenizer.reconstruct(video)
    assert (made.video.shape, made.fps) == ((11, 32, 32, 3), 8.0)
    np.testing.assert_array_equal(phenaki.reconstruct(made.video).video.shape, (11, 32, 32, 3))
    np.testing.assert_array_equal(phenaki.reconstruct(transforms.to_float(video)), made)
    np.save(tmp_path / "video.npy", video)
    np.testing.assert_array_equal(tokenizer.reconstruct(tmp_path / "video.npy"), made)
    np.testing.assert_array_equal(
        tokenizer.tokens(transforms.to_float(video)), phenaki.tokens(video)
    )
    assert tokenizer.names == ("cvivit",) and "phenaki_demo/cvivit" in repr(tokenizer)
    with pytest.raises(ValueError, match="cvivit .*tokenizer"):
        tokenizer.generate(PROMPT)
    with pytest.raises(ValueError, match="frames"):
        tokenizer.reconstruct(video[:4])


def test_a_model_evaluates_itself(base, tmp_path):
    said = {"clips": 2, "metrics": "flicker", "cache": str(tmp_path / "kept")} | FEWEST
    found = base.evaluate(**said)
    assert found == face.evaluate(model="imagen_demo", until="base", **said)
    only = face.load("imagen_demo", first="base", until="base")
    assert only.evaluate(**said)["metrics"] == found["metrics"]
    part = face.load("imagen_demo", first="tsr1", until="ssr1")
    with pytest.raises(ValueError, match="not at tsr1"):
        part.evaluate(**said)


def test_weights_are_read_once(base, monkeypatch):
    first = base.generate(PROMPT, seed=9, **FEWEST)
    monkeypatch.setattr("vidgen.train.frozen.restored", None)
    np.testing.assert_array_equal(base.generate(PROMPT, seed=9, **FEWEST), first)


def test_a_callback_sees_every_step_and_ends_the_call(base):
    seen = []
    made = base.generate(
        PROMPT, seed=9, on_step=lambda preview: seen.append(preview.step), **FEWEST
    )
    assert seen == [1, 2, 3, 4]
    np.testing.assert_array_equal(made.video, base.generate(PROMPT, seed=9, **FEWEST).video)

    def stop(preview):
        raise StopGenerating

    with pytest.raises(StopGenerating):
        base.generate(PROMPT, on_step=stop, **FEWEST)


def bytes_on_devices():
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


@pytest.mark.parametrize("kind", ["clips", "film"])
def test_a_call_that_was_ended_gives_its_memory_back(kind, base, phenaki):
    """All but the weights, which a loaded model keeps."""
    during = []

    def end(preview):
        during.append(bytes_on_devices())
        if preview.step == 2:
            raise StopGenerating

    def call(on_step=None):
        if kind == "film":
            phenaki.story(STORY, frames=17, steps=2, on_step=on_step)
        else:
            base.generate(PROMPT, num_samples=2, on_step=on_step, **FEWEST)

    call()  # reads the weights
    before = bytes_on_devices()
    with contextlib.suppress(StopGenerating):
        call(end)
    assert len(during) == 2 and min(during) > before
    assert bytes_on_devices() == before


def test_settings_of_gin_reach_a_loaded_model():
    quiet = face.load("imagen_demo/ssr1", **{"ssr1/Augmentation.sampling_logsnr": 20.0})
    video = np.zeros((1, 1, 16, 16, 3), np.float32) + 0.5
    assert np.abs(quiet.augmented(video) - 0.5).max() < 1e-3
    with pytest.raises(ValueError, match="Augmentatio"):
        wrong = face.load("imagen_demo/ssr1", **{"ssr1/Augmentatio.sampling_logsnr": 20.0})
        wrong.upscale(video[0], PROMPT)


def test_a_model_says_what_it_is(base):
    assert repr(base) == "LoadedModel('imagen_demo': base)"
    assert repr(face.load("imagen_demo", until="ssr1")) == (
        "LoadedModel('imagen_demo': base -> tsr1 -> ssr1)"
    )


# ---- the documents -------------------------------------------------------------------------------

# What makes an example quick: the demo's first stage, and few steps.
_CHEAPER = {
    'until="ssr1"': 'until="base"',
    "seed=1": 'seed=1, sampler="ddim", steps=4',
    "frames=17": "frames=17, steps=2",
    'init_size="own"': 'init_size="own", sampler="ddim", steps=4',
}


@pytest.mark.parametrize("document", ["README.md", "notebooks/README.md"])
def test_the_examples_of_the_documents_run(document, monkeypatch, tmp_path):
    (example,) = (block for *_, block in blocks(text_of(document), "python"))
    for said, instead in _CHEAPER.items():
        example = example.replace(said, instead)
    monkeypatch.chdir(tmp_path)
    squares(tmp_path / "my_videos")
    trained = []
    # tests/end_to_end trains; these are the command's words, which the test above has.
    monkeypatch.setattr("vidgen.api.train", lambda *a, **k: trained.append((a, k)))
    left = {}
    exec(compile(example, document, "exec"), left)  # noqa: S102
    if document == "README.md":
        assert (tmp_path / "tiger.mp4").is_file() and (tmp_path / "check.png").is_file()
        files = ["experiments/imagen_base_tiny.gin", "data/folder.gin"]
        assert trained == [((files,), {"DATA_DIR": "my_videos", "MODEL_DIR": "runs/mine"})]
    else:
        assert left["made"].video.shape == (1, 16, 16, 16, 3)
        assert (tmp_path / "a tiger.mp4").is_file()
        assert left["film"].scenes[-1].end == 17
        assert left["again"].video.shape == (11, 32, 32, 3)
        assert left["large"].video.shape == (1, 17, 64, 64, 3)
        assert left["report"]["totals"]["parameters"] > 1e6
