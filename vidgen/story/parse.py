"""Stories from text, from YAML files and from StoryBench's JSON, read strictly.

    a cat sits on a wall. then it jumps down. then it runs away      the short form

    frames: 71            # YAML: of the video; seed, guidance, steps, negative, fit: of all scenes
    scenes:
      - prompt: a cat sits on a wall
        frames: 23        # or seconds: 2.875
      - prompt: it jumps down
        transition: 1     # seed, guidance, steps, negative, overlap too
      - it runs away      # a scene that is only a prompt

A key that is unknown or there twice, and a value of the wrong kind, are errors that name the file,
the line, the scene (counted from 1) and the key.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from vidgen.story import storybench_task_files
from vidgen.story.script import Scene, Story, StoryError, unknown_key

SUFFIXES = (".yaml", ".yml", ".json")

_THEN = re.compile(r"[.;]\s+then(?=[\s,.;]|$)[\s,]*", re.IGNORECASE)
_KINDS = {"a whole number": (int,), "a number": (int, float), "text": (str,)}
_SCENE_KEYS = {
    "prompt": "text",
    "frames": "a whole number",
    "seconds": "a number",
    "seed": "a whole number",
    "guidance": "a number",
    "steps": "a whole number",
    "negative": "text",
    "transition": "a whole number",
    "overlap": "a whole number",
}
_STORY_KEYS = ("scenes", "frames", "seed", "guidance", "steps", "negative", "fit")


def load(story: str, *, frames: int | None = None) -> Story:
    """Read the story that a command line names.

    Args:
      story: FILE.yaml, FILE.yml, FILE.json, FILE.json#ENTRY (of a StoryBench file: its number or
        its comment), or the short form itself.
      frames: number of frames of the whole video, whatever a file says; None leaves it to the file.

    Returns:
      The story.

    Raises:
      StoryError: the file or the text is no story.
      FileNotFoundError: there is no such file.
    """
    name, _, entry = story.partition("#")
    suffix = Path(name.strip()).suffix.lower()
    if suffix not in SUFFIXES:
        return short(story, frames=frames)
    text = _read_text(Path(name))
    own_form = suffix != ".json" or (text.lstrip().startswith("{") and '"scenes"' in text)
    if own_form and entry and suffix != ".json":
        raise StoryError(f"{name} holds one story; leave out #{entry}.")
    parsed = _from_yaml(text, name) if own_form else storybench_task_files.parse(text, entry, name)
    return parsed if frames is None else dataclasses.replace(parsed, frames=frames)


def short(text: str, *, frames: int | None = None) -> Story:
    """Read the short form: prompts parted by ". then " or "; then ", in letters of any case.

    Args:
      text: what a command line says.
      frames: number of frames of the whole video; None gives each scene its default.

    Returns:
      The story, a scene for each prompt.

    Raises:
      StoryError: a prompt is empty.
    """
    prompts = [part.strip().rstrip(".;").strip() for part in _THEN.split(text)]
    return Story([Scene(prompt) for prompt in prompts], frames=frames)


def _read_text(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise StoryError(f"{path}: not a text file in UTF-8.") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no story file {path}") from error


def _from_yaml(text: str, source: str) -> Story:
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" (line {mark.line + 1})"
        raise StoryError(f"{source}: not valid YAML: {problem}{line}.") from error
    if isinstance(root, yaml.SequenceNode):  # a list of scenes alone
        return Story(_scenes(loader, root, source), source=source)
    if not isinstance(root, yaml.MappingNode):
        raise StoryError(f"{source}: expected a list of scenes, or keys with one named scenes.")
    nodes = _nodes(root, source, _STORY_KEYS)
    if "scenes" not in nodes:
        raise StoryError(f"{source}: the key scenes is missing; it lists what to show.")
    scenes = _scenes(loader, nodes.pop("scenes"), source)
    kinds = _SCENE_KEYS | {"fit": "text"}
    fields = {key: _value(loader, n, f"{source}: {key}", kinds[key]) for key, n in nodes.items()}
    return Story(scenes, **fields, source=source)


def _scenes(loader: yaml.SafeLoader, node: yaml.Node, source: str) -> list[Scene]:
    if not isinstance(node, yaml.SequenceNode):
        raise StoryError(f"{source}: scenes{_line(node)} must be a list, each item begun by '-'.")
    return [_scene(loader, item, f"{source}: scene {i + 1}") for i, item in enumerate(node.value)]


def _scene(loader: yaml.SafeLoader, node: yaml.Node, where: str) -> Scene:
    if isinstance(node, yaml.ScalarNode):
        return Scene(_value(loader, node, f"{where}: prompt", "text"))
    if not isinstance(node, yaml.MappingNode):
        raise StoryError(f"{where}{_line(node)} must be a prompt or keys such as prompt, frames.")
    nodes = _nodes(node, where, _SCENE_KEYS)
    if "prompt" not in nodes:
        raise StoryError(f"{where}{_line(node)}: the key prompt is missing; say what to show.")
    return Scene(
        **{key: _value(loader, n, f"{where}: {key}", _SCENE_KEYS[key]) for key, n in nodes.items()}
    )


def _nodes(node: yaml.MappingNode, where: str, known: Iterable[str]) -> dict[str, yaml.Node]:
    """Return the values of a mapping by key; every key must be known and there once."""
    nodes: dict[str, yaml.Node] = {}
    for key_node, value in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
        if key not in known:
            raise StoryError(f"{where}{_line(key_node)}: {unknown_key(key, known)}")
        if key in nodes:
            raise StoryError(f"{where}{_line(key_node)}: the key {key} is there twice; keep one.")
        nodes[key] = value
    return nodes


def _value(loader: yaml.SafeLoader, node: yaml.Node, where: str, kind: str) -> Any:
    """Return a scalar of the kind that the key takes."""
    if not isinstance(node, yaml.ScalarNode):
        raise StoryError(f"{where}{_line(node)} must be {kind}, not several values.")
    try:
        value = loader.construct_object(node)
    except (yaml.YAMLError, ValueError):  # an impossible date, a tag that is not safe
        value = None
    if isinstance(value, _KINDS[kind]) and not isinstance(value, bool):
        return value
    content = repr(node.value) if node.value else "empty"
    advice = ""
    if kind == "text" and node.value:
        advice = f", and YAML reads this as {type(value).__name__}: put it in quotes"
    raise StoryError(f"{where}{_line(node)} is {content}; it must be {kind}{advice}.")


def _line(node: yaml.Node) -> str:
    return f" (line {node.start_mark.line + 1})"
