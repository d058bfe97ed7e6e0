"""The weights of a training run of t5x (train/t5x.py), read without t5x.

    MODEL_DIR/checkpoint_N/.../target.params.stem.kernel    a zarr array, in a folder of its own or
                                                            in a store of OCDBT

A checkpoint holds the optimizer's state beside them, which is left alone. t5x keeps no averages.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from etils import epath

from vidgen.train import named_arrays
from vidgen.train.checkpoint_errors import CheckpointError
from vidgen.train.checkpoints import WeightsReader
from vidgen.types import Params

_STEP = re.compile(r"checkpoint_(\d+)")
_TARGET = re.compile(r"(?:.*[./])?target[./]")  # what stands before the name of a parameter


def steps(folder: epath.PathLike) -> list[int]:
    """Return the steps of the checkpoints of t5x in a folder.

    Args:
      folder: MODEL_DIR of t5x, on this machine.

    Returns:
      Steps, oldest first; none where the folder is absent or holds no `checkpoint_N`.
    """
    path = Path(folder)
    paths = path.iterdir() if path.is_dir() else ()
    return sorted(int(m[1]) for p in paths if p.is_dir() and (m := _STEP.fullmatch(p.name)))


class T5xWeights(WeightsReader):
    """The checkpoints of a folder, with the reading methods of `Checkpointer`."""

    def __init__(self, model_dir: epath.PathLike) -> None:
        """Take a folder of this machine in which `steps` finds some."""
        self.folder = Path(model_dir)

    def latest_step(self) -> int:
        """Return the step of the newest checkpoint."""
        return steps(self.folder)[-1]

    def stored_params(self, step: int | None = None, *, averaged: bool = True) -> Params:
        """Describe the weights in float32; see `Checkpointer.stored_params`.

        t5x keeps no averages, so `averaged` makes no difference.
        """
        return self._open(step)[0]

    def restore_params(
        self, abstract: Params | None = None, step: int | None = None, *, averaged: bool = True
    ) -> Params:
        """Read the weights; see `Checkpointer.restore_params`.

        t5x keeps no averages, so `averaged` makes no difference.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          CheckpointError: it has no weights, or those of another model.
        """
        stored, opened = self._open(step)

        def value(name: str) -> np.ndarray:
            return np.asarray(opened(name).read().result(), np.float32)

        return named_arrays.restored(str(self.folder), stored, value, abstract)

    def _open(self, step: int | None) -> tuple[Params, Callable[[str], Any]]:
        """Return the shapes of the parameters, and what opens one by its name.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          CheckpointError: no weights are in it.
        """
        there = steps(self.folder)
        if step is not None and step not in there:
            raise FileNotFoundError(
                f"no checkpoint of step {step} in {self.folder}; there are {there}."
            )
        folder = self.folder / f"checkpoint_{there[-1] if step is None else step}"
        store = {"driver": "file", "path": f"{folder.resolve()}/"}
        for manifest in sorted(folder.rglob("manifest.ocdbt"), key=lambda path: len(path.parts)):
            store = {"driver": "ocdbt", "base": f"file://{manifest.parent.resolve()}/", "path": ""}
            break
        keys = [key.decode() for key in tensorstore.KvStore.open(store).result().list().result()]
        places = (key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray"))
        arrays = {
            _TARGET.sub("", place, count=1).replace(".", "/"): place
            for place in places
            if _TARGET.match(place)
        }
        if not arrays:
            raise CheckpointError(f"{folder} holds no weights that t5x wrote with orbax.")

        def opened(name: str) -> Any:
            spec = {"driver": "zarr", "kvstore": store | {"path": store["path"] + arrays[name]}}
            return tensorstore.open(spec).result()

        return named_arrays.spec({name: opened(name).shape for name in arrays}), opened
