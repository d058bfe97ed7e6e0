"""Joint training from files of both kinds, as `vidgen train` builds it."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from small_stage import SMALL

from vidgen.cli import main
from vidgen.config import gin_utils
from vidgen.config.gin_sessions import Sessions
from vidgen.data.video.encode import write_video
from vidgen.inference.stages import Stage, build_trained, tell_of_images
from vidgen.train.checkpoints import Checkpointer
from vidgen.train.train import Train

pytestmark = pytest.mark.usefixtures("kept_programs", "shared_steps")


# One level without anything that is tested elsewhere, and an encoder without weights.
@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three videos and three images with captions, and an empty folder."""
    root = tmp_path_factory.mktemp("files")
    for name in ("videos", "images", "empty", "bare"):
        (root / name).mkdir()
    for i in range(3):
        clip = np.full((8, 16, 16, 3), i / 3, np.float32)
        write_video(root / f"videos/{i}.mp4", clip, 8.0, min_side=0)
        (root / f"videos/{i}.txt").write_text(f"video {i}")
        Image.new("RGB", (12, 10), (80 * i, 0, 0)).save(root / f"images/{i}.png")
        Image.new("RGB", (12, 10)).save(root / f"bare/{i}.png")
        (root / f"images/{i}.txt").write_text(f"image {i}")
    (root / "small.gin").write_text(SMALL)
    return root


def arguments(files, **changes):
    values = {"VIDEO_DIR": str(files / "videos"), "IMAGE_DIR": str(files / "images")}
    values |= {"BATCH_SIZE": 4, "TRAIN_STEPS": 4, "CHECKPOINT_EVERY": 2, "IMAGE_RATE": 0.5}
    return [f"{name}={value!r}" for name, value in (values | changes).items()]


def build(files, model_dir, *more, data="data/joint_folder.gin", **changes):
    named = ["runs/train.gin", "experiments/imagen_base_tiny.gin", data, str(files / "small.gin")]
    bindings = arguments(files, MODEL_DIR=str(model_dir), **changes)
    if data != "data/joint_folder.gin":
        bindings = [b for b in bindings if "_DIR" not in b or b.startswith("MODEL_DIR")]
    with gin_utils.session(named, [*bindings, "Train.log_every=1", *more]):
        return gin_utils.build(Train)


def test_training_on_files(files, tmp_path):
    """Trained on captions of frames, sampled from prompts of clips."""
    prompts = ["SAMPLE_VIDEOS=@SampleVideos()", "SAMPLE_PROMPTS=('video 1', 'image 2')"]
    run = build(files, tmp_path / "m", *prompts)
    assert run.dataset.captions_per_clip == 4
    batch = next(run.dataset.iterator())
    assert {caption[:5] for captions in batch["caption"] for caption in captions} == {
        "video",
        "image",
    }
    state = run()
    assert int(state.step) == 4
    lines = [json.loads(x) for x in (tmp_path / "m" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines)
    assert (tmp_path / "m" / "samples" / "step_4.png").is_file()
    with Checkpointer(tmp_path / "m", read_only=True) as checkpointer:
        assert checkpointer.latest_step() == 4


def test_sprites_and_their_held_out_videos(files, tmp_path):
    """Held-out batches have one caption a clip, training batches one a frame."""
    run = build(
        files,
        tmp_path / "m",
        "SAMPLE_VIDEOS=None",
        "HeldOutLoss.batches=1",
        data="data/joint_sprites.gin",
        TRAIN_STEPS=1,
        CHECKPOINT_EVERY=1,
    )
    batch = next(run.dataset.iterator())
    assert all(len(captions) == 4 for captions in batch["caption"])
    assert run.dataset.source.images.shape.thwc == (1, 8, 8, 3)
    run()
    line = json.loads((tmp_path / "m" / "metrics.jsonl").read_text())
    assert np.isfinite(line["eval_loss"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"IMAGE_DIR": "nowhere"}, ["nowhere does not exist"]),
        ({"IMAGE_DIR": "empty"}, ["empty holds no image", ".png .jpg"]),
        ({"IMAGE_DIR": "bare"}, ["3 images but no caption for any", "captions.csv"]),
        ({"VIDEO_DIR": "images"}, ["images holds no video"]),
        ({"IMAGE_RATE": 1.5}, ["image_rate is 1.5; it must be in [0, 1]"]),
    ],
)
def test_wrong_input_is_one_sentence(files, tmp_path, capsys, changes, words):
    paths = {k: str(files / v) if isinstance(v, str) else v for k, v in changes.items()}
    flags = [f"--gin.{flag}" for flag in arguments(files, MODEL_DIR=str(tmp_path / "m"), **paths)]
    named = ["experiments/imagen_base_tiny.gin", "data/joint_folder.gin", files / "small.gin"]
    status = main.main(["train", *[f"--gin_file={name}" for name in named], *flags])
    error = capsys.readouterr().err
    assert status == 2 and error.startswith("vidgen: error: ")
    assert error.splitlines()[-1].count("vidgen: error") == 1
    for word in words:
        assert word in error
    assert not (tmp_path / "m").exists()


def trained(files, folder, data="data/joint_folder.gin", **changes):
    """What is generated with of a folder with the configuration of such a training."""
    folder.mkdir()
    named = ["runs/train.gin", "experiments/imagen_base_tiny.gin", data, str(files / "small.gin")]
    bindings = [b for b in arguments(files, MODEL_DIR=str(folder), **changes)]
    if data == "data/folder.gin":
        bindings = [b for b in bindings if not b.startswith(("VIDEO_DIR", "IMAGE_"))]
        bindings += [f"DATA_DIR={str(files / 'videos')!r}"]
    with gin_utils.session(named, bindings):
        gin_utils.build(Train)
        (folder / "config.gin").write_text(gin_utils.operative_config())
    return build_trained(Sessions(["runs/generate.gin"], [], []), Stage, folder)


def test_a_saved_configuration_tells_whether_images_were_trained_on(files, tmp_path, caplog):
    """Also where the data is gone; without packs one frame by itself is told as not learned."""
    joint = trained(files, tmp_path / "joint")
    packs_off = trained(files, tmp_path / "off", IMAGE_RATE=0.0)
    videos = trained(files, tmp_path / "videos", data="data/folder.gin")
    assert [stage.model.joint for stage in (joint, packs_off, videos)] == [True, False, False]
    for stage, told in ((joint, False), (videos, True)):
        caplog.clear()
        shape = dataclasses.replace(stage.model.shape, frames=1)
        single = dataclasses.replace(stage.model, shape=shape)
        tell_of_images([stage, stage], [stage.model, single])
        assert ("clips of 4 frames and on no images" in caplog.text) == told
    config = tmp_path / "joint" / "config.gin"
    config.write_text(config.read_text().replace(str(files), "/gone"))
    sessions = Sessions(["runs/generate.gin"], [], ["base/GuidanceSpec.weight=2.0"])
    assert build_trained(sessions, Stage, tmp_path / "joint").model.joint
