"""Exported models in a store: copied once, only what loading reads, and sentences for the rest."""

import sys
from pathlib import Path

import fsspec
import local_hub
import pytest

from vidgen import paths
from vidgen.assets import model_folders, zoo

FILES = {
    "README.md": b"# card",
    "config.json": b"{}",
    "base/config.gin": b"A = 1",
    "base/model.safetensors": b"weights",
    "base/samples/clip.mp4": b"clip",
    "evil.py": b"raise SystemExit",
    "deep/er/config.gin": b"A = 2",
}


@pytest.fixture(params=["memory", "flaky"])
def address(request, store, tmp_path, monkeypatch):
    """An exported model in a store, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store.url = store.url.replace("flaky", request.param)
    for name, data in FILES.items():
        store.put(f"tigers/{name}", data)
    yield f"{store.url}/tigers"
    fsspec.filesystem("memory").store.clear()


def test_names_and_paths_are_what_they_were():
    for model in ("runs/a", "~/a", "/data/a"):
        assert model_folders.find(model) == model
    assert model_folders.find("imagen_demo") == str(zoo.FOLDER / "imagen_demo")


def test_what_loading_reads_is_copied_and_nothing_else(address):
    folder = Path(model_folders.find(address + "/"))
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found == {"config.json", "base/config.gin", "base/model.safetensors"}
    assert all((folder / name).read_bytes() == FILES[name] for name in found)
    assert folder.name == "tigers"
    assert [path.name for path in folder.parent.iterdir()] == ["tigers"]  # nothing half-written


def test_it_is_copied_once_and_again_where_it_changes(address, monkeypatch):
    folder = Path(model_folders.find(address))
    monkeypatch.setattr(paths, "open_binary", None)  # no second reading
    assert Path(model_folders.find(address)) == folder
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parents[3]))
    paths.write(f"{address}/base/model.safetensors", b"better weights")
    other = Path(model_folders.find(address))
    assert (other / "base/model.safetensors").read_bytes() == b"better weights"
    assert (folder / "base/model.safetensors").read_bytes() == b"weights"


def test_a_copy_that_fails_leaves_nothing(address, monkeypatch):
    def broken(path):
        raise OSError(5, "it broke", str(path))

    monkeypatch.setattr(paths, "open_binary", broken)
    with pytest.raises(OSError, match="it broke"):
        model_folders.find(address)
    cache = Path(paths.cache_folder("models"))
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert all(not list(path.iterdir()) for path in cache.iterdir())


def test_names_of_a_stranger_stay_inside():
    for name in ("../config.gin", "a/../config.gin", "/config.gin", "a/b/config.gin", "x.py", ""):
        assert not model_folders._NEEDED.fullmatch(name)


def test_an_address_without_a_model(store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store.put("empty/notes.txt", b"")
    with pytest.raises(FileNotFoundError, match=f"{store.url}/empty .*vidgen export"):
        model_folders.find(f"{store.url}/empty")


def test_a_training_run_in_a_store_is_not_copied(monkeypatch):
    monkeypatch.setattr(paths, "names_in", lambda folder: {"checkpoints", "config.gin"})
    address = model_folders.find("gs://bucket/runs/a")
    assert address == "gs://bucket/runs/a"
    with pytest.raises(ValueError, match=f"--model={address} .*INIT_FROM"):
        model_folders.check_local("--model", address)


def test_the_hub_by_its_own_client(tmp_path, monkeypatch):
    """Copied, and asked for what is not there; tests/inference/test_export.py writes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, data in FILES.items():
        (tmp_path / "hub/me/tigers" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub/me/tigers" / name).write_bytes(data)
    with local_hub.serve(tmp_path / "hub"):
        folder = Path(model_folders.find("hf://me/tigers"))
        found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        assert found == {"config.json", "base/config.gin", "base/model.safetensors"}
        one = Path(model_folders.find("hf://me/tigers/base"))
        assert (one / "model.safetensors").read_bytes() == b"weights"
        with pytest.raises(FileNotFoundError, match="hf://me/lions: .*HF_TOKEN"):
            model_folders.find("hf://me/lions")
        with pytest.raises(FileNotFoundError, match="hf://me/tigers/cubs .*vidgen export"):
            model_folders.find("hf://me/tigers/cubs")


def test_the_hub_needs_its_package(vidgen, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    imported = sys.modules["fsspec.registry"]._registry  # by an earlier test
    monkeypatch.delitem(imported, "hf", raising=False)
    for flags in ("a --model=", "--story=a --upscale=ssr1 --upscale_model="):
        told = vidgen("generate", *f"{flags}hf://owner/model".split())
        told.assert_sentence("hf://owner/model", 'pip install "vidgen[hub]"')
