"""When each frame of a video is shown, from one pass over its packets, nothing of them decoded.

Packets are numbered as they are stored. A frame that is stored later can be shown earlier:

    stored   number  0    1    2    3    4    5    6          I P B B P B B
    shown    pts     0    3    1    2    6    4    5   (frames)
    decoded  dts    -1    0    1    2    3    4    5

A container keeps pts (MPEG-TS, mp4), only some of them (MPEG-PS), or none (AVI, of which FFmpeg
makes some up from dts). In the last two cases the k-th frame that the decoder gives is shown when a
decoder that holds d frames back gives it: at the (k + d)-th smallest dts.
"""

from __future__ import annotations

import array
import dataclasses
import math
import zlib

import numpy as np
from av import Packet, VideoStream
from av.container import InputContainer
from jaxtyping import Bool, Float

from vidgen.data.video.header import unit_of

# [guess] Seconds that a stamp goes back where another recording begins; less is disorder.
_BACK = 0.25
# What FFmpeg's own tools take for another recording in broadcast streams (dts_delta_threshold).
_AHEAD = 10.0
_BROADCAST = {"mpegts", "mpeg"}  # formats in which recordings are joined by putting files together
_CORRUPT, _DISCARD, _KEY = 1, 2, 4
Mark = tuple[int, int]


def mark_of(packet: Packet) -> Mark:
    """Return the size and check sum by which a packet is recognized after a seek.

    Args:
      packet: a packet of a video stream.

    Returns:
      Bytes, and their CRC-32.
    """
    return packet.size, zlib.crc32(bytes(packet))


@dataclasses.dataclass(frozen=True)
class PacketIndex:
    """The packets of a video stream, and when the frame of each is shown.

    Attributes:
      packets: the facts that it was worked out from.
      times: when the frame of each packet is shown, in seconds; NaN where that is unknown.
      slots: when frames are shown, in the order in which they are.
      by_order: `times` cannot be relied on, the k-th frame is shown at `slots[k]`.
      stamps: what to seek, in units of the stream; NaN where there is none.
      places: the packets from which decoding can begin, ascending, and if `by_order` which slot
        is that of their frame.
      broken: the data behind this packet are lost.
    """

    packets: Packets
    times: Float[np.ndarray, " n"]
    slots: Float[np.ndarray, " k"]
    by_order: bool
    stamps: Float[np.ndarray, " n"]
    places: dict[int, int]
    broken: Bool[np.ndarray, " n"]

    def number_of(self, packet: Packet) -> int | None:
        """Recognize a key packet.

        Args:
          packet: a packet that was read after a seek.

        Returns:
          Its number; None if it is not known, or equal to others.
        """
        numbers = self.packets.marks.get(mark_of(packet), [])
        if len(numbers) > 1:
            numbers = [n for n in numbers if self.stamps[n] == packet.dts]
        return numbers[0] if len(numbers) == 1 else None


@dataclasses.dataclass(frozen=True)
class Packets:
    """The facts about a stream that one pass over its container collects.

    Attributes:
      rows: pts and dts in units of the stream, NaN where there is none, size and flags.
      marks: numbers of the key packets by their marks.
      leads: of key packets, how many packets follow it that are shown before it; decoders that
        begin there leave those out. Key packets of which that is unknown are missing.
      unit: seconds of a unit.
      step: seconds of a frame, as the header says.
      format: the format of the container.
      end: seconds, of the last packet of any stream.
    """

    rows: Float[np.ndarray, "n 4"]
    marks: dict[Mark, list[int]]
    leads: dict[int, int]
    unit: float
    step: float
    format: str
    end: float


def read_packets(container: InputContainer, stream: VideoStream, step: float) -> Packets:
    """Read all packets of a video stream; nothing is decoded.

    Args:
      container: the container of the open file, which must be at its beginning.
      stream: its video stream.
      step: seconds of a frame, as the header says.

    Returns:
      What they say.
    """
    rows, marks, leads, end, last_key = array.array("d"), {}, {}, -math.inf, -1
    for packet in container.demux():
        stamps = [p for p in (packet.pts, packet.dts) if p is not None]
        if stamps and packet.time_base:
            end = max(end, float(max(stamps) * packet.time_base))
        if packet.stream_index != stream.index or not packet.size:
            continue
        number = len(rows) // 4
        flags = _CORRUPT * packet.is_corrupt + _DISCARD * packet.is_discard
        kind = _kind(stream.codec_context.name, packet)
        if packet.is_keyframe:
            flags += _KEY
            marks.setdefault(mark_of(packet), []).append(number)
            last_key = number if kind == "I" else -1
            leads |= {number: 0} if kind == "I" else {}
        elif last_key >= 0 and kind == "B":
            leads[last_key] += 1
        else:
            last_key = -1
        times = (math.nan if stamp is None else stamp for stamp in (packet.pts, packet.dts))
        rows.extend((*times, packet.size, flags))
    table = np.frombuffer(rows, np.float64).reshape(-1, 4) if rows else np.zeros((0, 4))
    unit = float(unit_of(stream))
    return Packets(table, marks, leads, unit, step, container.format.name, end)


def _kind(codec: str, packet: Packet) -> str:
    """Tell a frame where decoding can begin ("I") and one shown before one stored earlier ("B").

    It knows the codecs that AVI files hold: MPEG-4 part 2, and H.264 as a byte stream; "" of any
    other.
    """
    if codec == "mpeg4":
        data = bytes(packet)
        place = data.find(b"\0\0\1\xb6")  # a video object plane
        if place < 0 or place + 4 >= len(data) or data.find(b"\0\0\1\xb6", place + 4) >= 0:
            return ""
        return "IPBS"[data[place + 4] >> 6]
    if codec == "h264" and packet.is_keyframe:
        data = bytes(packet)
        place = data.find(b"\0\0\1")
        while 0 <= place < len(data) - 3:
            if data[place + 3] & 31 in (1, 5):  # a slice; 5 of an instantaneous decoder refresh
                return "I" if data[place + 3] & 31 == 5 else ""
            place = data.find(b"\0\0\1", place + 3)
    return ""


def index_of(packets: Packets, depth: int, by_order: bool = False) -> PacketIndex:
    """Work out when each frame is shown.

    Args:
      packets: the packets of the stream.
      depth: frames that the decoder holds back to bring them into order.
      by_order: do not rely on pts.

    Returns:
      The index; where pts are missing or derived, its frames are known by their order.
    """
    pts, dts, _, flags = packets.rows.T
    bits = flags.astype(int)
    if packets.format == "avi":
        pts = dts  # it has no other; what FFmpeg reports is derived
    keys = tuple(np.flatnonzero(bits & _KEY).tolist()) or (0,)
    shown = ((bits & _DISCARD) == 0) & (np.arange(len(bits)) >= keys[0])
    clock = pts if np.isnan(dts).all() else dts
    step = _step(clock, packets)
    shift = _shifts(clock * packets.unit, step, packets)
    times = np.where(shown, pts * packets.unit + shift, np.nan)
    lag = (pts - dts)[shown & ~np.isnan(pts - dts)]
    constant = lag.size == 0 or float(np.ptp(lag)) == 0
    by_order = by_order or bool(np.isnan(times[shown]).any()) or (constant and depth > 0)
    slots = np.sort(times[shown])
    places = dict.fromkeys(keys, 0)
    if by_order:
        slots = _slots((clock * packets.unit + shift)[shown], step, depth)
        whole = packets.leads if shown[keys[0] :].all() else {}
        places = {keys[0]: 0} | {k: k + n - keys[0] for k, n in whole.items() if k > keys[0]}
    gaps = np.append(np.diff(clock * packets.unit + shift) > 2.5 * step, False)
    return PacketIndex(
        packets=packets,
        times=times,
        slots=slots,
        by_order=by_order,
        stamps=np.where(np.isnan(dts), pts, dts),
        places=places,
        broken=_broken((bits & _CORRUPT) > 0, (bits & _KEY) > 0, gaps),
    )


def _slots(clock: Float[np.ndarray, " k"], step: float, depth: int) -> Float[np.ndarray, " k"]:
    """Work out when frames are shown from the times at which their packets are decoded."""
    if np.isnan(clock).any():  # too few stamps: frames of one length
        return np.arange(len(clock)) * step
    depth = min(depth, len(clock) - 1)
    ordered = np.sort(clock)
    return np.append(ordered[depth:], ordered[-1] + step * np.arange(1, depth + 1))


def _broken(
    corrupt: Bool[np.ndarray, " n"], key: Bool[np.ndarray, " n"], gaps: Bool[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Find the packets that precede a loss: marked as corrupt, without a key frame right behind.

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
    """Return the time from one packet to the next, in seconds."""
    known = np.flatnonzero(~np.isnan(clock))
    if len(known) == len(clock) > 1:
        return float(np.median(np.abs(np.diff(clock)))) * packets.unit or packets.step
    if len(known) > 1 and clock[known[-1]] > clock[known[0]]:
        return float((clock[known[-1]] - clock[known[0]]) / np.ptp(known)) * packets.unit
    return packets.step


def _shifts(
    clock: Float[np.ndarray, " n"], step: float, packets: Packets
) -> Float[np.ndarray, " n"]:
    """Return the seconds to add to stamps so that each recording follows the one before it."""
    shifts, offset, previous = np.zeros(len(clock)), 0.0, math.nan
    ahead = _AHEAD if packets.format in _BROADCAST else math.inf
    back = max(_BACK, 20 * step if np.isnan(packets.rows[:, 1]).all() else 0.0)
    for number, time in enumerate(clock.tolist()):
        if not math.isnan(time):
            passed = time + offset - previous
            if passed < -back or passed > ahead:
                offset += step - passed
            previous = time + offset
        shifts[number] = offset
    return shifts
