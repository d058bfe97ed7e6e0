"""The model card of an exported model: README.md with YAML front matter, as the Hub reads it.

model_card.md is the template of the text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml

_TAGS = {"imagen-video": ("DiffusionStage",), "phenaki": ("MaskedVideoModel", "VideoTokenizer")}


class Sample(NamedTuple):
    """A sample clip: its prompt, and its file in the folder."""

    prompt: str
    file: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardText:
    """What a person says of a model.

    Attributes:
      title: its name; "" takes the folder's.
      license: as the Hub spells it ("apache-2.0"); "" says that none is stated.
      data: what it was trained on, in words; "" leaves the configuration's settings alone.
      results: results of `vidgen evaluate` (evals/report/results.py).
    """

    title: str = ""
    license: str = ""
    data: str = ""
    results: Sequence[Mapping[str, Any]] = ()


def text(
    folder: str, about: Mapping[str, Any], said: CardText, samples: Sequence[Sample] = ()
) -> str:
    """Write the model card.

    Args:
      folder: name of the folder.
      about: what config.json says.
      said: what a person says.
      samples: clips in the folder.

    Returns:
      README.md: YAML front matter, and the text.
    """
    title = said.title or folder
    front = yaml.safe_dump(
        front_matter(title, about, said, samples), sort_keys=False, allow_unicode=True
    )
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    ).get_template("model_card.md")
    body = template.render(
        title=title,
        folder=folder,
        about=about,
        said=said,
        samples=samples,
        tag=_tag(about),
        starts_from=_starts_from(about),
    )
    return f"---\n{front}---\n\n{body.rstrip()}\n"


def front_matter(
    title: str, about: Mapping[str, Any], said: CardText, samples: Sequence[Sample]
) -> dict[str, Any]:
    """Collect what the Hub reads of a card.

    Args:
      title: name of the model.
      about: what config.json says.
      said: what a person says; its results become the Hub's `model-index`.
      samples: clips in the folder, which the Hub shows.

    Returns:
      Plain data, for YAML; what is not known is left out.
    """
    task = {"text": "text-to-video", "video": "video-to-video"}.get(_starts_from(about) or "")
    front: dict[str, Any] = {"license": said.license} if said.license else {}
    front |= {"library_name": about["library_name"]}
    front |= {"pipeline_tag": task} if task else {}
    front |= {"tags": ["jax", "flax", "vidgen", _tag(about)]}
    if samples:
        front["widget"] = [{"text": s.prompt, "output": {"url": s.file}} for s in samples]
    if said.results:
        front["model-index"] = [{"name": title, "results": [_result(r) for r in said.results]}]
    return front


def _starts_from(about: Mapping[str, Any]) -> str | None:
    """Return what the first model makes video of, or None; the others go on from it."""
    return next(iter(about["models"].values()))["starts_from"]


def _result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result of `vidgen evaluate` as the Hub writes one."""
    protocol = str(result["protocol"].get("name", "own"))
    return {
        "task": {"type": "text-to-video"},
        "dataset": {"name": protocol, "type": protocol},
        "metrics": [
            {"type": name, "name": name, "value": metric["value"]}
            for name, metric in result["metrics"].items()
        ],
    }


def _tag(about: Mapping[str, Any]) -> str:
    classes = {model["class"] for model in about["models"].values()}
    return next((tag for tag, names in _TAGS.items() if classes & {*names}), "text-to-video")
