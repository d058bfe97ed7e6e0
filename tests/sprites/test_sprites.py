"""The sprite videos show what their captions say, and the held-out split is one.

Tests of vidgen/sprites/grammar.py, vidgen/sprites/render.py, vidgen/sprites/split.py too.
"""

import dataclasses
import io
import itertools
import zipfile

import numpy as np
import pytest
from PIL import Image

from vidgen.sprites import grammar, render, sprites
from vidgen.types import VideoShape

SMALL = VideoShape(frames=8, height=16, width=16)
WIDE = VideoShape(frames=6, height=24, width=40)
STRAIGHT = tuple(sprites.MOTIONS)[:7]


def _foreground(video, background):
    distance = np.abs(video.astype(int) - np.array(sprites.BACKGROUNDS[background])).sum(-1)
    return (distance > 60).astype(float)


def _centroids(mask):
    _, h, w = mask.shape
    area = mask.sum((1, 2))
    y = (mask * (np.arange(h) + 0.5)[:, None]).sum((1, 2)) / area
    x = (mask * (np.arange(w) + 0.5)).sum((1, 2)) / area
    return np.stack([y / h, x / w], -1), area / (h * w)


@pytest.mark.parametrize("motion", sprites.MOTIONS)
@pytest.mark.parametrize("shape", [SMALL, WIDE], ids=str)
def test_foreground_moves_as_the_caption_says(motion, shape):
    source = sprites.Sprites(shape=shape, motions=tuple(sprites.MOTIONS), split="all")
    down, right, growth = sprites.MOTIONS[motion]
    for seed, subject in enumerate(("frog", "crab", "panda", "whale")):
        scene = source.scene_of(subject, motion, "black", np.random.default_rng(seed))
        center, area = _centroids(_foreground(source.render(scene), "black"))
        moved = center[-1] - center[0]
        assert np.abs(moved - scene.travel * np.array([down, right])).max() < 0.13, (subject, moved)
        ratio = area[-1] / area[0]
        if growth == 0:
            assert 0.5 < ratio < 2.0
        else:
            assert ratio**growth > 2.5


def test_sprite_is_where_the_scene_says_at_any_resolution():
    source = sprites.Sprites(shape=SMALL, subjects=("panda",), split="all")
    scene = source.scene_of("panda", "moving right", "blue", np.random.default_rng(3))
    for h, w in ((24, 40), (64, 64), (72, 128)):
        shape = VideoShape(frames=5, height=h, width=w)
        video = source.render(scene, shape)
        assert video.shape == shape.thwc
        center, _ = _centroids(_foreground(video, "blue"))
        assert np.abs(center - scene.path(shape)).max() < 0.06


def test_motion_is_sub_pixel():
    source = sprites.Sprites(shape=VideoShape(frames=33, height=16, width=16), subjects=("panda",))
    scene = source.scene_of("panda", "moving right", "green", np.random.default_rng(0))
    scene = dataclasses.replace(scene, phase=0.0)
    video = source.render(scene, VideoShape(frames=33, height=16, width=16, fps=1000.0))
    center, _ = _centroids(np.abs(video.astype(float) - video[0, 0, 0]).sum(-1))
    steps = np.diff(center[4:-4, 1]) * 16  # 33 frames over about 7 pixels: 0.2 pixels each
    assert 0.05 < steps.min() and steps.max() < 0.4


@pytest.mark.parametrize("background", sprites.BACKGROUNDS)
def test_background_color_is_exact_at_the_corners(background):
    source = sprites.Sprites(shape=SMALL, motions=STRAIGHT, split="all")
    for seed, motion in enumerate(STRAIGHT):
        scene = source.scene_of("frog", motion, background, np.random.default_rng(seed))
        video = source.render(scene)
        corners = video[:, [0, 0, -1, -1], [0, -1, 0, -1]]
        exact = (corners == np.array(sprites.BACKGROUNDS[background])).all(-1)
        assert exact.all(0).sum() >= 2 and exact.any(0).all()


def test_premultiplied_alpha_leaves_no_halo():
    """Against float arithmetic: premultiply, resize each plane, composite."""
    name, background = "yellow heart", np.array(sprites.BACKGROUNDS["yellow"], float)
    with zipfile.ZipFile(render.ARCHIVE) as archive:
        data = archive.read(f"clips/{render.catalog()[name]['id']}.webp")
    straight = np.array(Image.open(io.BytesIO(data)).convert("RGBA"), float)
    planes = np.concatenate([straight[..., :3] * straight[..., 3:] / 255, straight[..., 3:]], -1)
    small = [
        np.array(Image.fromarray(plane.astype(np.float32)).resize((16, 16), 5))  # 5: Hamming
        for plane in np.moveaxis(planes, -1, 0)
    ]
    color, alpha = np.stack(small[:3], -1), small[3][..., None] / 255
    canvas = np.full((24, 24, 3), background, np.uint8)
    render.paste(canvas, name, 0, (12.0, 12.0), 16.0)
    error = np.abs(canvas[4:20, 4:20] - (color + (1 - alpha) * background))
    assert error[1:-1, 1:-1].max() < 4


def test_animation_plays_and_depends_on_the_frame_rate():
    source = sprites.Sprites(shape=SMALL, subjects=("octopus",))
    scene = source.scene_of("octopus", "standing still", "white", np.random.default_rng(0))
    fast = source.render(scene, VideoShape(frames=8, height=16, width=16, fps=8.0))
    slow = source.render(scene, VideoShape(frames=8, height=16, width=16, fps=8000.0))
    assert (fast[0] != fast[4]).any()
    assert (slow[0] == slow[7]).all()


@pytest.mark.parametrize("templates", [1, 5])
def test_parse_inverts_caption(templates):
    source = sprites.Sprites(
        shape=SMALL, subjects="all", motions=tuple(sprites.MOTIONS), templates=templates
    )
    rng = np.random.default_rng(0)
    for index in rng.integers(0, len(source), 300):
        scene = source.scene(int(index), rng)
        truth = (scene.subject, scene.motion, scene.background)
        assert source.parse_caption(source.caption(scene)) == truth


def test_canonical_captions():
    write = grammar.write
    assert write("tiger", "moving right", "green") == "a tiger moving right on a green background"
    assert write("owl", "standing still", "orange") == (
        "an owl standing still on an orange background"
    )
    assert write("tiger", None, "red") == "a tiger on a red background"
    expected = {"unicorn": "a unicorn", "octopus": "an octopus", "hourglass done": "an hourglass"}
    for subject, phrase in expected.items():
        assert grammar.noun_phrase(subject).startswith(phrase)
    assert grammar.noun_phrase("musical notes") == "musical notes"


def test_every_noun_phrase_names_one_subject():
    names = list(render.catalog())
    assert len(names) == 699
    assert len({grammar.noun_phrase(name) for name in names}) == 699


def test_split_is_disjoint_complete_and_covers_every_pair():
    source = sprites.Sprites(shape=SMALL)
    train, held_out = set(source.triples("train")), set(source.triples("held_out"))
    everything = set(itertools.product(source.subjects, source.motions, source.backgrounds))
    assert train | held_out == everything == set(source.triples("all"))
    assert not train & held_out
    assert 0.05 < len(held_out) / len(everything) < 0.15
    for i, j in itertools.combinations(range(3), 2):
        assert {(t[i], t[j]) for t in train} == {(t[i], t[j]) for t in everything}


@pytest.mark.parametrize("fraction", [0.5, 0.9])
def test_few_names_keep_every_pair_in_training(fraction):
    source = sprites.Sprites(
        shape=SMALL,
        subjects=("tiger", "frog"),
        motions=("moving left", "moving right"),
        backgrounds=("red", "blue"),
        held_out_fraction=fraction,
    )
    train = source.triples("train")
    for i, j in itertools.combinations(range(3), 2):
        assert len({(t[i], t[j]) for t in train}) == 4


def test_split_is_fixed_for_ever():
    """Literal values: a change of the rule would leak held-out triples into trained models."""
    source = sprites.Sprites(shape=SMALL, subjects=("tiger", "frog"), held_out_fraction=0.1)
    held_out = source.triples("held_out")
    assert held_out[:4] == HELD_OUT and len(held_out) == 22
    other = sprites.Sprites(shape=SMALL, subjects=("tiger", "frog"), seed=1)
    assert other.triples("held_out")[:4] != HELD_OUT


HELD_OUT = (
    ("tiger", "moving left", "yellow"),
    ("tiger", "moving right", "gray"),
    ("tiger", "moving right", "black"),
    ("tiger", "moving up", "blue"),
)


def test_load_depends_on_index_and_rng_only():
    source = sprites.Sprites(shape=SMALL)
    first = source.load(7, np.random.default_rng(5))
    render.frames.cache_clear()
    again = source.load(7, np.random.default_rng(5))
    other = source.load(7, np.random.default_rng(6))
    assert (first.video == again.video).all() and first.caption == again.caption
    assert (first.video != other.video).any()
    assert source.parse_caption(first.caption) == source.parse_caption(other.caption)


def test_stills_are_single_images_anywhere_with_captions_that_fit():
    source = sprites.Sprites(shape=SMALL, stills=True, duration=2.0)
    assert source.shape == dataclasses.replace(SMALL, frames=1)
    rng, centers = np.random.default_rng(0), []
    for index in range(40):
        scene = source.scene(index, rng)
        caption = source.caption(scene)
        assert source.parse_caption(caption) == (scene.subject, None, scene.background)
        video = source.render(scene)
        assert video.shape == (1, SMALL.height, SMALL.width, 3)
        centers.append(_centroids(_foreground(video, scene.background))[0][0])
    assert np.ptp(centers, axis=0).min() > 0.3
    example = source.load(3, rng)
    assert not example.independent_frames and isinstance(example.caption, str)


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"subjects": ("tigger",)}, "tiger"),
        ({"backgrounds": ("grean",)}, "green"),
        ({"motions": ("moving lift",)}, "moving left"),
        ({"subjects": "birds"}, "animals"),
        ({"split": "test"}, "held_out"),
        ({"subjects": ("frog", "frog")}, "repeats"),
        ({"templates": 9}, "1 to 5"),
        ({"split": "held_out", "held_out_fraction": 0.0}, "no triple"),
        ({"backgrounds": ()}, "empty"),
        ({"scale": (0.0, 0.5)}, r"scale is \(0.0, 0.5\).* 0 < low <= high"),
        ({"travel": (0.5, 0.4)}, r"travel is \(0.5, 0.4\).* 0 <= low <= high"),
        ({"turns": 0.8, "arrivals": 0.4}, "turns is 0.8 .*arrivals is 0.4"),
        ({"turns": -0.1}, "turns is -0.1"),
        ({"shape": VideoShape(frames=2, height=8, width=8), "turns": 0.5}, "turns .*3 frames.* 2"),
        ({"jitter": -0.1}, "jitter is -0.1"),
    ],
)
def test_wrong_settings_are_explained(settings, hint):
    with pytest.raises(ValueError, match=hint):
        sprites.Sprites(**({"shape": SMALL} | settings))


def test_parse_rejects_other_sentences():
    source = sprites.Sprites(shape=SMALL)
    for caption in ("a dog barks", "a tiger moving sideways on a green background", ""):
        with pytest.raises(ValueError, match="expected e.g."):
            source.parse_caption(caption)


def test_archive_has_its_license():
    text = (render.ARCHIVE.parent / "LICENSE").read_text()
    assert "MIT License" in text and "Microsoft" in text
    with zipfile.ZipFile(render.ARCHIVE) as archive:
        assert "captions.json" in archive.namelist()


def test_windows_of_a_scene_show_the_same_moments_at_any_rate():
    whole = VideoShape(frames=32, height=16, width=16, fps=6.0)
    source = sprites.Sprites(shape=whole, duration=32 / 6, split="all")
    scene = source.scene_of("panda", "moving right", "blue", np.random.default_rng(3))
    assert scene.start == 0
    full = source.render(scene)
    slow = source.render(scene, dataclasses.replace(whole, frames=16, fps=3.0))
    np.testing.assert_array_equal(slow, full[::2])
    window = source.render(
        dataclasses.replace(scene, start=10 / 6), dataclasses.replace(whole, frames=8)
    )
    np.testing.assert_array_equal(window, full[10:18])


def test_windows_begin_anywhere():
    shape = VideoShape(frames=8, height=8, width=8, fps=6.0)
    source = sprites.Sprites(shape=shape, duration=32 / 6)
    starts = {round(6 * source.scene(0, np.random.default_rng(i)).start) for i in range(300)}
    assert starts == set(range(25))
    with pytest.raises(ValueError, match="its clips last 1.33333 s"):
        sprites.Sprites(shape=shape, duration=1.0)
