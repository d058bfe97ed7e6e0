"""Sets of clips from folders and arrays: what is read, what is refused, what has a new name.

Tests of vidgen/data/content_hash.py too.
"""

import os

import numpy as np
import pytest

from vidgen.data.video.encode import write_video
from vidgen.data.video.transforms import to_float
from vidgen.evals import stored_clips
from vidgen.evals.stored_clips import Window


def ramp(frames, height=8, width=8):
    """Frame k is 10 k everywhere."""
    return np.broadcast_to(
        np.arange(frames, dtype=np.uint8)[:, None, None, None] * 10, (frames, height, width, 3)
    )


@pytest.fixture
def folder(tmp_path):
    """A folder of arrays, one of them deeper, of 12 frames."""
    (tmp_path / "made" / "deep").mkdir(parents=True)
    for name in ("b", "a", "deep/c"):
        np.save(tmp_path / "made" / f"{name}.npy", ramp(12))
    return tmp_path / "made"


def test_a_folder_is_read_in_the_order_of_names(folder):
    found = stored_clips.open_clips(str(folder))
    assert (len(found), found.names, str(found.shape)) == (3, ("a", "b", "deep/c"), "12x8x8")
    video, caption = found.read(2)
    np.testing.assert_array_equal(video, to_float(ramp(12)))
    assert caption == ""
    assert len(stored_clips.open_clips(str(folder), limit=2)) == 2


def test_captions_lie_beside_clips(folder):
    (folder / "b.txt").write_text("it grows\n")
    found = stored_clips.open_clips(str(folder))
    assert [found.read(number)[1] for number in range(3)] == ["", "it grows", ""]


def test_captions_of_tables_and_json_of_which_the_first_counts(folder):
    (folder / "captions.csv").write_text("file,caption\na.npy,one\na.npy,two\nb.npy,loses\n")
    (folder / "b.json").write_text('{"caption": ["three", "four"]}')
    found = stored_clips.open_clips(str(folder))
    assert [found.read(number)[1] for number in range(3)] == ["one", "three", ""]
    before = found.fingerprint
    (folder / "b.txt").write_text("\ufefffive\nlines", "utf-8")
    found = stored_clips.open_clips(str(folder))
    assert found.read(1)[1] == "five lines" and found.fingerprint != before
    (folder / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"b\.npy: .*UTF-8 .*caption"):
        stored_clips.open_clips(str(folder))


def test_a_window_takes_frames_by_number(folder):
    found = stored_clips.open_clips(str(folder), Window(frames=4, stride=3))
    np.testing.assert_array_equal(found.read(0)[0], to_float(ramp(12)[::3]))
    array = stored_clips.open_clips(str(folder / "a.npy").replace("a.npy", "")).read(0)[0]
    assert len(array) == 12
    small = stored_clips.open_clips(str(folder), Window(size=(4, 6)))
    assert small.read(0)[0].shape == (12, 4, 6, 3)


@pytest.mark.parametrize("suffix", ["mp4", "webp", "gif"])
def test_videos_give_all_their_frames(tmp_path, suffix):
    video = to_float(ramp(25, 128, 128))
    write_video(tmp_path / f"a.{suffix}", video, 8.0)
    found = stored_clips.open_clips(str(tmp_path))
    assert found.shape.frames == 25 and found.shape.fps == pytest.approx(8.0, rel=0.05)
    np.testing.assert_allclose(found.read(0)[0], video, atol=0.06)
    every = stored_clips.open_clips(str(tmp_path), Window(stride=2))
    np.testing.assert_allclose(every.read(0)[0], video[::2], atol=0.06)


def test_an_npz_clip_is_that_of_storybench(tmp_path):
    np.savez_compressed(tmp_path / "story.npz", video=ramp(12))
    np.testing.assert_array_equal(
        stored_clips.open_clips(str(tmp_path)).read(0)[0], to_float(ramp(12))
    )


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_arrays_of_clips(tmp_path, suffix, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 8, 8, 3), np.uint8)
    array = pixels if kind == np.uint8 else to_float(pixels)
    path = tmp_path / f"clips.{suffix}"
    np.save(path, array) if suffix == "npy" else np.savez(path, labels=np.arange(5), clips=array)
    found = stored_clips.open_clips(str(path), Window(frames=2, stride=2))
    assert (len(found), str(found.shape)) == (5, "2x8x8")
    np.testing.assert_array_equal(found.read(3)[0], to_float(pixels[3, ::2]))


def wrong(tmp_path, name):
    """A set of clips with one fault."""
    folder = tmp_path / name
    folder.mkdir()
    whole = np.zeros((2, 4, 8, 8, 3), np.float32)
    if name == "empty":
        (folder / "notes.txt").write_text("no clip")
    elif name == "mixed":
        np.save(folder / "a.npy", ramp(4))
        np.save(folder / "b.npy", ramp(4, 16, 8))
    elif name == "damaged":
        (folder / "a.mp4").write_bytes(b"not a video")
    elif name == "short":
        np.save(folder / "a.npy", ramp(4))
    else:
        array = {
            "nan": np.where(np.arange(8) == 5, np.nan, whole.transpose(0, 1, 2, 4, 3)),
            "range": whole + 255,
            "whole": whole.astype(np.int64),
            "flat": whole[0],
            "gray": whole[..., :1],
        }[name]
        array = array.transpose(0, 1, 2, 4, 3).copy() if name == "nan" else array
        np.save(folder / "clips.npy", array)
        return folder / "clips.npy"
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "empty: .*no video"),
        ("mixed", r"b\.npy: 4x16x8, .*a\.npy .*4x8x8 .*--size"),
        ("damaged", r"a\.mp4"),
        ("short", "4 frames .* 9; .*--frames"),
        ("nan", "clip 0 .*NaN"),
        ("range", r"clip 0 reaches 255; .*\[-1, 1\]"),
        ("whole", r"clips\.npy holds int64"),
        ("flat", r"\(4, 8, 8, 3\); .*\(n, t, h, w, 3\)"),
        ("gray", r"\(2, 4, 8, 8, 1\); .*\(n, t, h, w, 3\)"),
    ],
)
def test_what_cannot_be_compared_is_told(tmp_path, name, words):
    window = Window(frames=9) if name == "short" else Window()
    with pytest.raises(ValueError, match=words):
        stored_clips.open_clips(str(wrong(tmp_path, name)), window).read(0)


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        stored_clips.open_clips(str(tmp_path / "nowhere"))
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.mp4 is one file"):
        stored_clips.open_clips(str(tmp_path / "a.mp4"))
    with pytest.raises(ValueError, match="--stride is 0"):
        Window(stride=0)


def test_fingerprints_tell_other_clips_apart(folder, tmp_path):
    def of(path, **window):
        return stored_clips.open_clips(str(path), Window(**window)).fingerprint

    assert of(folder) == of(folder) != of(folder, frames=4)
    before = of(folder)
    np.save(folder / "a.npy", ramp(13)[1:])
    assert of(folder) != before
    times, before = (folder / "a.npy").stat(), of(folder)
    np.save(folder / "a.npy", ramp(14)[2:])  # as large, and as old
    os.utime(folder / "a.npy", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert of(folder) != before
    np.save(tmp_path / "x.npy", np.zeros((2, 4, 8, 8, 3), np.uint8))
    before = of(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.ones((2, 4, 8, 8, 3), np.uint8))
    assert of(tmp_path / "x.npy") != before
