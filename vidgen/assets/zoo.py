"""The trained models that come with the package, by name.

    vidgen/zoo_models/NAME/STAGE/{config.gin, model.safetensors}

Commands take NAME, or NAME/STAGE, in the place of the folder of a trained model. The models are
small, and trained on the sprite videos, film_demo on shots of Big Buck Bunny; `vidgen export
--weights=8bit` wrote them.
"""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT = "imagen_demo"
STORIES = "phenaki_demo"  # the default for stories
FOLDER = Path(__file__).resolve().parents[1] / "zoo_models"


def names() -> tuple[str, ...]:
    """Return the names of all models, in alphabetical order."""
    return tuple(sorted({path.parent.parent.name for path in FOLDER.glob("*/*/config.gin")}))


def find(model: str) -> str:
    """Return the folder of a model that comes with the package.

    Args:
      model: NAME or NAME/STAGE, or any path.

    Returns:
      The folder; another path, or one that exists here, as it is.
    """
    name, _, stage = model.partition("/")
    if name not in names() or os.path.exists(os.path.expanduser(model)):
        return model
    return str(FOLDER / name / stage)
