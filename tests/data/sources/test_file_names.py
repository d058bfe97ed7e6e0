"""Names in tables, and the files that a person would say they mean."""

import os
import unicodedata

import pytest

from vidgen.data.sources.file_names import FileNames

FILES = [
    "a.mp4",
    "sub/b.MP4",
    "sub/videos/c.mp4",
    "clip.v1.mp4",
    "e\u0301te\u0301.mp4",
    "photo.jpg",
]
WANTED = [file for file in FILES if not file.endswith(".jpg")]


@pytest.fixture
def names(tmp_path, monkeypatch):
    """In TMP/data/videos, named relative to TMP, beside a link TMP/link to it."""
    folder = tmp_path / "data" / "videos"
    folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    return FileNames("data/videos", FILES, WANTED)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.mp4", "a.mp4"),
        ("./a.mp4", "a.mp4"),
        ("../videos/a.mp4", "a.mp4"),
        ("videos/a.mp4", "a.mp4"),
        ("data/videos/a.mp4", "a.mp4"),
        ("data\\videos\\a.mp4", "a.mp4"),
        ("{cwd}/data/videos/a.mp4", "a.mp4"),
        ("{cwd}/data/../data/videos/a.mp4", "a.mp4"),
        ("{cwd}/link/a.mp4", "a.mp4"),
        ("file://{cwd}/data/videos/a.mp4", "a.mp4"),
        ("/home/other/videos/sub/b.mp4", "sub/b.MP4"),
        ("C:\\films\\videos\\sub\\b.mp4", "sub/b.MP4"),
        ("https://host/x/videos/a.mp4", "a.mp4"),
        ("A.mp4", None),
        ("a.MP4", "a.mp4"),
        ("a", "a.mp4"),
        ("sub/b", "sub/b.MP4"),
        ("sub\\b.mp4", "sub/b.MP4"),
        ("clip.v1", "clip.v1.mp4"),
        ("clip", None),
        ("\u00e9t\u00e9.mp4", "e\u0301te\u0301.mp4"),
        ("\u00e9t\u00e9", "e\u0301te\u0301.mp4"),
        ("photo.jpg", "photo.jpg"),
        ("b.mp4", None),
        ("train/a.mp4", None),
        ("/home/other/train/a.mp4", None),
        ("a.avi", None),
        ("", None),
    ],
)
def test_names_in_a_table_of_the_folder(names, name, file):
    assert names.find(name.replace("{cwd}", os.getcwd()), "") == file


def test_names_stored_composed_are_found_decomposed(tmp_path):
    stored = unicodedata.normalize("NFC", "\u00e9t\u00e9.mp4")
    names = FileNames(str(tmp_path), [stored], [stored])
    assert names.find(unicodedata.normalize("NFD", stored), "") == stored


def test_a_table_in_a_folder_below(names):
    assert names.find("b.mp4", "sub") == "sub/b.MP4"
    assert names.find("../a.mp4", "sub") == "a.mp4"
    assert names.find("videos/c.mp4", "sub") == "sub/videos/c.mp4"
    assert names.find("sub/b.mp4", "sub") == "sub/b.MP4"  # as seen from the whole folder
    assert names.find("a.mp4", "sub") is None  # another file of that name, which is missing there


def test_as_it_is_written_comes_first(tmp_path):
    files = ["videos/a.mp4", "a.mp4", "a.MP4", "x\\y.mp4", "x/y.mp4"]
    names = FileNames(str(tmp_path / "videos"), files, files)
    assert names.find("videos/a.mp4", "") == "videos/a.mp4"
    assert names.find("a.MP4", "") == "a.MP4"
    assert names.find("x\\y.mp4", "") == "x\\y.mp4"


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["a.mp4", "a.webm"], "a"),
        (["a.mp4", "a.MP4"], "a.Mp4"),
        (["a.mp4", "videos/a.mp4"], "/x/videos/videos/a.mp4"),
    ],
)
def test_a_name_that_may_mean_two_files(tmp_path, files, name):
    names = FileNames(str(tmp_path / "videos"), files, files)
    with pytest.raises(ValueError) as caught:
        names.find(name, "")
    assert all(file in str(caught.value) for file in files)


def test_a_folder_in_an_object_store():
    names = FileNames("gs://bucket/videos", FILES, WANTED)
    for name in ("gs://bucket/videos/a.mp4", "s3://other/videos/a.mp4", "videos/a.mp4", "./a.mp4"):
        assert names.find(name, "") == "a.mp4"
    assert names.find("gs://bucket/films/a.mp4", "") is None
