"""The page: what can be typed on the left, and what becomes of it on the right.

A button makes a `Command` of what is typed; the worker runs it; an event of gradio follows it and
shows its steps until it ends. The page of a browser has at most one generation, which ends when the
page is closed.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes import Default

from vidgen.web import commands, views
from vidgen.web.commands import MAX_SCENES, MAX_TEXT, Command
from vidgen.web.jobs import Job, Worker
from vidgen.web.models import Offers
from vidgen.web.parts import (
    Result,
    hint,
    result_parts,
    sampling_fields,
    sampling_flags,
    stages_of,
)

CSS = Path(__file__).with_name("page.css")
THEME = Default(
    primary_hue="indigo",
    secondary_hue="indigo",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],  # of the machine: nothing is fetched
    font_mono=["ui-monospace", "monospace"],
)

_LOOK_EVERY = 0.1  # seconds between two looks at a generation
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

PROMPT = "a tiger moving right on a green background"
SCENES = ("a tiger moving right on a green background", "a tiger growing on a green background")


class Page:
    """The page of one worker."""

    def __init__(self, worker: Worker, offers: Offers, more: tuple[str, ...]) -> None:
        """Lay it out.

        Args:
          worker: runs what is asked for.
          offers: the models to choose from.
          more: flags of every command.
        """
        self._worker, self._offers, self._more = worker, offers, more
        self._jobs: dict[str, Job] = {}  # by the session of a browser's page
        with gr.Blocks(title="vidgen", analytics_enabled=False, delete_cache=(600, 7200)) as blocks:
            gr.HTML(views.HEADER, elem_id="vg-header")
            with gr.Row(equal_height=False):
                with gr.Column(scale=5, min_width=320):
                    parts = self._inputs()
                with gr.Column(scale=6, min_width=320):
                    result = result_parts()
            starts = [button for button, *_ in parts]
            for button, inputs, read in parts:
                button.click(
                    self._follower(read, result, starts),
                    inputs,
                    [*vars(result).values(), *starts],
                    concurrency_limit=None,
                    **_PRIVATE,
                )
            result.stop.click(self._stop, queue=False, **_PRIVATE)
            blocks.unload(self._stop)
        self.blocks = blocks

    # What can be typed -----------------------------------------------------------------------

    def _inputs(self) -> list[tuple[gr.Button, list[Any], Callable[..., Command]]]:
        """Lay out the inputs; returns each button with its inputs and what reads them."""
        with gr.Tabs():
            with gr.Tab("Clip", id="clip"):
                parts = [self._clip_inputs()]
            with gr.Tab("Story", id="story"):
                parts.append(self._story_inputs())
            if self._offers.clips[0].upscaling:
                with gr.Tab("Upscale", id="upscale"):
                    parts.append(self._upscale_inputs())
        return parts

    def _clip_inputs(self) -> tuple[gr.Button, list[Any], Callable[..., Command]]:
        first, *others = self._offers.clips
        prompt = gr.Textbox(
            PROMPT, label="Prompt", info=hint(first), lines=3, max_length=MAX_TEXT,
            elem_id="vg-prompt",
        )  # fmt: skip
        sampling = sampling_fields("clip")
        with gr.Row():
            model = gr.Dropdown(
                [offer.name for offer in self._offers.clips], value=first.name, label="Model",
                visible=bool(others), min_width=170, elem_id="vg-model",
            )  # fmt: skip
            until = gr.Dropdown(
                label="Up to stage", min_width=130, elem_id="vg-until", **stages_of(first)
            )
        model.change(
            lambda name: gr.update(**stages_of(self._offers.named(name))), model, until,
            queue=False, **_PRIVATE,
        )  # fmt: skip

        def read(prompt: str, model: str, until: str | None, *sampled: Any) -> Command:
            stages = self._offers.named(model).stages
            last = until if until in stages[:-1] else None
            return commands.clip(prompt, model=model, until=last, **sampling_flags(*sampled))

        go = gr.Button("Generate", variant="primary", elem_id="vg-generate")
        return go, [prompt, model, until, *sampling], read

    def _story_inputs(self) -> tuple[gr.Button, list[Any], Callable[..., Command]]:
        count = gr.State(len(SCENES))
        scenes = [
            gr.Textbox(
                SCENES[i] if i < len(SCENES) else "",
                label=f"Scene {i + 1}",
                lines=2,
                max_length=MAX_TEXT,
                visible=i < len(SCENES),
                elem_id=f"vg-scene-{i + 1}",
            )
            for i in range(MAX_SCENES)
        ]
        with gr.Row():
            more = gr.Button("Add a scene", size="sm", elem_id="vg-more")
            fewer = gr.Button("Remove the last", size="sm", elem_id="vg-fewer")
        for button, change in ((more, 1), (fewer, -1)):
            button.click(
                lambda count, change=change: _scenes_shown(count + change),
                count,
                [count, *scenes],
                queue=False,
                **_PRIVATE,
            )
        sampling = sampling_fields("story")

        def read(count: int, *values: Any) -> Command:
            prompts, sampled = values[:MAX_SCENES], values[MAX_SCENES:]
            flags = sampling_flags(*sampled)
            model = self._offers.stories.name
            return commands.story(prompts[:count], model=model, **flags)

        go = gr.Button("Tell the story", variant="primary", elem_id="vg-tell")
        return go, [count, *scenes, *sampling], read

    def _upscale_inputs(self) -> tuple[gr.Button, list[Any], Callable[..., Command]]:
        model = self._offers.clips[0]
        stages = list(model.upscaling)
        upload = gr.File(
            label="A clip or a picture", height=140, elem_id="vg-upload",
            file_types=list(commands.UPLOADS),
        )  # fmt: skip
        prompt = gr.Textbox("", label="What it shows", max_length=MAX_TEXT, elem_id="vg-shows")
        with gr.Row():
            first = gr.Dropdown(stages, value=stages[0], label="From stage", elem_id="vg-from")
            last = gr.Dropdown(stages, value=stages[0], label="Up to stage", elem_id="vg-to")
        sampling = sampling_fields("upscale")

        def read(upload: str | None, prompt: str, first: str, last: str, *sampled: Any) -> Command:
            flags = {"model": model.name, "from": first, "until": last}
            flags |= sampling_flags(*sampled)
            return commands.upscaling(upload, prompt, **flags)

        go = gr.Button("Upscale", variant="primary", elem_id="vg-upscale")
        return go, [upload, prompt, first, last, *sampling], read

    # What becomes of it ----------------------------------------------------------------------

    def _follower(
        self, read: Callable[..., Command], result: Result, starts: list[gr.Button]
    ) -> Callable[..., AsyncIterator[dict[Any, Any]]]:
        """Return the event of a button: run what `read` makes of the inputs, and show it."""

        async def follow(request: gr.Request, *values: Any) -> AsyncIterator[dict[Any, Any]]:
            session = str(request.session_hash)
            try:
                command = read(*values)
                flags = (*command.flags, *self._more)
                job = self._worker.submit(dataclasses.replace(command, flags=flags))
            except ValueError as error:
                yield {result.progress: views.message(str(error), "error")}
                return
            self._jobs[session] = job
            try:
                yield _at_the_start(result, starts)
                async for update in self._updates(job, result):
                    yield update
                yield _at_the_end(job, result, starts)
            finally:  # gradio has its own copy of the video, or the page is gone
                self._worker.remove(job)
                if self._jobs.get(session) is job:
                    del self._jobs[session]

        return follow

    async def _updates(self, job: Job, result: Result) -> AsyncIterator[dict[Any, Any]]:
        """What is new, until the job ends."""
        shown, pictures = "", 0
        while not job.has_ended:
            update: dict[Any, Any] = {}
            text = views.progress(job, self._worker.ahead(job))
            if text != shown:
                update[result.progress] = shown = text
            if job.pictures != pictures and job.picture is not None:
                pictures = job.pictures
                update[result.picture] = views.picture(job)
            if update:
                yield update
            await asyncio.sleep(_LOOK_EVERY)

    def _stop(self, request: gr.Request) -> None:
        """Stop the generation of a page, which may be closed."""
        job = self._jobs.get(str(request.session_hash))
        if job is not None:
            self._worker.stop(job)


def _scenes_shown(count: int) -> list[Any]:
    count = min(max(count, 1), MAX_SCENES)
    return [count, *(gr.update(visible=i < count) for i in range(MAX_SCENES))]


def _at_the_start(result: Result, starts: list[gr.Button]) -> dict[Any, Any]:
    hidden = (result.video, result.download, result.command)
    return {
        **{part: gr.update(visible=False) for part in hidden},
        result.picture: gr.update(value=views.EMPTY, visible=True),
        result.stop: gr.update(visible=True),
        **{button: gr.update(interactive=False) for button in starts},
    }


def _at_the_end(job: Job, result: Result, starts: list[gr.Button]) -> dict[Any, Any]:
    update = {
        result.progress: views.progress(job, 0),
        result.stop: gr.update(visible=False),
        **{button: gr.update(interactive=True) for button in starts},
    }
    if job.video is None:
        return update | {result.picture: gr.update(value=views.EMPTY, visible=True)}
    return update | {
        result.picture: gr.update(visible=False),
        result.video: gr.update(value=str(job.video), visible=True),
        result.download: gr.update(value=str(job.video), visible=True),
        result.command: gr.update(value=job.command.line(), visible=True),
    }
