"""Post-hoc EMA: profiles in closed form, least squares, and averages made of a run's snapshots.

Tests of vidgen/train/snapshots.py too.
"""

import dataclasses
import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import power_ema_on_devices
import pytest
import toy_training as toy

from vidgen.plan import memory
from vidgen.train import derived_models
from vidgen.train.checkpoints import Checkpointer, CheckpointError, CheckpointSettings
from vidgen.train.guard import DivergencePolicy
from vidgen.train.power_ema import LONGEST, PowerEma, Profile, combination, exponent
from vidgen.train.snapshots import FOLDER, Snapshots, open_snapshots, with_retries
from vidgen.train.state import named_leaves
from vidgen.train.train import Train
from vidgen.train.weights import open_weights

# Profiles -----------------------------------------------------------------------------------------


def test_the_exponents_of_the_paper():
    assert exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert exponent(0.10) == pytest.approx(6.94, abs=0.005)
    assert exponent(LONGEST) == pytest.approx(0.0, abs=1e-9)
    for length in (0.001, 0.03, 0.2, 0.28):
        g = exponent(length)
        deviation = np.sqrt(g + 1) / ((g + 2) * np.sqrt(g + 3))
        assert deviation == pytest.approx(length, rel=1e-9)


@pytest.mark.parametrize("length", [0.0, -0.1, 0.29, float("nan")])
def test_lengths_out_of_range(length):
    with pytest.raises(ValueError, match=f"is {length}; .*0.2887"):
        exponent(length)


@pytest.mark.parametrize(
    ("g", "s", "d", "t"), [(3, 5, 2, 9), (2, 9, 3, 5), (7, 4, 7, 4), (0, 3, 5, 8)]
)
def test_inner_products_are_the_exact_integrals(g, s, d, t):
    """∫ (γ+1) τ^γ / s^(γ+1) (δ+1) τ^δ / t^(δ+1) over the shorter range, as a fraction."""
    end = min(s, t)
    exact = Fraction((g + 1) * (d + 1) * end ** (g + d + 1), g + d + 1)
    exact /= Fraction(s ** (g + 1)) * t ** (d + 1)
    assert Profile(g, s).inner(Profile(d, t)) == pytest.approx(float(exact), rel=1e-14)
    assert Profile(d, t).inner(Profile(g, s)) == Profile(g, s).inner(Profile(d, t))


def test_inner_products_of_any_exponent_by_quadrature():
    a, b = Profile(16.97, 700), Profile(6.94, 1000)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    tau = 350 * (nodes + 1)
    product = a.gamma + 1, b.gamma + 1
    values = product[0] * (tau / 700) ** a.gamma / 700 * product[1] * (tau / 1000) ** b.gamma / 1000
    assert a.inner(b) == pytest.approx(350 * float(weights @ values), rel=1e-12)


def test_the_updates_put_the_integral_of_the_profile_on_each_step():
    """The update rule of the paper on the rows of the identity: a row is the share of its step."""
    power, count = PowerEma(lengths=(0.05, 0.1, LONGEST), every=1), 40
    averages = {name: {"w": jnp.full(count, 3.0)} for name in power.names}  # gets no share
    update = jax.jit(power.update)
    for n in range(count):
        averages = update(averages, {"w": jnp.eye(count)[n]}, jnp.int32(n))
    for name, length in zip(power.names, power.lengths, strict=True):
        shares = Profile(exponent(length), count).shares()
        np.testing.assert_allclose(averages[name]["w"], shares, rtol=3e-5, atol=1e-7)
    np.testing.assert_allclose(averages[power.names[2]]["w"], 1 / count, rtol=1e-5)


def test_a_late_update_does_not_cancel():
    """After a million updates 1 − β is 1.8e-5, and float32 still has it to six digits."""
    power = PowerEma(lengths=(0.05,), every=1)
    zero, one = {"w": jnp.zeros(())}, {"w": jnp.ones(())}
    found = power.update({"0.05": zero}, one, jnp.int32(999_999))["0.05"]["w"]
    exact = -np.expm1((exponent(0.05) + 1) * np.log1p(-1e-6))
    assert float(found) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("length", [0.03, 0.1, 0.25])
def test_the_relative_length_is_the_deviation_of_the_shares(length):
    shares = Profile(exponent(length), 4000).shares()
    at = np.arange(4000) + 0.5
    mean = shares @ at
    assert np.sqrt(shares @ (at - mean) ** 2) / 4000 == pytest.approx(length, rel=1e-4)


# Least squares ------------------------------------------------------------------------------------


def profiles(lengths, steps):
    return [Profile(exponent(length), step) for step in steps for length in lengths]


def test_a_stored_average_is_itself():
    stored = profiles((0.05, 0.1), range(100, 1001, 100))
    found = combination(stored, stored[-2])
    np.testing.assert_allclose(found.coefficients, np.eye(20)[-2], atol=1e-6)
    assert found.error < 1e-6


@pytest.mark.parametrize("length", [0.03, 0.07, 0.15, 0.25])
def test_coefficients_minimise_the_distance_of_profiles(length):
    """Against least squares on a fine grid of the profiles themselves, and their true distance."""
    stored, wanted = profiles((0.05, 0.1), (250, 500, 1000)), Profile(exponent(length), 1000)
    tau = (np.arange(200_000) + 0.5) / 200
    on_grid = [_on(p, tau) for p in stored]
    target = _on(wanted, tau)
    *rest, last = on_grid  # whose coefficient is 1 less those of the others
    free = np.linalg.lstsq(np.stack([p - last for p in rest], axis=1), target - last, rcond=None)[0]
    best = np.append(free, 1 - free.sum())
    found = combination(stored, wanted)
    np.testing.assert_allclose(found.coefficients, best, rtol=1e-3, atol=1e-4)
    left = np.linalg.norm(found.coefficients @ on_grid - target) / np.linalg.norm(target)
    assert found.error == pytest.approx(left, rel=1e-2)


def _on(profile, tau):
    values = (profile.gamma + 1) * (tau / profile.step) ** profile.gamma / profile.step
    return np.where(tau <= profile.step, values, 0.0)


@pytest.mark.parametrize("length", [0.03, 0.07, 0.25])
def test_weights_that_do_not_move_stay(length):
    found = combination(profiles((0.05, 0.1), (500, 1000)), Profile(exponent(length), 1000))
    assert found.coefficients.sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("steps", [(250, 500, 750, 1000), tuple(range(50, 1001, 50))])
@pytest.mark.parametrize("length", [0.03, 0.04, 0.07, 0.15, 0.25])
def test_the_condition_on_the_sum_brings_averages_nearer(length, steps):
    """Of random walks about a mean; against the plain least squares of the paper."""
    rng = np.random.default_rng(0)
    weights = 1 + 0.05 * np.cumsum(rng.normal(size=(1000, 300)), axis=0)
    stored, wanted = profiles((0.05, 0.1), steps), Profile(exponent(length), 1000)
    averages = np.stack([p.shares() @ weights[: p.step] for p in stored])
    exact = wanted.shares() @ weights
    matrix = np.array([[p.inner(q) for q in stored] for p in stored])
    plain = np.linalg.lstsq(matrix, [p.inner(wanted) for p in stored], rcond=1e-12)[0]
    ours = combination(stored, wanted).coefficients
    errors = [np.linalg.norm(x @ averages - exact) / np.linalg.norm(exact) for x in (ours, plain)]
    assert errors[0] < errors[1]
    assert errors[0] < 0.07


def test_more_snapshots_come_closer():
    wanted = Profile(exponent(0.15), 1000)
    errors = [
        combination(profiles((0.05, 0.1), np.arange(1, n + 1) * (1000 // n)), wanted).error
        for n in (1, 2, 5, 10, 20)
    ]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.01 < 0.1 < errors[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lengths": ()}, r"PowerEma.lengths is \(\)"),
        ({"lengths": (0.1, 0.1)}, r"PowerEma.lengths is \(0.1, 0.1\)"),
        ({"lengths": (0.1, 0.5)}, "length .*is 0.5"),
        ({"every": 0}, "PowerEma.every is 0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        PowerEma(**({"every": 1} | settings))


# A run --------------------------------------------------------------------------------------------


# Equal ones are one, whose step is traced once.
trainer_of = functools.cache(toy.make_trainer)


def make(folder, *, power, steps=24):
    (folder / "config.gin").parent.mkdir(exist_ok=True)
    (folder / "config.gin").write_text("MODEL_DIR = 'x'\n")
    return Train(
        trainer=trainer_of(power_ema=power),
        dataset=toy.ToyData(),
        text_encoder=toy.ToyEncoder(),
        model_dir=str(folder),
        train_steps=steps,
        log_every=8,
        checkpoint_every=5,
        checkpoints=CheckpointSettings(keep=2),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 24 steps with a snapshot after every third, and its last state."""
    folder = tmp_path_factory.mktemp("run")
    return folder, make(folder, power=PowerEma(every=3))()


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """The same run with averages of other lengths, tracked directly."""
    folder = tmp_path_factory.mktemp("tracked")
    return make(folder, power=PowerEma(lengths=(0.04, 0.07, 0.15), every=24))()


def assert_equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def test_the_averages_are_the_shares_of_the_weights(run, tmp_path):
    """Each step's weights, from its checkpoint, times its share, in float64."""
    train = make(tmp_path, power=PowerEma(every=30), steps=8)
    train = dataclasses.replace(train, checkpoint_every=1, checkpoints=CheckpointSettings(keep=10))
    state = train()
    with Checkpointer(tmp_path, read_only=True) as reader:
        weights = [reader.restore_params(step=n, averaged=False) for n in range(1, 9)]
    for name, length in (("0.05", 0.05), ("0.1", 0.1)):
        shares = Profile(exponent(length), 8).shares()
        for leaf, *rest in zip(
            jax.tree.leaves(state.power_ema[name]), *map(jax.tree.leaves, weights), strict=True
        ):
            exact = sum(p * np.asarray(w, np.float64) for p, w in zip(shares, rest, strict=True))
            np.testing.assert_allclose(leaf, exact, rtol=1e-5, atol=1e-6)


def test_snapshots_are_kept_for_good(run):
    folder, state = run
    with open_snapshots(folder) as snapshots:
        assert snapshots.steps() == list(range(3, 25, 3))
        assert sorted(snapshots.stored_params(24)) == ["0.05", "0.1"]
        assert_equal(dict(snapshots.restore_params(step=24)), dict(state.power_ema))


def test_training_itself_is_the_same(run, tmp_path):
    plain = make(tmp_path, power=None)()
    assert_equal(plain.params, run[1].params)
    assert_equal(plain.ema, run[1].ema)
    assert plain.power_ema is None and not (tmp_path / FOLDER).exists()


@pytest.mark.parametrize(
    ("length", "of_profile", "of_weights"),
    [(0.04, 0.04, 1e-3), (0.07, 0.02, 3e-4), (0.15, 0.04, 5e-4)],
)
def test_an_average_of_another_length_is_the_one_tracked_directly(
    run, tracked, tmp_path, length, of_profile, of_weights
):
    """As near as the profiles are: relative to how far training moved the weights."""
    made = derived_models.average(str(run[0]), length, str(tmp_path / "out"))
    assert made.step == 24 and "error of the profile" in made.what
    error = float(made.what.rpartition(" ")[2].rstrip("%")) / 100
    assert error < of_profile
    found = named_leaves(open_weights(tmp_path / "out").restore_params())
    exact = named_leaves(tracked.power_ema[f"{length:g}"])
    norm = _norm({n: np.asarray(exact[n]) for n in exact})
    distance = _norm({n: np.asarray(found[n]) - np.asarray(exact[n]) for n in exact})
    print(f"length {length}: profile {error:.2%}, weights {distance / norm:.3%}")
    assert distance < of_weights * norm
    # and nearer to it than to the averages that it is made of
    for name in ("0.05", "0.1"):
        other = named_leaves(run[1].power_ema[name])
        assert distance < _norm({n: np.asarray(other[n]) - np.asarray(exact[n]) for n in exact})


def _norm(leaves):
    return np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in leaves.values()))


def test_an_average_of_a_stored_length_is_the_stored_one(run, tmp_path):
    derived_models.average(str(run[0]), 0.1, str(tmp_path / "out"))
    found = open_weights(tmp_path / "out").restore_params()
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6),
        found,
        run[1].power_ema["0.1"],
    )


def test_stopped_and_gone_on_it_is_the_same_to_the_bit(run, tmp_path):
    """Killed at 13: the checkpoint is of step 10, and the snapshot of step 12 is made again."""
    make(tmp_path, power=PowerEma(every=3), steps=13)()
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer._manager.delete(13)
        assert checkpointer.latest_step() == 10
    (tmp_path / FOLDER / "12" / "params" / "marker").write_text("")
    state = make(tmp_path, power=PowerEma(every=3))()
    assert_equal(state, run[1])
    assert not (tmp_path / FOLDER / "12" / "params" / "marker").exists()
    with open_snapshots(tmp_path) as again, open_snapshots(run[0]) as before:
        assert again.steps() == before.steps()
        for step in before.steps():
            assert_equal(again.restore_params(step=step), before.restore_params(step=step))


def test_averages_cannot_begin_later(run, tmp_path):
    make(tmp_path, power=None, steps=5)()
    with pytest.raises(
        CheckpointError, match=r"of the lengths \[\], not \['0.05', '0.1'\] \(Power"
    ):
        make(tmp_path, power=PowerEma(every=3), steps=9)()
    with pytest.raises(CheckpointError, match=r"\['0.05', '0.1'\], not \['0.2'\].*name another M"):
        make(run[0], power=PowerEma(lengths=(0.2,), every=3), steps=30)()


def test_a_skipped_step_counts_as_one_without_change():
    """Its weights are those of the step before, and so they are in the average."""
    power = PowerEma(lengths=(0.1,), every=1)
    trainer = toy.make_trainer(power_ema=power, guard=DivergencePolicy(policy="skip"))
    state, key, weights = trainer.init_state(jax.random.key(0), toy.spec()), jax.random.key(7), []
    for n in range(5):
        limit = 1e-9 if n == 2 else np.inf
        state, metrics = trainer.train_step(state, None, toy.batch(8, n), key, limit)
        assert float(metrics["skipped"].value()) == (n == 2)
        weights.append(np.asarray(state.params["mid_kernel"], np.float64))
    np.testing.assert_array_equal(weights[2], weights[1])
    exact = np.tensordot(Profile(exponent(0.1), 5).shares(), np.stack(weights), axes=1)
    np.testing.assert_allclose(state.power_ema["0.1"]["mid_kernel"], exact, rtol=1e-5, atol=1e-6)


def test_a_write_that_fails_is_tried_again(tmp_path, monkeypatch):
    trainer = trainer_of(power_ema=PowerEma(every=1))
    state = trainer.init_state(jax.random.key(0), toy.spec())
    settings = CheckpointSettings(retries=2, retry_seconds=0)
    snapshots, failures = Snapshots(tmp_path, settings, 0), [OSError("quota"), OSError("quota")]
    save = snapshots._manager.save

    def failing(*args, **kwargs):
        if failures:
            raise failures.pop()
        return save(*args, **kwargs)

    monkeypatch.setattr(snapshots._manager, "save", failing)
    snapshots.store(state)
    snapshots.close()
    assert not failures
    with open_snapshots(tmp_path) as stored:
        assert stored.steps() == [0]


def test_writing_that_goes_on_failing():
    def write(again):
        calls.append(again)
        raise CheckpointError("no room")

    calls: list[bool] = []
    with pytest.raises(CheckpointError, match="no room"):
        with_retries(write, CheckpointSettings(retries=2, retry_seconds=0))
    assert calls == [False, True, True]


def test_averages_lie_like_the_weights(on_devices):
    """Over a mesh of four devices, and the same there as on one."""
    one = power_ema_on_devices.report((1, 1, 1))
    four = on_devices(4, "power_ema_on_devices.py", "1,2,2")
    np.testing.assert_allclose(four["sums"], one["sums"], rtol=1e-5)
    assert four["average"] == four["weights"] and "'tensor'" in four["average"]["mid_kernel"]


def test_a_plan_counts_every_average():
    trainer = trainer_of(power_ema=PowerEma(every=1))
    state = trainer.abstract_state(toy.spec())
    averages = jax.tree.leaves((state.ema, state.power_ema))
    weights = jax.tree.leaves(state.params)
    assert sum(x.size for x in averages) == 3 * sum(x.size for x in weights)
    boxed = trainer.boxed_params(toy.spec())
    held = memory.bytes_per_device(trainer, boxed, toy.spec(), 1)["bytes_per_device"]
    assert held["averaged_parameters"] == 3 * held["parameters"]
