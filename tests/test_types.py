"""What the shared types refuse, and what they compute."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.types import ByValue, Mean, TextEmbedding, VideoShape, null_text


@pytest.mark.parametrize("field", ["frames", "height", "width", "channels", "fps"])
def test_a_shape_of_nothing_is_refused(field):
    sizes = {"frames": 2, "height": 3, "width": 4} | {field: 0.0 if field == "fps" else 0}
    with pytest.raises(ValueError, match=rf"VideoShape.{field} is 0\b"):
        VideoShape(**sizes)


def test_a_shape_in_the_order_of_arrays():
    shape = VideoShape(frames=2, height=3, width=4)
    assert shape.thwc == (2, 3, 4, 3) and str(shape) == "2x3x4"
    assert shape.words == "2 frames of 3x4 at 8 fps" and shape.seconds == 0.25


def test_a_mean_does_not_depend_on_how_values_are_grouped():
    values, weights = np.array([1.0, 5.0, 9.0]), np.array([1.0, 2.0, 3.0])
    parts = Mean.of(values[:1], weights[:1]).merge(Mean.of(values[1:], weights[1:]))
    assert float(parts.value()) == pytest.approx(float(np.average(values, weights=weights)))
    assert np.isnan(Mean.of(values, 0 * weights).value())


def test_the_null_prompt_attends_to_nothing():
    text = TextEmbedding(tokens=jnp.ones((2, 3, 4)), mask=jnp.ones((2, 3), bool))
    null = null_text(text)
    assert null.tokens.shape == (2, 3, 4) and not null.tokens.any() and not null.mask.any()


@dataclasses.dataclass(frozen=True)
class Listed:
    numbers: Any


@pytest.mark.parametrize("numbers, others", [((1, 2), (1, 3)), ([1, 2], [1, 3])])
def test_equal_settings_share_a_program(numbers, others):
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def add(settings, x):
        traced.append(settings.value)
        return x + sum(settings.value.numbers)

    results = [add(ByValue(Listed(each)), 1) for each in (numbers, others, list(numbers), numbers)]
    assert results[:2] == [4, 5] and results[3] == 4
    expected = [Listed(numbers), Listed(others)]
    assert traced == (expected if numbers == list(numbers) else [*expected, Listed([1, 2])])
