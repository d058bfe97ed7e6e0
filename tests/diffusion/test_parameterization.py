import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.diffusion import parameterization
from vidgen.diffusion.parameterization import (
    EDM,
    EDM_MSE,
    EPS,
    EPS_MSE,
    FLOW,
    FLOW_MSE,
    V_MSE,
    X0,
    X_MSE,
    Edm,
    LossWeight,
    MinSnr,
    Parameterization,
    TruncatedSnr,
    V,
)
from vidgen.diffusion.schedules import Cosine, alpha_sigma, diffuse

EVERY = {
    "eps": EPS,
    "x0": X0,
    "v": V,
    "edm": EDM,
    "edm1": Edm(sigma_data=1.0),
    "flow": FLOW,
}
each = pytest.mark.parametrize("param", EVERY.values(), ids=EVERY.keys())


def batch(shape=(5, 2, 3), dtype=None):
    keys = jax.random.split(jax.random.key(0), 2)
    x0, eps = (jax.random.normal(key, shape, dtype) for key in keys)
    return x0, eps


def test_worked_example(x64):
    logsnr = Cosine()(jnp.array([0.3]))
    x0, eps = jnp.array([0.7]), jnp.array([-1.2])
    assert logsnr.item() == pytest.approx(1.3484611686, rel=1e-9)
    np.testing.assert_allclose(
        jnp.concatenate(alpha_sigma(logsnr)), [0.8909982796, 0.4540066803], rtol=1e-9
    )
    z, v = diffuse(x0, eps, logsnr), V.target(x0, eps, logsnr)
    assert z.item() == pytest.approx(0.0788907793, rel=1e-8)
    assert v.item() == pytest.approx(-1.3870026117, rel=1e-9)
    for param in EVERY.values():
        out = param.target(x0, eps, logsnr)
        assert param.to_x0(out, z, logsnr).item() == pytest.approx(0.7, rel=1e-9)
        assert param.to_eps(out, z, logsnr).item() == pytest.approx(-1.2, rel=1e-9)
    assert parameterization.eps_from_x0(x0, z, logsnr).item() == pytest.approx(-1.2, rel=1e-9)


@each
def test_outputs_invert(x64, param):
    assert isinstance(param, Parameterization)
    x0, eps = batch()
    logsnr = jnp.array([-20.0, -3.0, 0.0, 4.0, 20.0])
    z, out = diffuse(x0, eps, logsnr), param.target(x0, eps, logsnr)
    np.testing.assert_allclose(param.to_x0(out, z, logsnr), x0, atol=1e-9)
    np.testing.assert_allclose(param.to_eps(out, z, logsnr), eps, atol=1e-9)


@pytest.mark.parametrize("param", [X0, V, EDM, FLOW], ids=["x0", "v", "edm", "flow"])
def test_float32_is_safe_at_every_level(param):
    x0, eps = batch((9, 4))
    logsnr = jnp.linspace(-20, 20, 9)
    z, out = diffuse(x0, eps, logsnr), param.target(x0, eps, logsnr)
    np.testing.assert_allclose(jax.jit(param.to_x0)(out, z, logsnr), x0, atol=2e-6)


def test_v_is_the_derivative_by_the_angle(x64):
    x0, eps, angle, h = 0.7, -1.2, 0.6, 1e-5
    z = [np.cos(a) * x0 + np.sin(a) * eps for a in (angle - h, angle + h)]
    logsnr = jnp.array([-2 * np.log(np.tan(angle))])
    v = V.target(jnp.array([x0]), jnp.array([eps]), logsnr)
    assert v.item() == pytest.approx((z[1] - z[0]) / (2 * h), rel=1e-8)


def test_errors_at_pure_noise(x64):
    """A v model says x = -v there, an eps model amplifies its error 22026 times."""
    z, out, pure = jnp.array([0.9]), jnp.array([-0.4]), jnp.array([-20.0])
    assert V.to_x0(out, z, pure).item() == pytest.approx(0.4, abs=5e-5)
    change = EPS.to_x0(out + 1e-3, z, pure) - EPS.to_x0(out, z, pure)
    assert change.item() == pytest.approx(-22.026, abs=1e-3)


@each
def test_log_x0_error_is_the_ratio_of_errors(x64, param):
    (x0, eps), (_, error) = batch(), batch()
    logsnr = jnp.array([-6.0, -2.0, 0.0, 1.0, 7.0])
    z, out = diffuse(x0, eps, logsnr), param.target(x0, eps, logsnr)
    x0_error = jnp.mean((param.to_x0(out + error, z, logsnr) - x0) ** 2, (1, 2))
    ratio = x0_error / jnp.mean(error**2, (1, 2))
    np.testing.assert_allclose(jnp.exp(param.log_x0_error(logsnr)), ratio, rtol=1e-6)


def test_error_identities(x64):
    """eps_mse = α² v_mse, x_mse = σ² v_mse, eps_mse = SNR x_mse, v_mse = (1 + SNR) x_mse."""
    logsnr = jnp.array([-3.0, 0.0, 2.0])
    alpha, sigma = alpha_sigma(logsnr)
    snr = jnp.exp(logsnr)
    np.testing.assert_allclose(EPS_MSE(V, logsnr), alpha**2, rtol=1e-9)
    np.testing.assert_allclose(X_MSE(V, logsnr), sigma**2, rtol=1e-9)
    np.testing.assert_allclose(EPS_MSE(X0, logsnr), snr, rtol=1e-9)
    np.testing.assert_allclose(V_MSE(X0, logsnr), 1 + snr, rtol=1e-9)
    larger = jnp.maximum(X_MSE(V, logsnr), EPS_MSE(V, logsnr))
    np.testing.assert_allclose(TruncatedSnr()(V, logsnr), larger, rtol=1e-9)
    np.testing.assert_allclose(TruncatedSnr()(X0, logsnr), [1, 1, snr[2]], rtol=1e-9)


@pytest.mark.parametrize(
    ("snr", "x", "eps", "v"),
    [
        (0.01, 0.01, 1, 0.00990099),
        (1, 1, 1, 0.5),
        (5, 5, 1, 0.83333333),
        (100, 5, 0.05, 0.04950495),
    ],
)
def test_min_snr(x64, snr, x, eps, v):
    logsnr = jnp.log(jnp.array([float(snr)]))
    got = [MinSnr()(param, logsnr).item() for param in (X0, EPS, V)]
    np.testing.assert_allclose(got, [x, eps, v], rtol=1e-6)


@pytest.mark.parametrize(
    ("weight", "param"), [(V_MSE, V), (EPS_MSE, EPS), (X_MSE, X0), (EDM_MSE, EDM), (FLOW_MSE, FLOW)]
)
def test_native_error_is_weighted_by_exactly_one(weight, param):
    np.testing.assert_array_equal(weight(param, jnp.linspace(-20, 20, 401)), 1)


@pytest.mark.parametrize("name", parameterization.LOSS_WEIGHTS)
def test_multipliers_do_not_depend_on_the_output_in_x0_space(name):
    """The same loss, whatever the network outputs: multiplier / k(λ) is one function of λ."""
    weight = parameterization.loss_weight_by_name(name)
    assert isinstance(weight, LossWeight)
    logsnr = jnp.linspace(-20, 20, 41)
    values = [
        np.log(weight(param, logsnr)) - param.log_x0_error(logsnr) for param in EVERY.values()
    ]
    for other in values[1:]:
        np.testing.assert_allclose(other, values[0], atol=2e-5)
    assert np.all(np.isfinite(weight(V, logsnr))) and np.all(weight(V, logsnr) <= 20)


@pytest.mark.parametrize(
    ("sigma", "skip", "out", "scale_in", "noise", "weight"),
    [(0.5, 0.5, 0.35355339, 1.41421356, -0.17328680, 8), (1, 0.2, 0.4472136, 0.8944272, 0, 5)],
)
def test_edm_preconditioning(x64, sigma, skip, out, scale_in, noise, weight):
    """c_skip and c_out act on z_edm = z/α; the input scale c_in is the one that whitens z_edm."""
    logsnr = -2 * jnp.log(jnp.array([float(sigma)]))
    alpha = alpha_sigma(logsnr)[0]
    one, zero = jnp.ones(1), jnp.zeros(1)
    assert EDM.to_x0(zero, alpha * one, logsnr).item() == pytest.approx(skip, rel=1e-7)
    assert EDM.to_x0(one, zero, logsnr).item() == pytest.approx(out, rel=1e-7)
    assert (sigma**2 + EDM.sigma_data**2) ** -0.5 == pytest.approx(scale_in, rel=1e-7)
    assert -logsnr.item() / 8 == pytest.approx(noise, abs=1e-8)
    assert EDM_MSE(X0, logsnr).item() == pytest.approx(weight, rel=1e-7)
    assert (EDM_MSE(X0, logsnr) * out**2).item() == pytest.approx(1, rel=1e-6)


def test_edm_with_unit_data_is_minus_v():
    x0, eps = batch()
    logsnr = jnp.linspace(-9, 9, 5)
    unit = Edm(sigma_data=1.0).target(x0, eps, logsnr)
    np.testing.assert_allclose(unit, -V.target(x0, eps, logsnr), atol=1e-6)


def test_edm_output_has_unit_variance(x64):
    x0, eps = batch((5, 40_000))
    target = EDM.target(0.5 * x0, eps, jnp.linspace(-9, 9, 5))
    np.testing.assert_allclose(target.std(1), 1, atol=0.02)


def test_flow_is_the_derivative_of_the_straight_path(x64):
    """x_t = z/(α + σ) moves by ε - x a unit of t = σ/(α + σ), at t = .3 and by differences."""
    x0, eps, h = jnp.array([0.7]), jnp.array([-1.2]), 1e-5
    path = []
    for t in (0.3 - h, 0.3 + h):
        logsnr = 2 * jnp.log(jnp.array([(1 - t) / t]))
        alpha, sigma = alpha_sigma(logsnr)
        assert (sigma / (alpha + sigma)).item() == pytest.approx(t, rel=1e-12)
        path.append(diffuse(x0, eps, logsnr).item() / (alpha + sigma).item())
    assert sum(path) / 2 == pytest.approx(0.7 * 0.7 + 0.3 * -1.2, rel=1e-9)
    assert FLOW.target(x0, eps, jnp.zeros(1)).item() == pytest.approx(-1.9, rel=1e-12)
    assert (path[1] - path[0]) / (2 * h) == pytest.approx(-1.9, rel=1e-8)


def test_flow_of_gaussian_data_is_its_exact_velocity(x64, gaussian):
    """E(ε - x | x_t) = -m + (t - (1 - t) d²) (x_t - (1 - t) m)/((1 - t)² d² + t²)."""
    for t in (0.05, 0.4, 0.9, 0.999):
        logsnr = 2 * jnp.log(jnp.array([(1 - t) / t]))
        total = sum(alpha_sigma(logsnr))
        x_t = jnp.array([0.8])
        m, variance = gaussian.mean, gaussian.std**2
        away = x_t - (1 - t) * m
        velocity = -m + (t - (1 - t) * variance) * away / ((1 - t) ** 2 * variance + t**2)
        z = total * x_t
        exact = gaussian(z, logsnr, 0)
        np.testing.assert_allclose(FLOW.to_x0(velocity, z, logsnr), exact, rtol=1e-9)
        eps = FLOW.to_eps(velocity, z, logsnr)
        np.testing.assert_allclose(FLOW.target(exact, eps, logsnr), velocity, rtol=1e-9)


def test_flow_mse_is_the_loss_of_sd3(x64):
    """An error of x counts 1/t² times in ε - x, one of ε 1/(1 - t)² times (2403.03206, sec. 2)."""
    t = jnp.array([0.1, 0.5, 0.8])
    logsnr = 2 * jnp.log((1 - t) / t)
    np.testing.assert_allclose(FLOW_MSE(X0, logsnr), t**-2, rtol=1e-9)
    np.testing.assert_allclose(FLOW_MSE(EPS, logsnr), (1 - t) ** -2, rtol=1e-9)


def test_unknown_names_list_the_choices():
    assert parameterization.by_name("v") is V
    with pytest.raises(ValueError, match="'velocity'.*eps, x0, v, edm, flow"):
        parameterization.by_name("velocity")
    with pytest.raises(ValueError, match="loss weight 'mse'.*v_mse, eps_mse"):
        parameterization.loss_weight_by_name("mse")
    with pytest.raises(ValueError, match="sigma_data is 0"):
        Edm(sigma_data=0.0)
    with pytest.raises(ValueError, match="gamma is -1"):
        MinSnr(gamma=-1.0)
