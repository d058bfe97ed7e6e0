"""The models that the page offers, and the stages that they have."""

from __future__ import annotations

import dataclasses

from vidgen.assets import zoo
from vidgen.inference import stages
from vidgen.types import STAGES


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
        """The stages that start from a video."""
        return tuple(stage for stage in self.stages if stage in STAGES[1:])


def offer(model: str) -> Offer:
    """Look at a model.

    Raises:
      FileNotFoundError: there is none of that name.
    """
    folders = stages.find(model)
    return Offer(model, tuple(folder.name for folder in folders) if len(folders) > 1 else ())


def offers(model: str | None, story_model: str | None) -> tuple[Offer, Offer]:
    """The model of clips and of upscaling, and the one of stories, by the flags of `vidgen web`."""
    return offer(model or zoo.DEFAULT), offer(story_model or zoo.STORIES)
