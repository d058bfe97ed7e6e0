"""Prepared TFDS data sets: names, versions, splits, features, and what is told of others."""

import json
import shutil

import pytest

from vidgen.data.sources import tfds_files
from vidgen.data.sources.tfds_files import Feature, open_split


@pytest.fixture
def own(tfds_sets, tmp_path):
    """A copy of one of the sets, to be changed."""

    def copied(name):
        shutil.copytree(tfds_sets / name, tmp_path / name, dirs_exist_ok=True)
        return tmp_path / name

    return copied


def test_features(tfds_sets):
    names = ("ApplyEyeMakeup", "Archery", "YoYo")
    ucf101 = open_split("ucf101/ucf101_1", "train", str(tfds_sets)).features
    assert ucf101 == {"video": Feature(kind="video"), "label": Feature(kind="label", classes=names)}
    bair = open_split("bair_robot_pushing_small", "train", str(tfds_sets)).features
    assert bair["image_main"] == bair["image_aux1"] == Feature(kind="video")
    assert bair["action"].kind == "other"
    described = open_split("described", "train", str(tfds_sets)).features
    assert {name: feature.kind for name, feature in described.items()} == {
        "captions": "text",
        "clip/frames": "video",
        "file": "string",
        "fps": "number",
        "rank": "label",
        "title": "text",
    }
    assert described["rank"].classes == tuple("012345678")
    photos = open_split("photos", "train", str(tfds_sets)).features
    assert photos["image"].kind == "image"


@pytest.mark.parametrize(
    ("split", "count"),
    [("train", 6), ("test", 2), ("train+test", 8), ("train[:50%]", 3), ("train[4:]", 2)],
)
def test_splits(tfds_sets, split, count):
    assert len(open_split("photos", split, str(tfds_sets)).records) == count


def test_parts_of_a_split_are_disjoint(tfds_sets):
    whole, first, rest = (
        [open_split("photos", f"train{part}", str(tfds_sets)).records]
        for part in ("", "[:4]", "[4:]")
    )
    records = [[bytes(x[i]) for x in part for i in range(len(x))] for part in (whole, first, rest)]
    assert records[1] + records[2] == records[0] and len(set(records[0])) == 6


def test_the_newest_version_unless_told(own, tmp_path):
    folder = own("described")
    shutil.copytree(folder / "1.10.0", folder / "1.9.0")
    info = json.loads((folder / "1.9.0" / "dataset_info.json").read_text())
    info["splits"] = info["splits"][1:]
    (folder / "1.9.0" / "dataset_info.json").write_text(json.dumps(info))
    assert len(open_split("described", "train", str(tmp_path)).records) == 6
    with pytest.raises(ValueError, match=r"Unknown split 'train'. Should be one of \['test'\]"):
        open_split("described:1.9.0", "train", str(tmp_path))


def test_the_only_configuration_need_not_be_named(own, tmp_path):
    shutil.rmtree(own("ucf101") / "ucf101_1_256")
    assert len(open_split("ucf101", "test", str(tmp_path)).records) == 2


def test_where_tfds_looks_itself(tfds_sets, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_sets))
    assert len(open_split("photos", "test", "").records) == 2


@pytest.mark.parametrize(
    ("name", "split", "error", "words"),
    [
        (
            "kinetics",
            "train",
            FileNotFoundError,
            "no prepared .* kinetics .*tfds build kinetics",
        ),
        ("photos:9.0.0", "train", FileNotFoundError, r"photos:9.0.0 \(but 2.0.0\)"),
        ("ucf101/other", "train", FileNotFoundError, "ucf101/other"),
        ("ucf101", "train", ValueError, "ucf101 .*ucf101_1.*ucf101_1_256.*ucf101/CONFIG"),
        ("a b", "train", ValueError, "'a b' .*set/config"),
        ("photos", "validation", ValueError, "photos .*Unknown split 'validation'"),
        ("photos", "train[:x]", ValueError, r"split 'train\[:x\]' .*photos"),
        ("photos", "train[:0]", ValueError, r"'train\[:0\]' .*photos is empty"),
    ],
)
def test_what_is_not_there(tfds_sets, name, split, error, words):
    with pytest.raises(error, match=words) as caught:
        open_split(name, split, str(tfds_sets))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_in_random_order(tfds_sets):
    with pytest.raises(ValueError, match="prepared as tfrecord, .*--file_format=array_record"):
        open_split("moving_mnist", "test", str(tfds_sets / "other"))


def test_both_formats_side_by_side(own, tmp_path):
    """What `tfds convert_format` leaves."""
    path = own("photos") / "2.0.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    info |= {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}
    path.write_text(json.dumps(info))
    assert len(open_split("photos", "train", str(tmp_path)).records) == 6


def test_a_missing_file(own, tmp_path):
    next(own("photos").rglob("*train*")).unlink()
    with pytest.raises(
        FileNotFoundError, match="lacks its file .*photos-train.*; prepare it again"
    ):
        open_split("photos", "train", str(tmp_path))
    assert len(open_split("photos", "test", str(tmp_path)).records) == 2


def test_without_the_package(tfds_sets, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets.core.splits", None)
    with pytest.raises(ValueError, match=r'pip install "vidgen\[tfds\]"'):
        open_split("photos", "train", str(tfds_sets))
    with pytest.raises(ValueError, match="nothing_of_this_name"):
        tfds_files.import_tfds("nothing_of_this_name")
