"""A story's video from a context that slides along (Phenaki, section 2.2, "Video generation").

    clip 1      t frames, of which none is known
    clip n      its first K frames are the last K of the video so far, encoded anew: known tokens
    video       t + (n - 1)(t - K) frames

The prompt may change from one clip to the next. A segment says how many of the K frames it
continues: 0 is a cut. The known frames are put back as they were, so the video never changes behind
its end, and memory is that of one clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vidgen.story.segments import Segment
from vidgen.types import Known, VideoShape

# The clip of a segment [1 t h w c], with its known content in it.
MakeClip = Callable[[Segment, Known], Any]


class NewFrames(NamedTuple):
    """What a segment adds to the video.

    Attributes:
      segment: the segment.
      frames: its new frames, in [-1, 1].
      context: the last K frames of the video so far, or all if it has fewer: what the next segment
        continues.
    """

    segment: Segment
    frames: Float[np.ndarray, "n h w c"]
    context: Float[np.ndarray, "k h w c"]


def generate_segments(
    segments: Iterable[Segment],
    make_clip: MakeClip,
    *,
    shape: VideoShape,
    context_frames: int,
    context: Float[np.ndarray, "k h w c"] | None = None,
) -> Iterator[NewFrames]:
    """Generate the segments of a story one by one, each from the last frames of those before.

    Args:
      segments: the segments; `make_clip` finds their prompts in them.
      make_clip: runs the model.
      shape: shape of a clip.
      context_frames: K, the most frames that a segment continues.
      context: the last frames of the video that is continued, or a picture to begin with; None
        begins without frames.

    Yields:
      The new frames of each segment.

    Raises:
      ValueError: a segment continues more frames than there are, or adds none; or `context` has
        another size than the clips.
    """
    last = np.zeros((0, *shape.thwc[1:]), np.float32) if context is None else context
    if last.shape[1:] != shape.thwc[1:]:
        raise ValueError(
            f"the context has frames of {last.shape[1:]}; the model continues frames of "
            f"{shape.thwc[1:]}."
        )
    for segment in segments:
        known, new = segment.context, segment.frames
        if not 0 <= known <= min(len(last), context_frames) or not 1 <= new <= shape.frames - known:
            raise ValueError(
                f"a segment continues {known} frames and adds {new}; {len(last)} frames are kept "
                f"(at most {context_frames}), and a clip has {shape.frames}."
            )
        clip = make_clip(segment, known_beginning(shape, last[len(last) - known :]))
        frames = np.asarray(clip, np.float32)[0, known : known + new]
        last = np.concatenate([last, frames])[-context_frames:]
        yield NewFrames(segment, frames, last)


def known_beginning(shape: VideoShape, frames: Float[np.ndarray, "k h w c"]) -> Known:
    """Make the known content of one clip, whose first frames are `frames`.

    Args:
      shape: shape of the clip.
      frames: the known frames in [-1, 1], at most all.

    Returns:
      A batch of one. Its arrays are as large however many frames are known, so that one compiled
      program serves all segments.
    """
    video: Any = np.zeros((1, *shape.thwc), np.float32)
    mask: Any = np.zeros((1, shape.frames, 1, 1, 1), bool)
    video[0, : len(frames)], mask[0, : len(frames)] = frames, True
    return Known(video=video, mask=mask)
