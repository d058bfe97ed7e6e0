"""Clips inside a notebook.

Tests of vidgen/display/shown.py too.
"""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from vidgen.display import clips


def ramp(*shape):
    """A clip whose frames differ."""
    values = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32)
    return values.reshape(shape)


def files(html):
    return [
        (kind, base64.b64decode(data))
        for kind, data in re.findall(r'src="data:([\w/]+);base64,([^"]+)"', html.text)
    ]


def test_a_small_clip_is_an_animated_picture_of_doubled_pixels():
    values = np.array([-1, 0.5, 1, 0, -0.5], np.float32)
    video = np.broadcast_to(values[:, None, None, None], (5, 16, 24, 3))
    ((kind, data),) = files(clips.video(video, 8))
    picture = Image.open(io.BytesIO(data))
    assert (kind, picture.size, picture.n_frames) == ("image/webp", (48, 32), 5)
    brightness = []
    for number in range(5):
        picture.seek(number)
        brightness.append(np.asarray(picture.convert("L")).mean())
    assert brightness == pytest.approx([0, 191, 255, 128, 64], abs=2)


def test_a_large_clip_is_a_video():
    import av

    ((kind, data),) = files(clips.video(ramp(4, 80, 96, 3), 8))
    assert kind == "video/webm"
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(video=0))
    assert [(f.height, f.width) for f in frames] == [(80, 96)] * 4


def test_a_rate_that_no_animated_picture_plays_is_a_video():
    ((kind, _),) = files(clips.video(ramp(4, 8, 8, 3), 120))
    assert kind == "video/webm"


def test_captions_are_text_below_their_clips():
    html = clips.video(ramp(2, 3, 8, 8, 1), 4, captions=["a <b>", "c & d"])
    assert len(files(html)) == 2
    assert re.findall(r"<figcaption[^>]*>([^<]*)<", html.text) == ["a &lt;b&gt;", "c &amp; d"]


def test_a_clip_of_the_demo_size_is_small():
    noise = np.random.default_rng(0).normal(size=(32, 32, 32, 3)).astype(np.float32)
    smooth = np.clip(0.05 * noise + ramp(32, 32, 32, 3), -1, 1)
    assert len(clips.video(smooth, 6).text) < 40_000


@pytest.mark.parametrize(
    ("video", "options", "words"),
    [
        (ramp(3, 8, 8), {"fps": 8}, r"\(3, 8, 8\)"),
        (ramp(3, 8, 8, 2), {"fps": 8}, r"\(3, 8, 8, 2\)"),
        (np.zeros((0, 8, 8, 3), np.float32), {"fps": 8}, r"\(0, 8, 8, 3\)"),
        (ramp(3, 8, 8, 3), {"fps": 0}, "fps is 0"),
        (ramp(3, 8, 8, 3), {"fps": 8, "captions": ["a", "b"]}, "2 captions for 1 clip"),
    ],
)
def test_what_cannot_be_shown_is_told(video, options, words):
    with pytest.raises(ValueError, match=words):
        clips.video(video, **options)


def test_a_notebook_and_nothing_else_sees_the_html():
    html = clips.video(ramp(2, 8, 8, 3), 8)
    assert html._repr_html_() == html.text
    assert repr(html) == "Html()"
