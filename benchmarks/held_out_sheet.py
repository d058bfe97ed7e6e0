"""What a model makes of the first held-out prompts by seed: successes and failures, none chosen.

    python benchmarks/held_out_sheet.py --model=imagen_demo -o sheet.png
    python benchmarks/held_out_sheet.py --model=phenaki_demo --moments=8 -o sheet.png

The prompts are combinations of subject, motion and background that training never showed, in the
order of sprite_probe.py. Above each clip stands its prompt, and what the probe reads in it where
that is another subject, motion or background.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from drift import world
from sprite_probe import scenes, triples_of

import vidgen
from vidgen.display import sheets
from vidgen.sprites import probe


def caption(prompt: str, asked: Sequence[str | None], read: Sequence[str | None]) -> str:
    """The prompt, and the words of a reading that differ from what was asked for."""
    wrong = [str(word) for word, wanted in zip(read, asked, strict=True) if word != wanted]
    return f"{prompt} [read: {', '.join(wrong)}]" if wrong else prompt


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the clips, read them, and draw the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="imagen_demo", help="a model that makes clips of text")
    parser.add_argument("--until", default=None, help="the last stage of a cascade that runs")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--steps", type=int, default=None, help="sampling steps")
    parser.add_argument("--moments", type=int, default=4, help="frames of a clip that are drawn")
    parser.add_argument("-o", "--output", type=Path, default=Path("held_out.png"))
    flags = parser.parse_args(arguments)
    sprites = world(flags.model)
    asked = scenes(sprites, flags.clips)
    prompts = [sprites.caption(scene) for scene in asked]
    options = {} if flags.steps is None else {"steps": flags.steps}
    model = vidgen.load(flags.model, until=flags.until)
    videos = model.generate(prompts, **options).video
    readings = [probe.read(probe.smaller(video), sprites) for video in videos]
    print(probe.accuracy(readings, triples_of(asked)))
    triples = [reading.triple for reading in readings]
    names = map(caption, prompts, triples_of(asked), triples)
    picture = sheets.contacts(list(zip(names, videos, strict=True)), moments=flags.moments)
    picture.save(flags.output)


if __name__ == "__main__":
    main()
