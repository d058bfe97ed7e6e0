"""Layers that a user puts after an experiment: other data, another text encoder."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from vidgen.config import gin_utils
from vidgen.data.sources.images import Joint
from vidgen.data.sources.tar_shards import TarShards
from vidgen.data.video.encode import write_video
from vidgen.text.encoder import CachedEncoder
from vidgen.text.minilm import MiniLM
from vidgen.text.t5 import T5
from vidgen.train.train import Train

EXPERIMENT = ["runs/train.gin", "experiments/imagen_base_tiny.gin"]


def built(*layers, **macros):
    bindings = ["MODEL_DIR='m'", *(f"{name}={value!r}" for name, value in macros.items())]
    with gin_utils.session([*EXPERIMENT, *layers], bindings):
        return gin_utils.build(Train)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A shard of videos and two of pictures."""
    folder = tmp_path_factory.mktemp("shards")
    write_video(folder / "clip.mp4", np.zeros((40, 16, 16, 3), np.float32), 4, min_side=0)
    picture = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(picture, "png")
    contents = {"videos": (folder / "clip.mp4").read_bytes()}
    contents |= dict.fromkeys(("pictures", "laion"), picture.getvalue())
    for name, data in contents.items():
        suffix = "mp4" if name == "videos" else "png"
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for member, content in ((f"0.{suffix}", data), ("0.txt", f"of {name}".encode())):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return folder


@pytest.fixture(autouse=True)
def _own_index(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_tar_shards(shards):
    run = built("data/tar_shards.gin", SHARDS=str(shards / "videos.tar"))
    assert isinstance(run.dataset.source, TarShards) and run.held_out is run.sample_writer is None
    batch = next(run.dataset.iterator())
    assert batch["video"].shape == (16, 8, 16, 16, 3) and set(batch["caption"]) == {"of videos"}


def test_videos_and_two_sets_of_images(shards):
    macros = {"SHARDS": "videos", "IMAGE_SHARDS": "pictures", "LAION_SHARDS": "laion"}
    paths = {name: str(shards / f"{stem}.tar") for name, stem in macros.items()}
    run = built("data/joint_shards.gin", **paths)
    source = run.dataset.source
    assert isinstance(source, Joint) and source.image_rate == 0.2
    assert source.images.rates == (0.5, 0.5) and source.images.shape.frames == 1
    batch = next(run.dataset.iterator())
    packs = batch["independent_frames"]
    assert batch["video"].shape[0] == 16 and 0 < packs.sum() < 16
    found = {caption for i in np.flatnonzero(packs) for caption in batch["caption"][i]}
    assert found == {"of pictures", "of laion"}


def test_text_encoders(tmp_path):
    assert built().text_encoder == CachedEncoder(encoder=MiniLM(length=16))
    run = built("text/t5.gin", T5_DIR=str(tmp_path))
    t5 = T5(path=str(tmp_path), size="xxl", length=64, dtype="bfloat16")
    assert run.text_encoder == CachedEncoder(encoder=t5) and run.text_encoder.dim == 4096
    assert isinstance(built("text/t5.gin", "text/minilm.gin").text_encoder.encoder, MiniLM)
