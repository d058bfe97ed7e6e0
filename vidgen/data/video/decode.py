"""Frames of a video file and when each is shown: the one place where that is found out.

    mp4, webm, mkv, avi   seek to the key frame before the wanted moment, decode forward; the times
                          are those that the file gives, as long as they prove to be in order
    all others            read all packets once (packet_index.py), then the same; packets are known
                          again by their content, so it does not matter where a seek lands

FFmpeg's seeks in MPEG streams land anywhere. A frame that is shown for long is no damage; a gap
behind a packet that the demultiplexer calls corrupt is.

A reader begins as the first kind and becomes the second where the file gives reason: its first
packets are not plain, its times run backwards, or its frames end before its header says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from vidgen.data.source import BadExample
from vidgen.data.sources.files import File, readable
from vidgen.data.video.header import (
    MICROSECOND,
    decoder_of,
    is_seekable,
    stated_span,
    step_of,
    unit_of,
    video_stream,
)
from vidgen.data.video.orientation import Orientation, orientation_of
from vidgen.data.video.packet_index import PacketIndex, Packets, index_of, read_packets
from vidgen.data.video.pictures import Span

# Containers round how long they play, and count the sound too; a file that lacks more is cut.
LACKING = 1.0
_EARLIER = (0.0, 1.0, 8.0)  # [guess] seconds before the wanted moment at which a seek is tried
_REORDERED = 16  # frames that a decoder holds back, at most (H.264, table A-1)


class NotInOrder(Exception):
    """The times that a file gives are not those at which its frames are shown."""


@dataclasses.dataclass(frozen=True)
class Timed:
    """A decoded frame and the moment it is shown, in seconds from the first frame.

    Attributes:
      time: that moment.
      image: as it is stored, not yet turned upright.
      aspect: width of a stored pixel relative to its height.
    """

    time: float
    image: av.VideoFrame
    aspect: float = 1.0

    @property
    def orientation(self) -> Orientation:
        """How the frame is turned and mirrored when it is shown."""
        return orientation_of(self.image)

    @property
    def size(self) -> tuple[int, int]:
        """The height and width as shown, in pixels."""
        return self.orientation.size(self.image.height, round(self.image.width * self.aspect))


class VideoReader:
    """An open video file.

    Attributes:
      span: how long it plays. Of a file that was cut short, how long it should.
      is_indexed: all packets have been read.
    """

    span: Span

    def __init__(self, path: File) -> None:
        self._path = path
        self._index: PacketIndex | None = None
        self._packets: Packets | None = None
        self._open()
        try:
            self._step = step_of(self._stream)
            self._stated = stated = stated_span(self._container, self._stream)
            seekable = is_seekable(self._container, self._stream)
            if stated is not None and seekable and self._begins_plainly():
                self.span = stated
            else:
                self.read_index()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    @property
    def is_indexed(self) -> bool:
        """Whether all packets have been read."""
        return self._index is not None

    def frames_from(self, start: float) -> Iterator[Timed]:
        """Decode frames in the order in which they are shown.

        Args:
          start: seconds from the first frame; decoding begins with a frame at or before it.

        Yields:
          Frames with their moments, to the end of the file; with 0 the first of all is the first.

        Raises:
          NotInOrder: the times of the file are wrong; `read_index` finds better ones.
          BadExample: data are missing.
        """
        for earlier in _EARLIER if self._index is None else ():
            frames = self._by_seeking(max(0.0, start - earlier))
            first = next(frames, None)
            if first is not None and first.time <= start + MICROSECOND:
                yield first
                yield from frames
                return
            if earlier >= start:
                break
        if self._index is None:
            self.read_index()
        yield from self._by_index(start)

    def first_frame(self) -> Timed:
        """Decode the frame that is shown first.

        Returns:
          The frame, at 0 seconds.

        Raises:
          BadExample: there is none.
        """
        with contextlib.suppress(NotInOrder):
            if (first := next(self.frames_from(0.0), None)) is not None:
                return first
        self.read_index(by_order=self.is_indexed)
        return next(self.frames_from(0.0))

    def check_order(self, frames: Iterator[Timed]) -> None:
        """Decode on until the times of the frames so far are proven.

        Times that only ever rise from packet to packet are wrong if the decoder reorders frames.

        Args:
          frames: what `frames_from` returned, of which some were taken.

        Raises:
          NotInOrder: they are wrong.
        """
        for _ in range(_REORDERED):
            if self._index is not None or self._times_fall or not self._decoder.has_b_frames:
                return
            if next(frames, None) is None:
                return

    def read_index(self, by_order: bool = False) -> None:
        """Read all packets; times then no longer depend on the header or on seeking.

        Args:
          by_order: do not rely on the stamps of frames either, but on their order alone.

        Raises:
          BadExample: there is no frame that can be decoded.
        """
        if self._packets is None:
            self._open()
            self._packets = read_packets(self._container, self._stream, self._step)
        if not len(self._packets.rows):
            raise BadExample(self._path, "has no frame that can be decoded")
        # what the decoder has learned by then, and which frame is the first that it gives
        self._index = index_of(self._packets, 0, by_order)
        self._origin = 0.0
        first = next(self._decoded(0), None)
        if first is None:
            raise BadExample(self._path, "has no frame that can be decoded")
        self._index = index = index_of(self._packets, self._decoder.reorder_depth, by_order)
        self._origin = float(index.slots[0] if index.by_order else index.times[first.pts])
        last = float(np.max(index.slots)) - self._origin
        step = last / (len(index.slots) - 1) if last > 0 else self._step
        self.span = Span(last, step)
        end = max(last, index.packets.end - (0.0 if self._is_avi else self._origin))
        if self._stated is not None and end + step + LACKING < self._stated.last:
            self.span = self._stated

    def _open(self) -> None:
        if hasattr(self, "_container"):
            self._container.close()
        self._container: Any = av.open(readable(self._path))
        try:
            self._stream = video_stream(self._path, self._container)
            self._decoder = decoder_of(self._path, self._stream)
        except BaseException:
            self._container.close()
            raise
        self._is_avi = self._container.format.name == "avi"
        self._aspect = float(self._stream.sample_aspect_ratio or 1)
        self._times_fall = False

    def _begins_plainly(self) -> bool:
        """Whether the file begins with a key frame that is shown first, the origin of times."""
        packets = [*itertools.islice(self._demuxed(), 4)]
        if not packets or not packets[0].is_keyframe or packets[0].is_discard:
            return False
        if self._is_avi and packets[0].dts:
            return False
        stamps = [p for p in map(self._stamp_of, packets) if p is not None]
        self._first_stamp = stamps[0] if stamps else 0
        return len(stamps) == len(packets) and all(s > stamps[0] for s in stamps[1:])

    def _by_seeking(self, start: float) -> Iterator[Timed]:
        unit = unit_of(self._stream)
        self._seek(self._first_stamp + int(start / unit))
        self._times_fall, before, time = False, None, -np.inf
        for packet in itertools.chain(self._demuxed(), [None]):
            stamp = None if packet is None else self._stamp_of(packet)
            if packet is not None:
                if stamp is None or (self._is_avi and self._decoder.has_b_frames):
                    raise NotInOrder
                packet.pts = stamp
            if before is not None and stamp is not None:
                self._times_fall |= stamp < before
            before = stamp
            for image in self._decoder.decode(packet):
                if image.pts is None or (image.pts - self._first_stamp) * unit < time:
                    raise NotInOrder
                time = float((image.pts - self._first_stamp) * unit)
                yield self._timed(time, image, start)

    def _by_index(self, start: float) -> Iterator[Timed]:
        """Decode from the last key frame that gives a frame at or before `start`."""
        index = self._index
        assert index is not None
        latest, first_key = start + self._origin + MICROSECOND, next(iter(index.places))
        times = {
            k: index.slots[i] if index.by_order else index.times[k]
            for k, i in index.places.items()
            if i < len(index.slots)
        }
        before = [key for key, time in times.items() if time <= latest and key > first_key]
        for key in (*reversed(before[-2:]), 0):
            frames = self._timed_by_index(index, key, start)
            first = next(frames, None)
            if first is not None and (key == 0 or first.time <= start + MICROSECOND):
                yield first
                yield from frames
                return

    def _timed_by_index(self, index: PacketIndex, key: int, start: float) -> Iterator[Timed]:
        time = -np.inf
        for place, image in enumerate(self._decoded(key), index.places.get(key, 0)):
            if index.by_order:
                shown = index.slots[min(place, len(index.slots) - 1)]
            else:
                shown = index.times[image.pts]
            if shown - self._origin < time - MICROSECOND:
                raise NotInOrder
            time = float(shown - self._origin)
            yield self._timed(time, image, start)

    def _decoded(self, key: int) -> Iterator[av.VideoFrame]:
        """Decode frames from a key packet on; their pts is the number of their packet."""
        index = self._index
        assert index is not None
        sizes, first_key = index.packets.rows[:, 2], next(iter(index.places))
        landed, packets = self._landed(index, key)
        for number, packet in enumerate(packets, landed):
            if number >= len(sizes) or packet.size != sizes[number]:
                raise BadExample(self._path, "damaged: it reads differently after a seek")
            if number < first_key:  # nothing can be decoded before it
                continue
            if index.broken[number]:
                where = float(index.slots[min(number, len(index.slots) - 1)]) - self._origin
                raise BadExample(self._path, f"damaged: data are missing at {where:.2f} s")
            packet.pts = packet.dts = number
            yield from self._decoder.decode(packet)
        yield from self._decoder.decode(None)

    def _landed(self, index: PacketIndex, key: int) -> tuple[int, Iterator[av.Packet]]:
        """Seek until packet `key` is the next: (its number, the packets from it on)."""
        if key and not np.isnan(index.stamps[key]):
            with contextlib.suppress(FFmpegError):
                self._seek(int(index.stamps[key]))
                packets = self._demuxed()
                for packet in itertools.islice(packets, 2000):
                    number = index.number_of(packet) if packet.is_keyframe else None
                    if number == key:
                        return key, itertools.chain([packet], packets)
                    if number is not None and number > key:
                        break
        self._open()
        packets = self._demuxed()
        for _ in range(key):  # which is not to decode them
            next(packets, None)
        return key, packets

    def _seek(self, stamp: int) -> None:
        self._container.seek(stamp, stream=self._stream, backward=True)
        self._decoder.flush_buffers()

    def _stamp_of(self, packet: av.Packet) -> int | None:
        """Return when the frame of a packet is shown; AVI says only when it is decoded."""
        return packet.dts if self._is_avi else packet.pts

    def _demuxed(self) -> Iterator[av.Packet]:
        """Read the packets that hold data; an empty one in AVI only prolongs the last frame."""
        return (packet for packet in self._container.demux(self._stream) if packet.size)

    def _timed(self, time: float, image: av.VideoFrame, start: float) -> Timed:
        if image.is_corrupt and time >= start:
            raise BadExample(self._path, f"damaged: the frame at {time:.2f} s lacks data")
        return Timed(time, image, self._aspect)


def opened_video(path: File) -> contextlib.closing[VideoReader]:
    """Open the first video stream of a file; to be used inside `as_bad_example`.

    Args:
      path: the path of the file, here or in an object store, or a packed one.

    Returns:
      What gives a reader to a `with` block, after which it is closed.

    Raises:
      BadExample: there is none, or none that can be shown.
    """
    return contextlib.closing(VideoReader(path))
