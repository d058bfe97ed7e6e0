"""A folder of images, and the mixture of images and videos."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from PIL import Image

from vidgen.data.pipeline import Pipeline
from vidgen.data.source import BadExample, Example, Source
from vidgen.data.sources.folder import FolderSource
from vidgen.data.sources.images import ImageFolder, Joint, read_image
from vidgen.data.video.encode import write_video
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=3, height=4, width=6)


def picture(path, value=100, size=(12, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * len(mode)).save(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers(Source):
    """Example i is filled with i and has the caption str(i); `bad` ones are unusable."""

    shape: VideoShape = SHAPE
    count: int = 10
    bad: tuple[int, ...] = ()
    name: str = ""

    def __len__(self):
        return self.count

    def load(self, index, rng):
        if index in self.bad:
            raise BadExample(f"{self.name}{index}.png", "damaged")
        video = np.full(self.shape.thwc, index, np.uint8)
        video[..., 1] = rng.integers(256)
        return Example(video=video, caption=f"{self.name}{index}")


ONE_FRAME = dataclasses.replace(SHAPE, frames=1)


def joint(image_rate=0.5, *, images=40, bad=(), videos=10):
    return Joint(
        videos=Numbers(count=videos, name="video "),
        images=Numbers(shape=ONE_FRAME, count=images, bad=bad, name="image "),
        image_rate=image_rate,
    )


# ---- a folder of images --------------------------------------------------------------------------


def test_folder_of_images_with_captions(tmp_path):
    picture(tmp_path / "b/two.png", 20)
    picture(tmp_path / "a/one.JPG", 10)
    picture(tmp_path / "three.webp", 30)
    picture(tmp_path / "four.jpeg", 40)
    write_video(tmp_path / "clip.mp4", np.zeros((4, 16, 16, 3), np.float32), 8.0, min_side=0)
    (tmp_path / "a/one.txt").write_text("a sidecar\nwins")
    (tmp_path / "captions.csv").write_text("file,caption\nthree.webp,three\na/one.JPG,loses\n")
    line = json.dumps({"file": "two.png", "caption": "from json"})
    (tmp_path / "b/captions.jsonl").write_text(line)
    source = ImageFolder(path=str(tmp_path), shape=SHAPE)
    assert isinstance(source, Source) and source.shape == ONE_FRAME
    expected = [
        ("a/one.JPG", "a sidecar wins"),
        ("b/two.png", "from json"),
        ("three.webp", "three"),
    ]
    assert list(source.files) == [(str(tmp_path / f), (caption,)) for f, caption in expected]
    for index, value in enumerate((10, 20, 30)):
        example = source.load(index, np.random.default_rng(0))
        assert example.video.shape == (1, 4, 6, 3) and example.caption == expected[index][1]
        assert np.abs(example.video.astype(int) - value).max() <= 2
    every = ImageFolder(path=str(tmp_path), shape=SHAPE, missing_captions="empty")
    assert len(every) == 4 and every.files[2][1] == ()


def test_images_are_cropped_around_the_center(tmp_path):
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 6:18] = 200  # the middle 12 x 8 has the wanted aspect
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    (tmp_path / "wide.txt").write_text("wide")
    video = ImageFolder(path=str(tmp_path), shape=SHAPE).load(0, np.random.default_rng(0)).video
    np.testing.assert_array_equal(video, 200)


def test_every_kind_of_picture_is_read_as_it_is_seen(tmp_path):
    turned = Image.new("RGB", (4, 2), (0, 0, 0))
    turned.putpixel((0, 0), (255, 255, 255))
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    upright = read_image(tmp_path / "turned.png")
    assert upright.shape == (4, 2, 3) and upright[0, 1].min() == 255 and upright[0, 0].max() == 0
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(read_image(tmp_path / "clear.png"), 255)
    Image.fromarray(np.full((2, 2), 257 * 90, np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), 90)
    picture(tmp_path / "gray.png", 50, mode="L")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png"), 50)


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (b"no picture", "")])
def test_damaged_images_are_bad_examples(tmp_path, content, reason):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(BadExample, match=f"bad.png: .*{reason}"):
        read_image(tmp_path / "bad.png")


def test_wrong_image_folders_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere .*not exist"):
        ImageFolder(path=str(tmp_path / "nowhere"), shape=SHAPE)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"holds no image.*\.png \.jpg"):
        ImageFolder(path=str(tmp_path), shape=SHAPE)
    picture(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match=r"1 images .*no caption.*a\.txt"):
        ImageFolder(path=str(tmp_path), shape=SHAPE)
    with pytest.raises(ValueError, match="missing_captions .*'drop'; .*skip or empty"):
        ImageFolder(path=str(tmp_path), shape=SHAPE, missing_captions="drop")
    with pytest.raises(ValueError, match="channels is 1"):
        ImageFolder(path=str(tmp_path), shape=dataclasses.replace(SHAPE, channels=1))


# ---- the mixture ---------------------------------------------------------------------------------


def test_a_pack_is_of_unrelated_images_with_their_own_captions():
    source = joint(1.0)
    assert isinstance(source, Source)
    assert source.shape == SHAPE and len(source) == 10 and source.captions_per_clip == 3
    example = source.load(0, np.random.default_rng(0))
    assert example.independent_frames and example.video.shape == SHAPE.thwc
    assert len(set(example.caption)) == 3
    for frame, caption in zip(example.video, example.caption, strict=True):
        assert caption == f"image {frame[0, 0, 0]}"


def test_a_video_stays_what_it_is():
    source = joint(0.0)
    example = source.load(7, np.random.default_rng(0))
    assert example.caption == "video 7" and not example.independent_frames
    assert (example.video[..., 0] == 7).all()
    assert source.captions_per_clip == 1  # nothing needs more


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_rate_of_packs(rate):
    source = joint(rate)
    found = [source.load(i % 10, np.random.default_rng(i)).independent_frames for i in range(800)]
    assert np.mean(found) == pytest.approx(rate, abs=0.05 if 0 < rate < 1 else 0)


def test_all_images_and_all_videos_are_shown():
    source, seen = joint(0.5, images=20), set()
    for i in range(300):
        caption = source.load(i % 10, np.random.default_rng(i)).caption
        seen |= {caption} if isinstance(caption, str) else set(caption)
    assert len(seen) == 30


def test_an_example_depends_on_index_and_rng_alone():
    source = joint(0.5)
    for seed in range(6):
        one, two = (source.load(3, np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(one.video, two.video)
        assert one.caption == two.caption


def test_fewer_images_than_frames():
    example = joint(1.0, images=2).load(0, np.random.default_rng(0))
    assert set(example.caption) <= {"image 0", "image 1"} and len(example.caption) == 3


def test_single_frame_clips_have_one_caption():
    source = Joint(videos=Numbers(shape=ONE_FRAME), images=Numbers(shape=ONE_FRAME), image_rate=1.0)
    assert source.captions_per_clip == 1
    batch = next(Pipeline(source=source, batch_size=2).iterator())
    assert all(isinstance(caption, str) for caption in batch["caption"])


def test_a_bad_image_is_replaced_and_named_once(caplog):
    source = joint(1.0, images=6, bad=(1, 4))
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        captions = {c for i in range(60) for c in source.load(0, np.random.default_rng(i)).caption}
    assert captions == {"image 0", "image 2", "image 3", "image 5"}
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and any("image 4.png" in m and "damaged" in m for m in messages)


def test_without_a_good_image_packs_are_skipped():
    with pytest.raises(BadExample, match="damaged; 19 others"):
        joint(1.0, images=3, bad=(0, 1, 2)).load(0, np.random.default_rng(0))
    batch = next(Pipeline(source=joint(0.5, images=3, bad=(0, 1, 2)), batch_size=8).iterator())
    assert not batch["independent_frames"].any()


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def same(one, two):
    return all(
        np.array_equal(a["video"], b["video"]) and a["caption"] == b["caption"]
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_mixture_does_not_depend_on_the_number_of_processes(processes):
    pipeline = Pipeline(source=joint(), batch_size=8)
    parts = [pipeline.iterator(process=(p, processes)) for p in range(processes)]

    def examples(batch):
        pixels = [video.tobytes() for video in batch["video"]]
        return list(zip(batch["caption"], pixels, strict=True))

    for batch in take(pipeline.iterator(), 4):
        shares = [example for part in parts for example in examples(next(part))]
        assert sorted(shares) == sorted(examples(batch))


def test_resume_is_exact():
    pipeline = Pipeline(source=joint(bad=(2,)), batch_size=4)
    iterator = pipeline.iterator()
    take(iterator, 5)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = take(iterator, 4)
    fresh = pipeline.iterator()
    fresh.set_states([state])
    assert same(take(fresh, 4), expected)


def test_files_of_both_kinds(tmp_path):
    """Videos and images from folders, cropped alike: one window over all frames of an example."""
    for i in range(3):
        picture(tmp_path / f"images/{i}.png", 10 + i)
        (tmp_path / f"images/{i}.txt").write_text(f"image {i}")
    clip = np.full((8, 16, 24, 3), 0.5, np.float32)
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/a.mp4", clip, 8.0, min_side=0)
    (tmp_path / "videos/a.txt").write_text("a clip")
    source = Joint(
        videos=FolderSource(path=str(tmp_path / "videos"), shape=SHAPE),
        images=ImageFolder(path=str(tmp_path / "images"), shape=SHAPE),
        image_rate=0.5,
    )
    crop = dataclasses.replace(SHAPE, height=2, width=2)
    batch = next(Pipeline(source=source, batch_size=12, crop=crop).iterator())
    assert batch["video"].shape == (12, 3, 2, 2, 3)
    for video, captions, packed in zip(
        batch["video"], batch["caption"], batch["independent_frames"], strict=True
    ):
        shades = [int(frame.mean()) for frame in video]
        expected = [f"image {shade - 10}" for shade in shades] if packed else ["a clip"] * 3
        assert list(captions) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_rate": 1.5}, r"image_rate .*1\.5; .*\[0, 1\]"),
        ({"image_rate": float("nan")}, "image_rate is nan"),
        ({"images": Numbers()}, r"Joint\.images .*3x4x6; .*1x4x6"),
        ({"images": Numbers(shape=ONE_FRAME, count=0)}, r"Joint\.images is empty"),
        (
            {"images": Numbers(shape=VideoShape(frames=1, height=8, width=6))},
            r"Joint\.images .*1x8x6; .*3x4x6",
        ),
    ],
)
def test_wrong_mixtures_are_explained(settings, message):
    right = {"videos": Numbers(), "images": Numbers(shape=ONE_FRAME), "image_rate": 0.5}
    with pytest.raises(ValueError, match=message):
        Joint(**(right | settings))
