"""Paths of objects in a store beside local ones: the same answers, repeated where a store fails."""

import io
import os
import sys

import fsspec
import numpy as np
import pytest
from etils import epath

from vidgen import paths

DATA = np.random.default_rng(0).bytes(300_000)


@pytest.fixture(params=["local", "file", "memory", "flaky"])
def folder(request, tmp_path, store):
    """An empty folder of each kind."""
    url = {"local": str(tmp_path), "file": f"file://{tmp_path}", "flaky": store.url}
    yield url.get(request.param, store.url.replace("flaky", "memory"))
    fsspec.filesystem("memory").store.clear()


def test_what_has_a_scheme_is_remote(tmp_path):
    for path in ("gs://bucket/a.mp4", "https://host/a b.tar", "memory://x", "s3a://x/{0..3}.tar"):
        assert paths.is_remote(path)
    assert paths.is_remote(epath.Path("gs://bucket/run") / "lora.json")
    for path in (
        epath.Path("/data"),
        None,
        "a.mp4",
        "/data/a.mp4",
        "./x:/y",
        "C:/x",
        "",
        tmp_path,
        "://x",
    ):
        assert not paths.is_remote(path)


def test_files_of_every_kind_answer_alike(folder):
    names = ["b/one.txt", "a.bin", "b/c/two.txt", ".hidden", "b/.git/config"]
    for name in names:
        paths.write(paths.join(folder, name), DATA if name == "a.bin" else name.encode())
    assert sorted(paths.files_under(folder)) == ["a.bin", "b/c/two.txt", "b/one.txt"]
    assert paths.names_in(folder) == {"a.bin", "b", ".hidden"}
    assert paths.names_in(paths.join(folder, "nowhere")) == set()
    assert paths.is_folder(folder) and not paths.is_folder(paths.join(folder, "a.bin"))
    assert paths.is_file(paths.join(folder, "a.bin")) and not paths.is_file(folder)
    assert not paths.is_file(paths.join(folder, "none")) and not paths.is_folder(folder + "/none")
    big = paths.join(folder, "a.bin")
    assert paths.stat(big).size == len(DATA)
    stats = paths.stats_in(folder)
    assert stats.keys() == {"a.bin", ".hidden"} and stats["a.bin"].size == len(DATA)
    assert paths.read(big) == DATA and paths.read(big, 7) == DATA[7:]
    assert paths.read(big, 100, 50) == DATA[100:150] and paths.read(big, 9, 0) == b""
    assert paths.read(big, len(DATA) - 5, 50) == DATA[-5:]
    texts = [paths.join(folder, name) for name in ("b/one.txt", "none", "b/c/two.txt")]
    one, none, two = paths.read_many(texts, 5)
    assert (one, two) == (b"b/one", b"b/c/t") and isinstance(none, FileNotFoundError)
    found = paths.glob(paths.join(folder, "b/*.txt"))
    assert [paths.read(path) for path in found] == [b"b/one.txt"]
    assert paths.glob(paths.join(folder, "*.tar")) == []


def test_a_new_content_has_a_new_mark(folder):
    path = paths.join(folder, "a.bin")
    paths.write(path, b"one")
    first = paths.stat(path)
    assert paths.stat(path) == first
    paths.write(path, b"two!")
    assert paths.stat(path) != first
    copy = paths.local_copy(path)
    assert os.path.isfile(copy)


@pytest.mark.parametrize("size", [0, 1, 1000, len(DATA)])
def test_a_large_object_is_read_in_parts(store, monkeypatch, size):
    monkeypatch.setattr(paths, "_WHOLE", 0)
    monkeypatch.setattr(paths, "_BLOCK", 1000)
    path, wanted = store.put("a.bin", DATA[:size]), io.BytesIO(DATA[:size])
    with paths.open_binary(path) as file:
        rng = np.random.default_rng(size)
        for _ in range(60):
            whence, offset = int(rng.integers(3)), int(rng.integers(size + 1))
            offset = -offset if whence == io.SEEK_END else 0 if whence == io.SEEK_CUR else offset
            assert file.seek(offset, whence) == wanted.seek(offset, whence)
            count = int(rng.integers(-1, 2500))
            assert file.read(count) == wanted.read(count) and file.tell() == wanted.tell()


def test_only_what_is_asked_for_is_fetched(store, monkeypatch):
    monkeypatch.setattr(paths, "_WHOLE", 1000)
    monkeypatch.setattr(paths, "_BLOCK", 1000)
    path = store.put("a.bin", DATA)
    before = store.requests
    with paths.open_binary(path) as file:
        file.seek(200_000)
        assert file.read(10) == DATA[200_000:200_010] and file.read(10) == DATA[200_010:200_020]
    assert store.requests == before + 2  # its size, and one block


def test_what_fails_now_and_then_is_tried_again(store):
    path = store.put("a.bin", DATA)
    store.fail(3)
    assert paths.read(path) == DATA
    store.fail(1)
    assert list(paths.read_many([path, path], 10)) == [DATA[:10]] * 2
    store.fail(10)
    with pytest.raises(OSError, match="4 tries, the last: ConnectionError: 503 come") as error:
        paths.read(path)
    assert error.value.filename == path


def test_what_is_not_there_is_not_asked_for_twice(store):
    before = store.requests
    with pytest.raises(FileNotFoundError, match=f"'{store.url}/none'"):
        paths.read(f"{store.url}/none")
    assert store.requests == before + 1


def test_a_copy_is_made_once_and_anew_for_another_object(store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = store.put("part/a.bin", DATA)
    copy = paths.local_copy(path)
    with open(copy, "rb") as file:
        assert file.read() == DATA
    assert paths.local_copy(path) == copy and copy.endswith("/a.bin")
    store.put("part/a.bin", DATA[:5])
    assert os.path.getsize(paths.local_copy(path)) == 5
    assert paths.local_copy("/data/a.bin") == "/data/a.bin"


def test_a_local_file_becomes_an_object(store, tmp_path):
    (tmp_path / "a.partial").write_bytes(DATA)
    paths.move_to(tmp_path / "a.partial", f"{store.url}/x/a.bin")
    assert paths.read(f"{store.url}/x/a.bin") == DATA and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("scheme", "package", "extra"),
    [("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3"), ("https", "aiohttp", "http")],
)
def test_a_missing_package_is_named(monkeypatch, scheme, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    with pytest.raises(ImportError, match=rf'{scheme}://.*: pip install "vidgen\[{extra}\]"'):
        paths.is_folder(f"{scheme}://bucket/videos")


def test_an_unknown_scheme_is_explained():
    with pytest.raises(ValueError, match="floppy://; .*gs, s3"):
        paths.is_folder("floppy://a/videos")


def test_a_server_without_parts_is_refused(store, monkeypatch):
    path = store.put("a.tar", DATA)
    plain = fsspec.get_filesystem_class("flaky").cat_file
    whole = lambda self, path, start=None, end=None: plain(self, path)  # noqa: E731
    monkeypatch.setattr(fsspec.get_filesystem_class("flaky"), "cat_file", whole)
    with pytest.raises(OSError, match=r"no parts .*a\.tar"):
        paths.read(path, 10, 10)
    assert list(paths.read_many([path], 7)) == [DATA[:7]]


def test_a_denied_object_is_said_to_be(store, monkeypatch):
    path = store.put("a.bin", DATA)

    def denied(self, path, *_, **__):
        raise PermissionError("caller does not have storage.objects.get access")

    monkeypatch.setattr(fsspec.get_filesystem_class("flaky"), "cat_file", denied)
    with pytest.raises(PermissionError, match=f"Permission denied: '{path}'"):
        paths.read(path)


@pytest.mark.parametrize(("said", "found"), [("/c", "/c"), ("", "~/.cache"), ("c", "~/.cache")])
def test_caches_lie_where_xdg_says(monkeypatch, said, found):
    """Which says to ignore a relative path."""
    monkeypatch.setenv("XDG_CACHE_HOME", said)
    assert paths.cache_folder("x") == os.path.expanduser(f"{found}/vidgen/x")
