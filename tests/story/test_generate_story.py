"""From a story to a film, with a model that counts frames and shows its prompt's number."""

import dataclasses

import jax
import numpy as np
import pytest
import toy_training as toy
from counting_model import SHAPE, Counter, Ready

from vidgen.data.video.encode import write_video
from vidgen.inference.sampling_settings import Sampling
from vidgen.story.generate_story import GenerateStory, segment_key
from vidgen.story.parse import short
from vidgen.story.resumable_video import ResumeError
from vidgen.story.script import FirstFrames, Scene, Story


def run(tmp_path, told, model=None, **settings):
    stage = Ready(model=model or Counter(), text_encoder=toy.ToyEncoder(), model_dir="runs/p")
    given = {"output": str(tmp_path / "film.npy")}
    return GenerateStory(stage=stage, story=told, **given | settings)


def levels(path):
    return np.load(path)[:, 0, 0, 0] / 127.5 - 1


THREE = Story([Scene("a", frames=11), Scene("b", frames=12), Scene("c", frames=6)])


def test_a_film_is_as_long_as_its_scenes_and_never_breaks(tmp_path):
    model = Counter()
    film = levels(run(tmp_path, THREE, model)())
    np.testing.assert_allclose(film, -1 + (1 + np.arange(29)) / 64, atol=1 / 255)
    assert [len(call[2].mask[0].nonzero()[0]) for call in model.calls] == [0, 5, 5, 5]


def test_each_segment_has_its_prompt_and_its_key(tmp_path):
    model = Counter()
    tell = run(tmp_path, THREE, model, seed=3)
    tell()
    for (text, *_), prompt in zip(model.calls, "abbc", strict=True):
        np.testing.assert_array_equal(text.tokens, toy.ToyEncoder()([prompt]).tokens)
    expected = [segment_key(segment) for segment in tell.segments]
    found = [jax.random.key_data(keys[0]).tolist() for _, keys, *_ in model.calls]
    assert found == [jax.random.key_data(key).tolist() for key in expected]
    assert len({tuple(key) for key in found}) == 4


def test_prompts_are_mixed_in_a_transition(tmp_path):
    model = Counter()
    run(tmp_path, Story([Scene("a", frames=11), Scene("b", frames=18, transition=2)]), model)()
    a, b = (toy.ToyEncoder()([prompt]).tokens for prompt in "ab")
    texts = [text for text, *_ in model.calls]
    for text, tokens in ((texts[0], a), (texts[-1], b)):
        np.testing.assert_array_equal(text.tokens, tokens)
    for text in texts[1:-1]:
        np.testing.assert_array_equal(text.first.tokens, a)
        np.testing.assert_array_equal(text.second.tokens, b)
    weights = [float(text.weight[0]) for text in texts[1:-1]]
    np.testing.assert_allclose(weights, [1 / 3, 2 / 3], rtol=1e-6)


SCENES = [Scene("a", frames=11), Scene("b", frames=6, steps=5), Scene("c", frames=6, guidance=2)]


@pytest.mark.parametrize(
    "asked, expected",
    [
        ({}, [(4, 1.0), (5, 1.0), (4, 2.0)]),
        ({"steps": 3}, [(3, 1.0), (3, 1.0), (3, 2.0)]),
        ({"guidance": 0.5}, [(4, 0.5), (5, 0.5), (4, 0.5)]),
        ({"guidance": (3.0, 1.0)}, [(4, 3.0), (5, 3.0), (4, 3.0)]),
    ],
)
def test_the_run_says_how_to_sample_then_scenes_then_the_story(tmp_path, asked, expected):
    model = Counter()
    run(tmp_path, Story(SCENES, steps=4), model, sampling=Sampling(**asked))()
    found = [(call[3].sampler.steps, call[3].guidance.weight) for call in model.calls]
    assert found == expected


def test_a_seed_that_is_asked_for_wins_over_all_of_a_story(tmp_path):
    story = Story([Scene("a", frames=11, seed=4), Scene("b", frames=6)], seed=3)
    found = []
    for seed in (None, 9):
        model = Counter()
        run(tmp_path, story, model, seed=seed)()
        found.append([jax.random.key_data(call[1][0]).tolist() for call in model.calls])
    asked = [jax.random.fold_in(jax.random.key(9), i) for i in range(2)]
    assert found[1] == [jax.random.key_data(key).tolist() for key in asked]
    own = jax.random.fold_in(jax.random.key(3), 1)
    assert found[0][1] == jax.random.key_data(own).tolist()


def test_an_interrupted_film_goes_on_and_is_the_same(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = levels(run(tmp_path / "whole", THREE)())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, THREE, Counter(stop_at=2))()
    assert not (tmp_path / "film.npy").exists()
    model = Counter()
    film = levels(run(tmp_path, THREE, model)())
    assert len(model.calls) == 2
    np.testing.assert_array_equal(film, whole)
    assert {p.name for p in tmp_path.iterdir()} == {"film.npy", "whole"}


def test_another_story_is_not_mixed_into_an_unfinished_film(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, THREE, Counter(stop_at=2))()
    with pytest.raises(ResumeError, match="--restart"):
        run(tmp_path, short("x. then y"))()
    with pytest.raises(ResumeError, match="seed"):
        run(tmp_path, THREE, seed=1)()
    assert len(levels(run(tmp_path, THREE, seed=1, restart=True)())) == 29


def other(tmp_path, **changes):
    """The film of `THREE` as it would be made now, of something else than at first."""
    tell = run(tmp_path, THREE)
    return dataclasses.replace(tell, stage=dataclasses.replace(tell.stage, **changes))


class OtherWeights(Ready):
    """The folder and the step are as before."""

    def load(self, step=None, mesh=None):
        return np.nextafter(super().load(), np.float32(1))


class OtherEncoder(toy.ToyEncoder):
    """Of other weights, which its name tells."""

    name = "toy-2"


def test_an_interrupted_film_does_not_go_on_from_something_else(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, THREE, Counter(stop_at=2))()
    tell = run(tmp_path, THREE)
    swapped = OtherWeights(model=Counter(), text_encoder=toy.ToyEncoder(), model_dir="runs/p")
    for changed, words in (
        (dataclasses.replace(tell, stage=swapped), "model weights is .* there and .* here"),
        (other(tmp_path, text_encoder=OtherEncoder()), "text encoder .*toy, 3 .*toy-2, 3"),
        (other(tmp_path, model=Counter(patch_time=1)), "model settings is"),
    ):
        with pytest.raises(ResumeError, match=words):
            changed()
    swapped = dataclasses.replace(tell, stage=swapped, restart=True)
    assert len(levels(swapped())) == 29


def test_an_interrupted_film_does_not_go_on_from_another_picture(tmp_path):
    picture = tmp_path / "picture.npy"
    story, first = Story([Scene("a", frames=16)]), FirstFrames(path=str(picture))
    np.save(picture, np.zeros((1, *SHAPE.thwc[1:]), np.float32))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, story, Counter(stop_at=1), first=first)()
    np.save(picture, np.full((1, *SHAPE.thwc[1:]), 0.5, np.float32))
    with pytest.raises(ResumeError, match="settings .*content of first"):
        run(tmp_path, story, first=first)()


def test_a_film_goes_on_from_a_picture_or_a_video(tmp_path):
    gray = np.full((20, *SHAPE.thwc[1:]), -0.5, np.float32)
    gray[-1] = 0.0
    video = tmp_path / "before.npy"
    write_video(video, gray, 8.0)
    model = Counter()
    scenes, first = Story([Scene("a", frames=6)]), FirstFrames(path=str(video))
    film = levels(run(tmp_path, scenes, model, first=first)())
    assert len(film) == 6
    np.testing.assert_allclose(film, (1 + np.arange(6)) / 64, atol=1 / 127)
    picture = tmp_path / "picture.png"
    write_video(picture, gray[:1], 8.0)
    model = Counter()
    scenes = Story([Scene("a", frames=10)])
    film = levels(run(tmp_path, scenes, model, first=FirstFrames(path=str(picture)))())
    assert model.calls[0][2].mask.sum() == 1 and len(film) == 10


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"context_frames": 4}, "context of 4 known frames"),
        ({"context_frames": 11}, "context of 11 known frames"),
        ({"seed": -1}, "--seed is -1"),
        ({"sampling": Sampling(gamma=0.5)}, "--gamma: maskgit .*no such setting"),
        ({"first": FirstFrames(path="nowhere.png")}, "nowhere.png"),
    ],
)
def test_wrong_settings(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        run(tmp_path, THREE, **settings)


def test_wrong_length_names_the_scene_before_anything_is_made(tmp_path):
    with pytest.raises(ValueError, match="scene 2: frames is 13"):
        run(tmp_path, Story([Scene("a", frames=11), Scene("b", frames=13)]))
    assert list(tmp_path.iterdir()) == []


# ---- negative prompts ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Away(Counter):
    """Keeps the negative prompts too."""

    away: list = dataclasses.field(default_factory=list, compare=False, repr=False)

    def generate(self, params, text, low_res, keys, *, negative=None, **more):
        self.away.append(None if negative is None else np.asarray(negative.tokens))
        return super().generate(params, text, low_res, keys, **more)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(None, ["d", "e", "e"]), ("f", ["f", "f", "f"]), (" ", [None, None, None])],
)
def test_the_run_says_what_to_get_away_from_then_the_scene_then_the_story(
    tmp_path, asked, expected
):
    story = Story([Scene("a", frames=11, negative="d"), Scene("b", frames=12)], negative="e")
    model = Away()
    run(tmp_path, story, model, negative=asked)()
    for found, prompt in zip(model.away, expected, strict=True):
        if prompt is None:
            assert found is None
        else:
            np.testing.assert_array_equal(found, toy.ToyEncoder()([prompt]).tokens)


def test_without_guidance_a_negative_prompt_is_refused(tmp_path):
    story = Story([Scene("a", frames=11, negative="d")], guidance=0.0)
    with pytest.raises(ValueError, match="--negative .* maskgit .*--guidance=W"):
        run(tmp_path, story)


def test_another_negative_prompt_is_another_film(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, THREE, Counter(stop_at=2))()
    with pytest.raises(ResumeError, match="negative"):
        run(tmp_path, THREE, Away(), negative="d")()
