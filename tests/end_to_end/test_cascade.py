"""The seven stages from the command line: text in, the last stage's clip out, and all detours."""

import jax
import made_videos
import numpy as np
import pytest
import tiny_cascade
from PIL import Image

from vidgen.cli import main
from vidgen.data.video.encode import write_video
from vidgen.types import STAGES

pytestmark = pytest.mark.usefixtures("kept_programs")

# frames, height, width of sizes/tiny_imagen.gin
SHAPES = {
    "base": (8, 16, 16),
    "tsr1": (16, 16, 16),
    "ssr1": (16, 32, 32),
    "ssr2": (16, 64, 64),
    "tsr2": (32, 64, 64),
    "tsr3": (64, 64, 64),
    "ssr3": (64, 128, 128),
}


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade")
    tiny_cascade.write(folder)
    return folder


@pytest.fixture(scope="module")
def vidgen(cascade):
    """Runs `vidgen generate` on the cascade; returns the array that it wrote, if one."""

    def run(*arguments, output, model=cascade):
        command = ["generate", f"--model={model}", "-o", str(output), *map(str, arguments)]
        assert main.main(command) == 0
        return np.load(output) if output.exists() else None

    return run


@pytest.fixture(scope="module", autouse=True)
def others():
    """Arrays of other tests of this process, such as the weights of a text encoder."""
    return jax.live_arrays()


@pytest.fixture(scope="module")
def whole(vidgen, tmp_path_factory):
    """The folder of a run through all stages, each kept: out.base.npy, ..., out.npy."""
    folder = tmp_path_factory.mktemp("whole")
    vidgen("a tiger", "--keep_stages", output=folder / "out.npy")
    return folder


@pytest.fixture(scope="module")
def real_mp4(tmp_path_factory):
    """12 frames of 22 x 38 at 10 frames a second, H.264."""
    path = tmp_path_factory.mktemp("real") / "real.mp4"
    write_video(path, made_videos.moving_square(12, 22, 38), 10.0, min_side=0)
    return path


# ---- the whole chain -----------------------------------------------------------------------------


def test_seven_stages_from_text_to_the_last_clip(whole):
    names = {"out.npy", *(f"out.{stage}.npy" for stage in STAGES[:-1])}
    assert {path.name for path in whole.iterdir()} == names
    for stage, shape in SHAPES.items():
        video = np.load(whole / ("out.npy" if stage == "ssr3" else f"out.{stage}.npy"))
        assert video.shape == (*shape, 3) and np.isfinite(video).all()
        assert np.abs(video).max() <= 1 and video.std() > 0.1  # thresholded, and no flat gray


def test_stopping_early_gives_what_the_whole_run_kept(vidgen, whole, tmp_path):
    found = vidgen("a tiger", "--until=tsr1", output=tmp_path / "o.npy")
    np.testing.assert_array_equal(found, np.load(whole / "out.tsr1.npy"))
    assert [path.name for path in tmp_path.iterdir()] == ["o.npy"]  # nothing was to be kept


def test_going_on_from_a_kept_video_gives_what_the_whole_run_made(vidgen, whole, tmp_path):
    init = whole / "out.ssr1.npy"
    found = vidgen("a tiger", "--from=ssr2", f"--init={init}", output=tmp_path / "o.npy")
    np.testing.assert_array_equal(found, np.load(whole / "out.npy"))


def test_the_folder_of_a_stage_is_the_stage(vidgen, cascade, whole, tmp_path):
    found = vidgen("a tiger", output=tmp_path / "o.npy", model=cascade / "base")
    np.testing.assert_array_equal(found, np.load(whole / "out.base.npy"))


def test_batches_and_neighbours_change_nothing(vidgen, whole, tmp_path):
    flags = ("a tiger", "a frog", "--until=tsr1", "--keep_stages")
    vidgen(*flags, "--num_samples=2", "--batch_size=base=3,tsr1=1", output=tmp_path / "o.npy")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"o-00{i}{stage}.npy" for i in range(4) for stage in ("", ".base")}
    for name, kept in (("o-000.npy", "out.tsr1.npy"), ("o-000.base.npy", "out.base.npy")):
        np.testing.assert_allclose(np.load(tmp_path / name), np.load(whole / kept), atol=1e-5)
    videos = [np.load(tmp_path / f"o-00{i}.npy") for i in range(4)]
    for i in range(4):
        for other in videos[:i]:
            assert np.abs(videos[i] - other).max() > 0.1


def test_settings_by_stage(vidgen, whole, tmp_path):
    """Of the base alone; the same number for both stages gives the clip of the whole run."""
    flags = ("a tiger", "--until=tsr1", "--keep_stages")
    vidgen(*flags, "--steps=2,base=3", output=tmp_path / "a.npy")
    assert _differs(tmp_path / "a.base.npy", whole / "out.base.npy")
    same = vidgen(*flags, "--steps=2", output=tmp_path / "b.npy")
    np.testing.assert_array_equal(same, np.load(whole / "out.tsr1.npy"))


def _differs(one, other):
    return np.abs(np.load(one) - np.load(other)).max() > 1e-3


# ---- from a video --------------------------------------------------------------------------------


def test_a_real_video_is_up_sampled_in_its_own_size(vidgen, real_mp4, tmp_path):
    """22 x 38 at 10 fps for 1.2 s: 19 frames at the 16 fps that ssr1 takes, twice as large.

    Longer than its clips, and not square as they are.
    """
    flags = ("--from=ssr1", "--until=ssr1", f"--init={real_mp4}", "--init_size=own")
    found = vidgen(*flags, output=tmp_path / "o.npy")
    assert found.shape == (19, 44, 76, 3) and np.isfinite(found).all()


def test_a_real_video_without_a_prompt_in_the_size_of_the_model(vidgen, real_mp4, tmp_path):
    flags = ("--from=ssr1", "--until=ssr1", f"--init={real_mp4}", "--frames=8")
    found = vidgen(*flags, output=tmp_path / "o.npy")
    assert found.shape == (8, 32, 32, 3)
    told = vidgen("a tiger", *flags, output=tmp_path / "p.npy")
    assert np.abs(found - told).max() > 1e-3


# ---- known content -------------------------------------------------------------------------------


def test_a_picture_to_begin_with_is_the_first_frame_of_every_stage(vidgen, tmp_path):
    pixels = (made_videos.moving_square(1, 32, 32)[0] * 127.5 + 127.5).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    flags = ("--until=tsr1", "--keep_stages", f"--first={tmp_path / 'in.png'}")
    found = vidgen("a tiger", *flags, output=tmp_path / "o.npy")
    wanted = np.asarray(pixels, np.float32).reshape(16, 2, 16, 2, 3).mean((1, 3)) / 127.5 - 1
    for video in (found, np.load(tmp_path / "o.base.npy")):
        np.testing.assert_allclose(video[0], wanted, atol=0.01)
        assert np.abs(video[1] - wanted).mean() > 0.05


def test_a_video_is_continued(vidgen, whole, tmp_path):
    """The last quarter of a second: 2 frames of the base's 8, 4 of the 16 of tsr1."""
    flags = ("--until=tsr1", "--keep_stages", f"--first={whole / 'out.tsr1.npy'}")
    found = vidgen("a tiger", "--seed=1", *flags, output=tmp_path / "o.npy")
    before = np.load(whole / "out.tsr1.npy")
    np.testing.assert_allclose(found[:4], before[-4:], atol=1e-6)
    base = np.load(tmp_path / "o.base.npy")
    np.testing.assert_allclose(base[:2], before[-4::2], atol=1e-6)
    assert np.abs(found[4:] - before[4:]).mean() > 0.05


# ---- configuration -------------------------------------------------------------------------------


def test_flags_for_one_stage_are_no_error_in_the_others(vidgen, whole, tmp_path, capsys):
    flags = ("a tiger", "--until=tsr1", "--gin.tsr1/TemporalUpsample.fill='blank'")
    found = vidgen(*flags, output=tmp_path / "o.npy")
    assert np.abs(found - np.load(whole / "out.tsr1.npy")).max() > 1e-3
    assert "no effect" not in capsys.readouterr().err
    vidgen(
        "a tiger", "--until=base", "--gin.tsr1/GuidanceSpec.weight=3.0", output=tmp_path / "o.npy"
    )
    assert "--gin.tsr1/GuidanceSpec.weight has no effect" in capsys.readouterr().err


def test_the_resolved_configuration_of_every_stage(cascade, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(["generate", "a", f"--model={cascade}", "--until=ssr1", "--dry_run"]) == 0
    out = capsys.readouterr().out
    titles = [line for line in out.splitlines() if line.startswith("#### ")]
    assert titles == [f"#### {cascade / n}" for n in STAGES[:3]] + ["#### the run"]
    assert "ssr1/conditioning.SpatialUpsample" in out and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["a", "--until=ssr9"], ["--until=ssr9: there is no such stage", "base, tsr1, ssr1"]),
        (["a", "--from=tsr2", "--until=ssr1"], ["--until=ssr1 comes before --from=tsr2"]),
        (["a", "--from=tsr1"], ["stage tsr1 starts from a video: give --init"]),
        (["a", "--init={mp4}"], ["--init needs", "--from=STAGE"]),
        (["--from=tsr1"], ["no prompt given"]),
        (["--from=ssr1", "--init=none.mp4"], ["--init: there is no file none.mp4."]),
        (["--from=ssr1", "--init={text}"], ["--init: ", "cannot be decoded"]),
        (
            ["--from=ssr1", "--init={mp4}", "--init_start=0.5"],
            ["too short: 1.20 s", "from 0.5 s on", "--frames", "--init_size=own"],
        ),
        (["--from=ssr1", "--init={mp4}", "--init_size=big"], ["--init_size=big", "model, own"]),
        (["a", "--init_size=own"], ["--init_size says how to read --init"]),
        (
            ["--from=ssr1", "--until=ssr1", "--init={mp4}", "--init_size=own", "--size=32x32"],
            ["--size and --init_size=own contradict"],
        ),
        (["--from=tsr1", "--init={jpg}"], ["is one picture", "tsr1", "--until"]),
        (["--from=ssr3", "--init={jpg}", "--init_size=own"], ["is 1x1", "2 pixels"]),
        (["a", "--size=100"], ["--size=100: give HEIGHTxWIDTH"]),
        (["a", "--size=100x100"], ["100 pixels of height", "nearest: 96 and 112"]),
        (["a", "--frames=60"], ["60 frames", "multiple of 8; nearest: 56 and 64"]),
        (["a", "--steps=base=many"], ["--steps=base=many", "'many' is not a whole number"]),
        (["a", "--steps=bass=3"], ["no stage 'bass'", "base, tsr1"]),
        (["a", "--steps=3,4"], ["--steps=3,4 says twice what all stages should have"]),
        (["a", "--guidance=1:2:3"], ["HIGH:LOW"]),
        (["a", "--sampler=tsr1=leap"], ["'leap'", "ddim"]),
        (["a", "--batch_size=base=0"], ["batch_size is 0"]),
        (["a", "--step=base=77"], ["no checkpoint of step 77", "there are [3]"]),
        (["a", "--first=none.png"], ["--first: there is no file none.png"]),
        (["a", "--inpaint={mp4}"], ["--inpaint=VIDEO and --mask=FILE go together"]),
        (["a", "--overlap=1"], ["--overlap is for a video"]),
        (["a", "--first={mp4}", "--overlap=1.3"], ["--overlap is 1.3 s, which leaves nothing"]),
        (["a", "--gin.Nothing.here=1"], ["Nothing"]),
        (["a", "--gin.tsr1/SamplerSpec.stepz=1"], ["'stepz'", "steps"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_wrong_input(cascade, real_mp4, flags, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("no video")
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(tmp_path / "dot.jpg")
    files = {"mp4": real_mp4, "text": tmp_path / "text.mp4", "jpg": tmp_path / "dot.jpg"}
    before = sorted(tmp_path.iterdir())
    command = ["generate", f"--model={cascade}", *(flag.format(**files) for flag in flags)]
    status, (out, err) = main.main(command), capsys.readouterr()
    assert (status, out) == (2, ""), err
    assert err.startswith("vidgen: error: ") and err.count("\n") == 1, err
    for word in words:
        assert word in err, err
    assert sorted(tmp_path.iterdir()) == before


def test_a_stage_that_is_missing(cascade, tmp_path, capsys):
    for name in ("base", "ssr1"):
        (tmp_path / name).symlink_to(cascade / name)
    assert main.main(["generate", "a", f"--model={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert "ssr1 takes clips of 16 frames of 16x16" in err
    assert "base gives 8 frames of 16x16 at 8 fps: tsr1 is missing between them." in err


def test_a_stage_without_weights_is_told_before_the_first_one_runs(cascade, tmp_path, capsys):
    (tmp_path / "base").symlink_to(cascade / "base")
    (tmp_path / "tsr1").mkdir()
    (tmp_path / "tsr1" / "config.gin").write_text((cascade / "tsr1" / "config.gin").read_text())
    assert main.main(["generate", "a", f"--model={tmp_path}", "-o", str(tmp_path / "o.mp4")]) == 2
    assert f"no checkpoints in {tmp_path / 'tsr1'}" in capsys.readouterr().err
    assert not list(tmp_path.glob("o*"))


def test_nothing_stays_on_the_device(whole, others):
    known = {id(x) for x in others}
    assert sum(x.nbytes for x in jax.live_arrays() if id(x) not in known) < 2_000_000
