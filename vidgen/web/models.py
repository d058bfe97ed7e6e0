"""The models that the page offers, and the stages that they have."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vidgen.assets import model_folders, zoo
from vidgen.inference import stage_folders, stages


@dataclasses.dataclass(frozen=True)
class Offer:
    """A model that can be chosen.

    Attributes:
      name: what --model takes.
      stages: of a cascade, in order; none where the model is one stage, whose folder is named.
    """

    name: str
    stages: tuple[str, ...]

    @property
    def upscaling(self) -> tuple[str, ...]:
        """The stages that start from a video: super-resolution in space or time."""
        folder = Path(model_folders.find(self.name))
        return tuple(
            stage for stage in self.stages if stage_folders.starts_from_video(folder / stage)
        )


def offer(model: str) -> Offer:
    """Look up a model and its stages.

    Args:
      model: what --model takes: a folder, an address or a name.

    Returns:
      The model, which can then be chosen.

    Raises:
      FileNotFoundError: there is none of that name.
      ValueError: it is a training run in a store.
    """
    folders = stages.find(model)
    return Offer(model, tuple(folder.name for folder in folders) if len(folders) > 1 else ())


@dataclasses.dataclass(frozen=True)
class Offers:
    """The models of a page.

    Attributes:
      clips: that make clips; the first one also makes uploaded clips larger.
      stories: that tells stories.
    """

    clips: tuple[Offer, ...]
    stories: Offer

    def named(self, name: str) -> Offer:
        """Look up a model of clips by its name.

        Args:
          name: of one of `clips`.

        Returns:
          The model.
        """
        return next(offer for offer in self.clips if offer.name == name)


def offers(model: str | None, story_model: str | None) -> Offers:
    """Look up the models that the flags of `vidgen web` name.

    Args:
      model: makes clips; None: every one that comes with vidgen does, from the default on.
      story_model: tells stories, and makes clips as well; None: the one that comes with vidgen.

    Returns:
      The models of the page, each once.

    Raises:
      FileNotFoundError: there is none of that name.
      ValueError: one of them is a training run in a store.
    """
    stories = offer(story_model or zoo.STORIES)
    if model is None:
        names = dict.fromkeys([zoo.DEFAULT, stories.name, *zoo.names()])
    else:
        names = dict.fromkeys([model] if story_model is None else [model, story_model])
    return Offers(tuple(map(offer, names)), stories)
