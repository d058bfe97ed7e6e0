"""Stories from text, from YAML files and from StoryBench's JSON, read strictly.

    a cat sits on a wall. then it jumps down. then it runs away      the short form

    frames: 71            # YAML: of the film; seed, guidance, steps and fit are for all scenes
    scenes:
      - prompt: a cat sits on a wall
        frames: 23        # or seconds: 2.875
      - prompt: it jumps down
        transition: 1     # seed, guidance, steps and overlap as well
      - it runs away      # a scene that is only a prompt

A key that is not known, or there twice, and a value of the wrong kind are errors that name the
file, the scene (counted from 1) and the key.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vidgen.story import storybench_task_files
from vidgen.story.script import Scene, Story, StoryError

SUFFIXES = (".yaml", ".yml", ".json")

_THEN = re.compile(r"[.;]\s+then(?=[\s,.;]|$)[\s,]*", re.IGNORECASE)
_WHOLE, _NUMBER, _TEXT = (int,), (int, float), (str,)
_WORDS = {_WHOLE: "a whole number", _NUMBER: "a number", _TEXT: "text"}
_SCENE_KEYS = {
    "prompt": _TEXT,
    "frames": _WHOLE,
    "seconds": _NUMBER,
    "seed": _WHOLE,
    "guidance": _NUMBER,
    "steps": _WHOLE,
    "transition": _WHOLE,
    "overlap": _WHOLE,
}
_STORY_KEYS = {
    "scenes": None,
    "frames": _WHOLE,
    "seed": _WHOLE,
    "guidance": _NUMBER,
    "steps": _WHOLE,
    "fit": _TEXT,
}


def load(story: str, *, frames: int | None = None) -> Story:
    """The story that a command line names: a file by its suffix, or else the short form itself.

    Args:
      story: FILE.yaml, FILE.yml, FILE.json, FILE.json#ENTRY (of a StoryBench file: its number or
        its comment), or "scene one. then scene two.".
      frames: of the whole film, whatever a file says; None: as it says, or three segments a scene.

    Raises:
      StoryError: the file or the text is no story; says where.
      FileNotFoundError: no such file.
    """
    name, _, entry = story.partition("#")
    suffix = Path(name.strip()).suffix.lower()
    if suffix not in SUFFIXES:
        return short(story, frames=frames)
    found = _from_file(name, suffix, entry)
    return found if frames is None else dataclasses.replace(found, frames=frames)


def _from_file(name: str, suffix: str, entry: str) -> Story:
    if suffix == ".json":
        text = _text(Path(name))
        if not text.lstrip().startswith("{") or '"scenes"' not in text:
            return storybench_task_files.parse(text, entry, source=name)
    elif entry:
        raise StoryError(f"{name} holds one story; leave out #{entry}.")
    return from_yaml(name)


def short(text: str, *, frames: int | None = None) -> Story:
    """The short form: prompts parted by ". then " or "; then ", in letters of any case."""
    prompts = [part.strip().rstrip(".;").strip() for part in _THEN.split(text)]
    return Story([Scene(prompt) for prompt in prompts], frames=frames)


def from_yaml(path: str | Path) -> Story:
    """The story of a YAML file; see the module docstring for the form."""
    source = str(path)
    text = _text(Path(path))
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        raise StoryError(f"{source}: not valid YAML: {_first_words(error)}.") from error
    if isinstance(root, yaml.SequenceNode):  # a list of scenes alone
        return Story(_scenes(loader, root, source), source=source)
    if not isinstance(root, yaml.MappingNode):
        raise StoryError(f"{source}: expected a list of scenes, or keys with one named scenes.")
    found: dict[str, Any] = {}
    for key, node in _pairs(root, source, _STORY_KEYS).items():
        if key == "scenes":
            found[key] = _scenes(loader, node, source)
        else:
            found[key] = _value(loader, node, f"{source}: {key}", _STORY_KEYS[key])
    if "scenes" not in found:
        raise StoryError(f"{source}: the key scenes is missing; it lists what to show.")
    return Story(**found, source=source)


def _text(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise StoryError(f"{path}: not a text file in UTF-8.") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such file with a story: {path}") from error


def _scenes(loader: yaml.SafeLoader, node: yaml.Node, source: str) -> list[Scene]:
    if not isinstance(node, yaml.SequenceNode):
        raise StoryError(f"{source}: scenes{_at(node)} must be a list, each item begun by '-'.")
    return [_scene(loader, item, f"{source}: scene {i + 1}") for i, item in enumerate(node.value)]


def _scene(loader: yaml.SafeLoader, node: yaml.Node, where: str) -> Scene:
    if isinstance(node, yaml.ScalarNode):
        return Scene(_value(loader, node, f"{where}: prompt", _TEXT))
    if not isinstance(node, yaml.MappingNode):
        raise StoryError(f"{where}{_at(node)} must be a prompt or keys such as prompt and frames.")
    pairs = _pairs(node, where, _SCENE_KEYS)
    if "prompt" not in pairs:
        raise StoryError(f"{where}{_at(node)}: the key prompt is missing; say what to show.")
    found = {
        key: _value(loader, value, f"{where}: {key}", _SCENE_KEYS[key])
        for key, value in pairs.items()
    }
    return Scene(**found)


def _pairs(node: yaml.MappingNode, where: str, known: Mapping[str, Any]) -> dict[str, yaml.Node]:
    """The values of a mapping by key; every key is known and there once."""
    found: dict[str, yaml.Node] = {}
    for key_node, value in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
        if key not in known:
            raise StoryError(f"{where}{_at(key_node)}: {unknown_key(key, known)}")
        if key in found:
            raise StoryError(f"{where}{_at(key_node)}: the key {key} is there twice; keep one.")
        found[key] = value
    return found


def unknown_key(key: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """A sentence about a key that is not one of `known`."""
    close = difflib.get_close_matches(key.lower(), list(known), n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else "."
    return f"unknown key {key!r}{hint} The keys are {', '.join(known)}."


def _value(
    loader: yaml.SafeLoader, node: yaml.Node, where: str, kinds: tuple[type, ...] | None
) -> Any:
    """A scalar of the kind that the key takes."""
    assert kinds is not None
    if not isinstance(node, yaml.ScalarNode):
        raise StoryError(f"{where}{_at(node)} must be {_WORDS[kinds]}, not several values.")
    try:
        value = loader.construct_object(node)
    except (yaml.YAMLError, ValueError):  # a date that is none, a tag that is not safe
        value = None
    if isinstance(value, kinds) and not isinstance(value, bool):
        return value
    said = repr(node.value) if node.value else "empty"
    advice = ""
    if kinds == _TEXT and node.value:
        advice = f", and YAML reads this as {type(value).__name__}: put it in quotes"
    raise StoryError(f"{where}{_at(node)} is {said}; it must be {_WORDS[kinds]}{advice}.")


def _at(node: yaml.Node) -> str:
    return f" (line {node.start_mark.line + 1})"


def _first_words(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    mark = getattr(error, "problem_mark", None)
    return problem if mark is None else f"{problem} (line {mark.line + 1})"
