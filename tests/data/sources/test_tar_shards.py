"""Tar shards in the layouts of WebDataset: what is found, how it is read, what is refused.

Tests of vidgen/data/sources/tar_index.py too.
"""

import io
import json
import logging
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vidgen import paths
from vidgen.data.pipeline import Pipeline
from vidgen.data.source import BadExample, Source
from vidgen.data.sources import tar_index, tar_shards
from vidgen.data.sources.tar_shards import TarShards
from vidgen.data.video.encode import write_video
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=4, height=16, width=16, fps=8.0)


@pytest.fixture(autouse=True)
def _own_index(tmp_path, monkeypatch):
    """No index of another test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    tar_index.read_index.cache_clear()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """An mp4 of a brightness, as bytes."""
    folder, made = tmp_path_factory.mktemp("clips"), {}

    def make(brightness):
        if brightness not in made:
            path = folder / f"{brightness}.mp4"
            write_video(path, np.full((8, 16, 16, 3), brightness, np.float32), 8, min_side=0)
            made[brightness] = path.read_bytes()
        return made[brightness]

    return make


def picture(value, kind="png"):
    stream = io.BytesIO()
    Image.new("RGB", (24, 16), (value,) * 3).save(stream, kind)
    return stream.getvalue()


SMALL = picture(90)


def write(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def mean(example):
    return float(example.video.mean())


def test_shards_that_were_replaced(tmp_path, monkeypatch):
    """And shards of the same relative path in another folder."""
    for folder, values in (("a", [10]), ("b", [20, 30]), ("a", [40, 50, 60])):
        shards = tmp_path / folder / "00000.tar"
        write(
            shards,
            [
                x
                for i, v in enumerate(values)
                for x in ((f"{i}.png", picture(v)), (f"{i}.txt", f"grey {v}"))
            ],
        )
        monkeypatch.chdir(tmp_path / folder)
        source = TarShards(path="00000.tar", shape=SHAPE, kind="images")
        rng = np.random.default_rng(0)
        assert [source.load(i, rng).caption for i in range(len(source))] == [
            f"grey {value}" for value in values
        ]


def test_video2dataset(tmp_path, clip):
    """Captions from .txt, else from .json; members of a sample in any order."""
    for number in range(2):
        first = number * 2
        write(
            tmp_path / f"{number:05}.tar",
            [
                (f"{first:09}.json", json.dumps({"caption": "not this", "fps": 8})),
                (f"{first:09}.txt", f"  clip\n{first} "),
                (f"{first:09}.mp4", clip(first / 4)),
                ("notes/readme", "of no sample"),
                (f"deep/{first + 1:09}.MP4", clip((first + 1) / 4)),
                (f"deep/{first + 1:09}.json", json.dumps({"caption": f"clip {first + 1}"})),
            ],
        )
    source = TarShards(path=str(tmp_path), shape=SHAPE)
    assert isinstance(source, Source) and len(source) == 4
    for index in range(4):
        example = source.load(index, np.random.default_rng(0))
        assert example.caption == f"clip {index}" and example.video.shape == SHAPE.thwc
        assert mean(example) == pytest.approx(127.5 + index / 4 * 127.5, abs=3)
    same = TarShards(path=str(tmp_path / "{00000..00001}.tar"), shape=SHAPE)
    assert same.shards == source.shards == TarShards(path=f"{tmp_path}/*.tar", shape=SHAPE).shards
    keyed = TarShards(path=str(tmp_path), shape=SHAPE, caption_key="fps")
    assert keyed.load(0, np.random.default_rng(0)).caption == "clip 0"


def test_laion(tmp_path):
    """img2dataset: pictures of any kind; a shard may hold both kinds of content."""
    members = []
    for number, kind in enumerate(("jpg", "png", "webp")):
        members += [(f"{number:09}.{kind}", picture(50 * number, kind.replace("jpg", "jpeg")))]
        members += [(f"{number:09}.json", json.dumps({"caption": f"picture {number}"}))]
    write(tmp_path / "a.tar", members)
    source = TarShards(path=str(tmp_path / "a.tar"), shape=SHAPE, kind="images")
    assert source.shape.frames == 1 and len(source) == 3
    for index in range(3):
        example = source.load(index, np.random.default_rng(0))
        assert example.caption == f"picture {index}" and example.video.shape == (1, 16, 16, 3)
        assert mean(example) == pytest.approx(50 * index, abs=2)
    write(tmp_path / "b.tar", members[:2])
    with pytest.raises(FileNotFoundError, match=r"b\.tar: .*no videos"):
        TarShards(path=str(tmp_path / "b.tar"), shape=SHAPE)


def test_samples_without_a_caption(tmp_path, clip, caplog):
    members = [("a.mp4", clip(0.0)), ("b.mp4", clip(0.5)), ("b.txt", "told"), ("c.mp4", clip(0.0))]
    write(tmp_path / "a.tar", [*members, ("c.txt", "")])
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        source = TarShards(path=str(tmp_path), shape=SHAPE)
    assert len(source) == 1 and source.load(0, np.random.default_rng(0)).caption == "told"
    assert "2 samples" in caplog.text and "skipped" in caplog.text
    every = TarShards(path=str(tmp_path), shape=SHAPE, missing_captions="empty")
    assert [every.load(i, np.random.default_rng(0)).caption for i in range(3)] == ["", "told", ""]


def test_an_index_is_made_once_and_anew_for_another_file(tmp_path, clip, monkeypatch):
    path = write(tmp_path / "a.tar", [("a.mp4", clip(0.0)), ("a.txt", "first")])
    assert len(TarShards(path=str(path), shape=SHAPE)) == 1
    tar_index.read_index.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(tar_index, "_members", None)  # a second look does not read the shard
        assert len(TarShards(path=str(path), shape=SHAPE)) == 1
    write(path, [("a.mp4", clip(0.0)), ("a.txt", "first"), ("b.mp4", clip(0.5)), ("b.txt", "more")])
    tar_index.read_index.cache_clear()
    assert len(TarShards(path=str(path), shape=SHAPE, index_dir=str(tmp_path / "own"))) == 2
    assert len(list((tmp_path / "own").iterdir())) == 1


def pictures(folder, shards, uncaptioned=()):
    """Shards of two pictures each, the second without a caption in some."""
    for number in range(shards):
        members = [("a.png", SMALL), ("a.txt", f"{number} a"), ("b.png", SMALL)]
        members += [] if number in uncaptioned else [("b.txt", f"{number} b")]
        write(folder / f"{number:03}.tar", members)
    return str(folder / f"{{000..{shards - 1:03}}}.tar")


def test_many_shards_are_counted_once(tmp_path, monkeypatch, caplog):
    """A thousand hosts start again: none opens all indices, and one that changed is seen."""
    settings = {"shape": SHAPE, "kind": "images", "index_dir": str(tmp_path / "index")}
    path = pictures(tmp_path / "shards", 5, uncaptioned=[3])
    write(tmp_path / "shards" / "004.tar", [("a.png", SMALL), ("a.txt", "4 a"), ("of.no", "x")])
    first = TarShards(path=path, **settings)
    assert len(first) == 8
    warnings = caplog.text
    caplog.clear()
    opened, read = [], tar_shards.read_index
    monkeypatch.setattr(tar_shards, "read_index", lambda *a: opened.append(a[0]) or read(*a))
    again = TarShards(path=path, **settings)
    assert len(again) == 8 and [name[-7:] for name in opened] == ["004.tar"]  # named in a warning
    assert "1 samples" in warnings and "1 samples" in caplog.text
    assert again.load(5, np.random.default_rng(0)).caption == "2 b"
    empty = TarShards(path=path, missing_captions="empty", **settings)
    assert len(empty) == 9 and {name[-7:] for name in opened} == {"002.tar", "004.tar"}
    write(tmp_path / "shards" / "001.tar", [("a.png", SMALL), ("a.txt", "1 a")])
    assert len(TarShards(path=path, **settings)) == 7


def test_an_example_is_one_row_of_the_index(tmp_path, monkeypatch):
    """Where all samples have captions, no index is read whole for an example."""
    source = TarShards(path=pictures(tmp_path, 2), shape=SHAPE, kind="images")
    monkeypatch.setattr(tar_shards, "has_caption", None)
    captions = [source.load(i, np.random.default_rng(0)).caption for i in range(4)]
    assert captions == ["0 a", "0 b", "1 a", "1 b"]


def test_batches_do_not_depend_on_processes(tmp_path, clip):
    for number in range(3):
        names = [f"{number}{i}" for i in range(2)]
        write(
            tmp_path / f"{number}.tar",
            [m for n in names for m in ((f"{n}.mp4", clip(0.0)), (f"{n}.txt", n))],
        )
    pipeline = Pipeline(source=TarShards(path=str(tmp_path), shape=SHAPE), batch_size=2, seed=3)
    one = pipeline.iterator()
    whole = [next(one)["caption"] for _ in range(6)]
    halves = [pipeline.iterator(process=(p, 2)) for p in range(2)]
    parts = [[next(half)["caption"][0] for half in halves] for _ in range(6)]
    assert parts == whole
    assert sorted(sum(whole[:3], [])) == ["00", "01", "10", "11", "20", "21"]
    again = pipeline.iterator()
    next(again)
    state = again.get_state()
    following = next(again)["caption"]
    third = pipeline.iterator()
    third.set_states([state])
    assert next(third)["caption"] == following == whole[1]


# ---- bad data ------------------------------------------------------------------------------------


def test_a_cut_tar_gives_what_is_whole(tmp_path, clip, caplog):
    members = [("a.mp4", clip(0.0)), ("a.txt", "first"), ("b.mp4", clip(0.5)), ("b.txt", "second")]
    path = write(tmp_path / "a.tar", members)
    data = path.read_bytes()
    second = data.rindex(clip(0.5))
    for end in (second + 700, second - 100):  # inside a file, inside a header
        path.write_bytes(data[:end])
        caplog.clear()
        tar_index.read_index.cache_clear()
        with caplog.at_level(logging.WARNING, logger="vidgen"):
            source = TarShards(path=str(tmp_path), shape=SHAPE)
        assert len(source) == 1 and source.load(0, np.random.default_rng(0)).caption == "first"
        assert "is cut" in caplog.text


def test_bad_samples_are_skipped_and_named(tmp_path, clip, caplog):
    members = [("good.mp4", clip(0.0)), ("good.txt", "good")]
    members += [("broken.mp4", clip(0.5)[:300]), ("broken.txt", "broken")]
    members += [("empty.mp4", b""), ("empty.txt", "empty")]
    members += [("latin.mp4", clip(0.5)), ("latin.txt", "caf\xe9".encode("latin-1"))]
    members += [("list.mp4", clip(0.5)), ("list.json", "[1, 2]")]
    members += [("key.mp4", clip(0.5)), ("key.json", '{"text": "other key"}')]
    write(tmp_path / "a.tar", members)
    source = TarShards(path=str(tmp_path), shape=SHAPE)
    assert len(source) == 6
    iterator = Pipeline(source=source, batch_size=2, seed=0).iterator()
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        for _ in range(4):
            assert set(next(iterator)["caption"]) == {"good"}
    for name in ("broken", "empty", "latin", "list", "key"):
        assert f"a.tar/{name}.mp4" in caplog.text
    assert len(iterator.skipped) == 5


def test_a_shard_that_shrinks_or_goes(tmp_path, clip):
    path = write(tmp_path / "a.tar", [("a.mp4", clip(0.0)), ("a.txt", "first")])
    source = TarShards(path=str(path), shape=SHAPE)
    assert len(source) == 1
    source._rows(0)  # as it was
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(BadExample, match=r"a\.tar/a\.mp4: .*shorter"):
        tar_shards._bytes(str(path), "a.tar/a.mp4", 512, 2000)
    path.unlink()
    with pytest.raises(BadExample, match=r"a\.tar/a\.mp4: .*No such file"):
        tar_shards._bytes(str(path), "a.tar/a.mp4", 512, 2000)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: (path / "x.txt").write_text("x")])
def test_no_shards(tmp_path, make):
    make(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: .*no tar"):
        TarShards(path=str(tmp_path), shape=SHAPE)


def test_a_missing_shard_is_named(tmp_path, clip):
    write(tmp_path / "00.tar", [("a.mp4", clip(0.0)), ("a.txt", "first")])
    with pytest.raises(FileNotFoundError, match=r"no shard .*01\.tar and 1 more"):
        TarShards(path=str(tmp_path / "{00..02}.tar"), shape=SHAPE)


def test_what_is_no_tar(tmp_path, clip):
    (tmp_path / "a.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match=r"a\.tar .*no tar"):
        TarShards(path=str(tmp_path), shape=SHAPE)
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(ValueError, match=r"a\.tar .*compressed"):
        TarShards(path=str(tmp_path), shape=SHAPE)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "audio"}, r"TarShards\.kind .*'audio'; .*videos or images"),
        ({"missing_captions": "keep"}, "missing_captions .*'keep'; .*skip or empty"),
        ({"shape": VideoShape(frames=1, height=4, width=4, channels=1)}, "channels is 1"),
    ],
)
def test_wrong_settings(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        TarShards(**{"path": str(tmp_path), "shape": SHAPE} | settings)


# ---- any layout ----------------------------------------------------------------------------------

KEYS = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="./"), max_size=90
)
FOLDERS = st.sampled_from(["", "a/", "./", "deep/er/", "é" * 60 + "/"])
WORDS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=40)
FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


@given(
    names=st.lists(st.tuples(FOLDERS, KEYS.filter(str.strip)), max_size=8, unique=True),
    words=WORDS.filter(str.strip),
    kind=FORMATS,
    order=st.randoms(use_true_random=False),
)
def test_tars_of_any_layout(tmp_path_factory, names, words, kind, order):
    """Members of all samples in any order, long names, scripts, folders and other files between."""
    members = [("readme.txt", b"of no sample"), ("LICENSE", b""), ("a.b/.hidden", b"x")]
    for number, (folder, key) in enumerate(names):
        caption = f"{number} {words}"
        text = json.dumps({"caption": caption}) if number % 2 else caption
        members += [(f"{folder}{key}.png", SMALL)]
        members += [(f"{folder}{key}{'.json' if number % 2 else '.txt'}", text.encode())]
    order.shuffle(members)
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    with tarfile.open(path, "w", format=kind, errors="surrogateescape") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            try:
                tar.addfile(info, io.BytesIO(data))
            except ValueError:  # ustar has no room for such a name
                return
    if not names:
        with pytest.raises(FileNotFoundError, match=r"a\.tar: .*no images"):
            TarShards(path=str(path), shape=SHAPE, kind="images")
        return
    source = TarShards(path=str(path), shape=SHAPE, kind="images")
    found = [source.load(i, np.random.default_rng(0)) for i in range(len(source))]
    wanted = sorted(" ".join(f"{i} {words}".split()) for i in range(len(names)))
    assert sorted(example.caption for example in found) == wanted == sorted(source.captions())
    assert all((example.video == 90).all() for example in found)


@given(st.data())
def test_a_damaged_tar_is_read_in_part_or_refused(tmp_path_factory, data):
    """Bits that flip, and an end that is lost: ValueError, BadExample or what is whole."""
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    members = [m for n in range(3) for m in ((f"{n}.png", SMALL), (f"{n}.txt", f"picture {n}"))]
    whole = bytearray(write(path, members).read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        source = TarShards(path=str(path), shape=SHAPE, kind="images")
    except (ValueError, FileNotFoundError) as error:
        assert str(path) in str(error)
        return
    for index in range(len(source)):
        try:
            example = source.load(index, np.random.default_rng(0))
        except BadExample:
            continue
        assert example.video.shape == (1, 16, 16, 3) and example.caption


def test_names_that_are_no_text(tmp_path, clip):
    """A key of bytes that are no UTF-8, and one whose last 64 bytes begin within a character."""
    names = [b"caf\xe9".decode("utf-8", "surrogateescape"), "é" * 40 + "a"]
    write(tmp_path / "a.tar", [m for n in names for m in ((f"{n}.mp4", b"x"), (f"{n}.txt", n[:1]))])
    source = TarShards(path=str(tmp_path), shape=SHAPE)
    assert len(source) == 2
    for index in range(2):
        with pytest.raises(BadExample, match="a.tar/.*mp4: cannot be"):
            source.load(index, np.random.default_rng(0))


def test_captions_that_are_none(tmp_path, clip):
    members = []
    for number, text in enumerate((" \n", '{"caption": null}', '{"caption": " "}', "[" * 100_000)):
        suffix = "txt" if number == 0 else "json"
        members += [(f"{number}.mp4", clip(0.0)), (f"{number}.{suffix}", text)]
    write(tmp_path / "a.tar", members)
    source = TarShards(path=str(tmp_path), shape=SHAPE)
    for index in range(4):
        why = "its caption is blank" if index < 3 else "its caption cannot be read"
        with pytest.raises(BadExample, match=f"a.tar/{index}.mp4: {why}"):
            source.load(index, np.random.default_rng(0))
    every = TarShards(path=str(tmp_path), shape=SHAPE, missing_captions="empty")
    assert every.load(1, np.random.default_rng(0)).caption == ""


# ---- several captions, dots in names, what is passed over ----------------------------------------


def shard(tmp_path, **members):
    """A shard of pictures and texts, "__" for a dot in their names."""
    named = [(name.replace("__", "."), data) for name, data in members.items()]
    return str(write(tmp_path / "a.tar", named))


def images(path, **settings):
    """The captions of each image that is used."""
    source = TarShards(path=path, shape=SHAPE, kind="images", **settings)
    found = {}
    for index in range(len(source)):
        try:
            example = source.load(index, np.random.default_rng(0))
        except BadExample as bad:
            found[bad.path.rpartition("/")[2]] = bad.reason
        else:
            all_of_it = example.captions or (example.caption,)
            found[source._used(0)[index]["key"].decode()] = all_of_it
    return found


def test_a_list_is_several_captions(tmp_path):
    texts = ["a dog runs", "a brown dog", "a dog  runs"]
    path = shard(tmp_path, a__png=SMALL, a__json=json.dumps({"caption": texts}))
    source = TarShards(path=path, shape=SHAPE, kind="images")
    drawn = {source.load(0, np.random.default_rng(n)).caption for n in range(20)}
    assert drawn == {"a dog runs", "a brown dog"} == set(source.captions())
    assert source.load(0, np.random.default_rng(9)).first_caption == "a dog runs"


@pytest.mark.parametrize("missing", ["skip", "empty"])
@pytest.mark.parametrize("value", ["7", "true", '{"en": "x"}', '["x", null]', '["x", 1]'])
def test_what_is_no_text_costs_one_sample(tmp_path, value, missing):
    entry = f'{{"caption": {value}}}'
    path = shard(tmp_path, a__png=SMALL, a__json=entry, b__png=SMALL, b__txt="good")
    found = images(path, missing_captions=missing)
    assert found["b"] == ("good",) and "not text" in found["a.png"]


@pytest.mark.parametrize("value", ["null", "NaN", '""', "[]"])
def test_nothing_is_no_caption(tmp_path, value):
    path = shard(tmp_path, a__png=SMALL, a__json=f'{{"caption": {value}}}')
    assert images(path) == {"a.png": "its caption is blank"}
    assert images(path, missing_captions="empty") == {"a": ("",)}


def test_a_blank_text_hides_no_json(tmp_path):
    entry = '{"caption": "of the json"}'
    path = shard(
        tmp_path,
        a__png=SMALL,
        a__txt=" \n",
        a__json=entry,
        b__png=SMALL,
        b__txt="own",
        b__json=entry,
    )
    assert images(path) == {"a": ("of the json",), "b": ("own",)}


def test_names_with_dots(tmp_path, caplog):
    path = shard(
        tmp_path,
        **{"clip__v1__png": SMALL, "clip__v1__txt": "one", "clip__v2__png": SMALL},
        **{"clip__v2__json": '{"caption": "two"}', "x__0__5s__PNG": SMALL, "x__0__5s__TXT": "half"},
        **{"view__front__png": SMALL, "view__json": '{"caption": "shared"}'},
        **{"e\u0301__png": SMALL, "\u00e9__txt": "composed"},
    )
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        found = images(path)
    names = {"clip.v1": "one", "clip.v2": "two", "x.0.5s": "half", "view.front": "shared"}
    assert found == {name: (text,) for name, text in (names | {"\u00e9": "composed"}).items()}
    assert "passed over" not in caplog.text


def test_several_members_of_a_key_need_captions_of_their_own(tmp_path, caplog):
    members = {"a__png": SMALL, "a__txt": "whole", "a__mask__png": SMALL}
    members |= {"b__left__png": SMALL, "b__right__png": SMALL, "b__txt": "which?"}
    members |= {"c__left__png": SMALL, "c__right__png": SMALL, "c__left__txt": "left"}
    path = shard(tmp_path, **members)
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        assert images(path) == {"a": ("whole",), "c.left": ("left",)}
    assert f"4 files in {path} are passed over, e.g. {path}/a.mask.png" in caplog.text
    assert "1 samples in" in caplog.text  # c.right, whose key has no caption at all
    only = shard(tmp_path, **{n: d for n, d in members.items() if n[0] == "b"})
    with pytest.raises(FileNotFoundError, match=r"3 files .*b\.left\.png"):
        TarShards(path=only, shape=SHAPE, kind="images")


def test_files_that_a_shard_has_for_others_are_counted(tmp_path, caplog):
    path = shard(
        tmp_path, a__png=SMALL, a__txt="x", a__cls="7", b__exr=b"x", b__txt="lost", README=""
    )
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        assert images(path) == {"a": ("x",)}
        tar_index.read_index.cache_clear()  # from the index on the disk
        assert images(path) == {"a": ("x",)}
    assert caplog.text.count(f"4 files in {path} are passed over, e.g. {path}/a.cls") == 1


# ---- object stores -------------------------------------------------------------------------------


def stored(store, tmp_path, clip, count=3):
    """Shards of two samples each, in an object store."""
    for number in range(count):
        names = [f"{number}{i}" for i in range(2)]
        members = [m for n in names for m in ((f"{n}.mp4", clip(0.5)), (f"{n}.txt", f"clip {n}"))]
        path = write(tmp_path / "made" / f"{number:03}.tar", members)
        store.put(f"shards/{number:03}.tar", path.read_bytes())
    return f"{store.url}/shards"


@pytest.mark.parametrize("pattern", ["", "/*.tar", "/{000..002}.tar"])
def test_shards_in_an_object_store(store, tmp_path, clip, pattern, monkeypatch):
    monkeypatch.setattr(paths, "_WHOLE", 0)  # as of shards of gigabytes
    path = stored(store, tmp_path, clip) + pattern
    source = TarShards(path=path, shape=SHAPE, index_dir=f"{store.url}/index")
    assert list(source.captions()) == [f"clip {i}{j}" for i in range(3) for j in range(2)]
    before = store.requests
    example = source.load(3, np.random.default_rng(0))
    assert example.caption == "clip 11" and mean(example) == pytest.approx(191, abs=3)
    assert store.requests == before + 2  # the bytes of the video, those of its caption
    assert len(paths.names_in(f"{store.url}/index")) == 4  # of each shard, and what they count


def test_an_index_of_objects_is_made_once_and_anew_for_another(store, tmp_path, clip, monkeypatch):
    path = stored(store, tmp_path, clip, count=1)
    assert len(TarShards(path=path, shape=SHAPE)) == 2
    tar_index.read_index.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(tar_index, "_members", None)  # a second look does not read the shard
        assert len(TarShards(path=path, shape=SHAPE)) == 2
    more = write(tmp_path / "b.tar", [("a.mp4", clip(0.0)), ("a.txt", "one")])
    store.put("shards/000.tar", more.read_bytes())
    tar_index.read_index.cache_clear()
    assert len(TarShards(path=path, shape=SHAPE)) == 1


def test_objects_that_are_missing_or_fail(store, tmp_path, clip):
    path = stored(store, tmp_path, clip, count=2)
    with pytest.raises(FileNotFoundError, match=r"no shard .*/002\.tar and 1 more"):
        TarShards(path=path + "/{000..003}.tar", shape=SHAPE)
    with pytest.raises(FileNotFoundError, match="/nowhere: .*no tar"):
        TarShards(path=store.url + "/nowhere", shape=SHAPE)
    source = TarShards(path=path, shape=SHAPE)
    store.fail(2)
    assert source.load(0, np.random.default_rng(0)).caption == "clip 00"
    store.fail(4)
    with pytest.raises(BadExample, match=r"00\.mp4: .*failed after 4"):
        source.load(0, np.random.default_rng(0))


def test_shards_of_objects_travel_to_worker_processes(tmp_path, clip):
    write(tmp_path / "a.tar", [("a.mp4", clip(0.0)), ("a.txt", "one")])
    source = TarShards(path=f"file://{tmp_path}", shape=SHAPE, index_dir=str(tmp_path / "index"))
    iterator = Pipeline(source=source, batch_size=2, workers=1).iterator()
    assert next(iterator)["caption"] == ["one", "one"]
    iterator.close()
