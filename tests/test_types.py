"""What the shared types refuse, and what they compute."""

import dataclasses
import functools
import weakref
from typing import Any, NoReturn

import beartype
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jaxtyping import Array, Float

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


# ---- the checks that tests/helpers/type_checks.py makes at run time ------------------------------


@jaxtyping.jaxtyped(typechecker=beartype.beartype)
def rows(x: Float[Array, "b t"], y: Float[Array, "t"], /, keep: int = 0, *more: str, **n: int):
    return x @ y, keep, more, n


@jaxtyping.jaxtyped(typechecker=beartype.beartype)
def sliced(x: Float[Array, "b t"], to: int | None = None) -> Float[Array, "t b"]:
    assert sliced(x.T) is not None if to else True  # the letters of a call are its own
    return x.T[:to]


X, Y = jnp.ones((2, 3)), jnp.ones(3)


def test_what_fits_passes():
    assert rows(X, Y, 1, "a", "b", c=2)[1:] == (1, ("a", "b"), {"c": 2})
    assert rows(X, Y)[1:] == (0, (), {})
    assert sliced(X).shape == sliced(X, to=3).shape == (3, 2)


@pytest.mark.parametrize(
    ("arguments", "named", "word"),
    [
        ((X, X), {}, "y"),  # an axis too many
        ((X, Y[:2]), {}, "y"),  # a size that is another's
        ((X.astype(int), Y), {}, "x"),
        ((X, Y, "0"), {}, "keep"),
        ((X, Y, 0, 1), {}, "more"),
        ((X, Y), {"c": "d"}, "n"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(arguments, named, word):
    with pytest.raises(jaxtyping.TypeCheckError, match=f"typechecking parameter '{word}'"):
        rows(*arguments, **named)


def test_a_result_that_does_not_fit():
    with pytest.raises(jaxtyping.TypeCheckError, match=r"\bsliced returned"):
        sliced(X, to=2)


@jaxtyping.jaxtyped(typechecker=beartype.beartype)
def ones(size: int) -> Float[Array, "b {size}"]:
    return X if size else X[:, :0]


def test_sizes_that_are_arguments():
    assert ones(3).shape == (2, 3) and ones(0).shape == (2, 0)
    with pytest.raises(jaxtyping.TypeCheckError, match="return value of .*ones"):
        ones(2)


def test_calls_with_other_arguments_are_not_checks():
    with pytest.raises(TypeError, match="argument: 'y'"):
        rows(X)
    with pytest.raises(ZeroDivisionError):
        divided(1)


@jaxtyping.jaxtyped(typechecker=beartype.beartype)
def divided(x: int) -> float:
    return x / 0


@jaxtyping.jaxtyped(typechecker=beartype.beartype)
def ended(how: BaseException | None) -> NoReturn:
    if how:
        raise how  # pyright: ignore[reportReturnType]


def test_what_never_returns():
    with pytest.raises(SystemExit):
        ended(SystemExit(2))
    with pytest.raises(jaxtyping.TypeCheckError, match="ended returned"):
        ended(None)


def test_what_a_function_holds_goes_with_it():
    def holding(array):
        @jaxtyping.jaxtyped(typechecker=beartype.beartype)
        def inner(x: int) -> int:
            return x + array.size

        return inner(1)

    held = np.zeros(3)
    watched = weakref.ref(held)
    assert holding(held) == 4
    del held
    assert watched() is None


def test_the_package_is_checked():
    text = TextEmbedding(tokens=jnp.ones((2, 3, 4)), mask=jnp.ones((2, 3), bool))
    for wrong in (text.tokens, None):
        with pytest.raises(jaxtyping.TypeCheckError, match="'text'"):
            null_text(wrong)
    with pytest.raises(jaxtyping.TypeCheckError, match="'frames'"):
        VideoShape(frames=1.5, height=3, width=4)  # pyright: ignore[reportArgumentType]
