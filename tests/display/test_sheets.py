"""Sheets of frames: what stands where."""

import io

import numpy as np
import pytest
from PIL import Image

from vidgen.display import sheets
from vidgen.display.sheets import MARGIN, SceneRow


def shades(frames, side, channels=3):
    """A clip whose frame i has the gray i."""
    gray = np.arange(frames, dtype=np.float32)[:, None, None, None] / 127.5 - 1
    return np.broadcast_to(gray, (frames, side, side, channels))


def grays(picture, y, places):
    return [picture.image.getpixel((x, y))[0] for x in places]


def test_frames_stand_at_their_moments():
    picture = sheets.frames(shades(16, 8), columns=4)
    assert picture.image.size == (MARGIN + 4 * 66, 66)
    assert grays(picture, 32, [MARGIN + 66 * i + 32 for i in range(4)]) == [0, 4, 8, 12]


def test_rows_have_the_height_of_the_largest_and_the_same_moments():
    picture = sheets.frames({"a": shades(4, 8), "b": shades(8, 100, 1)}, columns=8)
    assert picture.image.size == (MARGIN + 8 * 102, 2 * 102)
    middles = [MARGIN + 102 * i + 50 for i in range(8)]
    assert grays(picture, 50, middles) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert grays(picture, 102 + 50, middles) == list(range(8))
    gray = (128, 128, 128)  # frames that "a" does not have at this moment
    corners = [picture.image.getpixel((MARGIN + 102 * i, 0)) for i in range(8)]
    assert [corner == gray for corner in corners] == [False, True] * 4


def test_moments_may_be_given():
    picture = sheets.frames(shades(10, 8), moments=np.array([0.9, 0.0]), height=20)
    assert grays(picture, 10, [MARGIN + 10, MARGIN + 32]) == [9, 0]


def test_clips_are_named_or_numbered():
    clips = np.stack([shades(2, 8)] * 3)
    assert list(sheets._named(clips, ["a", "b", "a"])) == ["a\n#0", "b", "a\n#2"]
    assert list(sheets._named(clips, [])) == ["clip 0", "clip 1", "clip 2"]
    with pytest.raises(ValueError, match="1 captions for 3 clips"):
        sheets.frames(clips, captions=["a"])
    with pytest.raises(ValueError, match="no clip"):
        sheets.frames({})


def test_scenes_begin_at_a_red_line_after_two_frames_of_the_one_before():
    film = shades(20, 8)
    picture = sheets.scenes(
        film, [SceneRow("a", 0, 8), SceneRow("b", 8, 20)], columns=14, height=32
    )
    assert picture.image.size == (14 * 36, 2 * 66)
    second = 66 + 16 + 16
    assert grays(picture, second, [36 * i + 18 for i in range(14)]) == [6, 7, *range(8, 20)]
    red = [x for x in range(14 * 36) if picture.image.getpixel((x, second)) == (255, 0, 0)]
    assert 72 in red and max(red) - min(red) <= 2


@pytest.mark.parametrize("told", [[], [SceneRow("a", 0, 21)]])
def test_scenes_lie_within_their_film(told):
    with pytest.raises(ValueError, match="20 frames"):
        sheets.scenes(shades(20, 8), told)


def test_contacts_have_their_captions_above_and_frames_evenly():
    clips = [("a cat", shades(8, 64)), ("word " * 40, shades(8, 64)), ("", shades(8, 64))]
    picture = sheets.contacts(clips)
    width, height = 4 * 66 + 12, 3 * 14 + 64 + 10  # the longest caption has three lines
    assert picture.image.size == (2 * width, 2 * height)
    middles = [4 + 66 * i + 32 for i in range(4)]
    for left, top in ((0, 0), (width, 0), (0, height)):
        assert grays(picture, top + 42 + 32, [left + x for x in middles]) == [0, 2, 4, 6]
    drawn = np.asarray(picture.image).min(-1) < 200
    lines = [drawn[14 * i : 14 * i + 14, :width].any() for i in range(3)]
    assert lines == [False, False, True]  # one line, next to its frames
    assert all(drawn[14 * i : 14 * i + 14, width:].any() for i in range(3))
    assert not drawn[height:, width:].any()  # an empty place


def test_contacts_of_clips_with_fewer_frames_than_moments():
    picture = sheets.contacts([("a", shades(2, 64))], columns=1)
    assert picture.image.size == (4 * 66 + 12, 14 + 64 + 10)
    assert grays(picture, 14 + 32, [4 + 32, 70 + 32, 136 + 32]) == [0, 1, 255]


def test_long_captions_end_with_a_mark():
    lines = sheets._wrapped("word " * 40, 20)
    assert len(lines) == 3 and lines[-1].endswith("…") and max(map(len, lines)) <= 20
    assert sheets._wrapped("two words", 20) == ["two words"]
    assert sheets._wrapped("", 20) == ["(no caption)"]


def test_no_contacts_are_told():
    with pytest.raises(ValueError, match="no clip"):
        sheets.contacts([])


def test_a_token_is_pale_where_nothing_changed():
    ids = np.array([[[1, 2]], [[1, 3]], [[1, 2]]])
    colors = sheets._colors(ids).astype(int)
    assert colors.shape == (3, 1, 2, 3)
    assert (colors[1:, 0, 0] >= 224).all()  # kept
    assert (colors[0, 0, 1] == colors[2, 0, 1]).all()  # the same code
    assert np.abs(colors[0, 0, 1] - colors[1, 0, 1]).max() > 40  # another
    assert (colors[0].min(-1) < 224).all()


def test_neighboring_codes_are_told_apart():
    colors = sheets._colors(np.arange(1000).reshape(1, 20, 50)).reshape(-1, 3).astype(int)
    assert np.abs(np.diff(colors, axis=0)).max(-1).min() > 30


def test_maps_stand_below_the_last_frame_of_their_step():
    ids = np.zeros((4, 2, 2), int)
    picture = sheets.tokens(ids, shades(7, 8), columns=3, height=20)
    assert picture.image.size == (3 * 22, 2 * (2 * 22 + 14))
    assert grays(picture, 14 + 10, [10, 32, 54]) == [0, 2, 4]
    assert grays(picture, 58 + 14 + 10, [10, 32]) == [6, 255]
    assert sheets.tokens(ids, height=20).image.size == (4 * 22, 22 + 14)


@pytest.mark.parametrize(("steps", "frames"), [(4, 8), (1, 3)])
def test_tokens_of_another_film_are_told(steps, frames):
    with pytest.raises(ValueError, match=f"{frames} frames .* {steps} steps"):
        sheets.tokens(np.zeros((steps, 2, 2), int), shades(frames, 8))


def test_a_notebook_gets_a_png_that_is_a_little_coarser(tmp_path):
    picture = sheets.scenes(shades(200, 8), [SceneRow("a", 0, 100), SceneRow("b", 100, 200)])
    picture.save(tmp_path / "a.png")
    saved = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(saved, np.asarray(picture.image))
    shown = Image.open(io.BytesIO(picture._repr_png_()))
    assert (shown.format, shown.mode) == ("PNG", "RGB")
    assert np.abs(np.asarray(shown).astype(int) - saved).max() == 4
