"""A story cut into the segments that a model makes one after the other (Phenaki, section 2.2).

A model makes C frames at a time. Of every segment but the first, K are known, the last of the video
so far (the context), so n segments give

    C + (n - 1) (C - K)      frames; C = 11, K = 5: 11, 17, 23, ...

and a scene has whole segments. The tokenizer takes 1 + j p frames (p = frames of a patch), so K is
one of those.

A scene with a seed of its own folds into its key how many scenes before it have the same seed, and
the number of the segment in the scene: it can be made again alone, wherever it stands, and no two
scenes share their noise, whatever the seeds are.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from vidgen.story.script import Scene, Story, StoryError

DEFAULT_SEGMENTS = 3  # of a scene without a length [guess]: about two seconds at 8 fps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """What one call of the model makes.

    Attributes:
      index: number of the segment in the video, from 0.
      scene: number of its scene, from 0.
      part: number of the segment in its scene, from 0.
      parts: number of segments in the scene.
      prompts: (prompt, weight) pairs whose weights add up to 1; two in a transition.
      seed: seed of its noise.
      draws: numbers that are folded into the key of `seed`, one after the other: the index, or (see
        the module's docstring) those of a scene with a seed of its own.
      guidance: guidance weight; None is the model's.
      steps: sampling steps; None is the model's.
      context: number of known frames at its beginning, the last ones of the video so far.
      frames: number of new frames that are kept; the model makes more where a scene is trimmed.
      first_frame: number of the first new frame in the video, from 0.
      negative: a prompt that guidance leads away from; None is none.
    """

    index: int
    scene: int
    part: int
    parts: int
    prompts: tuple[tuple[str, float], ...]
    seed: int
    draws: tuple[int, ...]
    guidance: float | int | None
    steps: int | None
    context: int
    frames: int
    first_frame: int
    negative: str | None = None

    @property
    def end_frame(self) -> int:
        """Number of frames of the video once this segment is made."""
        return self.first_frame + self.frames


def plan(
    story: Story,
    clip_frames: int,
    context_frames: int,
    patch_time: int,
    fps: float | int,
    *,
    given_frames: int = 0,
    seed: int | None = None,
) -> list[Segment]:
    """Cut a story into segments.

    Args:
      story: the scenes.
      clip_frames: C, number of frames of a clip, known ones included.
      context_frames: K, number of frames that a segment continues, 1 + j * patch_time.
      patch_time: p, frames of a patch in time; 1 where any number of frames will do.
      fps: frames per second, for lengths in seconds.
      given_frames: number of frames that are there before the story begins and that it continues
        (a picture: 1). They are not part of the video.
      seed: seed of all scenes, whatever they and the story say; None leaves it to them, and is 0
        where they say nothing.

    Returns:
      The segments, in the order in which they are made.

    Raises:
      StoryError: a length, overlap or transition does not fit; the message names the scene and the
        nearest valid values.
      ValueError: the model cannot have this clip or context; the message names the nearest ones.
    """
    check_context(clip_frames, context_frames, patch_time, given_frames)
    contexts = _contexts(story, context_frames, patch_time, given_frames)
    firsts = [clip_frames - known for known in contexts]
    step = clip_frames - context_frames
    lengths = _lengths(story, firsts, step, fps)
    contexts = _remembered(story, lengths, contexts, patch_time, given_frames)
    firsts = [clip_frames - known for known in contexts]
    segments: list[Segment] = []
    for i, (first, length) in enumerate(zip(firsts, lengths, strict=True)):
        starts = [0, *range(first, length, step)]
        _check_transition(story, i, len(starts))
        begin = segments[-1].end_frame if segments else 0
        for part, (start, end) in enumerate(zip(starts, [*starts[1:], length], strict=True)):
            segments.append(
                Segment(
                    index=len(segments),
                    scene=i,
                    part=part,
                    parts=len(starts),
                    context=context_frames if part else contexts[i],
                    frames=end - start,
                    first_frame=begin + start,
                    **_settings(story, i, part, len(segments), seed),
                )
            )
    return segments


def _settings(story: Story, scene: int, part: int, index: int, seed: int | None) -> dict[str, Any]:
    """Return prompts, noise and sampling of a segment: the run's, the scene's or the story's."""
    scene_spec = story.scenes[scene]
    if seed is None and scene_spec.seed is not None:
        before = sum(other.seed == scene_spec.seed for other in story.scenes[:scene])
        noise = {"seed": scene_spec.seed, "draws": (before, part)}
    else:
        noise = {"seed": story.seed or 0 if seed is None else seed, "draws": (index,)}
    return noise | {
        "prompts": _prompts(story.scenes, scene, part),
        "guidance": story.guidance if scene_spec.guidance is None else scene_spec.guidance,
        "steps": story.steps if scene_spec.steps is None else scene_spec.steps,
        "negative": story.negative if scene_spec.negative is None else scene_spec.negative,
    }


def check_context(
    clip_frames: int, context_frames: int, patch_time: int, given_frames: int = 0
) -> None:
    """Check that a model can continue a video with such a context.

    Args:
      clip_frames: C, number of frames of a clip, known ones included.
      context_frames: K, number of frames that a segment continues.
      patch_time: p, frames of a patch in time.
      given_frames: number of frames that the story continues; 0 for none.

    Raises:
      ValueError: one of them does not fit; the message names the nearest valid values.
    """
    if patch_time < 1:
        raise ValueError(f"patch_time is {patch_time}; it must be 1 or more.")
    if clip_frames < 1 or (clip_frames - 1) % patch_time:
        near = nearest(clip_frames, 1, patch_time)
        raise ValueError(
            f"a clip of {clip_frames} frames does not fit patches of {patch_time} frames after "
            f"the first; the nearest valid counts are {_either(near)}."
        )
    for name, value in (("context", context_frames), ("beginning", given_frames)):
        if name == "beginning" and not value:
            continue
        if not 1 <= value < clip_frames or (value - 1) % patch_time:
            near = nearest(value, 1, patch_time, below=clip_frames)
            advice = f"the nearest valid counts are {_either(near)}" if near else "make it longer"
            raise ValueError(
                f"a {name} of {value} known frames does not fit a clip of {clip_frames} frames "
                f"with patches of {patch_time} after the first; {advice}."
            )


def nearest(value: int, first: int, step: int, *, below: int | None = None) -> list[int]:
    """Return the members of first, first + step, ... around a number.

    Args:
      value: the number.
      first: the least member.
      step: between two members, 1 or more.
      below: members are less than this; None sets no limit.

    Returns:
      At most two members, in order; none where `below` leaves none.
    """
    steps = max(0, (value - first) // step)
    if below is not None:
        steps = min(steps, (below - 1 - first) // step)
    around = (steps,) if value <= first else (steps, steps + 1)
    numbers = (first + n * step for n in around)
    return [n for n in numbers if n >= first and (below is None or n < below)]


def _either(values: Sequence[object]) -> str:
    return " and ".join(str(value) for value in values)


def _contexts(story: Story, context_frames: int, patch_time: int, given_frames: int) -> list[int]:
    """Return the number of known frames at the beginning of each scene."""
    contexts = [given_frames if i == 0 else context_frames for i in range(len(story.scenes))]
    for i, scene in enumerate(story.scenes):
        if scene.overlap is None:
            continue
        longest = contexts[i]
        valid = [0, *range(1, longest + 1, patch_time)]
        if scene.overlap not in valid:
            at = bisect.bisect(valid, scene.overlap)
            reason = f"it does not fit patches of {patch_time} frames after the first"
            if scene.overlap > longest:
                reason = f"it is longer than the context of {longest} frames"
            if not longest:
                reason = "nothing comes before"
            raise StoryError(
                f"{story.where(i)}: overlap is {scene.overlap}, but {reason}; the nearest valid "
                f"value is {_either(valid[at - 1 : at + 1])}."
            )
        contexts[i] = scene.overlap
    return contexts


def _lengths(story: Story, firsts: list[int], step: int, fps: float | int) -> list[int]:
    """Return the number of frames of each scene, whose first segment has `firsts` of them."""
    lengths: list[int | None] = []
    for i, scene in enumerate(story.scenes):
        if scene.frames is not None:
            frames, words = scene.frames, f"frames is {scene.frames}"
        elif scene.seconds is not None:
            frames = max(1, math.floor(scene.seconds * fps + 0.5))
            words = f"seconds is {scene.seconds:g} ({frames} frames at {fps:g} fps)"
        else:
            lengths.append(None)
            continue
        rate = None if scene.seconds is None else fps
        lengths.append(_fit(story.fit, f"{story.where(i)}: {words}", frames, firsts[i], step, rate))
    if story.frames is not None:
        return _share(story, lengths, firsts, step)
    default = (DEFAULT_SEGMENTS - 1) * step
    return [first + default if n is None else n for n, first in zip(lengths, firsts, strict=True)]


def _fit(
    fit: str, words: str, frames: int, first: int, step: int, fps: float | int | None = None
) -> int:
    """Return the number of frames to make, or raise an error that begins with `words`."""
    if fit == "trim" or (frames >= first and (frames - first) % step == 0):
        return frames
    near = nearest(frames, first, step)
    if fit == "nearest":
        return min(near, key=lambda n: abs(n - frames))
    counts = [str(n) if fps is None else f"{n} ({n / fps:g} s)" for n in near]
    raise StoryError(
        f"{words}, which is no whole number of segments ({first} frames, then {step} each); the "
        f"nearest valid counts of frames are {_either(counts)}. With fit set to nearest such a "
        f"count is taken, with trim the last segment is cut."
    )


def _share(story: Story, lengths: list[int | None], firsts: list[int], step: int) -> list[int]:
    """Fill the lengths that are None with a share of the frames that no scene claims."""
    total = story.frames
    assert total is not None
    claimed = sum(n for n in lengths if n is not None)
    open_ = [i for i, n in enumerate(lengths) if n is None]
    if not open_:
        if claimed != total:
            raise StoryError(
                f"{story.source}: frames is {total}, but the scenes have {claimed} frames; set it "
                f"to {claimed}, or leave it out."
            )
        return [n for n in lengths if n is not None]
    least = sum(firsts[i] for i in open_)
    words = f"{story.source}: frames is {total}"
    rest = _fit(story.fit, words, total, claimed + least, step) - claimed
    if rest < least:  # trimmed to less than a segment for each
        raise StoryError(
            f"{words}, too few for {len(open_)} scenes without a length; the nearest valid count "
            f"is {claimed + least}."
        )
    more = math.ceil((rest - least) / step)
    each, extra = divmod(more, len(open_))
    shared = [0 if n is None else n for n in lengths]
    for k, i in enumerate(open_):  # later scenes get the extra ones: the first segment is longer
        shared[i] = firsts[i] + step * (each + (k >= len(open_) - extra))
    shared[open_[-1]] -= more * step - (rest - least)
    return shared


def _remembered(
    story: Story, lengths: list[int], contexts: list[int], patch_time: int, given_frames: int
) -> list[int]:
    """Shorten the contexts to whole patches after trimmed scenes that leave fewer frames."""
    there, shortened = given_frames, list(contexts)
    for i, needed in enumerate(contexts[1:]):
        there += lengths[i]
        if there >= needed:
            continue
        if story.scenes[i + 1].overlap is not None:
            raise StoryError(
                f"{story.where(i)}: {lengths[i]} frames are fewer than scene {i + 2} continues "
                f"from; the nearest valid count is {lengths[i] + needed - there}."
            )
        shortened[i + 1] = 1 + (there - 1) // patch_time * patch_time
    return shortened


def _check_transition(story: Story, index: int, parts: int) -> None:
    segments = story.scenes[index].transition
    if segments >= parts and segments:
        raise StoryError(
            f"{story.where(index)}: transition is {segments} segments, but the scene has {parts} "
            f"and the last must show its own prompt; the nearest valid value is {parts - 1}."
        )


def _prompts(scenes: Sequence[Scene], index: int, part: int) -> tuple[tuple[str, float], ...]:
    scene = scenes[index]
    before = scenes[index - 1].prompt if index else scene.prompt
    if part >= scene.transition or before == scene.prompt:
        return ((scene.prompt, 1.0),)
    weight = (part + 1) / (scene.transition + 1)
    return ((before, 1.0 - weight), (scene.prompt, weight))
