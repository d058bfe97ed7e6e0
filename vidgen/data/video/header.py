"""What the header of a video file says: which stream, decoded by what, and how long it plays."""

from __future__ import annotations

import fractions
from typing import cast

import av
from av.container import InputContainer
from av.stream import Disposition

from vidgen.data.source import BadExample
from vidgen.data.sources.files import MAX_PIXELS, File, check_size
from vidgen.data.video.pictures import Span

MICROSECOND = 1e-6
_HDR = {16: "PQ", 18: "HLG"}  # numbers of transfer functions, as in the H.264 standard
# Decoders of FFmpeg's own leave out the second picture that holds what is transparent.
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_SEEKABLE = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"}
_STATING = _SEEKABLE | {"flv"}  # in which the header says how long it plays
_LATE = 17  # frames that times of decoding and of showing may differ by, at most (H.264)


def video_stream(path: File, container: InputContainer) -> av.VideoStream:
    """Return the first video stream that is no cover picture.

    Args:
      path: the path of the file, for the message.
      container: the container of the open file.

    Returns:
      The stream; a cover picture where there is no other.

    Raises:
      BadExample: there is none.
    """
    streams = container.streams.video
    if not streams:
        raise BadExample(path, "has no video stream")
    films = [s for s in streams if not s.disposition & Disposition.attached_pic]
    return (films or streams)[0]


def decoder_of(path: File, stream: av.VideoStream) -> av.VideoCodecContext:
    """Make the codec context that decodes a stream.

    Args:
      path: the path of the file, for messages.
      stream: the stream of the open file.

    Returns:
      The context, which refuses frames that are larger than the stream states.

    Raises:
      BadExample: its pictures are too large, of an unknown kind or HDR.
    """
    context = stream.codec_context
    if context is None:
        raise BadExample(path, "its video is of an unknown kind")
    check_size(path, context.height, context.width)
    if context.color_trc in _HDR:
        kind = _HDR[context.color_trc]
        raise BadExample(path, f"is HDR ({kind}), whose colors would be wrong: convert it to SDR")
    if stream.metadata.get("alpha_mode") == "1" and context.name in _WITH_ALPHA:
        created = av.CodecContext.create(_WITH_ALPHA[context.name], "r")
        context = cast(av.VideoCodecContext, created)
    context.options = {"max_pixels": str(MAX_PIXELS)}  # frames need not be of the stated size
    return context


def unit_of(stream: av.VideoStream) -> fractions.Fraction:
    """Return the unit in which a stream gives times.

    Args:
      stream: the stream of the open file.

    Returns:
      Seconds, exactly.
    """
    return stream.time_base or fractions.Fraction(1, av.time_base)


def step_of(stream: av.VideoStream) -> float:
    """Return how long a frame is shown, on average.

    Args:
      stream: the stream of the open file.

    Returns:
      Seconds; 1/25 where the header does not say.
    """
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return 1 / float(rate) if rate else 0.04


def stated_span(container: InputContainer, stream: av.VideoStream) -> Span | None:
    """Return how long a stream plays, if the header says so.

    Args:
      container: the container of the open file.
      stream: its video stream.

    Returns:
      The span; None where the format or the file does not say.
    """
    step = step_of(stream)
    if container.format.name not in _STATING:
        return None
    if container.format.name.startswith("mov") and not stream.frames:
        return None  # in fragments, each of which says only how long it is itself
    if stream.duration and stream.time_base:
        return Span(float(stream.duration * stream.time_base) - step, step)
    origin = float((stream.start_time or 0) * unit_of(stream))
    if "DURATION" in stream.metadata:  # matroska and webm, "00:00:02.000000000"
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        total = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        return Span(total - origin - step, step)
    return (
        Span(container.duration * MICROSECOND - origin - step, step) if container.duration else None
    )


def is_seekable(container: InputContainer, stream: av.VideoStream) -> bool:
    """Whether seeks land before the wanted moment, and the header covers the whole stream.

    Args:
      container: the container of the open file.
      stream: its video stream.

    Returns:
      False where all packets have to be read to know when frames are shown.
    """
    alone = stream.duration or "DURATION" in stream.metadata or len(container.streams) == 1
    if container.format.name not in _SEEKABLE or not alone:
        return False
    entries, stated = stream.index_entries, stated_span(container, stream)
    if len(entries) < 2 or stated is None:
        return stated is not None
    passed = (entries[len(entries) - 1].timestamp - entries[0].timestamp) * unit_of(stream)
    return float(passed) < stated.last + _LATE * stated.step
