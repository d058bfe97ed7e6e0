"""seqio tasks and mixtures as a stream: pixels, captions, order, restarts, what is refused."""

import json
import logging

import numpy as np
import pytest

from vidgen.data.pipeline import Pipeline
from vidgen.data.source import BadExample, Stream
from vidgen.data.sources.seqio_source import SeqioSource, import_seqio
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=4, height=8, width=8, fps=8.0)


@pytest.fixture(scope="module", autouse=True)
def seqio(tmp_path_factory):
    """seqio, with the tasks of this folder's seqio_sets."""
    seqio, tf = import_seqio()
    assert tf.config.get_visible_devices("GPU") == []
    import seqio_sets

    seqio_sets.register(tmp_path_factory.mktemp("seqio"))
    seqio.MixtureRegistry.add("mixed", [("numbers", 3.0), ("marked", 1.0)])
    yield seqio
    seqio.MixtureRegistry.remove("mixed")
    for name in seqio_sets.NAMES:
        seqio.TaskRegistry.remove(name)


def source(name="numbers", **settings):
    return SeqioSource(**{"name": name, "shape": SHAPE} | settings)


def numbers(batches):
    """Numbers of the clips, by the captions, once the pixels are found to agree."""
    found = []
    for batch in batches:
        for caption, video in zip(batch["caption"], batch["video"], strict=True):
            number = int(caption.rpartition(" ")[2])
            levels = video[:, 4, 4].astype(int)
            assert (np.diff(levels, axis=0) == 1).all() and caption == f"clip number {number}"
            assert (0 <= levels[0] - 10 * number).all() and (levels[0] - 10 * number <= 2).all()
            found.append(number)
    return found


def taken(iterator, count):
    return [next(iterator) for _ in range(count)]


def same(one, two):
    return all(
        (a["video"] == b["video"]).all() and a["caption"] == b["caption"]
        for a, b in zip(one, two, strict=True)
    )


# ---- order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 4, 8], ids=["whole", "a part a file", "examples"])
def test_a_pass_shows_everything_once(parts):
    numbered = source(parts=parts)
    assert isinstance(numbered, Stream)
    pipeline = Pipeline(source=numbered, batch_size=12)
    found = numbers(taken(pipeline.iterator(), 4))
    assert sorted(found[:24]) == sorted(found[24:]) == list(range(24))
    assert found[:24] != found[24:] and found[:24] != sorted(found[:24])
    in_order = Pipeline(source=numbered, batch_size=12, shuffle=False, repeat=False)
    found = numbers(in_order.iterator())
    assert sorted(found) == list(range(24)) and (found == sorted(found) or parts == 8)


def test_order_depends_on_the_seed_and_not_on_processes():
    """ "mixed" draws between two tasks; "marked" has a preprocessor with seeds."""
    long = VideoShape(frames=6, height=8, width=8, fps=8.0)
    mixed = source("mixed", parts=4, lanes=2, shape=long)
    pipeline = Pipeline(source=mixed, batch_size=6, seed=1)
    whole = taken(pipeline.iterator(), 5)
    halves = [taken(pipeline.iterator(process=(p, 2)), 5) for p in range(2)]
    for k, batch in enumerate(whole):
        pairs = zip(*(half[k]["caption"] for half in halves), strict=True)
        assert [caption for pair in pairs for caption in pair] == batch["caption"]
        both = np.stack([half[k]["video"] for half in halves], 1).reshape(batch["video"].shape)
        assert (both == batch["video"]).all()
    other = Pipeline(source=mixed, batch_size=6, seed=2)
    assert not same(taken(other.iterator(), 5), whole)
    first = np.concatenate([batch["video"][:, 0] for batch in whole])
    marked = int((first[:, 0, 0, 0] != first[:, 4, 4, 0]).sum())
    assert 1 <= marked <= 18  # of 30, a quarter are of the task that marks


@pytest.mark.parametrize("before", [1, 6])
def test_going_on_is_exact(before):
    pipeline = Pipeline(source=source("mixed", parts=2), batch_size=3, seed=4)
    iterator = pipeline.iterator()
    taken(iterator, before)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = taken(iterator, 4)
    iterator.close()
    again = pipeline.iterator()
    again.set_states([state])
    assert same(taken(again, 4), expected)


def test_a_preprocessor_with_seeds_differs_from_pass_to_pass():
    iterator = Pipeline(source=source("marked", split="one"), batch_size=6).iterator()
    marks = [
        dict(zip(batch["caption"], batch["video"][:, 0, 0, 0, 0].tolist(), strict=True))
        for batch in taken(iterator, 3)
    ]
    assert set(marks[0]) == set(marks[1]) == {f"clip number {i}" for i in range(6, 12)}
    assert marks[0] != marks[1] != marks[2]


def test_other_splits():
    batch = next(Pipeline(source=source(split="one"), batch_size=6).iterator())
    assert sorted(numbers([batch])) == list(range(6, 12))


# ---- what a feature may hold ---------------------------------------------------------------------


def test_encoded_frames_and_several_captions():
    frames = source("frames")
    assert sorted(frames.captions()) == [f"{i} {x}" for i in range(3) for x in "ab"]
    iterator = Pipeline(source=frames, batch_size=3).iterator()
    found = set()
    for batch in taken(iterator, 4):
        found |= set(batch["caption"])
        for caption, video in zip(batch["caption"], batch["video"], strict=True):
            assert 0 <= video[0, 0, 0, 0] - 10 * int(caption[0]) <= 2
    assert found == {f"{i} {x}" for i in range(3) for x in "ab"}


@pytest.mark.parametrize("values", [b" ", np.array([b"", b" "], object), np.array([0.5])])
def test_captions_that_are_none(values):
    frames = source("frames")
    elements = frames.elements(seed=0, shuffle=False, repeat=False, process=(0, 1))
    _, (where, element) = next(elements)
    element = element | {"caption": values}
    with pytest.raises(BadExample, match="no caption|is no text"):
        frames.load((where, element), np.random.default_rng(0))


def test_files_and_tokens():
    files = source("files", caption="tokens")
    assert list(files.captions()) == ["file 0", "file 1", "file 2"]
    batch = next(Pipeline(source=files, batch_size=3).iterator())
    for caption, video in zip(batch["caption"], batch["video"], strict=True):
        assert float(video.mean()) == pytest.approx(127.5 * (1 + int(caption[-1]) / 4), abs=3)


def test_images():
    pictures = source("pictures", kind="images")
    assert pictures.shape.thwc == (1, 8, 8, 3)
    batch = next(Pipeline(source=pictures, batch_size=3).iterator())
    levels = batch["video"][:, 0, 0, 0, 0].tolist()
    assert [10 * int(caption) for caption in batch["caption"]] == levels


def test_without_captions():
    batch = next(Pipeline(source=source(caption=""), batch_size=3).iterator())
    assert batch["caption"] == [""] * 3 and list(source(caption="").captions()) == [""]


def test_all_captions():
    assert list(source(parts=4).captions()) == [f"clip number {i}" for i in range(24)]


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("numbers", {"shape": VideoShape(frames=7, height=8, width=8)}, "too short: 0.75 s"),
        ("numbers", {"fps": 24}, "too short: 0.25 s"),
        ("files", {"caption": "latin"}, "its caption is not UTF-8"),
        ("files", {"caption": "tokens", "video": "broken"}, "the file is empty"),
        ("pictures", {}, "its video of shape .* is no video"),
    ],
)
def test_bad_elements_are_skipped(name, settings, reason, caplog, monkeypatch):
    monkeypatch.setattr("vidgen.data.pipeline._HOPELESS", 6)
    iterator = Pipeline(source=source(name, **settings), batch_size=3, shuffle=False).iterator()
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        with pytest.raises(ValueError, match=f"first 6 examples.*{name} train 1/1"):
            next(iterator)
    assert __import__("re").search(reason, caplog.text)
    assert next(iter(iterator.skipped)) == f"{name} train 1/1 [0]"


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "nowhere"}, r"'nowhere' .*numbers.*SeqioSource\.modules"),
        ({"split": "test"}, "numbers .*split 'test'; .* train"),
        ({"name": "mixed", "split": "test"}, "mixed .*split 'test'"),
        ({"video": "frames"}, "video is 'frames', .* numbers .*caption, video"),
        ({"caption": "text"}, "caption is 'text', .* numbers .*caption, video"),
        ({"name": "unseeded"}, "task unseeded .*: .*seed"),
        ({"kind": "audio"}, "kind .*'audio'; .*videos or images"),
        ({"fps": -1}, "fps is -1; .*positive"),
        ({"shuffle_buffer": 0}, "shuffle_buffer is 0; .*positive"),
        ({"parts": 4, "lanes": 3}, "4 parts and 3 lanes"),
        ({"shape": VideoShape(frames=1, height=4, width=4, channels=1)}, "channels is 1"),
    ],
)
def test_wrong_settings(settings, words):
    with pytest.raises(ValueError, match=words) as caught:
        source(**settings)
    assert "\n" not in str(caught.value)


def test_modules_register_tasks(tmp_path, monkeypatch, seqio):
    code = "import seqio\nseqio.MixtureRegistry.add('theirs', ['numbers'], default_rate=1.0)\n"
    (tmp_path / "tasks_of_a_user.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"'theirs' .*SeqioSource\.modules"):
        source("theirs")
    with pytest.raises(ModuleNotFoundError, match="no_such_tasks"):
        source("theirs", modules=("no_such_tasks",))
    batch = next(
        Pipeline(source=source("theirs", modules=("tasks_of_a_user",)), batch_size=6).iterator()
    )
    assert len(set(numbers([batch]))) == 6
    seqio.MixtureRegistry.remove("theirs")


def test_without_the_package(monkeypatch):
    import_seqio.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "seqio", None)
    with pytest.raises(ValueError, match=r'pip install "vidgen\[seqio\]"'):
        source()
    import_seqio.cache_clear()
