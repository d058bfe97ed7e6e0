"""The video that a clip starts from, and the frames of it that are known, stage by stage."""

import dataclasses

import numpy as np
import pytest
from fake_models import FakeSampled
from PIL import Image

from vidgen.data.video.encode import write_video
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.cascade import Cascade
from vidgen.inference.conditioning_inputs import Init, KnownFiles
from vidgen.types import VideoShape

BASE = VideoShape(frames=4, height=4, width=4, fps=2.0)  # two seconds
LONG = VideoShape(frames=16, height=8, width=8, fps=8.0)  # the same two seconds
LEVELS = np.linspace(-1, 1, 52)  # a gray for each of 52 frames, five steps of 255 apart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upsampler(FakeSampled):
    """A stage of 8 frames of 8 x 8 at 4 fps by its sizes alone."""

    time: int = 1
    space: int = 2
    stride: int = 1
    sampler: SamplerSpec = SamplerSpec(steps=1)
    shape: VideoShape = VideoShape(frames=8, height=8, width=8, fps=4.0)
    name: str = "up"

    def generate(self, params, text, low_res, keys, *, on_step=None, known=None):
        raise NotImplementedError

    @property
    def input_shape(self):
        own = self.shape
        return VideoShape(
            frames=own.frames // self.time,
            height=own.height // self.space,
            width=own.width // self.space,
            fps=own.fps / self.time,
        )


def chain(**settings):
    return Cascade([Upsampler(**settings)])


def sized(init, of=None, frames=None, height=None, width=None):
    """(what goes in, what comes out), as texts."""
    made = init.sized(of or chain(), frames=frames, height=height, width=width)
    return str(made.input_shape), str(made.shape)


def numbered(path, count, fps=10.0, height=6, width=10):
    """A lossless animation whose frame k has the gray LEVELS[k]."""
    video = np.broadcast_to(LEVELS[:count, None, None, None], (count, height, width, 3))
    write_video(path, video.astype(np.float32), fps, min_side=0)
    return str(path)


def numbers(video):
    """Which frames of `numbered` these are; they must be gray all over."""
    assert np.ptp(video, axis=(1, 2, 3)).max() < 0.01
    return np.abs(video.mean((1, 2, 3))[:, None] - LEVELS).argmin(1).tolist()


@pytest.fixture
def film(tmp_path):
    """2.5 seconds, 25 frames at 10 fps."""
    return numbered(tmp_path / "film.webp", 25)


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.full((6, 10, 3), 255, np.uint8)).save(tmp_path / "in.png")
    return str(tmp_path / "in.png")


# ---- to start from -------------------------------------------------------------------------------


def test_the_size_of_the_model(film):
    init = Init(path=film)
    assert sized(init) == ("8x4x4", "8x8x8")
    assert sized(init, frames=4, height=12, width=20) == ("4x6x10", "4x12x20")
    assert numbers(init.read(chain().input_shape))[::2] == [0, 5, 10, 15]  # a quarter second apart


def test_its_own_size_and_length(film):
    init = Init(path=film, size="own")
    assert sized(init) == ("10x6x10", "10x12x20")  # 2.5 s at 4 fps
    assert sized(init, chain(time=2)) == ("5x6x10", "10x12x20")
    assert sized(init, frames=3) == ("3x6x10", "3x12x20")
    # A stride of 8 pixels where it comes out is one of 4 where it goes in: 6 x 10 is cropped.
    assert sized(init, chain(stride=8)) == ("10x4x8", "10x8x16")


def test_a_later_start(film):
    init = Init(path=film, size="own", start=1.5)
    assert sized(init) == ("4x6x10", "4x12x20")
    video = init.read(VideoShape(frames=4, height=6, width=10, fps=4.0))
    assert numbers(video) in ([15, 17, 20, 22], [15, 18, 20, 23], [15, 17, 20, 23])


def test_a_picture_is_a_clip_of_one_frame(picture):
    assert sized(Init(path=picture)) == ("1x4x4", "1x8x8")
    assert sized(Init(path=picture, size="own")) == ("1x6x10", "1x12x20")
    assert sized(Init(path=picture), frames=8) == ("8x4x4", "8x8x8")  # it stands still
    with pytest.raises(ValueError, match=r"in\.png .*picture.* up .*--until"):
        sized(Init(path=picture), chain(time=2))


def test_an_array_is_handed_on_as_it_is(tmp_path):
    video = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype(np.float32)
    np.save(tmp_path / "in.npy", video)
    init = Init(path=str(tmp_path / "in.npy"))
    np.testing.assert_array_equal(init.read(chain().input_shape), video)
    assert sized(Init(path=init.path, size="own")) == ("8x4x4", "8x8x8")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"path": "none.mp4"}, r"--init: .*no file none\.mp4"),
        ({"size": "big"}, "--init_size=big: .*model, own"),
        ({"start": -1.0}, "--init_start is -1"),
        ({"start": float("inf")}, "--init_start is inf"),
    ],
)
def test_wrong_videos_to_start_from(film, settings, words):
    with pytest.raises(ValueError, match=words):
        Init(**{"path": film} | settings)


def test_a_video_that_is_too_short(film):
    with pytest.raises(ValueError, match="film.webp: too short: 2.50 s.*--frames.*--init_size=own"):
        Init(path=film).read(VideoShape(frames=11, height=4, width=4, fps=4.0))
    assert len(Init(path=film).read(VideoShape(frames=10, height=4, width=4, fps=4.0))) == 10


def test_sizes_that_contradict(film, picture):
    with pytest.raises(ValueError, match="contradict each other"):
        sized(Init(path=film, size="own"), height=8, width=8)
    with pytest.raises(ValueError, match="is 6x10; frames must have 8 pixels"):
        sized(Init(path=picture, size="own"), chain(stride=16))


# ---- known content -------------------------------------------------------------------------------


def known(shape, **files):
    """(the frames that are known, what they show) of one stage."""
    video, mask = KnownFiles(**files).at(shape, coarse_fps=BASE.fps, array_fps=LONG.fps)
    assert video.shape == shape.thwc and mask.shape == shape.thwc[:3]
    frames = np.flatnonzero(mask.any((1, 2)))
    assert mask[frames].all()
    return frames.tolist(), video[frames]


def test_a_picture_to_begin_with(picture):
    for shape in (BASE, LONG):
        frames, video = known(shape, first=picture)
        assert frames == [0] and (video == 1).all()


def test_a_picture_to_end_with_fills_the_last_frame_of_the_coarsest_stage(picture):
    assert known(BASE, last=picture)[0] == [3]
    assert known(LONG, last=picture)[0] == [12, 13, 14, 15]  # the half second that it stands for


def test_a_continuation_begins_with_the_end_of_the_video(film):
    """The last half second of 2.5: frames at 2.0 s, 2.125 s, ..."""
    frames, video = known(BASE, first=film)
    assert (frames, numbers(video)) == ([0], [20])
    frames, video = known(LONG, first=film)
    assert frames == [0, 1, 2, 3] and numbers(video) in ([20, 21, 22, 24], [20, 21, 23, 24])


def test_in_between_ends_with_the_beginning_of_a_video(film):
    frames, video = known(LONG, last=film, overlap=1.0)
    assert frames == list(range(8, 16)) and numbers(video)[::4] == [0, 5]
    frames, video = known(BASE, last=film, overlap=1.0)
    assert (frames, numbers(video)) == ([2, 3], [0, 5])


def test_both_ends(film, picture):
    frames, video = known(BASE, first=picture, last=film)
    assert frames == [0, 3] and (video[0] == 1).all() and numbers(video[1:]) == [0]


def test_stages_know_the_same_moments(film):
    """Every frame that the coarse stage knows is shown at the same time by the fine one."""
    for files in ({"first": film}, {"last": film}, {"first": film, "last": film}):
        coarse, small = known(BASE, overlap=0.9, **files)
        fine, large = known(LONG, overlap=0.9, **files)
        for frame, picture in zip(coarse, small, strict=True):
            same = large[fine.index(4 * frame)]
            assert abs(picture.mean() - same.mean()) < 2.1 * (LEVELS[1] - LEVELS[0])


def test_the_array_of_an_earlier_run_is_continued(tmp_path):
    """An array has the frame rate of the clip that comes out."""
    video = np.broadcast_to(LEVELS[:16, None, None, None], (16, 8, 8, 3)).astype(np.float32)
    np.save(tmp_path / "in.npy", video)
    for shape, wanted in ((LONG, [12, 13, 14, 15]), (BASE, [12])):
        frames, shown = known(shape, first=str(tmp_path / "in.npy"))
        assert numbers(shown) == wanted and frames == list(range(len(wanted)))


def test_inpainting_keeps_what_the_mask_leaves_black(film, tmp_path):
    mask = np.zeros((6, 6, 3), np.uint8)
    mask[:, 3:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    files = KnownFiles(inpaint=film, mask=str(tmp_path / "mask.png"))
    video, kept = files.at(BASE, coarse_fps=2.0, array_fps=8.0)
    assert numbers(video) == [0, 5, 10, 15]
    assert kept[:, :, :2].all() and not kept[:, :, 2:].any()


def test_a_mask_may_move(film, tmp_path):
    mask = -np.ones((20, 4, 4, 3), np.float32)
    mask[10:] = 1.0
    write_video(tmp_path / "mask.webp", mask, 10.0, min_side=0)
    files = KnownFiles(inpaint=film, mask=str(tmp_path / "mask.webp"))
    assert files.at(BASE, coarse_fps=2.0, array_fps=8.0)[1].all((1, 2)).tolist() == [
        *(True, True),
        *(False, False),
    ]


def test_nothing_known():
    assert not KnownFiles()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"first": "none.png"}, r"--first: .*no file none\.png"),
        ({"inpaint": "{film}"}, "--inpaint=VIDEO .*--mask=FILE .*together"),
        ({"mask": "{film}"}, "--inpaint=VIDEO .*--mask=FILE .*together"),
        ({"inpaint": "{film}", "mask": "{film}", "last": "{film}"}, "drop --first, --last"),
        ({"overlap": 1.0}, "--overlap .*--first or --last"),
        ({"first": "{film}", "overlap": 0.0}, "--overlap is 0"),
    ],
)
def test_wrong_files(film, files, words):
    given = {n: v.format(film=film) if isinstance(v, str) else v for n, v in files.items()}
    with pytest.raises(ValueError, match=words):
        KnownFiles(**given)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"first": "{film}", "overlap": 2.0}, "--overlap is 2 s.*nothing .*2.00 s"),
        (
            {"first": "{film}", "last": "{film}", "overlap": 1.0},
            "--overlap is 1 s.*nothing .*2.00 s",
        ),
        ({"first": "{short}", "overlap": 1.5}, "--first .*plays 1.00 s.* 1.50 s"),
        ({"last": "{short}", "overlap": 1.5}, "--last .*too short"),
        ({"inpaint": "{short}", "mask": "{film}"}, "--inpaint .*too short"),
    ],
)
def test_files_that_are_too_short(film, tmp_path, files, words):
    short = numbered(tmp_path / "short.webp", 10)
    given = {
        n: v.format(film=film, short=short) if isinstance(v, str) else v for n, v in files.items()
    }
    with pytest.raises(ValueError, match=words):
        KnownFiles(**given).at(LONG, coarse_fps=2.0, array_fps=8.0)
