"""Parts of the page that stand in several places: how to sample, and what shows a generation."""

from __future__ import annotations

import dataclasses
from typing import Any

import gradio as gr

from vidgen.assets import zoo
from vidgen.web import views
from vidgen.web.commands import MAX_TEXT
from vidgen.web.models import Offer

_RANDOM = "() => Math.floor(Math.random() * 4294967296)"  # a seed, made in the browser


@dataclasses.dataclass(frozen=True)
class Result:
    """What shows a generation."""

    picture: gr.HTML
    video: gr.Video
    progress: gr.HTML
    stop: gr.Button
    download: gr.DownloadButton
    command: gr.Textbox


def sampling_fields(part: str) -> list[Any]:
    """Lay out the fields that say how to sample.

    Args:
      part: of the page; the fields' ids begin with "vg-PART-".

    Returns:
      The fields, in the order in which `sampling_flags` takes their values.
    """
    options: dict[str, Any] = {"placeholder": "default", "max_lines": 1, "min_width": 90}
    negative = gr.Textbox(
        "", label="Negative prompt", placeholder="what guidance leads away from", max_lines=2,
        max_length=MAX_TEXT, elem_id=f"vg-{part}-negative",
    )  # fmt: skip
    with gr.Row():
        guidance = gr.Textbox("", label="Guidance", elem_id=f"vg-{part}-guidance", **options)
        steps = gr.Textbox("", label="Steps", elem_id=f"vg-{part}-steps", **options)
        seed = gr.Number(
            0, label="Seed", precision=0, minimum=0, maximum=2**32 - 1, min_width=90,
            elem_id=f"vg-{part}-seed",
        )  # fmt: skip
    with gr.Row(elem_classes="vg-seed"):
        random = gr.Button("Another seed", size="sm", scale=0, min_width=130)
    random.click(None, None, seed, js=_RANDOM)
    return [negative, guidance, steps, seed]


def sampling_flags(
    negative: str, guidance: str, steps: str, seed: int | None
) -> dict[str, str | None]:
    """Turn the values of the fields that say how to sample into flags.

    Args:
      negative: text that guidance leads away from.
      guidance: weight, or a weight for each stage, as --guidance takes it.
      steps: number, or a number for each stage, as --steps takes it.
      seed: of all noise; None: the field is empty.

    Returns:
      Values by the name of the flag; an empty one or None leaves the choice to the model.
    """
    number = None if seed is None else str(int(seed))
    return {"negative": negative, "guidance": guidance, "steps": steps, "seed": number}


def stages_of(model: Offer) -> dict[str, Any]:
    """Return the settings of the menu of last stages for a model.

    Args:
      model: that was chosen.

    Returns:
      Keywords of gradio's `Dropdown`: the choices, with the last stage chosen. The menu is hidden
      for a model of one stage.
    """
    stages = list(model.stages)
    return {"choices": stages, "value": stages[-1] if stages else None, "visible": bool(stages)}


def hint(model: Offer) -> str | None:
    """Say what a model can show, if it comes with vidgen.

    Args:
      model: that the page offers first.

    Returns:
      A sentence; None for a model of the user's.
    """
    if model.name not in zoo.names():
        return None
    return "The demo knows animated emoji that move, grow or shrink on a background of a color."


def result_parts() -> Result:
    """Lay out what shows a generation, empty."""
    return Result(
        picture=gr.HTML(views.EMPTY, elem_id="vg-picture"),
        video=gr.Video(
            label="Video", show_label=False, autoplay=True, loop=True, buttons=[], visible=False,
            interactive=False, elem_id="vg-video",
        ),
        progress=gr.HTML("", elem_id="vg-progress"),
        stop=gr.Button("Stop", variant="stop", visible=False, elem_id="vg-stop"),
        download=gr.DownloadButton("Download", visible=False, elem_id="vg-download"),
        command=gr.Textbox(
            label="The command that makes it again", lines=3, interactive=False, visible=False,
            buttons=["copy"], elem_id="vg-command",
        ),
    )  # fmt: skip
