"""What a model makes of the first held-out prompts by seed: successes and failures, none chosen.

    python benchmarks/held_out_sheet.py --model=imagen_demo -o sheet.webp
    python benchmarks/held_out_sheet.py --model=film_demo --data=shots/held_out -o shots.webp

Prompts are combinations of subject, motion and background that training never showed, in the order
of sprite_probe.py; above each clip stands its prompt, and what the probe reads in it where that is
another subject, motion or background. With --data they are the captions of a folder of clips, in
the order of its files: each true clip is beside the one that is made of its caption alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from drift import world
from sprite_probe import scenes, triples_of

import vidgen
from vidgen.config.gin_sessions import Sessions
from vidgen.data.source import BadExample
from vidgen.data.sources.folder import FolderSource
from vidgen.data.video.transforms import to_float
from vidgen.display import sheets
from vidgen.inference import stages
from vidgen.sprites import probe

HEIGHT = 96  # pixels of a frame on the sheet, at least about half of it


def caption(prompt: str, asked: Sequence[str | None], read: Sequence[str | None]) -> str:
    """The prompt, and the words of a reading that differ from what was asked for."""
    wrong = [str(word) for word, wanted in zip(read, asked, strict=True) if word != wanted]
    return f"{prompt} [read: {', '.join(wrong)}]" if wrong else prompt


def of_sprites(model: Any, flags: argparse.Namespace, options: dict[str, Any]):
    """Clips of held-out combinations, with their prompts and readings; prints the shares."""
    sprites = world(flags.model)
    asked = scenes(sprites, flags.clips)
    prompts = [sprites.caption(scene) for scene in asked]
    videos = model.generate(prompts, **options).video
    readings = [probe.read(probe.smaller(video), sprites) for video in videos]
    print(probe.accuracy(readings, triples_of(asked)))
    triples = [reading.triple for reading in readings]
    return list(zip(map(caption, prompts, triples_of(asked), triples), videos, strict=True))


def of_folder(model: Any, flags: argparse.Namespace, options: dict[str, Any]):
    """The clips of a folder that are long enough, each followed by the one of its caption."""
    folder = stages.find(flags.model, None, flags.until)[-1]
    stage = stages.build_trained(Sessions(["runs/generate.gin"], [], []), stages.Stage, folder)
    source = FolderSource(path=flags.data, shape=stage.model.shape, missing_captions="empty")
    examples = []
    for index in range(len(source)):
        if len(examples) == flags.clips:
            break
        try:
            examples.append(source.load(index, np.random.default_rng(index)))
        except BadExample as error:
            print(f"left out: {error}")
    if not examples:
        raise SystemExit(f"{flags.data} has no clip that is long enough for {flags.model}.")
    prompts = [example.first_caption for example in examples]
    videos = model.generate(prompts, **options).video
    pairs = zip(prompts, examples, videos, strict=True)
    return [
        clip
        for prompt, example, video in pairs
        for clip in ((f"film: {prompt}", to_float(example.video)), ("made of the caption", video))
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the clips, and draw the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="imagen_demo", help="a model that makes clips of text")
    parser.add_argument("--until", default=None, help="the last stage of a cascade that runs")
    parser.add_argument("--data", default=None, help="a folder of captioned clips")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--steps", type=int, default=None, help="sampling steps")
    parser.add_argument("--moments", type=int, default=4, help="frames of a clip that are drawn")
    parser.add_argument("-o", "--output", type=Path, default=Path("held_out.webp"))
    flags = parser.parse_args(arguments)
    options = {} if flags.steps is None else {"steps": flags.steps}
    model = vidgen.load(flags.model, until=flags.until)
    clips = (of_folder if flags.data else of_sprites)(model, flags, options)
    times = max(1, HEIGHT // clips[0][1].shape[1])
    larger = [(name, video.repeat(times, axis=1).repeat(times, axis=2)) for name, video in clips]
    sheets.contacts(larger, moments=flags.moments).save(flags.output)


if __name__ == "__main__":
    main()
