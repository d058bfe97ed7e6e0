"""Sinks: what takes the frames of a film one by one, a class for each way of storing them.

`VideoStream` chooses one by the suffix of the file and gives it uint8 RGB (an array sink: whatever
came). None keeps more than a few frames.
"""

from __future__ import annotations

import dataclasses
import fractions
import functools
import io
import os
import pathlib

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

_BT709 = 1  # number of the color description in the H.264 and VP9 standards
_LIMITED_RANGE = 1
_FRAGMENT_SECONDS = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AvKind:
    """A format that PyAV encodes.

    Attributes:
      codec: name of the encoder.
      options: options of the encoder.
      growing: options of the container for a file that is read while it grows.
      container: other options of the container.
    """

    codec: str
    options: dict[str, str]
    growing: dict[str, str]
    container: dict[str, str] = dataclasses.field(default_factory=dict)


AV_KINDS = {
    ".mp4": AvKind(
        codec="libx264",
        options={"crf": "16"},
        growing={"movflags": "+frag_keyframe+empty_moov+default_base_moof"},
    ),
    ".webm": AvKind(
        codec="libvpx-vp9",
        options={"crf": "20", "b": "0", "deadline": "good", "cpu-used": "4"},
        growing={"cluster_time_limit": str(int(1000 * _FRAGMENT_SECONDS))},
        container={"fflags": "+bitexact"},  # or it names its parts by random numbers
    ),
}


@functools.cache
def _without_avx512() -> dict[str, str]:
    """Return the option that leaves x264's code for AVX-512 out, where the processor has that.

    That code (x264 165) reads memory that nobody wrote: the same frames became other bytes in some
    processes, and in the first file of a process.
    """
    processor = pathlib.Path("/proc/cpuinfo")
    has_it = processor.exists() and " avx512f " in processor.read_text()
    return {"x264-params": "asm=avx2"} if has_it else {}


class AvSink:
    """Encodes frames "t h w 3" with PyAV into a file."""

    def __init__(
        self,
        target: str | io.BytesIO,
        fps: float | int,
        size: tuple[int, int],
        *,
        kind: str,
        growing: bool = True,
        **options: str,
    ) -> None:
        """Open the file.

        Args:
          target: a path, or a buffer where not `growing`.
          fps: frames per second.
          size: height and width of the frames.
          kind: the format, one of `AV_KINDS`.
          growing: whether the file is to be readable before it is closed.
          **options: options of the encoder in place of those that the format has.
        """
        found = AV_KINDS[kind]
        for_file = found.container | (found.growing | {"flush_packets": "1"} if growing else {})
        self._output = av.open(target, "w", format=kind[1:], container_options=for_file)
        rate = fractions.Fraction(fps).limit_denominator(1001)
        of_codec = _without_avx512() if found.codec == "libx264" else {}
        options = found.options | of_codec | options
        stream = self._output.add_stream(found.codec, rate=rate, options=options)
        assert isinstance(stream, av.VideoStream)
        self._stream = stream
        height, width = size
        context = stream.codec_context
        # yuv420p shares color among 2 x 2 pixels, so odd sides grow by one repeated row or column
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        if growing:
            context.gop_size = max(1, round(_FRAGMENT_SECONDS * fps))

    def write(self, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
        """Encode frames; the encoder holds some of them back.

        Args:
          frames: frames of the size that the sink was made for.
        """
        for pixels in frames:
            self._output.mux(self._stream.encode(self._frame(pixels)))

    def _frame(self, pixels: np.ndarray) -> av.VideoFrame:
        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        return frame.reformat(format="yuv420p", dst_colorspace="ITU709", threads=1)

    def close(self) -> None:
        """Write the frames that are held back, and close the file."""
        try:
            self._output.mux(self._stream.encode(None))
        finally:
            self._output.close()

    end = close  # a buffer stays open


class NpySink:
    """An array whose first axis grows: the header is written again after each addition."""

    def __init__(self, path: pathlib.Path) -> None:
        """Make the file, which holds an array as soon as frames have come."""
        self._file = path.open("w+b")
        self._length = 0
        self._dtype: np.dtype | None = None

    def write(self, frames: np.ndarray) -> None:
        """Add frames to the array.

        Args:
          frames: "t h w c", always of the same size and dtype.

        Raises:
          ValueError: they have another dtype than the first.
        """
        if self._dtype is None:
            self._dtype = frames.dtype
            self._header(frames.shape[1:])
        if frames.dtype != self._dtype:
            raise ValueError(f"the film holds {self._dtype} numbers; {frames.dtype} came.")
        self._file.seek(0, os.SEEK_END)
        self._file.write(np.ascontiguousarray(frames).tobytes())
        self._file.flush()  # the frames are there before the header counts them
        self._length += len(frames)
        self._header(frames.shape[1:])

    def _header(self, shape: tuple[int, ...]) -> None:
        # numpy leaves room for the first axis to grow, so the header keeps its length
        kind = np.lib.format.dtype_to_descr(np.dtype(self._dtype))
        fields = {"descr": kind, "fortran_order": False, "shape": (self._length, *shape)}
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, fields)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class PngSink:
    """A folder of pictures: 000000.png, 000001.png, ..."""

    def __init__(self, folder: pathlib.Path) -> None:
        """Make the folder."""
        folder.mkdir()
        self._folder, self._count = folder, 0

    def write(self, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
        """Write a picture for each frame.

        Args:
          frames: in the order of their numbers.
        """
        for pixels in frames:
            image = Image.fromarray(np.ascontiguousarray(pixels))
            image.save(self._folder / f"{self._count:06}.png")
            self._count += 1

    def close(self) -> None:
        """Do nothing: no frame is held back."""


def defragment(path: pathlib.Path) -> None:
    """Replace a fragmented mp4 by one of the same packets with its index in front.

    Args:
      path: the path of the file; nothing is encoded again.
    """
    whole = path.with_name(f"{path.name}.whole")
    options = {"movflags": "+faststart"}
    try:
        with (
            av.open(str(path)) as source,
            av.open(str(whole), "w", format="mp4", container_options=options) as output,
        ):
            old = source.streams.video[0]
            new = output.add_stream_from_template(old)
            for packet in source.demux(old):
                if packet.dts is not None:  # the last, empty one says that the file is over
                    packet.stream = new
                    output.mux(packet)
        os.replace(whole, path)
    finally:
        whole.unlink(missing_ok=True)
