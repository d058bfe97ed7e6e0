"""`vidgen evaluate` as its users have it: models, files, stories, results, and wrong input.

Tests of vidgen/cli/evaluate_command.py, vidgen/cli/evaluate_flags.py,
vidgen/evals/generated_clips.py too.
"""

import json
import shutil

import numpy as np
import pytest
import tiny_cascade

from vidgen.cli import evaluate_command, examples
from vidgen.config import gin_files
from vidgen.data.video.encode import write_video

pytestmark = pytest.mark.usefixtures("kept_programs")


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade")
    tiny_cascade.write(folder, stages=("base", "tsr1", "ssr1"))
    return folder


@pytest.fixture
def evaluate(vidgen, tmp_path):
    """Runs the command with JSON; returns the object."""

    def call(*arguments):
        told = vidgen("evaluate", *map(str, arguments), "--json", f"--cache={tmp_path / 'cache'}")
        assert told.status == 0, told.err
        return json.loads(told.out)

    return call


@pytest.fixture
def folders(tmp_path):
    """made/ and real/, three clips each, of 9 frames."""
    rng = np.random.default_rng(0)
    for name in ("made", "real"):
        (tmp_path / name).mkdir()
        for number in range(3):
            clip = rng.uniform(-1, 1, (9, 16, 16, 3)).astype(np.float32)
            np.save(tmp_path / name / f"{number}.npy", clip)
    return tmp_path / "made", tmp_path / "real"


def values(result):
    return {name: found["value"] for name, found in result["metrics"].items()}


# ---- models --------------------------------------------------------------------------------------


def test_a_tokenizer(evaluate, phenaki):
    asked = "--metrics=psnr,ssim,codes_used,perplexity,flicker,cuts"
    found = evaluate(f"--model={phenaki / 'cvivit'}", "--clips=5", asked)
    numbers = values(found)
    assert 0 < numbers["psnr"] < 30 and 0 < numbers["codes_used"] <= 1
    assert 1 <= numbers["perplexity"] <= 16
    protocol = found["protocol"]
    assert (protocol["task"], protocol["tokens"], protocol["codes"]) == ("reconstruct", 48, 16)
    assert (protocol["clips"], protocol["frames"], protocol["seed"]) == (5, 5, 0)
    assert found["metrics"]["psnr"]["n"] == 5 and found["metrics"]["psnr"]["stderr"] > 0
    # 5 x 16 x 16 x 3 bytes in 48 tokens of 4 bits
    assert protocol["compression"] == 160.0


def test_a_text_to_video_model_and_again_with_other_metrics(evaluate, phenaki, tmp_path):
    asked = ["--clips=6", "--steps=2", "--metrics=probe_all,probe_subject,flicker"]
    first = evaluate(f"--model={phenaki / 'maskgit'}", *asked)
    assert first["protocol"]["task"] == "generate"
    assert first["protocol"]["sampling"]["maskgit"]["sampler.steps"] == 2
    assert 0 <= values(first)["probe_all"] <= values(first)["probe_subject"] <= 1
    blocks = list((tmp_path / "cache" / "clips").rglob("*.npy"))
    before = [(path, path.stat().st_mtime_ns) for path in blocks]
    assert len(before) == 1
    again = evaluate(f"--model={phenaki / 'maskgit'}", "--clips=6", "--steps=2", "--metrics=cuts")
    assert again["made"] == first["made"]
    assert before == [(path, path.stat().st_mtime_ns) for path in blocks]
    other = evaluate(f"--model={phenaki / 'maskgit'}", "--clips=6", "--steps=3", "--metrics=cuts")
    assert other["made"]["fingerprint"] != first["made"]["fingerprint"]


def test_the_checkpoint_that_is_asked_for_is_judged(vidgen, evaluate, phenaki, tmp_path):
    asked = ("--clips=2", "--metrics=cuts")
    newest = evaluate(f"--model={phenaki / 'cvivit'}", *asked)
    chosen = evaluate(f"--model={phenaki / 'cvivit'}", *asked, "--step=2")
    assert (newest["protocol"]["step"], chosen["protocol"]["step"]) == (None, 2)
    assert chosen["made"] == newest["made"]  # the same weights
    for model in ("cvivit", "maskgit"):
        told = vidgen("evaluate", f"--model={phenaki / model}", *asked, "--step=77")
        assert told.status == 2 and "77" in told.err.splitlines()[-1], model


def test_the_same_weights_in_another_folder_make_the_same_clips(evaluate, phenaki, tmp_path):
    shutil.copytree(phenaki / "cvivit", tmp_path / "moved")
    asked = ("--clips=2", "--metrics=cuts")
    models = (phenaki / "cvivit", tmp_path / "moved")
    here, there = (evaluate(f"--model={model}", *asked)["made"] for model in models)
    assert here["fingerprint"] == there["fingerprint"]


def test_a_prediction_is_compared_in_what_it_was_not_given(evaluate, phenaki, tmp_path):
    asked = ("--clips=3", "--steps=1", "--given=3", "--metrics=psnr")
    found = evaluate(f"--model={phenaki / 'maskgit'}", *asked)
    assert (found["protocol"]["task"], found["protocol"]["given"]) == ("predict", 3)
    (block,) = (tmp_path / "cache" / "clips").rglob("*.npy")
    assert np.load(block).shape == (3, 5, 16, 16, 3)
    assert values(found)["psnr"] < 25  # frames that are given would be without error


def test_clips_for_each_of_several_samples_differ(evaluate, phenaki, tmp_path):
    asked = ("--clips=2", "--samples=3", "--steps=1", "--metrics=flicker")
    found = evaluate(f"--model={phenaki / 'maskgit'}", *asked)
    assert (found["made"]["n"], found["real"]["n"]) == (6, 2)
    (block,) = (tmp_path / "cache" / "clips").rglob("*.npy")
    assert len(np.unique(np.load(block).reshape(6, -1), axis=0)) == 6


def test_a_cascade_and_a_stage_that_restores(evaluate, cascade):
    found = evaluate(f"--model={cascade}", "--clips=3", "--metrics=flicker")
    assert found["protocol"]["task"] == "generate"
    assert list(found["protocol"]["sampling"]) == ["base", "tsr1", "ssr1"]
    restored = evaluate(f"--model={cascade / 'ssr1'}", "--clips=3", "--metrics=psnr,ssim")
    assert restored["protocol"]["task"] == "restore" and values(restored)["psnr"] > 0


def test_other_data_than_its_own(evaluate, phenaki, tmp_path):
    (tmp_path / "mine").mkdir()
    for number in range(3):
        clip = np.full((12, 64, 64, 3), number / 4, np.float32)
        write_video(tmp_path / "mine" / f"{number}.mp4", clip, 8.0)
        (tmp_path / "mine" / f"{number}.txt").write_text(f"gray number {number}")
    data = ["--gin_file=data/folder.gin", f"--gin.DATA_DIR='{tmp_path / 'mine'}'"]
    found = evaluate(f"--model={phenaki / 'cvivit'}", "--clips=3", "--metrics=psnr", *data)
    assert found["real"]["what"] == "3 of FolderSource"


# ---- files ---------------------------------------------------------------------------------------


def test_two_folders(evaluate, folders, tmp_path):
    found = evaluate(*folders, "--metrics=psnr,ssim,flicker", "-o", tmp_path / "r.json")
    made, real = (np.stack([np.load(folder / f"{n}.npy") for n in range(3)]) for folder in folders)
    errors = np.mean((made - real) ** 2, axis=(1, 2, 3, 4), dtype=np.float64)
    assert values(found)["psnr"] == pytest.approx(np.mean(10 * np.log10(4 / errors)), abs=1e-6)
    assert json.loads((tmp_path / "r.json").read_text()) == found
    assert found["protocol"]["frames"] == 9 and found["made"]["n"] == 3


def test_a_clip_that_equals_the_truth_is_counted(evaluate, folders, tmp_path):
    made = tmp_path / "copy"
    shutil.copytree(folders[0], made)
    shutil.copy(folders[1] / "1.npy", made / "1.npy")
    found = evaluate(made, folders[1], "--metrics=psnr", "-o", tmp_path / "r.json")
    other = values(evaluate(*folders, "--metrics=psnr"))["psnr"]
    psnr = found["metrics"]["psnr"]
    assert (psnr["identical"], psnr["n"], "not_finite" in found) == (1, 3, False)
    assert 0 < psnr["value"] != other and "1 of 3 clips" in psnr["warning"]
    every = evaluate(folders[1], folders[1], "--metrics=psnr", "-o", tmp_path / "s.json")
    assert every["metrics"]["psnr"]["value"] is None and every["metrics"]["psnr"]["identical"] == 3
    assert "Infinity" not in (tmp_path / "s.json").read_text()


def test_arrays_equal_folders(evaluate, folders, tmp_path):
    for folder in folders:
        clips = np.stack([np.load(folder / f"{n}.npy") for n in range(3)])
        np.savez(tmp_path / f"{folder.name}.npz", video=clips)
    asked = "--metrics=psnr,flicker"
    of_folders = evaluate(*folders, asked)
    of_arrays = evaluate(tmp_path / "made.npz", tmp_path / "real.npz", asked)
    assert values(of_folders) == values(of_arrays)


def test_one_set_by_itself_and_the_page(vidgen, folders, tmp_path):
    told = vidgen(
        "evaluate", str(folders[0]), "--metrics=flicker,cuts", f"--html={tmp_path / 'a.html'}",
        "-o", str(tmp_path / "a.json"), f"--cache={tmp_path / 'cache'}",
    )  # fmt: skip
    assert told.status == 0 and "flicker" in told.out and "cuts" in told.out
    page = (tmp_path / "a.html").read_text()
    assert page.count("data:image/webp;base64,") == 3
    told = vidgen("evaluate", *[str(tmp_path / "a.json")] * 2, f"--html={tmp_path / 'b.html'}")
    assert told.status == 0 and (tmp_path / "b.html").exists()


# ---- stories -------------------------------------------------------------------------------------


def test_storybench(vidgen, phenaki, tmp_path):
    number = 10 * np.arange(20, dtype=np.uint8)[:, None, None, None]
    np.save(tmp_path / "true.npy", np.broadcast_to(number, (20, 16, 16, 3)))
    entry = {"texts": ["a cat", "it runs"], "exact_frames_per_prompt": [6, 5], "background": None}
    first = {"npz_video": str(tmp_path / "true.npy"), "npz_video_start_frame": 0}
    first |= {"npz_video_end_frame": 4, "skip_frames_after_generation": 4}
    # One story continuation, and one action whose true film is given where it begins.
    begins = [{"npz_gt_video_start_frame": 0}, {"npz_gt_video_start_frame": 4}]
    tasks = [entry | first | begins[n] | {"comment": f"val {n}"} for n in range(2)]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    command = [
        "evaluate", "--protocol=storybench", f"--model={phenaki / 'maskgit'}", "--steps=1",
        f"--stories={tmp_path / 'tasks.json'}", f"-o={tmp_path / 'out'}", "--metrics=psnr,flicker",
        f"--cache={tmp_path / 'cache'}", "--given=3",
    ]  # fmt: skip
    told = vidgen(*command)
    assert told.status == 0, told.err
    for name in ("val_0", "val_1"):
        with np.load(tmp_path / "out" / "made" / "raw" / f"{name}.npz") as film:
            assert film["video"].shape == (11, 16, 16, 3) and film["video"].dtype == np.uint8
        with np.load(tmp_path / "out" / "ground_truth" / "raw" / f"{name}.npz") as film:
            assert film["video"].shape == (11, 16, 16, 3)
            np.testing.assert_array_equal(film["video"][:, 0, 0, 0] // 10, np.arange(4, 15))
    assert "psnr" in told.out
    made = tmp_path / "out" / "made" / "raw" / "val_1.npz"
    before = made.stat().st_mtime_ns
    assert vidgen(*command).status == 0 and made.stat().st_mtime_ns == before
    vidgen(*command, "--seed=9").assert_sentence("val_0.0.npy", "seed")
    twice = vidgen(*command, "--samples=2", f"-o={tmp_path / 'two'}")
    assert twice.status == 0, twice.err
    with np.load(tmp_path / "two" / "made" / "raw" / "val_0.npz") as film:
        left, right = np.split(film["video"], 2, axis=2)
        assert left.shape == right.shape == (11, 16, 16, 3) and not np.array_equal(left, right)


# ---- wrong input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["name either a --model, or one or two sets of clips"]),
        (["made", "real", "made"], ["one or two sets of clips"]),
        (["nowhere"], ["there is no folder and no file nowhere"]),
        (["empty"], ["there is no video in this folder"]),
        (["mixed"], ["b.npy", "--size"]),
        (["nan.npy"], ["nan.npy: clip 0", "NaN"]),
        (["made", "--metrics=fdv"], ["no metric 'fdv'", "fvd"]),
        (["made", "--metrics=fvd"], ["fvd: there is nothing to compare with"]),
        (["made", "real", "--metrics=fid"], ["--inception=FILE"]),
        (["made", "real", "--metrics=clip_score"], ["--clip=FOLDER"]),
        (["made", "real", "--metrics=probe_all"], ["no captions"]),
        (["made", "real", "--metrics=ms_ssim"], ["176 x 176 pixels"]),
        (["made", "real", "--metrics=fvd", "--frames=4"], ["it needs 9 frames", "have 4"]),
        (["made", "--frames=10"], ["9 frames are too few for 10"]),
        (["made", "--inception=none.pth"], ["--inception: there is no none.pth"]),
        (["made", "--batch_size=0"], ["--batch_size=0"]),
        (["made", "--size=big"], ["HEIGHTxWIDTH"]),
        (["made", "small"], ["9x16x16", "4x8x8", "--size"]),
        (["--model=nowhere"], ["nowhere"]),
        (["--model=imagen_demo", "--protocol=ucf102"], ["--protocol=ucf102", "ucf101"]),
        (["--model=imagen_demo", "--clips=0"], ["--clips is 0"]),
        (["--model=imagen_demo", "--frames=3"], ["--frames is for files"]),
        (["--model=imagen_demo", "--given=3"], ["takes one stage"]),
        (["--model=imagen_demo", "--protocol=storybench"], ["--stories=TASKS.json"]),
        (["wrong.json"], ["wrong.json"]),
    ],
)
def test_wrong_input_is_one_sentence(vidgen, folders, tmp_path, arguments, words):
    for name in ("empty", "mixed", "small"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "mixed" / "a.npy", np.zeros((9, 16, 16, 3), np.uint8))
    np.save(tmp_path / "mixed" / "b.npy", np.zeros((9, 16, 8, 3), np.uint8))
    np.save(tmp_path / "small" / "a.npy", np.zeros((4, 8, 8, 3), np.uint8))
    np.save(tmp_path / "nan.npy", np.full((2, 9, 16, 16, 3), np.nan, np.float32))
    (tmp_path / "wrong.json").write_text("[1, 2]")
    vidgen("evaluate", *arguments, f"--cache={tmp_path / 'cache'}").assert_sentence(*words)


def test_help_names_every_protocol():
    for name in evaluate_command.protocols():
        assert f" {name}" in examples.EXAMPLES["evaluate"], name


def test_help_of_metrics_lists_them(vidgen):
    told = vidgen("evaluate", "--metrics=help")
    names = [line.split()[0] for line in told.out.splitlines()]
    assert told.status == 0 and {"fvd", "psnr", "clip_score", "codes_used", "probe_all"} <= {*names}


def test_every_protocol_says_what_to_bring():
    (root,) = {r for r in gin_files.config_roots() if (r / "evaluations").is_dir()}
    for name in evaluate_command.protocols():
        text = (root / "evaluations" / f"{name}.gin").read_text()
        assert f'name = "{name}"' in text and "supply = " in text
