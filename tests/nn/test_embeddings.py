"""Scalar features and relative positions against published numbers and closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.nn import embeddings


def test_noise_level_vectors():
    logsnr = jnp.array([-20.0, -5.0, 0.0, 5.0, 20.0])
    inv_cos = jnp.array([0.9999711, 0.9478600, 0.5, 0.0521400, 0.0000289])
    found = embeddings.logsnr_features(logsnr, 16)
    np.testing.assert_allclose(found, embeddings.sinusoids(inv_cos, 16), atol=1e-4)


def test_noise_level_is_clipped():
    outside = embeddings.logsnr_features(jnp.array([-50.0, 30.0]), 8)
    np.testing.assert_array_equal(outside, embeddings.logsnr_features(jnp.array([-20.0, 20.0]), 8))


def test_sinusoid_vector():
    found = embeddings.sinusoids(jnp.array(0.5), 8)
    expected = [
        *(-0.46777181, -0.93799336, 0.88064285, 0.04997917),
        *(-0.88384927, -0.34665323, 0.47378072, 0.99875026),
    ]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_sinusoids_scale_with_max_time():
    x = jnp.array([0.1, 0.7])
    np.testing.assert_allclose(
        embeddings.sinusoids(100 * x, 12, max_time=100.0), embeddings.sinusoids(x, 12), atol=1e-4
    )


@pytest.mark.parametrize("dim", [2, 7])
def test_sinusoids_need_an_even_width(dim):
    with pytest.raises(ValueError, match=f"even width >= 4, got {dim}"):
        embeddings.sinusoids(jnp.zeros(1), dim)


@pytest.mark.parametrize("frames", [1, 2, 5, 8, 33])
def test_frame_features_closed_form(frames):
    dim = 6
    found = np.asarray(embeddings.frame_features(frames, dim))
    assert found.shape == (frames, dim)
    for i in range(frames):
        place = i / (frames - 1) if frames > 1 else 0.5
        angles = [np.pi * place * 2**j for j in range(dim // 2)]
        np.testing.assert_allclose(found[i], [*np.sin(angles), *np.cos(angles)], atol=1e-6)


def test_frame_features_tell_every_frame_from_every_other():
    slowest = np.asarray(embeddings.frame_features(33, 2))[:, 1]  # cos(π τ) falls from 1 to -1
    assert np.all(np.diff(slowest) < 0)
    np.testing.assert_allclose(slowest[[0, -1]], [1, -1], atol=1e-6)


def test_longer_clip_reads_the_same_functions():
    np.testing.assert_allclose(
        embeddings.frame_features(9, 8)[::2], embeddings.frame_features(5, 8), atol=1e-6
    )


@pytest.mark.parametrize("dim", [0, 3])
def test_frame_features_need_an_even_width(dim):
    with pytest.raises(ValueError, match=f"even width >= 2 an axis, got {dim}"):
        embeddings.frame_features(4, dim)


def test_pixel_features_are_those_of_each_axis():
    found = embeddings.pixel_features(3, 5, 8)
    assert found.shape == (3, 5, 8)
    for y in range(3):
        np.testing.assert_array_equal(found[y, :, 4:], embeddings.frame_features(5, 4))
    for x in range(5):
        np.testing.assert_array_equal(found[:, x, :4], embeddings.frame_features(3, 4))


@pytest.mark.parametrize("dim", [2, 6, 7])
def test_pixel_features_need_an_even_width_on_both_axes(dim):
    with pytest.raises(ValueError, match=f"even width >= 2 an axis, got {dim // 2}"):
        embeddings.pixel_features(4, 4, dim)


def t5_bucket(distance):
    """From the published table: the first distance of each bucket on the past side."""
    firsts = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
    past = max(bucket for bucket, first in enumerate(firsts) if first <= abs(distance))
    return past + 16 if distance > 0 else past


def test_buckets_of_t5_on_both_sides():
    length = 201
    table = embeddings.relative_buckets(length, length)
    for query, key in ((200, range(201)), (0, range(201)), (77, range(201))):
        expected = [t5_bucket(k - query) for k in key]
        np.testing.assert_array_equal(table[query], expected)


def test_buckets_listed_one_by_one():
    past = {11: 8, 12: 9, 15: 9, 16: 10, 22: 10, 23: 11, 31: 11, 32: 12, 45: 12, 46: 13, 63: 13}
    past |= {64: 14, 90: 14, 91: 15, 127: 15, 200: 15}
    future = {1: 17, 2: 18, 7: 23, 8: 24, 12: 25, 16: 26, 23: 27, 32: 28, 46: 29, 64: 30, 91: 31}
    future |= {200: 31}
    table = embeddings.relative_buckets(201, 201)
    assert {d: table[200, 200 - d] for d in past} == past
    assert {d: table[0, d] for d in future} == future


def test_buckets_depend_on_distance_alone():
    table = embeddings.relative_buckets(40, 40)
    np.testing.assert_array_equal(table[1:, 1:], table[:-1, :-1])
    np.testing.assert_array_equal(embeddings.relative_buckets(9, 40), table[:9])


def test_causal_buckets_of_t5():
    firsts = [*range(16), 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]
    table = embeddings.relative_buckets(201, 201, causal=True)
    found = table[200, ::-1]  # distances 0 ... 200 into the past
    assert [int(np.argmax(found == bucket)) for bucket in range(32)] == firsts
    assert np.all(np.diff(found) >= 0) and found[-1] == 31
    np.testing.assert_array_equal(np.triu(table), 0)  # all that is ahead


@pytest.mark.parametrize("causal", [False, True])
def test_buckets_of_queries_that_come_later(causal):
    table = embeddings.relative_buckets(40, 40, causal=causal)
    found = embeddings.relative_buckets(7, 40, offset=33, causal=causal)
    np.testing.assert_array_equal(found, table[33:])


@pytest.mark.parametrize("buckets", [2, 10])
def test_buckets_come_in_fours(buckets):
    with pytest.raises(ValueError, match=f"multiple of 4 buckets, got {buckets}"):
        embeddings.relative_buckets(3, 3, buckets=buckets)
