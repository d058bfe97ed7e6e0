"""Clips that Python returns: arrays that show, save and iterate."""

import re

import numpy as np
import pytest

from vidgen.display import clips as inline
from vidgen.display.generated import Clip, Clips, Film
from vidgen.display.sheets import SceneRow


def ramp(*shape):
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


@pytest.fixture
def made():
    return Clips(
        prompts=("a <cat>", "a dog"),
        stages={"base": ramp(2, 3, 8, 8, 3), "ssr1": ramp(2, 6, 16, 24, 3)},
        rates={"base": 3.0, "ssr1": 6.0},
    )


def test_clips_iterate_and_so_do_their_frames(made):
    assert len(made) == 2 and [clip.prompt for clip in made] == ["a <cat>", "a dog"]
    for number, clip in enumerate(made):
        np.testing.assert_array_equal(clip.video, made.video[number])
        np.testing.assert_array_equal(np.stack(list(clip)), clip.video)
        assert (len(clip), clip.fps) == (6, 6.0)
    np.testing.assert_array_equal(made[-1], made.stages["ssr1"][1])
    with pytest.raises(IndexError):
        made[2]


def test_they_are_arrays(made):
    np.testing.assert_array_equal(np.asarray(made), made.stages["ssr1"])
    assert np.asarray(made[0]).shape == (6, 16, 24, 3)
    assert np.asarray(made[0], np.float64).dtype == np.float64
    copied = np.array(made[0])
    copied[:] = 0
    assert made[0].video.min() == -1


def test_they_save_themselves(made, tmp_path):
    made[1].save(tmp_path / "one.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), made.video[1])
    made.save(tmp_path / "base.npy", stage="base")
    np.testing.assert_array_equal(np.load(tmp_path / "base.npy"), made.stages["base"])
    assert made[0].save(tmp_path / "a.mp4").stat().st_size > 0
    with pytest.raises(ValueError, match="no stage 'ssr9'; choose from base, ssr1"):
        made.save(tmp_path / "a.mp4", stage="ssr9")
    with pytest.raises(ValueError, match="unknown suffix '.doc'"):
        made[0].save(tmp_path / "a.doc")


def test_a_notebook_plays_them(made):
    assert made._repr_html_() == inline.video(made.video, 6.0, captions=made.prompts).text
    html = made[0]._repr_html_()
    assert html.count("data:image/webp;base64,") == 1
    assert re.findall(r"<figcaption[^>]*>([^<]*)<", html) == ["a &lt;cat&gt;"]
    film = Film(video=ramp(5, 8, 8, 3), fps=8.0, scenes=(SceneRow("a", 0, 5),))
    assert film._repr_html_() == inline.video(film.video, 8.0).text


def test_a_terminal_shows_a_line(made):
    assert repr(made) == (
        "Clips(['a <cat>', 'a dog'], 6 frames of 16x24 at 6 fps, stages: base, ssr1)"
    )
    clip = Clip(video=ramp(5, 8, 8, 3), fps=8.0, prompt="a cat")
    assert repr(clip) == "Clip('a cat', 5 frames of 8x8 at 8 fps)"
