"""Films of any length from a context that slides along (Phenaki sec. 2.2, E4 of its stories).

    clip 1      t frames, nothing known
    clip n      its first K frames are the last K of the film, encoded anew: known tokens
    film        t + (n - 1)(t - K) frames

A segment says how many of the K it knows: 0 is a cut. The prompt may change from one clip to the
next. The known frames are put back as they were, so the film never changes behind its end; memory
is that of one clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from vidgen.types import Known, VideoShape


@runtime_checkable
class Segment(Protocol):
    """One clip of a story, of which the beginning is known."""

    @property
    def context(self) -> int:
        """How many frames of it are the last ones of the film so far."""
        ...

    @property
    def frames(self) -> int:
        """How many of those after them are kept."""
        ...


@runtime_checkable
class MakeClip(Protocol):
    """Makes the clip of one segment of a story."""

    def __call__(self, segment: Any, known: Known) -> Float[Any, "1 t h w c"]:
        """The clip, with the known content in it."""
        ...


class Told(NamedTuple):
    """What a segment adds to the film.

    Attributes:
      segment: the one that was given.
      frames: the new ones, in [-1, 1].
      context: the film's last K frames, or all if it has fewer; with these it can be continued.
    """

    segment: Segment
    frames: Float[np.ndarray, "n h w c"]
    context: Float[np.ndarray, "k h w c"]


def tell(
    segments: Iterable[Segment],
    make: MakeClip,
    *,
    shape: VideoShape,
    context_frames: int,
    context: Float[np.ndarray, "k h w c"] | None = None,
) -> Iterator[Told]:
    """The film of these segments, piece by piece as it is made.

    Args:
      segments: handed to `make` one by one; each knows its prompt.
      make: the model.
      shape: of a clip.
      context_frames: K, the most that a segment knows.
      context: the last frames of a film that is continued, or an image to begin with; None is a
        film without frames yet.

    Raises:
      ValueError: a segment wants to know more frames than there are, or leaves nothing new; or
        `context` has another size.
    """
    film = np.zeros((0, *shape.thwc[1:]), np.float32) if context is None else context
    if film.shape[1:] != shape.thwc[1:]:
        raise ValueError(
            f"the film's frames have the shape {film.shape[1:]}; the model continues frames of "
            f"{shape.thwc[1:]}."
        )
    for segment in segments:
        known, new = segment.context, segment.frames
        if not 0 <= known <= min(len(film), context_frames) or not 1 <= new <= shape.frames - known:
            raise ValueError(
                f"a segment knows {known} frames and makes {new}; {len(film)} are kept of the film "
                f"so far, at most {context_frames}, and a clip has {shape.frames}."
            )
        clip = make(segment, beginning(shape, film[len(film) - known :]))
        frames = np.asarray(clip, np.float32)[0, known : known + new]
        film = np.concatenate([film, frames])[-context_frames:]
        yield Told(segment, frames, film)


def beginning(shape: VideoShape, frames: Float[np.ndarray, "k h w c"]) -> Known:
    """Of one clip, the first `frames` are known; the arrays are as large whatever is known."""
    video: Any = np.zeros((1, *shape.thwc), np.float32)
    mask: Any = np.zeros((1, shape.frames, 1, 1, 1), bool)
    video[0, : len(frames)], mask[0, : len(frames)] = frames, True
    return Known(video=video, mask=mask)
