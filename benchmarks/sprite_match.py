"""Trains the sprite match (vidgen/sprites/match.py), and measures it.

    python benchmarks/sprite_match.py --work=runs/sprite_match     # train or go on, then measure
    python benchmarks/sprite_match.py                              # measure what ships

Two encoders are trained so that in a batch of 128 clips and captions each clip finds its caption
and each caption its clip: the mean of both cross-entropies over scale v · e, scale learned (Radford
et al. 2021, figure 3). Half of a batch are the eight easy sprites, drawn from a few backgrounds and
motions so that for most captions there is another one that differs in one word; the other half are
other sprites of the catalog, four clips each. Only training triples are shown. Half of the clips
are drawn at 16 x 16 and enlarged, half at 32 x 32; half of them are whole scenes, a quarter half
scenes, a quarter begin anywhere between walls. Blur in space and time, noise and a change of color
stand for what generated clips look like.

The first call draws the clips and encodes the captions, minutes of work, and keeps them in --work.
Training goes on from its last checkpoint there; when it is done, the weights are in
WORK/weights.npz and their sha256 is printed: both go to vidgen/sprites/.

The weights that ship are those after 600 of 900 steps, 8 minutes of one core of a CPU; nothing was
left to gain on the easy sprites. (For the first 200 steps the learning rate was that of a longer
training, up to 3 % higher.)
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy

from vidgen.data.video.transforms import to_float
from vidgen.sprites import grammar, match
from vidgen.sprites.scenes import BACKGROUNDS, MOTIONS
from vidgen.sprites.sprites import EASY_SUBJECTS, Sprites, Triple
from vidgen.text.encoder import CachedEncoder
from vidgen.text.minilm import MiniLM
from vidgen.train import weights
from vidgen.types import VideoShape

SIDES = (16, 32)
FPS = (1.5, 3.0, 6.0)
TOKENS = 20
BATCH, GROUP = 128, 4
CANDIDATES = 512  # triples whose captions the true one is measured against
EASY_DRAWS, OTHER_TRIPLES = 4, 10  # clips of an easy triple at each size; triples of other sprites


class Pool(NamedTuple):
    """What there is to train on.

    Attributes:
      triples: what is shown.
      clips: for each side, uint8 "n k t h w 3": k clips of every triple.
      rows: for every triple, the rows of `tokens` with its captions.
      tokens: float16 "m s 384".
      mask: "m s".
    """

    triples: tuple[Triple, ...]
    clips: dict[int, list[np.ndarray]]
    rows: list[list[int]]
    tokens: np.ndarray
    mask: np.ndarray


@functools.cache
def source(kind: str, side: int, fps: float, split: str = "train") -> Sprites:
    """All sprites and motions, in whole scenes, halves of scenes, or between walls."""
    shape = VideoShape(frames=match.FRAMES, height=side, width=side, fps=fps)
    whole = Sprites(shape=shape, subjects="all", motions=tuple(MOTIONS), split=split)
    if kind == "half":
        return dataclasses.replace(whole, duration=2 * shape.frames / fps)
    return dataclasses.replace(whole, arrivals=1e-9) if kind == "walls" else whole


def draw(triple: Triple, side: int, rng: np.random.Generator) -> np.ndarray:
    """One clip of a triple."""
    kind = ("whole", "whole", "half", "walls")[rng.integers(4)]
    sprites = source(kind, side, FPS[rng.integers(len(FPS))])
    return sprites.render(sprites.scene_of(*triple, rng))


def chosen_triples(rng: np.random.Generator) -> list[Triple]:
    """All training triples of the easy sprites, a few of every other."""
    seen = frozenset(source("whole", 16, 3.0).triples("train"))
    easy: list[Triple] = list(itertools.product(EASY_SUBJECTS, MOTIONS, BACKGROUNDS))
    chosen = [triple for triple in easy if triple in seen]
    subjects = dict.fromkeys(subject for subject, _, _ in source("whole", 16, 3.0).triples())
    for subject in subjects:
        if subject not in EASY_SUBJECTS:
            motions = rng.choice(list(MOTIONS), 5, replace=False).tolist()
            backgrounds = rng.choice(list(BACKGROUNDS), 3, replace=False).tolist()
            own = [(subject, m, b) for m in motions for b in backgrounds]
            own = [triple for triple in own if triple in seen]
            chosen += [own[i] for i in rng.permutation(len(own))[:OTHER_TRIPLES]]
    return chosen


@functools.cache
def encoder() -> CachedEncoder:
    """MiniLM, which remembers captions."""
    return CachedEncoder(encoder=MiniLM(length=TOKENS))


def encode(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Token states as float16 "m s 384", and their mask."""
    parts = [encoder()(list(captions[i : i + 256])) for i in range(0, len(captions), 256)]
    tokens = [np.asarray(part.tokens, np.float16) for part in parts]
    return np.concatenate(tokens), np.concatenate([np.asarray(part.mask) for part in parts])


def prepare(work: Path) -> Pool:
    """The pool in `work`, made if it is not there."""
    rng = np.random.default_rng(0)
    triples = chosen_triples(rng)
    counts = [EASY_DRAWS if subject in EASY_SUBJECTS else 1 for subject, _, _ in triples]
    rows, captions = [], []
    for (subject, motion, background), count in zip(triples, counts, strict=True):
        every = range(len(grammar.TEMPLATES))
        templates = every if count > 1 else [int(rng.integers(len(every)))]
        rows.append(list(range(len(captions), len(captions) + len(templates))))
        captions += [grammar.write(subject, motion, background, i) for i in templates]
    file = work / "pool.safetensors"
    if not file.exists():
        arrays = {
            str(side): np.stack(
                [draw(t, side, rng) for t, n in zip(triples, counts, strict=True) for _ in range(n)]
            )
            for side in SIDES
        }
        print(f"{len(triples)} triples drawn; encoding {len(captions)} captions", flush=True)
        arrays["tokens"], arrays["mask"] = encode(captions)
        work.mkdir(parents=True, exist_ok=True)
        _save(file, arrays)
    arrays = safetensors.numpy.load_file(file)
    ends = np.cumsum(counts)[:-1]
    clips = {side: np.split(arrays[str(side)], ends) for side in SIDES}
    return Pool(tuple(triples), clips, rows, arrays["tokens"], arrays["mask"])


def batch(pool: Pool, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Distinct triples with many near misses, a clip and a caption each; half of them 16 x 16."""
    index = _by_subject(pool)
    motions = rng.choice(list(MOTIONS)[:7] if rng.random() < 0.6 else list(MOTIONS), 5, False)
    backgrounds = rng.choice(list(BACKGROUNDS), 3, False)
    near = [
        i
        for subject in EASY_SUBJECTS
        for i in index[subject]
        if pool.triples[i][1] in motions and pool.triples[i][2] in backgrounds
    ]
    chosen = rng.permutation(near)[: BATCH // 2].tolist()
    others = [subject for subject in index if subject not in EASY_SUBJECTS]
    for subject in rng.choice(others, -(-(BATCH - len(chosen)) // GROUP), False):
        chosen += rng.permutation(index[subject])[:GROUP].tolist()
    chosen = rng.permutation(chosen[:BATCH]).tolist()
    rows = [pool.rows[i][rng.integers(len(pool.rows[i]))] for i in chosen]
    made = {"tokens": pool.tokens[rows], "mask": pool.mask[rows]}
    for side, part in zip(SIDES, np.array_split(chosen, len(SIDES)), strict=True):
        drawn = [pool.clips[side][i][rng.integers(len(pool.clips[side][i]))] for i in part]
        made[str(side)] = np.stack(drawn)
    return made


@functools.cache
def _index(triples: tuple[Triple, ...]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i, (subject, _, _) in enumerate(triples):
        found.setdefault(subject, []).append(i)
    return found


def _by_subject(pool: Pool) -> dict[str, list[int]]:
    """Subject -> numbers of its triples."""
    return _index(pool.triples)


def shown(video: jax.Array, key: jax.Array) -> jax.Array:
    """uint8 clips as the network takes them, worn: soft, noisy, off in color, each differently."""
    keys = jax.random.split(key, 6)
    x, count = video.astype(jnp.float32) / 127.5 - 1, len(video)
    side = match.PIXELS
    enlarge = jax.image.resize(jnp.eye(x.shape[2]), (side, x.shape[2]), "bilinear")
    space = jnp.einsum("ij,bjk->bik", enlarge, blurs(x.shape[2], count, keys[0]))
    x = jnp.einsum("bij,bjx->bix", blurs(x.shape[1], count, keys[1]), x.reshape(count, 8, -1))
    x = x.reshape(video.shape)
    x = jnp.einsum("bij,btjkc->btikc", space, x)
    x = jnp.einsum("bij,btkjc->btkic", space, x)
    gain = 1 + 0.1 * jax.random.normal(keys[2], (count, 1, 1, 1, 1))
    shift = 0.06 * jax.random.normal(keys[3], (count, 1, 1, 1, 3))
    noise = 0.15 * jax.random.uniform(keys[4], (count, 1, 1, 1, 1)) ** 2
    # Drawing normals costs as much as a forward pass: one frame of them, rolled from clip to clip.
    grain = jax.random.normal(keys[5], (8, side, side, 3))
    grain = jnp.stack([jnp.roll(grain, (i, 5 * i, 3 * i), (0, 1, 2)) for i in range(8)])
    grain = jnp.tile(grain, (-(-count // 8), 1, 1, 1, 1))[:count]
    return jnp.clip(x * gain + shift + noise * grain, -1, 1)


def blurs(size: int, count: int, key: jax.Array) -> jax.Array:
    """`count` matrices that average neighbours along an axis, from not at all to 1/4 1/2 1/4."""
    away = jnp.abs(jnp.arange(size)[:, None] - jnp.arange(size))
    flat = jnp.where(away == 1, 0.25, 0.0)
    flat = flat + jnp.diag(1 - flat.sum(1))
    amount = jax.random.uniform(key, (count, 1, 1)) ** 2
    return (1 - amount) * jnp.eye(size) + amount * flat


def loss(params: Any, data: dict[str, jax.Array], key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean of both cross-entropies, and the share of clips that find their captions."""
    keys = jax.random.split(key)
    x = [shown(data[str(side)], k) for side, k in zip(SIDES, keys, strict=True)]
    x = jnp.concatenate(x)
    video = match.video_features(params, x)
    text = match.text_features(params, data["tokens"], data["mask"])
    logits = jnp.clip(params["scale"], 1, 100) * video @ text.T
    at = jnp.arange(len(logits))
    terms = [-jax.nn.log_softmax(logits, axis)[at, at].mean() for axis in (0, 1)]
    return (terms[0] + terms[1]) / 2, jnp.mean(logits.argmax(1) == at)


def train(pool: Pool, work: Path, steps: int) -> None:
    """Trains up to `steps` from the last checkpoint in `work`, and writes the weight file."""
    rate = optax.warmup_cosine_decay_schedule(0.0, 2e-3, 100, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.98))

    @jax.jit
    def step(state: Any, data: Any, key: jax.Array) -> tuple[Any, Any]:
        params, inner = state
        found, grads = jax.value_and_grad(_loss_of_logs, has_aux=True)(params, data, key)
        updates, inner = optimizer.update(grads, inner, params)
        return (optax.apply_updates(params, updates), inner), found

    params = _logs(match.init_params(jax.random.key(0)))
    file, began, seen = work / "state.safetensors", time.time(), []
    state, done = restored(file, (params, optimizer.init(params)))
    for i in range(done, steps):
        key = jax.random.fold_in(jax.random.key(1), i)
        state, found = step(state, batch(pool, np.random.default_rng((1, i))), key)
        seen.append(jax.device_get(found))
        if (i + 1) % 50 == 0 or i + 1 == steps:
            value, right = np.mean(seen, axis=0)
            spent, seen = time.time() - began, []
            print(f"step {i + 1}: loss {value:.3f}, right {right:.3f}, {spent:.0f} s", flush=True)
            leaves = {f"leaf{j}": np.asarray(x) for j, x in enumerate(jax.tree.leaves(state))}
            _save(file, leaves | {"done": np.array(i + 1)})
    weights.write(work, _exps(state[0]), steps)


def restored(file: Path, state: Any) -> tuple[Any, int]:
    """The state in `file`, and the steps that it was trained for; or `state` and 0."""
    if not file.exists():
        return state, 0
    found = safetensors.numpy.load_file(file)
    leaves = [found[f"leaf{i}"] for i in range(len(jax.tree.leaves(state)))]
    return jax.tree.unflatten(jax.tree.structure(state), leaves), int(found["done"])


def _save(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a file that is there whole or not at all."""
    partial = file.with_suffix(".partial")
    safetensors.numpy.save_file(arrays, partial)
    partial.replace(file)


def _logs(params: Any) -> Any:
    """The scale is learned by its logarithm."""
    return params | {"scale": jnp.log(params["scale"])}


def _exps(params: Any) -> Any:
    return params | {"scale": jnp.exp(params["scale"])}


def _loss_of_logs(params: Any, data: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    return loss(_exps(params), data, key)


def resampled(clips: np.ndarray) -> jax.Array:
    """uint8 clips as the network takes them, nothing added."""
    b, t, h, w, _ = clips.shape
    shape = (b, match.FRAMES, match.PIXELS, match.PIXELS, 3)
    x = to_float(clips)
    return jnp.asarray(x) if x.shape == shape else jax.image.resize(x, shape, "bilinear")


class Judge:
    """The networks with given weights, on captions and uint8 clips."""

    def __init__(self, params: Any):
        self._params = jax.tree.map(jnp.asarray, params)
        self._video = jax.jit(match.video_features)
        self._text = jax.jit(match.text_features)

    def video(self, clips: np.ndarray) -> np.ndarray:
        """Unit vectors."""
        parts = np.array_split(clips, max(1, len(clips) // 128))
        return np.concatenate([self._video(self._params, resampled(part)) for part in parts])

    def text(self, captions: Sequence[str]) -> np.ndarray:
        """Unit vectors; every caption is encoded once."""
        once = list(dict.fromkeys(captions))
        features = self._text(self._params, *encode(once))
        place = {caption: i for i, caption in enumerate(once)}
        return np.asarray(features)[[place[caption] for caption in captions]]


def r_precision(video: np.ndarray, text: np.ndarray, others: np.ndarray, n: int) -> float:
    """Share of clips whose caption scores above n - 1 others, taken from `others` at random.

    Args:
      video: clips "b d".
      text: their captions "b d".
      others: captions "b m d" of other triples, without a repetition within a row.
      n: captions to choose from.
    """
    own = np.sum(video * text, axis=-1)
    return float(np.mean(own > np.einsum("bd,bmd->bm", video, others[:, : n - 1]).max(1)))


def swapped(triple: Triple, sprites: Sprites, rng: np.random.Generator) -> dict[str, Triple]:
    """The triple with another subject, motion or background, drawn from those of `sprites`."""
    names = {"subject": sprites.subjects, "motion": sprites.motions}
    names["background"] = sprites.backgrounds
    found = {}
    for axis, (part, choices) in enumerate(names.items()):
        other = [name for name in choices if name != triple[axis]]
        changed = list(triple)
        changed[axis] = other[rng.integers(len(other))]
        found[part] = (changed[0], changed[1], changed[2])
    return found


def measure(judge: Judge, sprites: Sprites, count: int) -> dict[str, Any]:
    """R-precision and the preference over a swapped attribute, on triples never trained on."""
    rng = np.random.default_rng(0)
    held_out, every = sprites.triples("held_out"), sprites.triples("all")
    every = [every[int(i)] for i in rng.permutation(len(every))[:CANDIDATES]]
    triples = [held_out[int(i)] for i in rng.integers(len(held_out), size=count)]
    scenes = [sprites.scene_of(*triple, rng) for triple in triples]
    candidates = [_others(triple, every, rng) for triple in triples]
    changed = [swapped(triple, sprites, rng) for triple in triples]

    def write(triple: Triple) -> str:
        subject, motion, background = triple
        template = int(rng.integers(sprites.templates))
        return grammar.write(subject, motion, background, template)

    video = judge.video(np.stack([sprites.render(scene) for scene in scenes]))
    text = judge.text([sprites.caption(scene) for scene in scenes])
    flat = judge.text([write(triple) for row in candidates for triple in row])
    others = flat.reshape(count, -1, flat.shape[-1])
    own = np.sum(video * text, axis=-1)
    found: dict[str, Any] = {f"r@{n}": r_precision(video, text, others, n) for n in (16, 64)}
    for part in ("subject", "motion", "background"):
        wrong = judge.text([write(row[part]) for row in changed])
        found[part] = float(np.mean(own > np.sum(video * wrong, axis=-1)))
    found["match"] = float(own.mean())
    found["match, shuffled"] = float(np.mean(np.sum(video * np.roll(text, 1, axis=0), axis=-1)))
    return found | {"shuffled r@16": r_precision(video, np.roll(text, 1, axis=0), others, 16)}


def _others(triple: Triple, every: Sequence[Triple], rng: np.random.Generator) -> list[Triple]:
    chosen = [every[int(i)] for i in rng.choice(len(every), 64, replace=False)]
    return [other for other in chosen if other != triple][:63]


SETS = {
    "easy, 7 motions": {"subjects": "easy"},
    "easy, 11 motions": {"subjects": "easy", "motions": tuple(MOTIONS)},
    "animals, 7 motions": {"subjects": "animals"},
    "all, 11 motions": {"subjects": "all", "motions": tuple(MOTIONS)},
}
SHAPES = {"16 x 16 x 16": (16, 16, 3.0), "8 x 32 x 32": (8, 32, 1.5), "32 x 64 x 64": (32, 64, 6.0)}


def report(params: Any, count: int) -> None:
    """Prints one line for every set of sprites and clip size."""
    judge = Judge(params)
    for (name, options), (clip, (t, side, fps)) in itertools.product(SETS.items(), SHAPES.items()):
        shape = VideoShape(frames=t, height=side, width=side, fps=fps)
        sprites = Sprites(shape=shape, split="held_out", **options)
        found = measure(judge, sprites, count)
        cells = ", ".join(f"{key} {value:.3f}" for key, value in found.items())
        print(f"{name}, {clip}: {cells}", flush=True)


def main() -> None:
    """Trains if a folder is given, then measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="where training keeps its files")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--clips", type=int, default=256, help="to measure on, for each set")
    flags = parser.parse_args()
    if flags.work is None:
        report(match.load_params(), flags.clips)
        return
    train(prepare(flags.work), flags.work, flags.steps)
    data = (flags.work / weights.FILE).read_bytes()
    print(f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")
    report(match.read_params(data), flags.clips)


if __name__ == "__main__":
    main()
