"""How far a distilled student follows its guidance weight, measured against its teacher.

    d_S = x̂_S(z, w_high) - x̂_S(z, w_low)                     one evaluation each
    d_T = (w_high - w_low) [x̂_T(z, text) - x̂_T(z)]           what guidance adds between the two
    slope = <d_S, d_T> / <d_T, d_T>      cosine = <d_S, d_T> / (|d_S| |d_T|)

at one noise level, over all examples and pixels: a slope of 1 is the teacher's guidance, 0 a weight
that is ignored, and a low cosine says that the student does something else with it. Neither is
thresholded: static thresholding alone would flatten what is compared.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from vidgen.diffusion import guidance, schedules
from vidgen.imagen.stage import DiffusionStage
from vidgen.types import Conditioning, Params, VideoBatch, null_text

LOGSNRS = (-6.0, -3.0, -1.5, 0.0, 1.5, 3.0)


class Response(NamedTuple):
    """What a student makes of its weight at one noise level.

    Attributes:
      logsnr: the noise level.
      slope: share of the teacher's change that the student makes; 1 is all of it.
      cosine: cosine of the angle between both changes.
      student: root mean square of the student's change, in units of pixels in [-1, 1].
      teacher: root mean square of the teacher's change.
    """

    logsnr: float
    slope: float
    cosine: float
    student: float
    teacher: float


def guidance_response(
    student: DiffusionStage,
    params: Params,
    teacher: DiffusionStage,
    teacher_params: Params,
    batches: Sequence[VideoBatch],
    *,
    weights: Sequence[float],
    logsnrs: Sequence[float] = LOGSNRS,
    seed: int = 0,
) -> list[Response]:
    """Measure the response at each of `logsnrs`, all on the same clips and noise.

    Args:
      student: a stage with `guidance_input`.
      params: its parameters.
      teacher: the stage that it was distilled from.
      teacher_params: its parameters.
      batches: clips in [-1, 1] with their text.
      weights: low and high guidance weight, within what the student learned.
      logsnrs: noise levels.
      seed: seed of the noise.

    Returns:
      One response a noise level, in the order of `logsnrs`.

    Raises:
      ValueError: the weights are equal, or the stages are not a student and a teacher.
    """
    low, high = weights
    if not low < high:
        raise ValueError(f"the guidance weights are {weights}; take (low, high) with low < high.")
    if not student.guidance_input or teacher.guidance_input:
        raise ValueError("compare a student (guidance_input) with a teacher that is none.")
    sums = jax.jit(functools.partial(_products, student, teacher, weights))
    responses = []
    for logsnr in logsnrs:
        total, level = np.zeros(3), jnp.float32(logsnr)
        for i, batch in enumerate(batches):
            key = jax.random.fold_in(jax.random.key(seed), i)
            total += np.asarray(sums(params, teacher_params, batch, key, level), np.float64)
        responses.append(_response(float(logsnr), *map(float, total / len(batches))))
    return responses


def _response(logsnr: float, both: float, student_square: float, teacher_square: float) -> Response:
    """Compute a response from the means of d_S d_T, d_S² and d_T²."""
    root = np.sqrt(student_square * teacher_square)
    return Response(
        logsnr=logsnr,
        slope=both / teacher_square if teacher_square else float("nan"),
        cosine=both / root if root else 0.0,
        student=student_square**0.5,
        teacher=teacher_square**0.5,
    )


def _products(
    student: DiffusionStage,
    teacher: DiffusionStage,
    weights: Sequence[float],
    params: Params,
    teacher_params: Params,
    batch: VideoBatch,
    key: Key[Array, ""],
    logsnr: Float[Array, ""],
) -> Float[Array, "3"]:
    """Average d_S d_T, d_S² and d_T² over a batch."""
    cond_key, noise_key = jax.random.split(key)
    x, cond = student.conditioned(batch, cond_key)
    level = jnp.full(x.shape[:1], logsnr)
    z = schedules.diffuse(x, jax.random.normal(noise_key, x.shape, x.dtype), level)

    def conditioned(weight: float) -> Conditioning:
        return cond.replace(guidance_weight=jnp.full(x.shape[:1], weight))

    twice = guidance.pair(z, z), guidance.pair(level, level)
    low, high = weights
    x0_student = student.denoise(params, guidance.pair(conditioned(low), conditioned(high)), *twice)
    without = cond.replace(text=null_text(cond.text))
    x0_teacher = teacher.denoise(teacher_params, guidance.pair(without, cond), *twice)
    d_student = x0_student[1::2] - x0_student[0::2]
    d_teacher = (high - low) * (x0_teacher[1::2] - x0_teacher[0::2])
    products = d_student * d_teacher, d_student**2, d_teacher**2
    return jnp.stack([jnp.mean(product) for product in products])
