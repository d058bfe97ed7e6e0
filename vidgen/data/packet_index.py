"""When each frame of a video is shown, from one pass over its packets, nothing of them decoded.

Packets are numbered as they are stored. A frame that is stored later can be shown earlier:

    stored   number  0    1    2    3    4    5    6          I P B B P B B
    shown    pts     0    3    1    2    6    4    5   (frames)
    decoded  dts    -1    0    1    2    3    4    5

A container keeps pts (MPEG-TS, mp4), only some of them (MPEG-PS), or none (AVI, of which FFmpeg
reports dts + a constant, in the stored order). In the last two cases the k-th frame that the
decoder gives is shown at the k-th smallest dts.
"""

from __future__ import annotations

import array
import dataclasses
import math
import zlib

import numpy as np
from av import Packet
from jaxtyping import Bool, Float, Int

# [guess] Seconds that a stamp goes back where another recording begins; less is disorder.
_BACK = 0.25
# What FFmpeg's own tools take for another recording in broadcast streams (dts_delta_threshold).
_AHEAD = 10.0
_BROADCAST = {"mpegts", "mpeg"}  # formats in which recordings are joined by putting files together
_CORRUPT, _DISCARD, _KEY = 1, 2, 4
Mark = tuple[int, int]


def mark_of(packet: Packet) -> Mark:
    """Size and check sum, by which a packet is known again after a seek."""
    return packet.size, zlib.crc32(bytes(packet))


@dataclasses.dataclass(frozen=True)
class PacketIndex:
    """The packets of a video stream.

    Attributes:
      times: when the frame of each packet is shown, in seconds; NaN where that is unknown.
      slots: when frames are shown, in the order in which they are.
      by_order: `times` cannot be relied on, the k-th frame is shown at `slots[k]`.
      stamps: what to seek, in units of the stream; NaN where there is none.
      sizes: in bytes.
      keys: numbers of the packets from which decoding can begin.
      marks: numbers of the key packets by their marks.
      broken: the data behind this packet are lost.
      end: seconds, of the last packet of any stream.
    """

    times: Float[np.ndarray, " n"]
    slots: Float[np.ndarray, " k"]
    by_order: bool
    stamps: Float[np.ndarray, " n"]
    sizes: Int[np.ndarray, " n"]
    keys: tuple[int, ...]
    marks: dict[Mark, list[int]]
    broken: Bool[np.ndarray, " n"]
    end: float

    def number_of(self, packet: Packet) -> int | None:
        """That of a key packet; None where it cannot be told from others."""
        numbers = self.marks.get(mark_of(packet), [])
        if len(numbers) > 1:
            numbers = [
                n for n in numbers if packet.dts is not None and self.stamps[n] == packet.dts
            ]
        return numbers[0] if len(numbers) == 1 else None


@dataclasses.dataclass(frozen=True)
class Packets:
    """What one pass over a container found.

    Attributes:
      rows: pts and dts in units of the stream, NaN where there is none, size and flags.
      marks: numbers of the key packets by their marks.
      closed: numbers of the key packets behind which no frame is shown that was stored before.
      unit: seconds of a unit.
      step: seconds of a frame, as the header says.
      broadcast: recordings may have been joined.
      end: seconds, of the last packet of any stream.
    """

    rows: Float[np.ndarray, "n 4"]
    marks: dict[Mark, list[int]]
    closed: tuple[int, ...]
    unit: float
    step: float
    broadcast: bool
    end: float


def read_packets(container, stream, step: float) -> Packets:
    """All packets of a video stream; the container stands at its beginning."""
    rows, marks, closed, end = array.array("d"), {}, [], -math.inf
    for packet in container.demux():
        stamps = [p for p in (packet.pts, packet.dts) if p is not None]
        if stamps and packet.time_base:
            end = max(end, float(max(stamps) * packet.time_base))
        if packet.stream_index != stream.index or not packet.size:
            continue
        flags = _CORRUPT * packet.is_corrupt + _DISCARD * packet.is_discard
        if packet.is_keyframe:
            number = len(rows) // 4
            marks.setdefault(mark_of(packet), []).append(number)
            if _is_closed(stream.codec_context.name, bytes(packet)):
                closed.append(number)
            flags += _KEY
        times = (math.nan if stamp is None else stamp for stamp in (packet.pts, packet.dts))
        rows.extend((*times, packet.size, flags))
    table = np.frombuffer(rows, np.float64).reshape(-1, 4) if rows else np.zeros((0, 4))
    unit, broadcast = float(stream.time_base), container.format.name in _BROADCAST
    return Packets(table, marks, tuple(closed), unit, step, broadcast, end)


def _is_closed(codec: str, data: bytes) -> bool:
    """An instantaneous decoder refresh (NAL unit of type 5) in a byte stream of H.264."""
    if codec != "h264":
        return False
    place = data.find(b"\0\0\1")
    while 0 <= place < len(data) - 3:
        kind = data[place + 3] & 31
        if kind in (1, 5):
            return kind == 5
        place = data.find(b"\0\0\1", place + 3)
    return False


def index_of(packets: Packets, reorders: bool, by_order: bool = False) -> PacketIndex:
    """When frames are shown.

    Args:
      packets: of the stream.
      reorders: the decoder gives frames in another order than it is fed.
      by_order: do not rely on pts.
    """
    pts, dts, sizes, flags = packets.rows.T
    bits = flags.astype(int)
    keys = tuple(np.flatnonzero(bits & _KEY).tolist()) or (0,)
    shown = ((bits & _DISCARD) == 0) & (np.arange(len(bits)) >= keys[0])
    clock = pts if np.isnan(dts).all() else dts
    step = _step(clock, packets)
    shift = _shifts(clock * packets.unit, step, packets)
    times = np.where(shown, pts * packets.unit + shift, np.nan)
    lag = (pts - dts)[shown & ~np.isnan(pts - dts)]
    constant = lag.size == 0 or float(np.ptp(lag)) == 0
    by_order = by_order or bool(np.isnan(times[shown]).any()) or (constant and reorders)
    slots = np.sort(times[shown])
    if by_order:
        ordered = clock * packets.unit + shift
        if np.isnan(ordered[shown]).any():  # too few stamps: frames of one length
            ordered = np.arange(len(ordered)) * step
        slots = np.sort(ordered[shown])
        whole = shown[keys[0] :].all()
        keys = (keys[0], *(k for k in packets.closed if k > keys[0] and whole))
    gaps = np.append(np.diff(clock * packets.unit + shift) > 2.5 * step, False)
    return PacketIndex(
        times=times,
        slots=slots,
        by_order=by_order,
        stamps=np.where(np.isnan(dts), pts, dts),
        sizes=sizes.astype(int),
        keys=keys,
        marks=packets.marks,
        broken=_broken((bits & _CORRUPT) > 0, (bits & _KEY) > 0, gaps),
        end=packets.end,
    )


def _broken(
    corrupt: Bool[np.ndarray, " n"], key: Bool[np.ndarray, " n"], gaps: Bool[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Where data are lost: a packet marked as corrupt, and no key frame that goes on from it.

    Recordings joined at a key frame lose nothing, though their continuity counters do not fit. The
    mark is on the last packet before the gap or, as a parser is one late, on that before it.
    """
    broken = corrupt.copy()
    for number in np.flatnonzero(corrupt):
        behind = slice(number + 1, number + 3)
        broken[number] = not (key[behind].any() or number + 1 == len(key))
        broken[number] |= bool(gaps[number : number + 2].any())
    return broken


def _step(clock: Float[np.ndarray, " n"], packets: Packets) -> float:
    """Seconds from one packet to the next."""
    known = np.flatnonzero(~np.isnan(clock))
    if len(known) == len(clock) > 1:
        return float(np.median(np.abs(np.diff(clock)))) * packets.unit or packets.step
    if len(known) > 1 and clock[known[-1]] > clock[known[0]]:
        return float((clock[known[-1]] - clock[known[0]]) / np.ptp(known)) * packets.unit
    return packets.step


def _shifts(
    clock: Float[np.ndarray, " n"], step: float, packets: Packets
) -> Float[np.ndarray, " n"]:
    """What to add to stamps so that each recording follows the one before it."""
    shifts, offset, previous = np.zeros(len(clock)), 0.0, math.nan
    ahead = _AHEAD if packets.broadcast else math.inf
    back = max(_BACK, 20 * step if np.isnan(packets.rows[:, 1]).all() else 0.0)
    for number, time in enumerate(clock.tolist()):
        if not math.isnan(time):
            passed = time + offset - previous
            if passed < -back or passed > ahead:
                offset += step - passed
            previous = time + offset
        shifts[number] = offset
    return shifts
