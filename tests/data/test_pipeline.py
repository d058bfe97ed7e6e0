"""Order, sharding, resume and bad examples of the input pipeline.

Tests of vidgen/data/positions.py, vidgen/data/source.py too.
"""

import dataclasses
import json
import logging
import multiprocessing
import tarfile

import numpy as np
import pytest
from places import HELPERS

from vidgen.data.pipeline import Pipeline
from vidgen.data.source import BadExample, Example, Source
from vidgen.data.sources.images import Joint
from vidgen.data.video.encode import write_video
from vidgen.sprites.sprites import Sprites
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=2, height=4, width=4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers(Source):
    """Example i has the caption str(i); the first pixel is random; `bad` ones are unusable."""

    shape: VideoShape = SHAPE
    count: int = 10
    bad: tuple[int, ...] = ()

    def __len__(self):
        return self.count

    def load(self, index, rng):
        if index in self.bad:
            raise BadExample(f"clip{index}.mp4", "too short")
        video = np.full(self.shape.thwc, index, np.uint8)
        video[0, 0, 0, 0] = rng.integers(256)
        return Example(video=video, caption=str(index))


def _take(iterator, count):
    return [next(iterator) for _ in range(count)]


def _same(one, two):
    return all(
        np.array_equal(a["video"], b["video"])
        and a["caption"] == b["caption"]
        and np.array_equal(a["independent_frames"], b["independent_frames"])
        for a, b in zip(one, two, strict=True)
    )


def _joined(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} | {
        "caption": [caption for part in parts for caption in part["caption"]]
    }


def test_batches_of_sprites():
    shape = VideoShape(frames=4, height=16, width=24)
    source = Sprites(shape=shape)
    assert isinstance(source, Source)
    pipeline = Pipeline(source=source, batch_size=6)
    assert pipeline.captions_per_clip == 1
    batch = next(pipeline.iterator())
    assert batch["video"].shape == (6, 4, 16, 24, 3) and batch["video"].dtype == np.uint8
    assert batch["independent_frames"].dtype == bool and not batch["independent_frames"].any()
    for caption in batch["caption"]:
        assert source.parse_caption(caption)[1] in source.motions


def joint_sprites(image_rate=0.4):
    return Joint(
        videos=Sprites(shape=SHAPE),
        images=Sprites(shape=SHAPE, stills=True),
        image_rate=image_rate,
    )


def test_a_joint_source_has_a_caption_for_every_frame_of_every_example():
    """A video's own is repeated, so that all batches have one form."""
    source = joint_sprites()
    pipeline = Pipeline(source=source, batch_size=16)
    assert pipeline.captions_per_clip == 2
    batch = next(pipeline.iterator())
    assert set(batch["independent_frames"]) == {True, False}
    for captions, independent in zip(batch["caption"], batch["independent_frames"], strict=True):
        assert len(captions) == 2
        motions = {source.videos.parse_caption(caption)[1] for caption in captions}
        assert (motions == {None}) == independent
        assert independent or len(set(captions)) == 1


def test_a_source_that_miscounts_its_captions_is_explained():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Wrong(Numbers):
        captions_per_clip: int = 3

        def load(self, index, rng):
            return dataclasses.replace(super().load(index, rng), caption=("one", "two"))

    with pytest.raises(ValueError, match=r"2 captions .* 3 \(captions_per_clip\)"):
        next(Pipeline(source=Wrong(), batch_size=2).iterator())


def test_one_pass_shows_everything_once_in_an_order_of_its_own():
    pipeline = Pipeline(source=Numbers(), batch_size=5)
    captions = [c for batch in _take(pipeline.iterator(), 4) for c in batch["caption"]]
    everything = sorted(map(str, range(10)))
    assert sorted(captions[:10]) == sorted(captions[10:]) == everything
    assert captions[:10] != captions[10:]
    other = Pipeline(source=Numbers(), batch_size=5, seed=1).iterator()
    assert [c for batch in _take(other, 4) for c in batch["caption"]] != captions


def test_without_shuffle_and_repeat():
    pipeline = Pipeline(source=Numbers(), batch_size=4, shuffle=False, repeat=False)
    captions = [batch["caption"] for batch in pipeline.iterator()]
    assert captions == [["0", "1", "2", "3"], ["4", "5", "6", "7"]]


def test_iterators_are_reproducible_and_random_per_visit():
    pipeline = Pipeline(source=Numbers(count=4), batch_size=4)
    assert _same(_take(pipeline.iterator(), 3), _take(pipeline.iterator(), 3))
    first, second = _take(pipeline.iterator(), 2)
    noise = [
        dict(zip(b["caption"], b["video"][:, 0, 0, 0, 0], strict=True)) for b in (first, second)
    ]
    assert noise[0] != noise[1]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_load_blocks_of_the_batches_of_one(processes):
    whole = Pipeline(source=Numbers(count=16), batch_size=8)
    parts = [whole.iterator(process=(p, processes)) for p in range(processes)]
    for batch in _take(whole.iterator(), 4):
        assert _same([_joined([next(part) for part in parts])], [batch])


@pytest.mark.parametrize("repeat", [True, False])
def test_what_is_left_of_a_pass_is_shared_too(repeat):
    """20 examples in batches of 8: the last block of the first pass, or what is dropped."""
    whole = Pipeline(source=Numbers(count=20), batch_size=8, repeat=repeat)
    parts = [whole.iterator(process=(p, 2)) for p in range(2)]
    if not repeat:
        assert [len(list(part)) for part in (*parts, whole.iterator())] == [2, 2, 2]
        return
    for batch in _take(whole.iterator(), 6):
        assert _same([_joined([next(part) for part in parts])], [batch])


@pytest.mark.parametrize("before", [1, 2, 4])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_any_number_of_processes_goes_on(before, after):
    whole = Pipeline(source=Numbers(count=20), batch_size=8)
    expected = _take(whole.iterator(), 7)
    old = [whole.iterator(process=(p, before)) for p in range(before)]
    for part in old:
        _take(part, 3)
    states = json.loads(json.dumps([part.get_state() for part in old]))
    new = [whole.iterator(process=(p, after)) for p in range(after)]
    for part in new:
        part.set_states(states)
    for batch in expected[3:]:
        assert _same([_joined([next(part) for part in new])], [batch])


def test_after_bad_examples_all_go_on_from_the_furthest_process():
    whole = Pipeline(source=Numbers(count=16, bad=(3, 9)), batch_size=4, shuffle=False)
    old = [whole.iterator(process=(p, 2)) for p in range(2)]
    seen = [c for part in old for batch in _take(part, 2) for c in batch["caption"]]
    assert seen == ["0", "1", "4", "5", "2", "6", "7", "10"]  # 3 is bad: further by one
    one = whole.iterator()
    one.set_states([part.get_state() for part in old])
    assert next(one)["caption"] == ["11", "12", "13", "14"]  # 8, which nobody has seen, is lost


def test_another_batch_size_goes_on_too():
    settings = {"source": Numbers(count=64)}
    captions = [
        c for b in _take(Pipeline(**settings, batch_size=8).iterator(), 4) for c in b["caption"]
    ]
    old = Pipeline(**settings, batch_size=8).iterator()
    _take(old, 2)
    new = Pipeline(**settings, batch_size=4).iterator()
    new.set_states([old.get_state()])
    assert [c for batch in _take(new, 4) for c in batch["caption"]] == captions[16:]


def test_a_position_of_something_else_is_refused():
    iterator = Pipeline(source=Numbers(), batch_size=2).iterator()
    with pytest.raises(ValueError, match="position .*INIT_FROM"):
        iterator.set_states([{"next_index": 3}])


@pytest.mark.parametrize("bad", [(), (1, 4)], ids=["good", "some bad"])
def test_resume_is_exact(bad):
    pipeline = Pipeline(source=Numbers(bad=bad), batch_size=3)
    iterator = pipeline.iterator()
    _take(iterator, 5)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = _take(iterator, 4)
    fresh = pipeline.iterator()
    fresh.set_states([state])
    assert _same(_take(fresh, 4), expected)
    iterator.set_states([state])  # going back works too
    assert _same(_take(iterator, 4), expected)


def test_workers_change_nothing():
    """Two worker processes: same batches, same skips, exact resume, also of a run without any."""
    settings = {"source": joint_sprites(0.2), "batch_size": 5}
    alone = Pipeline(**settings).iterator()
    expected = _take(alone, 3)
    without = alone.get_state()
    expected += _take(alone, 3)
    pipeline = Pipeline(**settings, workers=2)
    iterator = pipeline.iterator()
    assert _same(_take(iterator, 3), expected[:3])
    state = json.loads(json.dumps(iterator.get_state()))
    assert _same(_take(iterator, 1), expected[3:4])
    assert state == without
    iterator.set_states([state])
    assert _same(_take(iterator, 3), expected[3:])
    iterator.close()


def test_a_worker_that_is_killed_is_reported():
    iterator = Pipeline(source=joint_sprites(0.2), batch_size=5, workers=1).iterator()
    next(iterator)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(ChildProcessError, match=r"worker .*exit code -9.*Pipeline\.workers"):
        _take(iterator, 1000)
    iterator.close()


def test_bad_examples_are_skipped_counted_and_named_once(caplog):
    pipeline = Pipeline(source=Numbers(bad=(2, 5)), batch_size=4)
    iterator = pipeline.iterator()
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        captions = {c for batch in _take(iterator, 8) for c in batch["caption"]}
    assert captions == set("01346789")
    assert set(iterator.skipped) == {"clip2.mp4", "clip5.mp4"}
    assert iterator.skipped["clip2.mp4"] >= 3
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert sum("clip2.mp4: too short" in message for message in messages) == 1


@pytest.mark.parametrize("repeat", [True, False])
def test_a_source_without_one_good_example_is_an_error(repeat):
    pipeline = Pipeline(source=Numbers(bad=tuple(range(10))), batch_size=4, repeat=repeat)
    with pytest.raises(ValueError, match="first 10 examples of Numbers.* too short"):
        next(pipeline.iterator())


def test_wrong_settings_are_explained():
    with pytest.raises(ValueError, match=r"batch_size is 6, which 4 processes .* 8\)"):
        Pipeline(source=Numbers(), batch_size=6).iterator(process=(0, 4))
    with pytest.raises(ValueError, match="process is"):
        Pipeline(source=Numbers(), batch_size=6).iterator(process=(2, 2))
    with pytest.raises(ValueError, match="batch_size is 0"):
        Pipeline(source=Numbers(), batch_size=0)
    with pytest.raises(ValueError, match="empty"):
        Pipeline(source=Numbers(count=0), batch_size=1)


def test_a_crop_is_one_window_over_all_frames():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Coordinates(Numbers):
        """Every pixel says where it is: (frame, row, column)."""

        def load(self, index, rng):
            grid = np.indices(self.shape.thwc[:3]).astype(np.uint8)
            return Example(video=np.moveaxis(grid, 0, -1), caption="")

    shape = VideoShape(frames=3, height=10, width=12)
    crop = VideoShape(frames=3, height=4, width=6)
    found = next(Pipeline(source=Coordinates(shape=shape), batch_size=64, crop=crop).iterator())
    video = found["video"].astype(int)
    corners = video[:, 0, 0, 0]
    expected = np.moveaxis(np.indices(crop.thwc[:3]), 0, -1)
    np.testing.assert_array_equal(
        video - corners[:, None, None, None], expected[None].repeat(64, 0)
    )
    assert {tuple(c[1:]) for c in corners} <= set(np.ndindex(7, 7))
    assert corners[:, 1].max() == 6 and corners[:, 2].max() == 6 and corners[:, 1:].min() == 0
    with pytest.raises(ValueError, match="3x10x12.*3x4x6"):
        Pipeline(source=Coordinates(shape=crop), batch_size=1, crop=shape)


# ---- memory --------------------------------------------------------------------------------------

FLAT = 10_000  # bytes a clip; the leaking source keeps 80,000, and a clip itself is 12,288


@pytest.fixture(scope="module")
def many_kinds(tmp_path_factory):
    """Clips of every kind in a folder and in shards, two bad ones among them."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "clips").mkdir()
    video = np.random.default_rng(0).uniform(-1, 1, (8, 16, 16, 3)).astype(np.float32)
    for name in ("a.mp4", "b.webm", "c.gif", "d.webp"):
        write_video(folder / "clips" / name, video, 8, min_side=0)
    (folder / "clips" / "e.mp4").write_bytes((folder / "clips" / "a.mp4").read_bytes()[:900])
    (folder / "clips" / "f.webp").write_bytes((folder / "clips" / "d.webp").read_bytes()[:900])
    for path in sorted((folder / "clips").iterdir()):
        path.with_suffix(".txt").write_text(path.name)
    for number in range(3):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for path in sorted((folder / "clips").iterdir()):
                tar.add(path, path.name)
    return folder


@pytest.mark.parametrize("kind", ["folder", "tar", "leaking"])
def test_memory_stays_flat(warm, many_kinds, tmp_path, kind):
    """In a process of its own: one that has let go of much grows into that, unseen."""
    script = HELPERS / "memory_of_loading.py"
    done = warm(script, many_kinds, kind, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    growth = int(done.stdout)
    # The measurement sees a leak where there is one.
    assert growth > FLAT if kind == "leaking" else growth < FLAT
