"""The trained models that come with the package, by name.

    vidgen/zoo_models/NAME/STAGE/{config.gin, weights.safetensors}

A name stands wherever a command takes the folder of a trained model. They are small, and trained on
the sprite videos; `benchmarks/release.py` writes them from the folders of training runs.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "zoo_models"


def names() -> tuple[str, ...]:
    """All models, in alphabetical order."""
    return tuple(sorted({path.parent.parent.name for path in FOLDER.glob("*/*/config.gin")}))


def find(model: str) -> Path:
    """The folder of a model that is named by its folder, or by its name here; the folder first."""
    own = Path(model).expanduser()
    return own if own.exists() or model not in names() else FOLDER / model
