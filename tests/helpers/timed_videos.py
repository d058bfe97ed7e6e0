"""Videos whose frames show their own number, in any container and at any times.

A number is eight black or white blocks of 16 x 16 pixels, so it survives every codec and rate.
"""

import fractions
import struct

import av
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 32, 64


def picture(number):
    """The frame that shows a number below 256."""
    bits = np.array([number >> place & 1 for place in range(8)], np.uint8).reshape(2, 4)
    gray = np.kron(bits * 215 + 20, np.ones((16, 16), np.uint8))
    return np.repeat(gray[..., None], 3, axis=-1).astype(np.uint8)


def number_of(pixels):
    """The number that a frame shows, at any size."""
    height, width = pixels.shape[:2]
    rows = ((np.arange(2) + 0.5) * height / 2).astype(int)
    columns = ((np.arange(4) + 0.5) * width / 4).astype(int)
    bits = pixels[rows][:, columns].mean(-1).reshape(-1) > 128
    return int((bits << np.arange(8)).sum())


def numbers_of(clip):
    return [number_of(frame) for frame in clip]


def write_timed(path, ticks, codec="libx264", **settings):
    """Frame i shows i from ticks[i] / fps seconds on.

    `container`, `fps`, `gop`, `bframes`, `options` of the codec, `muxing` options of the
    container, `flipped` to store frames upside down, and `edit`, which is given every packet.
    """
    fps, edit = settings.get("fps", 8), settings.get("edit", lambda packet: None)
    unit, muxing = fractions.Fraction(1, fps), settings.get("muxing", {})
    with av.open(path, "w", format=settings.get("container"), options=muxing) as output:
        track = output.add_stream(codec, rate=fps, options=settings.get("options", {}))
        track.height, track.width, track.pix_fmt = HEIGHT, WIDTH, settings.get("pixels", "yuv420p")
        track.codec_context.gop_size = settings.get("gop", 12)
        track.codec_context.max_b_frames = settings.get("bframes", 0)
        track.codec_context.time_base = unit
        track.codec_context.thread_count = 1  # to start others takes longer than so few pixels
        pixels = [picture(i)[:: -1 if settings.get("flipped") else 1] for i in range(len(ticks))]
        frames = [av.VideoFrame.from_ndarray(p.copy(), "rgb24") for p in pixels]
        for frame, tick in zip(frames, ticks, strict=True):
            frame.pts, frame.time_base = int(tick), unit
        for frame in [*frames, None]:
            for packet in track.encode(frame):
                edit(packet)
                output.mux(packet)
    return path


def write_animation(path, ticks, fps=8):
    """A gif or a webp of the same."""
    waits = [*np.diff(ticks), 1]
    frames = [Image.fromarray(picture(i)) for i in range(len(ticks))]
    durations = [round(1000 * wait / fps) for wait in waits]
    options = {"lossless": True} if str(path).endswith("webp") else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, **options)
    return path


def with_matrix(path, matrix):
    """Writes it into the track header of an mp4 file."""
    a, b, c, d = (value * 65536 for value in matrix)
    data = bytearray(path.read_bytes())
    upright = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    place = data.index(upright, data.index(b"tkhd"))
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def plain_decode(path):
    """The numbers that a decoder gives that is fed the whole file."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [number_of(frame.to_ndarray(format="rgb24", threads=1)) for frame in frames]
