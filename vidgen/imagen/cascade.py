"""The chain of stages: a small, slow video first, then more frames and larger ones.

    text ─ base ─ tsr1 ─ ssr1 ─ ssr2 ─ tsr2 ─ tsr3 ─ ssr3 ─ video          (Imagen Video, fig. 6)

Stage n makes x_n from the text and x_{n-1}, clipped to [-1, 1]. Each is trained by itself, so any
part of the chain runs by itself: it may stop early, and it may start from any video of the size
that its first stage takes. What stage n draws depends on the clip's key and the stage's name,

    key_n = key  for the base,   fold_in(key, h) for all others,   h = SHA-256(name)[:4],

so that a part of the chain makes what the whole would have made from there. While a stage runs, the
weights of the next one are loaded; those of the one before are gone by then, so that two stages at
most are on the devices. Finished videos wait on the host.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from vidgen.imagen.stage import DiffusionStage
from vidgen.model import SampledModel
from vidgen.types import STAGES, Known, Params, TextEmbedding, VideoShape

KnownAt = Callable[[VideoShape], tuple[Float[np.ndarray, "t h w c"], Bool[np.ndarray, "t h w"]]]
Sample = Callable[..., Array | np.ndarray]


class StageClips(NamedTuple):
    """Videos that a stage has just made.

    Attributes:
      stage: name of the stage.
      start: number of the first of these clips among all.
      video: about in [-1, 1], on the host.
    """

    stage: str
    start: int
    video: Float[np.ndarray, "b t h w c"]


@dataclasses.dataclass(frozen=True)
class Cascade:
    """Stages that fit each other: what each makes is what the next one takes.

    Attributes:
      stages: in the order in which they run.

    Raises:
      ValueError: two neighbours do not fit; names both, and what belongs between them.
    """

    stages: Sequence[SampledModel]

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        if not self.stages:
            raise ValueError("a cascade needs one stage or more; got none.")
        names = self.names
        if len(set(names)) < len(names):
            raise ValueError(f"two stages of a cascade have the same name: {', '.join(names)}.")
        for before, after in zip(self.stages[:-1], self.stages[1:], strict=True):
            _check_fit(before, after)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages, in the order in which they run."""
        return tuple(stage.name for stage in self.stages)

    @property
    def shape(self) -> VideoShape:
        """The clip that the last stage makes."""
        return self.stages[-1].shape

    @property
    def input_shape(self) -> VideoShape | None:
        """The clip that the first stage takes; None where it begins with text alone."""
        return _input_shape(self.stages[0])

    # ---- sizes -------------------------------------------------------------------------------

    @property
    def factors(self) -> tuple[int, int]:
        """How much more comes out than goes in: (frames, pixels along a side)."""
        first = self.input_shape or self.stages[0].shape
        return self.shape.frames // first.frames, self.shape.height // first.height

    @property
    def multiples(self) -> tuple[int, int]:
        """The frames, and the pixels along a side, that come out are multiples of these."""
        time, space = self.factors
        pixels = space
        for stage in self.stages:
            pixels = math.lcm(pixels, stage.stride * (self.shape.height // stage.shape.height))
        return time, pixels

    def sized(
        self, *, frames: int | None = None, height: int | None = None, width: int | None = None
    ) -> Cascade:
        """Change the size of the clips of all stages.

        The frame rate stays, so that another number of frames is another length.

        Args:
          frames: of the clip that comes out, a multiple of `multiples[0]`; None keeps what the
            stages were trained for, as it does for the others.
          height: pixels, a multiple of `multiples[1]`.
          width: pixels, likewise.

        Returns:
          A chain of the same stages with other shapes.

        Raises:
          ValueError: the chain cannot make that size; names the nearest that it can.
        """
        shape, (time, pixels) = self.shape, self.multiples
        wanted = {"frames": frames, "height": height, "width": width}
        sizes = {name: value for name, value in wanted.items() if value is not None}
        for name, value in sizes.items():
            _check_multiple(self.names, name, value, time if name == "frames" else pixels)
        new = dataclasses.replace(shape, **sizes)
        stages: list[SampledModel] = []
        for stage in self.stages:
            here = dataclasses.replace(
                stage.shape,
                frames=new.frames * stage.shape.frames // shape.frames,
                height=new.height * stage.shape.height // shape.height,
                width=new.width * stage.shape.width // shape.width,
            )
            stages.append(dataclasses.replace(stage, shape=here))
        return Cascade(stages)

    def at_rate(self, fps: float) -> Cascade:
        """Change the frame rate of the clips that come out, and of all stages by the same factor.

        Args:
          fps: frames per second of the clips that come out.

        Returns:
          A chain of the same stages with other rates.

        Raises:
          ValueError: no stage has the frame rate as an input, or the rate is not positive.
        """
        check_rate(self.stages, fps)
        stages: list[SampledModel] = []
        for stage in self.stages:
            rate = stage.shape.fps * fps / self.shape.fps
            shape = dataclasses.replace(stage.shape, fps=rate)
            stages.append(dataclasses.replace(stage, shape=shape))
        return Cascade(stages)

    # ---- sampling ----------------------------------------------------------------------------

    def generate(
        self,
        load: Callable[[str], Params],
        text: TextEmbedding | Callable[[str], TextEmbedding],
        keys: Key[Array, "n"],
        *,
        sample: Sample,
        low_res: Float[np.ndarray, "n t h w c"] | None = None,
        known: KnownAt | None = None,
        batch_size: Mapping[str, int] | None = None,
    ) -> Iterator[StageClips]:
        """Make the videos of every stage, stage after stage, within a stage batch after batch.

        A last, smaller batch is filled up with copies, so that one program is compiled a stage.

        Args:
          load: brings the weights of a stage, in a thread of its own: those of stage n + 1 while
            stage n runs, when those of stage n - 1 have been let go.
          text: n encoded prompts, or a function from a stage's name to them.
          keys: random keys of the n clips; `stage_keys` makes the stages' own.
          sample: makes one batch: (stage, params, text, low_res, keys, known) -> video, by the
            stage's `generate`; it puts the arrays, which are on the host, where they belong.
          low_res: what the first stage starts from, in `input_shape` and [-1, 1]; None for the
            base.
          known: content that every clip must have: from the clip's shape at a stage to the video,
            and a mask that is True where it is known.
          batch_size: clips made at a time, by stage; all where a stage is not named.

        Yields:
          The clips of each batch, all of a stage before those of the next.

        Raises:
          ValueError: `low_res` is missing, not wanted, or of another size.
        """
        self._check_input(low_res)
        count, videos = len(keys), low_res
        for stage, params in _loaded_ahead(load, self.stages):
            size = (batch_size or {}).get(stage.name, count)
            content = _known_batch(known, stage.shape, size)
            encoded = text(stage.name) if callable(text) else text
            own_keys = stage_keys(keys, stage.name)
            finished: list[np.ndarray] = []
            for start in range(0, count, size):
                rows = np.minimum(np.arange(start, start + size), count - 1)
                low = None if videos is None else np.clip([videos[i] for i in rows], -1, 1)
                words = jax.tree.map(lambda x, rows=rows: x[rows], encoded)
                video = sample(stage, params, words, low, own_keys[rows], content)
                video = np.asarray(video, np.float32)[: count - start]
                yield StageClips(stage.name, start, video)
                finished += list(video)
            videos = finished
            del params, content

    def _check_input(self, low_res: np.ndarray | None) -> None:
        first, wanted = self.stages[0].name, self.input_shape
        if wanted is None and low_res is not None:
            raise ValueError(f"stage {first} makes video from text alone; it takes no video.")
        if wanted is not None and low_res is None:
            raise ValueError(f"stage {first} starts from a video of {wanted.words}; give one.")
        if low_res is not None and wanted is not None and low_res.shape[1:] != wanted.thwc:
            size = "x".join(map(str, low_res.shape[1:4]))
            raise ValueError(f"stage {first} starts from {wanted.words}, not from {size}.")


def stage_keys(keys: Key[Array, "n"], stage: str) -> Key[Array, "n"]:
    """Derive the keys of a stage from those of the clips (equation in the module's docstring).

    Args:
      keys: one a clip.
      stage: name of the stage.

    Returns:
      One key a clip; those of the base are the clips' own.
    """
    if stage == STAGES[0]:
        return keys
    number = int.from_bytes(hashlib.sha256(stage.encode()).digest()[:4], "little")
    return jax.vmap(jax.random.fold_in, (0, None))(keys, np.uint32(number))


def _loaded_ahead(
    load: Callable[[str], Params], stages: Sequence[SampledModel]
) -> Iterator[tuple[SampledModel, Params]]:
    """Yield each stage with its weights, and load those of the next one meanwhile.

    Who takes them lets go of the weights before it asks for more, and nothing here keeps them.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="vidgen-weights") as loader:
        coming: Future[Params] | None = loader.submit(load, stages[0].name)
        for stage, after in itertools.zip_longest(stages, stages[1:]):
            assert coming is not None
            params = [coming.result()]
            coming = loader.submit(load, after.name) if after else None
            yield stage, params.pop()


def _known_batch(known: KnownAt | None, shape: VideoShape, size: int) -> Known | None:
    """Repeat the known content for each of a batch, without a copy."""
    if known is None:
        return None
    video, mask = known(shape)
    whole: Any = np.broadcast_to(video, (size, *video.shape))
    where: Any = np.broadcast_to(mask[..., None], (size, *mask.shape, 1))
    return Known(video=whole, mask=where)


def _input_shape(stage: SampledModel) -> VideoShape | None:
    try:
        return stage.input_shape
    except ValueError as error:
        raise ValueError(f"stage {stage.name}: {error}") from error


def _check_fit(before: SampledModel, after: SampledModel) -> None:
    wanted, output = _input_shape(after), before.shape
    if wanted is None:
        raise ValueError(
            f"stage {after.name} makes video from text alone; it cannot come after {before.name}."
        )
    if wanted.thwc == output.thwc and math.isclose(wanted.fps, output.fps, rel_tol=1e-6):
        return
    sentence = (
        f"stage {after.name} takes clips of {wanted.words}, but {before.name} gives {output.words}"
    )
    if before.name in STAGES and after.name in STAGES:
        between = STAGES[STAGES.index(before.name) + 1 : STAGES.index(after.name)]
        if between:
            verb = "is" if len(between) == 1 else "are"
            sentence += f": {' and '.join(between)} {verb} missing between them"
    raise ValueError(sentence + ".")


def check_rate(stages: Sequence[SampledModel], fps: float) -> None:
    """Check that a frame rate can be asked of a cascade.

    Args:
      stages: those that run.
      fps: frames per second of the last.

    Raises:
      ValueError: none of the stages has the frame rate as a condition, or it is not positive.
    """
    if not any(isinstance(stage, DiffusionStage) and stage.fps_condition for stage in stages):
        names = " ".join(stage.name for stage in stages)
        raise ValueError(
            f"--fps={fps:g}: {names} makes clips of one frame rate, {stages[-1].shape.fps:g}; "
            "train with several (models/imagen/fps.gin)."
        )
    if not 0 < fps < math.inf:
        raise ValueError(f"--fps is {fps:g}; it must be positive.")


def _check_multiple(names: Sequence[str], what: str, value: int, multiple: int) -> None:
    if value >= 1 and value % multiple == 0:
        return
    lower = max(value, 0) // multiple * multiple
    near = " and ".join(str(n) for n in (lower, lower + multiple) if n)
    what = what if what == "frames" else f"pixels of {what}"
    raise ValueError(
        f"{' '.join(names)} cannot make {value} {what}: it must be a multiple of {multiple}; "
        f"nearest: {near}."
    )
