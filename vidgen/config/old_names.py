"""The names that modules, classes and settings had before, for configurations of then.

    from vidgen.runs import trained        ->    from vidgen.train import frozen
    FROZEN = @trained.Trained()            ->    FROZEN = @frozen.FrozenParams()

So the config.gin of every training run, and a user's own files, go on working as they are.
"""

from __future__ import annotations

import functools
import re

# Modules by their path in the package, before and now: those with what a configuration can build.
# Of functions, files that are read, and the like, no configuration imports the module.
MOVED = {
    "data.clip_cutting": "precompute.clip_cutting",
    "data.clip_records": "data.sources.clip_records",
    "data.images": "data.sources.images",
    "data.mixtures": "data.sources.mixtures",
    "data.seqio_source": "data.sources.seqio_source",
    "data.shots": "precompute.shots",
    "data.sources": "data.sources.folder",
    "data.sprite_files": "sprites.export",
    "data.sprites": "sprites.sprites",
    "data.streams": "data.sources.streams",
    "data.tar_shards": "data.sources.tar_shards",
    "data.text_cache": "data.cache.text_cache",
    "data.tfds_source": "data.sources.tfds_source",
    "data.token_cache": "data.cache.token_cache",
    "phenaki.story": "story.sliding_window",
    "runs.callbacks": "train.callbacks",
    "runs.content": "inference.conditioning_inputs",
    "runs.distill": "imagen.student_training",
    "runs.encode": "precompute.encode_captions",
    "runs.encode_tokens": "precompute.encode_tokens",
    "runs.evaluate": "evals.evaluate",
    "runs.evaluate_tools": "evals.metrics",
    "runs.generate": "inference.generate",
    "runs.judging": "evals.setup",
    "runs.per_stage": "inference.per_stage",
    "runs.plan": "plan.estimate",
    "runs.prepare": "precompute.prepare",
    "runs.stages": "inference.stages",
    "runs.story_benchmark": "story.generate_storybench",
    "runs.story_script": "story.script",
    "runs.tell": "story.generate_story",
    "runs.train": "train.train",
    "runs.trained": "train.frozen",
    "runs.upscale": "story.upscale",
    "runs.warm_start": "train.warm_start",
    "story.storybench": "story.generate_storybench",
    "story.tell": "story.generate_story",
    "text.tokenizer": "text.byte_encoder",
    "train.distill": "imagen.student_training",
}

# Classes, or settings as Class.field, that a configuration can name, by their module of today.
RENAMED = {
    ("evals.metrics", "Question"): "EvalData",
    ("evals.metrics", "Tools"): "MetricInputs",
    ("evals.setup", "Subject"): "EvalModel",
    ("imagen.student_training", "Distill.course"): "Distill.schedule",
    ("imagen.students", "Course"): "StudentSchedule",
    ("story.generate_story", "Tell"): "GenerateStory",
    ("train.frozen", "Trained"): "FrozenParams",
    ("train.guard", "Guard"): "DivergencePolicy",
    ("train.train", "Train.sampler"): "Train.sample_writer",
}

_IMPORT = re.compile(r"^from vidgen\.([\w.]+) import (\w+)(?: as (\w+))?[ \t]*$", re.MULTILINE)


@functools.lru_cache(maxsize=256)  # a command reads the same few files again and again
def with_new_names(text: str) -> str:
    """Rewrite a configuration with today's name of every module, class and setting.

    Args:
      text: the text of a .gin file.

    Returns:
      The same lines; texts in quotes stay as they are.
    """
    selectors: dict[str, str] = {}
    fields: list[tuple[str, str, str]] = []  # (class, as it is imported now; field; its new name)

    def new_import(line: re.Match[str]) -> str:
        package, name, alias = line.groups()
        module = MOVED.get(f"{package}.{name}", f"{package}.{name}")
        package, _, new = module.rpartition(".")
        before, now = alias or name, alias or new
        if before != now:
            selectors[f"{before}."] = f"{now}."
        for (owner, old), replacement in RENAMED.items():
            if owner == module:
                selectors[f"{before}.{old}"] = f"{now}.{replacement}"
                if "." in old:
                    cls, _, field = old.partition(".")
                    fields.append((f"{now}.{cls}", field, replacement.rpartition(".")[2]))
        return f"from vidgen.{package} import {new}" + (f" as {alias}" if alias else "")

    text = _IMPORT.sub(new_import, text)
    for old in sorted(selectors, key=len, reverse=True):
        # Of a selector, as in `@base/old.Class()` or `old.Class.field = 1`; quotes stay.
        end = r"(?=[A-Za-z_])" if old.endswith(".") else r"(?!\w)"
        pattern = rf"""("[^"\n]*"|'[^'\n]*')|(?<![\w.]){re.escape(old)}{end}"""
        text = re.sub(pattern, lambda match, new=selectors[old]: match[1] or new, text)
    for cls, field, new in fields:
        # In a block: `old.Class:`, and below it indented lines such as `field = 1`.
        head = rf"^(?:[\w./]*/)?{re.escape(cls)}:.*\n(?:[ \t]+.*\n|[ \t]*\n)*?[ \t]+"
        text = re.sub(rf"(?m)({head}){field}(?=\s*=)", rf"\g<1>{new}", text)
    return text


def new_selector(name: str) -> str:
    """Return the name of today of what a --gin flag names.

    Args:
      name: Class or Class.field, without scope and module.

    Returns:
      Its new name, or itself where it has no old one.
    """
    for (_, old), new in RENAMED.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name
