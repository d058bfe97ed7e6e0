"""vidgen: text to video in JAX, after Imagen Video and Phenaki.

    import vidgen

    model = vidgen.load("imagen_demo", until="ssr1")   # or a folder that `vidgen train` wrote
    clips = model.generate("a tiger moving right on a green background", seed=1)
    clips.video                                        # "b t h w c" in [-1, 1]
    clips.save("tiger.mp4")                            # as the value of a cell, it plays
    film = vidgen.load("phenaki_demo").story("story.yaml", seed=7)
    vidgen.check("my_videos")                          # what training would make of a folder
    vidgen.train(["experiments/imagen_base_tiny.gin"], MODEL_DIR="runs/a", TRAIN_STEPS=100)
    vidgen.plan(["experiments/imagen_cascade_paper.gin"])

Keywords are flags of the command, `vidgen --help`, and results are the command's; `vidgen.api` has
all that this package offers. Importing it starts no accelerator back end, opens no connection and
needs no optional dependency: what is heavy is imported with the first call.
"""

import importlib
import types
import typing

if typing.TYPE_CHECKING:
    from vidgen.api import LoadedModel, check, evaluate, load, plan, train

__version__ = "0.1.0"
__all__ = ["LoadedModel", "check", "evaluate", "load", "plan", "train"]


class _Called(types.ModuleType):
    """A package that is also the call of its name: `vidgen.train(...)`, `vidgen.plan(...)`."""

    def __call__(self, *arguments: typing.Any, **keywords: typing.Any) -> typing.Any:
        """Call the function of this name in `vidgen.api`, which says what it takes."""
        name = self.__name__.removeprefix("vidgen.")
        return getattr(importlib.import_module("vidgen.api"), name)(*arguments, **keywords)


# Import statements bind these names to the packages, so the packages themselves have to be called.
for _name in ("plan", "train"):
    importlib.import_module(f"vidgen.{_name}").__class__ = _Called


def __getattr__(name: str) -> typing.Any:
    """Import what is asked for, once it is."""
    if name not in __all__:
        raise AttributeError(f"module 'vidgen' has no attribute {name!r}")
    return getattr(importlib.import_module("vidgen.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
