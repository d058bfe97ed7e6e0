"""The trained models that come with the package, by name.

    vidgen/zoo_models/NAME/STAGE/{config.gin, weights.npz}

NAME, or NAME/STAGE, stands wherever a command takes the folder of a trained model. They are small,
and trained on the sprite videos; `benchmarks/release.py` writes them from folders of training runs.
"""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT = "imagen_demo"
STORIES = "phenaki_demo"  # the default for films
FOLDER = Path(__file__).resolve().parents[1] / "zoo_models"


def names() -> tuple[str, ...]:
    """All models, in alphabetical order."""
    return tuple(sorted({path.parent.parent.name for path in FOLDER.glob("*/*/config.gin")}))


def find(model: str) -> str:
    """`model`, or the folder of the model that is called so; a folder of one's own comes first."""
    name, _, stage = model.partition("/")
    if name not in names() or os.path.exists(os.path.expanduser(model)):
        return model
    return str(FOLDER / name / stage)
