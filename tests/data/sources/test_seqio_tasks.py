"""vidgen's sources as seqio tasks: what they give, their order, and mixtures of both kinds."""

import dataclasses
import logging

import numpy as np
import pytest

from vidgen.data.pipeline import Pipeline
from vidgen.data.source import BadExample, Example, Source
from vidgen.data.sources import seqio_tasks
from vidgen.data.sources.images import Joint
from vidgen.data.sources.seqio_source import SeqioSource, import_seqio
from vidgen.sprites.sprites import Sprites
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=2, height=4, width=4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted(Source):
    """Example i has the brightness and the caption i and a random first pixel; it counts loads."""

    count: int = 20
    bad: tuple[int, ...] = ()
    shape: VideoShape = SHAPE
    loaded: list = dataclasses.field(default_factory=list)

    def __len__(self):
        return self.count

    def load(self, index, rng):
        self.loaded.append(index)
        if index in self.bad:
            raise BadExample(f"clip{index}.mp4", "too short")
        video = np.full(self.shape.thwc, index, np.uint8)
        video[0, 0] = rng.integers(256)
        return Example(video=video, caption=f"é {index}")


@pytest.fixture
def registered():
    """Registers sources under names, for one test."""
    seqio, _ = import_seqio()
    names = []

    def register(name, source, **settings):
        names.append(name)
        return seqio_tasks.register(name, source, **settings)

    yield register
    for name in names:
        seqio.TaskRegistry.remove(name)


def pairs(elements):
    found = []
    for element in elements:
        assert element["video"].shape == SHAPE.thwc and element["video"].dtype == np.uint8
        number = int(element["video"][-1, -1, -1, -1])
        assert element["caption"].decode() == f"é {number}"
        found.append((number, int(element["video"][0, 0, 0, 0])))
    return found


def dataset(task, **settings):
    return pairs(task.get_dataset(**{"split": "train"} | settings).as_numpy_iterator())


def test_a_task_of_a_source(registered):
    task = registered("counted", Counted(), split="mine")
    assert task.splits == ("mine",) and task.num_input_examples("mine") == 20
    in_order = dataset(task, split="mine", shuffle=False, seed=3)
    assert [number for number, _ in in_order] == list(range(20))
    assert dataset(task, split="mine", shuffle=False, seed=3) == in_order
    assert dataset(task, split="mine", shuffle=False, seed=4) != in_order
    shuffled = dataset(task, split="mine", seed=3)
    assert sorted(number for number, _ in shuffled) == list(range(20))
    assert [number for number, _ in shuffled] != list(range(20))
    twice = dataset(task, split="mine", shuffle=False, seed=3, num_epochs=2)
    assert twice[:20] == in_order and [n for n, _ in twice[20:]] == list(range(20))
    assert twice[20:] != in_order  # other random places in the second pass


def test_a_shard_loads_its_own_examples_alone(registered):
    seqio, _ = import_seqio()
    found = []
    for index in range(4):
        source = Counted()
        task = registered(f"shard{index}", source)
        shard = seqio.ShardInfo(index, 4)
        numbers = [number for number, _ in dataset(task, seed=1, shard_info=shard)]
        assert sorted(source.loaded) == sorted(numbers) and len(numbers) == 5
        found += numbers
    assert sorted(found) == list(range(20))


def test_bad_examples_are_left_out(registered, caplog):
    task = registered("bad", Counted(bad=(3, 17)))
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        found = dataset(task, shuffle=False)
    assert [n for n, _ in found] == [n for n in range(20) if n not in (3, 17)]
    assert "skipped clip3.mp4: too short" in caplog.text


def test_round_trip(registered):
    """A source, as a task, as a source."""
    registered("round", Counted())
    stream = SeqioSource(name="round", shape=SHAPE, parts=5)
    iterator = Pipeline(source=stream, batch_size=10).iterator()
    batches = [next(iterator) for _ in range(4)]
    captions = [caption for batch in batches for caption in batch["caption"]]
    assert sorted(captions[:20]) == sorted(captions[20:]) == sorted(f"é {n}" for n in range(20))
    assert captions[:20] != captions[20:]
    for batch in batches:
        assert [f"é {n}" for n in batch["video"][:, -1, -1, -1, -1]] == batch["caption"]


def test_sprites_in_a_mixture_with_a_task_of_seqio(registered):
    """The mixture that the other module reads, and seqio's own get_dataset."""
    seqio, tf = import_seqio()
    sprites = Sprites(shape=SHAPE)
    registered("sprites", sprites)
    task = registered("counted", Counted())
    values = {"video": np.full((6, *SHAPE.thwc), 7, np.uint8), "caption": ["theirs"] * 6}
    plain = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(values),
        splits=["train"],
    )
    seqio.TaskRegistry.add("plain", plain, preprocessors=[], output_features=task.output_features)
    seqio.MixtureRegistry.add("both", [("plain", 1.0), ("sprites", 1.0), ("counted", 2.0)])
    try:
        stream = SeqioSource(name="both", shape=SHAPE, parts=2)
        iterator = Pipeline(source=stream, batch_size=40).iterator()
        captions = next(iterator)["caption"] + next(iterator)["caption"]
        theirs = captions.count("theirs")
        ours = sum(caption.startswith("é ") for caption in captions)
        rest = [c for c in captions if c != "theirs" and not c.startswith("é ")]
        assert 8 <= theirs <= 34 and 26 <= ours <= 54 and 8 <= len(rest) <= 34
        assert all(sprites.parse_caption(caption)[1] in sprites.motions for caption in rest)
        mixed = seqio.get_mixture_or_task("both").get_dataset(split="train", seed=1, num_epochs=1)
        found = {x["caption"].decode() for x in mixed.take(12).as_numpy_iterator()}
        assert found & {"theirs"} and any(caption.startswith("é ") for caption in found)
    finally:
        seqio.MixtureRegistry.remove("both")
        seqio.TaskRegistry.remove("plain")


def test_what_is_refused(registered):
    joint = Joint(
        videos=Sprites(shape=SHAPE), images=Sprites(shape=SHAPE, stills=True), image_rate=0.5
    )
    with pytest.raises(ValueError, match="joint .* 2 captions"):
        seqio_tasks.register("joint", joint)
    registered("twice", Counted())
    with pytest.raises(ValueError, match="duplicate|already|twice"):
        seqio_tasks.register("twice", Counted())
