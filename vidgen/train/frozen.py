"""Frozen networks that another model reads and does not change: the tokenizer of a transformer.

model.merge_params(own parameters, frozen) gives what such a model generates with.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable

import numpy as np
from etils import epath

from vidgen.assets import model_folders
from vidgen.model import Model
from vidgen.train import fresh
from vidgen.train.partitioning import Partitioner, laid_out, unbox
from vidgen.train.state import named_leaves
from vidgen.train.weights import open_weights
from vidgen.types import ByValue, Frozen, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenParams:
    """Loads {name: averaged weights of a trained model}.

    Attributes:
      name: what the model that reads them calls them.
      model: the trained model; its shapes are checked.
      model_dir: the folder of its training run, or an exported one. Where it is gone, a folder of
        the same name beside `reader_dir` is tried, so that both can be moved together.
      reader_dir: the folder of the run that reads it.
      mesh: devices to lay the weights out over; None is the first device.
      step: which checkpoint; None is the newest.
    """

    name: str
    model: Model
    model_dir: str
    reader_dir: str = ""
    mesh: Partitioner | None = None
    step: int | None = None

    def __call__(self) -> Frozen:
        """Return the weights, laid out over `mesh`.

        Raises:
          FileNotFoundError: the folder has no checkpoint.
          CheckpointError: the checkpoint holds another kind or size of model.
        """
        return {self.name: restored(self.model, self.folder, self.step, self.mesh)}

    @property
    def folder(self) -> epath.Path:
        """The folder that has the weights."""
        folder = epath.Path(model_folders.find(self.model_dir)).expanduser()
        beside = epath.Path(self.reader_dir).expanduser().parent / folder.name
        return beside if self.reader_dir and not folder.exists() and beside.exists() else folder


def over(weights: Callable[[], Frozen], mesh: Partitioner | None) -> Callable[[], Frozen]:
    """Make a loader of frozen weights lay them out over another mesh.

    The devices of the training need not be here when its model is read.

    Args:
      weights: a loader, such as `FrozenParams`.
      mesh: devices to lay the weights out over; None is the first device.

    Returns:
      A copy of a `FrozenParams`; any other loader as it is.
    """
    return dataclasses.replace(weights, mesh=mesh) if isinstance(weights, FrozenParams) else weights


def restored(
    model: Model,
    model_dir: epath.PathLike,
    step: int | None = None,
    mesh: Partitioner | None = None,
    text: tuple[int, int] = (1, 1),
) -> Params:
    """Read the averaged weights of a checkpoint, checked against the model's own shapes.

    Args:
      model: the trained model.
      model_dir: the folder of the training run.
      step: which checkpoint; None is the newest.
      mesh: devices to lay them out over; None is the first device.
      text: length and width of an encoded prompt.

    Returns:
      The weights, without boxes.

    Raises:
      FileNotFoundError: the folder has no such checkpoint.
      CheckpointError: the checkpoint holds another kind or size of model.
    """
    boxed = _boxed_shapes(ByValue(model), text)
    shapes = unbox(boxed)
    if mesh is not None:
        shapes = laid_out(shapes, mesh.param_shardings(boxed))
    with open_weights(model_dir) as checkpointer:
        return checkpointer.restore_params(shapes, step)


@functools.lru_cache(maxsize=32)
def _boxed_shapes(model: ByValue[Model], text: tuple[int, int]) -> Params:
    """Return fresh parameters as boxed ShapeDtypeStructs.

    A model is traced once for all equal ones: that takes longer than reading its weights.
    """
    return fresh.boxed_shapes(model.value, model.value.batch_spec(1, *text))


def fingerprint(weights: Callable[[], Frozen]) -> str:
    """Hash the names, shapes and values of weights, so that networks can be told apart.

    What was made with some weights is resumed with the same ones only. Folder and step do not
    identify them, since training may put other weights there; hashing takes .005 s of the .3 s of
    loading a stage of the demo.

    Args:
      weights: loads them (`FrozenParams`).

    Returns:
      16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, leaf in named_leaves(weights()).items():
        value = np.ascontiguousarray(leaf)
        digest.update(f"{name}:{value.shape}:{value.dtype};".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()[:16]


def spec(model: Model, text: tuple[int, int] = (1, 1)) -> Frozen:
    """Describe what the loss of a model reads in `frozen` by shapes, for a plan; None: nothing.

    Args:
      model: the model that is trained.
      text: length and width of an encoded prompt.

    Returns:
      ShapeDtypeStructs by the names of `Model.frozen_networks`; None for a model that reads none.
    """
    networks = model.frozen_networks.items()
    return {name: m and unbox(_boxed_shapes(ByValue(m), text)) for name, m in networks} or None
