"""Quantisers: hand-computed codes, straight-through gradients, usage, and dead codes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vidgen.phenaki import quantizer
from vidgen.phenaki.quantizer import FSQ, LFQ, VectorQuantizer

KINDS = {
    "vq": VectorQuantizer(codes=11, dim=3),
    "fsq": FSQ(levels=(5, 4, 3)),
    "lfq": LFQ(bits=5),
}
each_kind = pytest.mark.parametrize("module", KINDS.values(), ids=KINDS)


def normal(seed, *shape):
    """Made by numpy, which compiles nothing."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def random_params(module, features=6):
    shape = jax.ShapeDtypeStruct((2, features), jnp.float32)
    boxed = jax.eval_shape(module.init, jax.random.key(0), shape)
    leaves, tree = jax.tree.flatten(nn.meta.unbox(boxed))
    return tree.unflatten([normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def apply(module, params, *args, **static):
    return jax.jit(functools.partial(module.apply, **static))(params, *args)


def identity_params(dim, **more):
    """The lookup space is the space of the latents."""
    dense = {"dense": {"kernel": jnp.eye(dim), "bias": jnp.zeros(dim)}}
    return {"params": {"inward": dense, "outward": dense, **more}}


def two_dimensions(beta=0.25, **changes):
    """test_vectors section 11: codes (1,0), (0,1), (1,1)/√2."""
    module = VectorQuantizer(codes=3, dim=2, beta=beta, **changes)
    codes = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # not yet on the unit sphere
    return module, identity_params(2, codebook=codes)


# ---- vector quantisation -------------------------------------------------------------------------


def test_vq_hand_computed():
    module, params = two_dimensions()
    # Any multiple of z is the same point of the sphere.
    out = module.apply(params, jnp.asarray([[0.6, 0.8], [6.0, 8.0], [2.0, 0.1], [-0.1, 3.0]]))
    np.testing.assert_array_equal(out.indices, [2, 2, 0, 1])
    np.testing.assert_allclose(out.loss[:2] * 2, 0.02512627, atol=1e-6)  # a mean over 2 features
    np.testing.assert_allclose(out.latents[0], [0.5**0.5, 0.5**0.5], atol=1e-6)
    assert out.indices.dtype == jnp.int32


def test_vq_chooses_the_nearest_of_many():
    module = VectorQuantizer(codes=50, dim=4)
    params, x = random_params(module), normal(3, 2, 5, 3, 6)
    out = apply(module, params, x)
    p = jax.tree.map(np.asarray, params["params"])
    z = np.asarray(x) @ p["inward"]["dense"]["kernel"] + p["inward"]["dense"]["bias"]
    z, e = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (z, p["codebook"]))
    distances = ((z[..., None, :] - e) ** 2).sum(-1)
    np.testing.assert_array_equal(out.indices, distances.argmin(-1))
    np.testing.assert_allclose(out.loss * 4, 1.25 * distances.min(-1), rtol=1e-4, atol=1e-6)


def gradients(beta):
    """Of the loss at z = (.6, .8), by x and by the codebook."""
    module, params = two_dimensions(beta)

    def loss(params, x):
        return jnp.sum(module.apply(params, x).loss)

    by_params, by_x = jax.jit(jax.grad(loss, (0, 1)))(params, jnp.asarray([[0.6, 0.8]]))
    return np.asarray(by_params["params"]["codebook"]), np.asarray(by_x)


def test_vq_codebook_learns_from_its_own_term_alone():
    codebook, x = gradients(beta=0.0)
    np.testing.assert_array_equal(x, 0)  # no commitment: nothing reaches z
    np.testing.assert_array_equal(codebook[:2], 0)  # codes that are not the nearest
    # d|z - e/|e||²/de = -2/|e| (z - (z·e)e) for unit e; here |e| = √2, and there are 2 features.
    e, z = np.asarray([0.5**0.5, 0.5**0.5]), np.asarray([0.6, 0.8])
    np.testing.assert_allclose(codebook[2], -(2**-0.5) * (z - (z @ e) * e), atol=1e-6)


def test_vq_commitment_moves_the_latent_alone():
    (free, _), (codebook, x) = gradients(beta=0.0), gradients(beta=0.25)
    np.testing.assert_array_equal(codebook, free)
    e, z = np.asarray([0.5**0.5, 0.5**0.5]), np.asarray([0.6, 0.8])
    np.testing.assert_allclose(x[0], 0.25 * -1 * (e - (e @ z) * z), atol=1e-6)


def test_vq_latents_send_nothing_to_the_codebook():
    module, params = two_dimensions()

    def outside(params, x):
        return jnp.sum(module.apply(params, x).latents * jnp.asarray([1.0, -3.0]))

    grad = jax.jit(jax.grad(outside))(params, jnp.asarray([[0.6, 0.8]]))
    np.testing.assert_array_equal(grad["params"]["codebook"], 0)


def test_vq_zero_latent_is_finite():
    module, params = two_dimensions()
    loss = jax.jit(jax.grad(lambda x: jnp.sum(module.apply(params, x).loss)))
    assert np.isfinite(loss(jnp.zeros((1, 2)))).all()


# ---- dead codes ----------------------------------------------------------------------------------


def revival(weights=None, train=True, revive=1.0):
    """Gradient by the codebook of the mean loss; z are near code 0, codes 1 and 2 are unused."""
    module = VectorQuantizer(codes=3, dim=2, beta=0.0, revive=revive)
    codes = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    x = jnp.asarray([[0.96, 0.28], [0.96, -0.28]])

    def loss(codebook):
        params = identity_params(2, codebook=codebook)
        return jnp.mean(module.apply(params, x, weights=weights, train=train).loss)

    return np.asarray(jax.jit(jax.grad(loss))(codes)), np.asarray(codes), np.asarray(x)


def test_revive_moves_unused_codes_to_a_latent():
    grad, codes, x = revival()
    without, _, _ = revival(revive=0.0)
    np.testing.assert_array_equal(grad[0], without[0])  # the used one does not notice
    np.testing.assert_array_equal(without[1:], 0)
    for code, nearest in ((1, 0), (2, 1)):
        e, z = codes[code], x[nearest]
        np.testing.assert_allclose(grad[code], -1 / 3 * (z - (z @ e) * e), atol=1e-6)


def test_revive_leaves_out_positions_of_weight_zero():
    grad, codes, x = revival(weights=jnp.asarray([1.0, 0.0]))
    e = codes[2]
    np.testing.assert_allclose(grad[2], -1 / 3 * (x[0] - (x[0] @ e) * e), atol=1e-6)
    grad, _, _ = revival(weights=jnp.zeros(2))
    np.testing.assert_array_equal(grad[1:], 0)


def test_revive_acts_in_training_alone():
    np.testing.assert_array_equal(revival(train=False)[0], revival(revive=0.0)[0])


def test_revive_brings_codes_into_use():
    """Data in one corner, codes everywhere: descent on the loss takes the codes to the data."""
    codebook, data = normal(0, 16, 3), 1.0 + 0.3 * normal(1, 200, 64, 3)

    def used(revive):
        module = VectorQuantizer(codes=16, dim=3, revive=revive)

        def step(codebook, x):
            def loss(codebook):
                out = module.apply(identity_params(3, codebook=codebook), x, train=True)
                return jnp.mean(out.loss), out.indices

            grad, indices = jax.grad(loss, has_aux=True)(codebook)
            return codebook - 3 * grad, quantizer.usage(indices, 16)["codes_used"]

        return jax.jit(lambda codebook: jax.lax.scan(step, codebook, data)[1])(codebook)

    without, found = used(0.0), used(1.0)
    assert without[0] == found[0] and without[-1] < 0.4
    assert found[-1] > 0.9


# ---- all three -----------------------------------------------------------------------------------


@each_kind
def test_lookup_of_the_indices_gives_the_latents(module):
    params, x = random_params(module), normal(1, 2, 3, 2, 2, 6)
    out = apply(module, params, x)
    assert out.latents.shape == x.shape and out.indices.shape == out.loss.shape == x.shape[:-1]
    assert len(np.unique(out.indices)) > 3
    found = apply(module, params, out.indices, method="lookup")
    np.testing.assert_allclose(found, out.latents, rtol=1e-6, atol=1e-6)


@each_kind
def test_indices_cover_the_codes(module):
    """Codes are numbered 0 ... codes - 1, and each number is a code of its own."""
    params = random_params(module)
    every = apply(module, params, jnp.arange(module.codes), method="lookup")
    assert len(np.unique(np.round(np.asarray(every), 4), axis=0)) == module.codes
    out = apply(module, params, normal(1, 100, 6))
    assert out.indices.min() >= 0 and out.indices.max() < module.codes


@each_kind
def test_usage_takes_the_indices(module):
    out = apply(module, random_params(module), normal(1, 10, 6))
    assert 0 < quantizer.usage(out.indices, module.codes)["codes_used"] <= 10 / module.codes


@each_kind
def test_bfloat16(module):
    params = random_params(module)
    x = normal(1, 4, 6).astype(jnp.bfloat16)
    low = apply(module.clone(dtype="bfloat16"), params, x)
    high = apply(module, params, x)
    assert low.latents.dtype == jnp.bfloat16 and low.loss.dtype == jnp.float32
    # The projection into the lookup space is float32 for both.
    np.testing.assert_array_equal(low.indices, high.indices)
    np.testing.assert_array_equal(low.loss, high.loss)
    np.testing.assert_allclose(low.latents.astype(jnp.float32), high.latents, rtol=0.1, atol=0.1)


@each_kind
def test_positions_are_independent(module):
    params, x = random_params(module), normal(1, 6, 6)
    whole = apply(module, params, x)
    part = apply(module, params, x[2:4])
    np.testing.assert_array_equal(part.indices, whole.indices[2:4])
    np.testing.assert_allclose(part.latents, whole.latents[2:4], atol=1e-6)


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
    z, e = normal(0, 4, 3) * 1e3, normal(1, 4, 3)
    value, pull = jax.vjp(quantizer.straight_through, z, e)
    np.testing.assert_array_equal(value, e)
    cotangent = normal(2, 4, 3)
    by_z, by_e = pull(cotangent)
    np.testing.assert_array_equal(by_z, cotangent)
    np.testing.assert_array_equal(by_e, 0)


def test_straight_through_gradient_of_lfq_is_the_identity():
    module = LFQ(bits=4, entropy_weight=0.0, commitment=0.0)
    params, cotangent = identity_params(4), normal(1, 5, 4)
    _, pull = jax.vjp(lambda x: module.apply(params, x).latents, normal(0, 5, 4))
    np.testing.assert_array_equal(pull(cotangent)[0], cotangent)


def test_straight_through_gradient_of_vq_is_that_of_the_unit_vector():
    module, params = two_dimensions()
    x, cotangent = normal(0, 5, 2), normal(1, 5, 2)
    _, pull = jax.vjp(lambda x: module.apply(params, x).latents, x)
    _, pull_unit = jax.vjp(lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True), x)
    np.testing.assert_allclose(pull(cotangent)[0], pull_unit(cotangent)[0], atol=1e-5)


# ---- FSQ and LFQ as modules ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "z, code, index",
    [
        ((0, 0, 0), (0, 0, 0), 124),
        ((9, 9, 9), (0.75, 2 / 3, 1), 239),
        ((-9, -9, -9), (-1, -1, -1), 0),
        ((0.3, -0.7, 1.1), (0.25, -2 / 3, 1), 205),
    ],
)
def test_fsq_hand_computed(z, code, index):
    out = FSQ(levels=(8, 6, 5)).apply(identity_params(3), jnp.asarray([z], jnp.float32))
    np.testing.assert_allclose(out.latents[0], code, atol=1e-6)
    assert out.indices[0] == index
    assert out.loss[0] == 0


def test_fsq_gradient_is_that_of_the_bound():
    """d code/dz = half·(1 - tanh²(z + shift)) / ⌊L/2⌋, as if nothing had been rounded."""
    module, z = FSQ(levels=(5,)), jnp.asarray([[0.3]])
    grad = jax.grad(lambda z: jnp.sum(module.apply(identity_params(1), z).latents))(z)
    np.testing.assert_allclose(grad[0, 0], 2 * (1 - 1e-3) * (1 - np.tanh(0.3) ** 2) / 2, rtol=1e-5)


def test_lfq_commitment():
    module = LFQ(bits=2, entropy_weight=0.0)
    out = module.apply(identity_params(2), jnp.asarray([[0.5, -3.0]]))
    np.testing.assert_allclose(out.loss[0], 0.25 * (0.5**2 + 2.0**2) / 2, rtol=1e-6)
    np.testing.assert_array_equal(out.latents[0], [1, -1])


def every_code(bits, scale):
    """Each code once, `scale` times as far from 0 as its target."""
    return scale * (2.0 * ((jnp.arange(2**bits)[:, None] >> jnp.arange(bits)) & 1) - 1.0)


def entropy_term(z, bits=3, weights=None):
    module = LFQ(bits=bits, entropy_weight=1.0, commitment=0.0)
    loss = apply(module, identity_params(bits), z, weights=weights).loss
    weights = jnp.ones(len(z)) if weights is None else weights
    return float(jnp.sum(loss * weights) / jnp.sum(weights))


def test_lfq_entropy_is_least_for_confident_and_uniform_use():
    best = entropy_term(every_code(3, 5.0))
    np.testing.assert_allclose(best, -3 * np.log(2), atol=1e-5)
    assert entropy_term(every_code(3, 0.2)) > best + 1.0  # uniform, but not sure
    assert entropy_term(every_code(3, 5.0)[:4]) > best + 0.5  # sure, but half the codes
    np.testing.assert_allclose(entropy_term(jnp.full((8, 3), 5.0)), 0, atol=1e-5)  # one code
    np.testing.assert_allclose(entropy_term(jnp.zeros((8, 3))), 0, atol=1e-5)  # unsure of all


def test_lfq_entropy_counts_positions_by_weight():
    z = jnp.concatenate([every_code(2, 5.0), jnp.full((50, 2), 5.0)])
    weights = jnp.concatenate([jnp.ones(4), jnp.zeros(50)])
    np.testing.assert_allclose(entropy_term(z, 2, weights), -2 * np.log(2), atol=1e-5)
    assert entropy_term(z, 2) > -1.0


def test_lfq_of_18_bits_is_never_positions_times_codes():
    module = LFQ(bits=18)
    x = jax.ShapeDtypeStruct((4096, 18), jnp.float32)
    params = jax.eval_shape(lambda: identity_params(18))
    loss = jax.jit(jax.grad(lambda p, x: jnp.mean(module.apply(p, x).loss)))
    memory = loss.lower(params, x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 200e6  # 4096 x 2^18 floats are 4.3e9 bytes


# ---- usage ---------------------------------------------------------------------------------------


def test_usage_by_hand():
    found = quantizer.usage(jnp.asarray([[0, 0], [1, 3]]), 8)
    np.testing.assert_allclose(found["codes_used"], 3 / 8)
    entropy = -(0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25))
    np.testing.assert_allclose(found["perplexity"], np.exp(entropy), rtol=1e-6)


def test_usage_counts_by_weight():
    indices, weights = jnp.asarray([0, 0, 1, 3]), jnp.asarray([1.0, 1.0, 2.0, 0.0])
    found = jax.jit(quantizer.usage, static_argnums=1)(indices, 4, weights)
    np.testing.assert_allclose(found["codes_used"], 2 / 4)
    np.testing.assert_allclose(found["perplexity"], 2.0, rtol=1e-6)


def test_usage_of_nothing():
    found = jax.jit(quantizer.usage, static_argnums=1)(jnp.asarray([1, 2]), 4, jnp.zeros(2))
    assert found["codes_used"] == 0 and found["perplexity"] == 1


# ---- settings ------------------------------------------------------------------------------------


def test_numbers_of_codes():
    for levels, codes in (
        ((8, 6, 5), 240),
        ([8, 5, 5, 5], 1000),
        ((7, 5, 5, 5, 5), 4375),
        ((8, 8, 8, 6, 5), 15360),
        ((8, 8, 8, 5, 5, 5), 64000),
    ):
        assert FSQ(levels=levels).codes == codes
    assert LFQ(bits=18).codes == 262144
    assert VectorQuantizer().codes == 8192


def test_published_codebook_size():
    shape = jax.ShapeDtypeStruct((1, 512), jnp.float32)
    boxed = jax.eval_shape(VectorQuantizer().init, jax.random.key(0), shape)
    assert boxed["params"]["codebook"].names == ("codes", "lookup")
    assert nn.meta.unbox(boxed)["params"]["codebook"].size == 262_144  # 0.26M


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: VectorQuantizer(codes=1), "VectorQuantizer.codes is 1.*>= 2"),
        (lambda: VectorQuantizer(dim=0), "dim is 0"),
        (lambda: VectorQuantizer(revive=-1.0), "revive is -1.0"),
        (lambda: VectorQuantizer(dtype="float16"), "'float16'.*float32.*bfloat16"),
        (lambda: FSQ(levels=()), "FSQ.levels is \\(\\)"),
        (lambda: FSQ(levels=(8, 1)), r"FSQ.levels is \(8, 1\).*>= 2"),
        (lambda: FSQ(levels=(8,) * 11), "int32"),
        (lambda: FSQ(dtype="half"), "'half'"),
        (lambda: LFQ(bits=0), "LFQ.bits is 0"),
        (lambda: LFQ(bits=25), "LFQ.bits is 25.*<= 24"),
        (lambda: LFQ(temperature=0.0), "temperature is 0.0"),
    ],
)
def test_wrong_settings_say_so(make, message):
    with pytest.raises(ValueError, match=message):
        make()
