"""The papers' protocols, each on stand-in files of the layout that it asks for."""

import json

import clip_folders
import compiled_programs
import numpy as np
import pytest
from PIL import Image
from places import ROOT

from vidgen.data.video.encode import write_video

pytestmark = pytest.mark.usefixtures("kept_programs")


@pytest.fixture
def videos(tmp_path):
    """A folder of two videos, with captions beside them."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(2):
        clip = np.random.default_rng(number).uniform(-1, 1, (40, 64, 64, 3)).astype(np.float32)
        write_video(folder / f"video{number}.mp4", clip, 25.0)
        (folder / f"video{number}.txt").write_text(f"noise number {number}")
    return [f"--gin.DATA_DIR='{folder}'"]


@pytest.fixture
def pictures(tmp_path):
    """A folder of two pictures, with one file of captions."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = []
    for number in range(2):
        Image.new("RGB", (48, 32), (80 * number, 90, 200)).save(folder / f"{number:012}.jpg")
        line = {"file": f"{number:012}.jpg", "caption": f"a plain picture, number {number}"}
        lines.append(json.dumps(line))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return [f"--gin.DATA_DIR='{folder}'"]


@pytest.mark.parametrize(
    ("protocol", "model", "task", "given", "frames"),
    [
        ("ucf101", "maskgit", "generate", None, 5),
        ("bair", "maskgit", "predict", 1, 5),
        ("kinetics600", "maskgit", "predict", 5, 5),
        ("moments_in_time", "cvivit", "reconstruct", None, 5),
        ("msrvtt", "maskgit", "generate", None, 5),
        ("coco", "maskgit", "generate", None, 1),
    ],
)
def test_a_protocol(
    vidgen, phenaki, request, tmp_path, tfds_sets, protocol, model, task, given, frames
):
    kind = {"ucf101": None, "bair": None, "coco": "pictures"}.get(protocol, "videos")
    data = [f"--gin.TFDS_DIR='{tfds_sets}'"] if kind is None else request.getfixturevalue(kind)
    asked = ["--clips=2", "--metrics=flicker"]
    if frames == 1:  # pictures do not flicker
        (tmp_path / "clip").mkdir()
        tokenizer = clip_folders.tokenizer(True)
        clip_folders.write(
            tmp_path / "clip", clip_folders.config(2), tokenizer, clip_folders.state()
        )
        asked = ["--clips=2", "--metrics=clip_score", f"--clip={tmp_path / 'clip'}"]
    asked += ["--steps=1"] if model == "maskgit" else []
    asked += ["--samples=2"] if protocol == "bair" else []
    # Five frames are too many to be given to this model; the protocol's own number is told.
    asked += ["--given=3"] if given == 5 else []
    told = vidgen(
        "evaluate", f"--protocol={protocol}", f"--model={phenaki / model}", *asked, *data,
        "--json", f"--cache={tmp_path / 'cache'}",
    )  # fmt: skip
    assert told.status == 0, told.err
    found = json.loads(told.out)
    shown = found["protocol"]
    assert (shown["name"], shown["task"], shown["frames"]) == (protocol, task, frames)
    assert any("height 16, published" in line for line in shown["deviations"]) == (
        protocol != "msrvtt"
    )
    assert found["real"]["n"] == 2 and found["made"]["n"] == (4 if protocol == "bair" else 2)
    if given == 1:
        assert shown["given"] == 1 and not any("given" in line for line in shown["deviations"])
    if given == 5:
        assert "given 3, published 5" in shown["deviations"]


def test_a_protocol_without_its_data_says_what_is_missing(vidgen, phenaki, tmp_path):
    model = f"--model={phenaki / 'maskgit'}"
    vidgen("evaluate", "--protocol=msrvtt", model).assert_sentence(
        "DATA_DIR", "takes a folder of the test videos of MSR-VTT"
    )
    flags = ("--protocol=ucf101", model, f"--gin.TFDS_DIR='{tmp_path}'")
    vidgen("evaluate", *flags).assert_sentence("ucf101", "takes UCF-101 prepared")


def test_a_model_that_does_not_fit_the_task_is_told(vidgen, phenaki, videos):
    told = vidgen(
        "evaluate", "--protocol=moments_in_time", f"--model={phenaki / 'maskgit'}", *videos
    )
    told.assert_sentence("holds no tokenizer; moments_in_time reconstructs clips")
    told = vidgen("evaluate", "--protocol=msrvtt", f"--model={phenaki / 'cvivit'}", *videos)
    told.assert_sentence("holds a tokenizer, which reconstructs clips; msrvtt is to generate them")


def test_two_processes_share_the_work(vidgen, warm, tmp_path):
    for name in ("made", "real"):
        clips = np.random.default_rng(len(name)).uniform(-1, 1, (70, 3, 12, 12, 3))
        np.save(tmp_path / f"{name}.npy", clips.astype(np.float32))

    def command(cache):
        files = [str(tmp_path / f"{name}.npy") for name in ("made", "real")]
        flags = ["--metrics=psnr,ssim,flicker", "--json", f"--cache={tmp_path / cache}"]
        flags += ["-o", str(tmp_path / f"{cache}.json")]
        return ["evaluate", *files, *flags]

    alone = vidgen(*command("one"))
    assert alone.status == 0, alone.err
    entry = ROOT / "vidgen" / "__main__.py"
    said = warm.group(2, entry, *command("two"), XLA_FLAGS=compiled_programs.XLA_FLAGS)
    assert [done.returncode for done in said] == [0, 0], said
    assert "{" not in said[1].stdout and said[0].stdout.endswith(alone.out)  # process 0 speaks
    found = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two")]
    assert found[0] == found[1]
