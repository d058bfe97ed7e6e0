"""The task files of StoryBench (Bugliarello et al., 2023), which hold its stories.

A task file is a list of objects with `texts`, `exact_frames_per_prompt` at 8 frames per second, a
`background`, and, where a video is continued, `npz_video` with its first and last frame. Lengths
come from real videos, so they are no whole segments: these stories have fit = trim.

Of `npz_video`, frames `npz_video_start_frame` to before `npz_video_end_frame` may be seen, and the
story begins at the latter, E. The benchmark's videos hold the frames shown, so it drops the first
`skip_frames_after_generation` of them; ours hold none. The true video begins at E in all tasks:

                         shown     npz_gt_video_start_frame     skip
    story generation     none      0                            none
    story continuation   0 ... E   0                            E, of the true video as well
    action execution     0 ... E   E                            E, of the generated video alone
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from vidgen.story.script import FirstFrames, Scene, Story, StoryError, unknown_key

TASK_FPS = 8.0
_TASK_KEYS = (
    "texts",
    "durations",
    "exact_frames_per_prompt",
    "background",
    "npz_video",
    "npz_video_start_frame",
    "npz_video_end_frame",
    "npz_gt_video_start_frame",
    "npz_gt_video_end_frame",
    "skip_frames_after_generation",
    "storybench_mode",
    "indices_to_select",
    "comment",
)


def parse(text: str, entry: str = "", source: str = "StoryBench") -> Story:
    """Read one story of a file.

    Args:
      text: the content of the file.
      entry: which story: a number from 0, or its `comment`; "" is the only one.
      source: name of the file, for messages.

    Returns:
      The story, whose `fit` is "trim".

    Raises:
      StoryError: the file is no task file, or has no such entry.
    """
    try:
        data = json.loads(text, object_pairs_hook=functools.partial(_unique, source))
    except json.JSONDecodeError as error:
        raise StoryError(f"{source}: not valid JSON: {error.msg} (line {error.lineno}).") from error
    entries = data if isinstance(data, list) else [data]
    if not entries or not all(isinstance(one, dict) for one in entries):
        raise StoryError(f"{source}: expected a list of objects, as in StoryBench's task files.")
    index = _index(entries, entry, source)
    where = source if len(entries) == 1 else f"{source}#{index}"
    return _task(entries[index], where)


def _unique(source: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise StoryError(f"{source}: the key {key} is there twice in one object.")
    return dict(pairs)


def _index(entries: Sequence[dict[str, Any]], entry: str, source: str) -> int:
    last = len(entries) - 1
    names = [str(one.get("comment") or i) for i, one in enumerate(entries)]
    if not entry:
        if not last:
            return 0
        raise StoryError(
            f"{source} holds {len(entries)} stories; choose one with {source}#0 ... #{last}, or "
            f"by its comment, such as {source}#{names[0]}."
        )
    if entry in names:
        return names.index(entry)
    if entry.isdecimal() and int(entry) <= last:
        return int(entry)
    close = difflib.get_close_matches(entry, names, n=1, cutoff=0.0)
    raise StoryError(f"{source} has no story {entry!r}: 0 ... {last}, or such as {close[0]!r}.")


def _task(entry: dict[str, Any], where: str) -> Story:
    for key in entry:
        if key not in _TASK_KEYS:
            raise StoryError(f"{where}: {unknown_key(key, _TASK_KEYS)}")
    texts = _list(entry, "texts", str, "text", where)
    if entry.get("exact_frames_per_prompt") is None:
        seconds = [None] * len(texts)
    else:
        counts = _list(entry, "exact_frames_per_prompt", int, "a whole number", where, len(texts))
        for i, count in enumerate(counts):
            if count < 1:
                raise StoryError(
                    f"{where}: scene {i + 1}: exact_frames_per_prompt is {count}; it must be 1 or "
                    f"more."
                )
        seconds = [count / TASK_FPS for count in counts]
    if entry.get("durations") is not None:
        raise StoryError(f"{where}: durations are not read; give exact_frames_per_prompt.")
    background = entry.get("background")
    if background is not None and not isinstance(background, str):
        raise StoryError(f"{where}: background is {background!r}; it must be text or null.")
    scenes = []
    for text, length in zip(texts, seconds, strict=True):
        prompt = text.strip()
        if background and background.strip() and prompt:
            # [guess] At the end, because a text encoder cuts off ends.
            prompt = f"{prompt} {background.strip()}"
        scenes.append(Scene(prompt, seconds=length))
    return Story(scenes, fit="trim", first=_first(entry, where), source=where)


def _first(entry: dict[str, Any], where: str) -> FirstFrames | None:
    path = entry.get("npz_video")
    if not isinstance(path, (str, type(None))):
        raise StoryError(f"{where}: npz_video is {path!r}; it must be a path or null.")
    start = _frame(entry, "npz_video_start_frame", where) or 0
    end = _frame(entry, "npz_video_end_frame", where)
    if path is None or (end is not None and end <= start):
        return None
    return FirstFrames(path=path, start=start, end=end, fps=TASK_FPS)


def _frame(entry: Mapping[str, Any], key: str, where: str) -> int | None:
    """Return the number of a frame, or None."""
    value = entry.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise StoryError(f"{where}: {key} is {value!r}; it must be a whole number from 0, or null.")
    return value


def true_frames(entry: Mapping[str, Any], where: str) -> tuple[int, int | None]:
    """Find where the true video of a task begins and ends in its file.

    Args:
      entry: an entry of a task file.
      where: name of the entry in messages.

    Returns:
      The numbers of the first frame and of the one after the last, at `TASK_FPS`; None is the end
      of the file.

    Raises:
      StoryError: the true video would not begin where the generated one does.
    """
    keys = ("npz_video_start_frame", "npz_video_end_frame", "npz_gt_video_start_frame")
    first_shown, shown, begin = (_frame(entry, key, where) or 0 for key in keys)
    skip = _frame(entry, "skip_frames_after_generation", where) or 0
    if shown <= first_shown:  # nothing is shown, as in story generation
        first_shown = shown = 0
    # A true video that begins with the frames shown loses them as the generated one does.
    start = begin if begin >= shown else begin + skip
    if start != shown or (skip and skip != shown - first_shown):
        raise StoryError(
            f"{where}: the story begins at frame {shown}, npz_video_end_frame, and the true one at "
            f"frame {start}: npz_gt_video_start_frame is {begin}, and skip_frames_after_generation "
            f"is {skip}, where {shown - first_shown} frames are given. Build the task file anew."
        )
    return start, _frame(entry, "npz_gt_video_end_frame", where)


def _list(
    entry: dict[str, Any],
    key: str,
    kind: type | tuple[type, ...],
    words: str,
    where: str,
    count: int | None = None,
) -> list[Any]:
    """Return the list of a key, of `count` values of one kind."""
    values = entry.get(key)
    if not isinstance(values, list):
        raise StoryError(
            f"{where}: {key} is {values!r}; it must be a list, an item for each scene."
        )
    if count is not None and len(values) != count:
        raise StoryError(f"{where}: {key} has {len(values)} items for {count} scenes.")
    for i, value in enumerate(values):
        if not isinstance(value, kind) or isinstance(value, bool):
            raise StoryError(f"{where}: scene {i + 1}: {key} is {value!r}; it must be {words}.")
    return values
