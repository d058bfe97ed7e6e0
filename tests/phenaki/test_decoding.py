"""Mask schedules and parallel decoding, against the published numbers and an oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from vidgen.phenaki import decoding
from vidgen.phenaki.decoding import (
    MASK_SCHEDULES,
    DecodingSpec,
    mask_counts,
    mask_ratio,
    parallel_decode,
)

# Compiled, as they run: one program for each shape instead of forty.
at_quantiles = jax.jit(decoding.at_quantiles)
training_mask = jax.jit(decoding.training_mask, static_argnames=("schedule", "min_rate"))

CODES = 7
MASK = CODES  # the mask id


def counts_of(text):
    """([counts], where +-1 is allowed): the lines of the reference table."""
    words = text.split(",")
    return [int(w.strip(" *")) for w in words], np.array([w.strip().endswith("*") for w in words])


# Masked after every step: ⌊N cos(π/2 (i+1)/T)⌋, clamped; * is cos = 0.5, where rounding decides.
COUNTS = {
    (256, 8): "251,236,212,181,142,97,49,1",
    (256, 12): "253,247,236,221,203,181,155,128*,97,66,33,1",
    (1536, 12): "1522,1483,1419,1330,1218,1086,935,768*,587,397,200,1",
    (1536, 24): "1532,1522,1506,1483,1454,1419,1377,1330,1277,1218,1154,1086,1012,935,853,768*,"
    "679,587,493,397,299,200,100,1",
    (1536, 48): "1535,1532,1528,1522,1515,1506,1495,1483,1469,1454,1437,1419,1399,1377,1354,1330,"
    "1304,1277,1248,1218,1187,1154,1121,1086,1049,1012,974,935,894,853,811,768*,724,679,633,587,"
    "541,493,445,397,348,299,250,200,150,100,50,1",
    (768, 24): "766,761,753,741,727,709,688,665,638,609,577,543,506,467,426,384*,339,293,246,198,"
    "149,100,50,1",
}


@pytest.mark.parametrize(("positions", "steps"), COUNTS)
def test_counts_of_the_cosine_schedule(positions, steps):
    expected, loose = counts_of(COUNTS[positions, steps])
    found = mask_counts(jnp.array([positions]), steps=steps, schedule="cosine")[0]
    np.testing.assert_array_less(np.abs(found - np.array(expected)), 1 + loose)


@pytest.mark.parametrize("schedule", MASK_SCHEDULES)
@pytest.mark.parametrize("steps", [1, 12, 48])
def test_counts_fall_to_one(schedule, steps):
    start = jnp.array([1536, 100, 48])
    counts = np.concatenate(
        [start[:, None], mask_counts(start, steps=steps, schedule=schedule)], axis=1
    )
    assert (counts[:, 1:] <= np.maximum(counts[:, :-1] - 1, 1)).all()
    assert (counts >= 1).all()


def test_counts_of_few_positions():
    counts = mask_counts(jnp.array([0, 1, 2, 3]), steps=4, schedule="cosine")
    np.testing.assert_array_equal(counts, [[0] * 4, [1] * 4, [1] * 4, [2, 1, 1, 1]])


def test_the_cosine():
    r = jnp.array([0.0, 0.25, 0.5, 0.75, 1.0])
    ratio = mask_ratio("cosine", r, jnp.full(5, 1536))
    np.testing.assert_allclose(ratio, [1, 0.92387953, 0.70710678, 0.38268343, 0], atol=1e-6)


def test_the_other_schedules():
    """In the middle, with 256 positions."""
    half = {
        "linear": 1 / 2, "square": 3 / 4, "cubic": 7 / 8, "sqrt": 1 - 0.5**0.5,
        "log": 1 / 8, "exp": 1 - 1 / 16,
    }  # fmt: skip
    found = {n: float(mask_ratio(n, jnp.array([0.5]), jnp.array([256]))[0]) for n in half}
    assert found == pytest.approx(half, abs=1e-6)


@pytest.mark.parametrize("schedule", MASK_SCHEDULES)
def test_schedules_fall_from_all_to_none(schedule):
    r = jnp.linspace(0, 1, 101)
    ratio = np.asarray(mask_ratio(schedule, r, jnp.full(101, 256)))
    assert (np.diff(ratio) <= 0).all()
    # The exponential one starts at 1 - 1/n.
    assert ratio[0] >= 1 - 1 / 256 and ratio[-1] < 1e-6


@pytest.mark.parametrize("schedule", MASK_SCHEDULES)
def test_inverses(schedule):
    wanted = jnp.array([0.2, 0.45, 0.9])
    r = MASK_SCHEDULES[schedule].inverse(wanted, jnp.full(3, 256.0))
    found = mask_ratio(schedule, r, jnp.full(3, 256))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


# ---- training ------------------------------------------------------------------------------------


def share_masked(**settings):
    masked = training_mask(jax.random.key(0), jnp.ones((1024, 256), bool), **settings)
    return np.asarray(masked).mean(1)


def test_training_shares_of_the_cosine():
    share = share_masked(schedule="cosine")
    assert share.mean() == pytest.approx(2 / np.pi, abs=0.03)
    assert (share > 0.5).mean() == pytest.approx(2 / 3, abs=0.05)
    assert (share > 0.9).mean() == pytest.approx(0.2871326, abs=0.05)


def test_smallest_share():
    """FSQ: r >= r_min = 1 - acos(0.45) 2/π, never fewer than 0.45 of the tokens."""
    assert MASK_SCHEDULES["cosine"].inverse(0.45, 512) == pytest.approx(1 - 0.29715204, abs=1e-6)
    share = share_masked(schedule="cosine", min_rate=0.45)
    assert 0.45 <= share.min() < 0.47
    assert share.max() > 0.99
    angle = np.pi / 2 * 0.70284796  # u is even up to 0.70284796: the mean of cos(π u/2) there
    assert share.mean() == pytest.approx(np.sin(angle) / angle, abs=0.02)


def test_masks_fall_on_valid_positions_alone_and_evenly():
    valid = jnp.arange(12) < jnp.array([12, 5, 1, 0])[:, None]
    many = jnp.tile(valid, (1000, 1))
    masked = training_mask(jax.random.key(0), many, schedule="cosine")
    masked = np.asarray(masked).reshape(1000, *valid.shape)  # draws b n
    assert not (masked & ~np.asarray(valid)).any()
    np.testing.assert_array_equal(masked.any(2).all(0), [True, True, True, False])
    share = masked[:, 0].mean(0)
    np.testing.assert_allclose(share, share.mean(), atol=0.05)
    # ⌈5 cos(π u/2)⌉ = 5 where the cosine is above 4/5.
    whole = (masked[:, 1].sum(1) == 5).mean()
    assert whole == pytest.approx(2 / np.pi * np.arccos(0.8), abs=0.05)


# ---- sampling ------------------------------------------------------------------------------------


def arrays(b=3, n=10):
    target, given = jax.random.randint(jax.random.key(0), (2, b, n), 0, CODES)
    known = jax.random.bernoulli(jax.random.key(1), 0.3, (b, n))
    return target, given, known


def oracle(target, tokens, step):
    return jnp.log(jax.nn.one_hot(target, CODES))


def own_logits(table, tokens, step):
    """Different at each place, and a function of what the row holds so far."""
    seen = jnp.cos(tokens.sum(1)).astype(jnp.float32)
    return table * (1 + seen[:, None, None]) + 0.1 * step


def run(logits_fn, tokens, known, seed=2, *, keys=None, scores_fn=None, on_step=None, **spec):
    keys = jax.random.split(jax.random.key(seed), len(tokens)) if keys is None else keys
    return parallel_decode(
        logits_fn,
        tokens=tokens,
        known=known,
        mask_id=MASK,
        keys=keys,
        spec=DecodingSpec(**spec),
        scores_fn=scores_fn,
        on_step=on_step,
    )


@pytest.mark.parametrize("steps", [1, 2, 12])
@pytest.mark.parametrize("temperature", [0.0, 1000.0])
def test_an_oracle_is_reproduced_around_what_is_known(steps, temperature):
    target, given, known = arrays()
    found = run(Partial(oracle, target), given, known, steps=steps, temperature=temperature)
    np.testing.assert_array_equal(found, jnp.where(known, given, target))


@pytest.mark.parametrize("schedule", ["cosine", "log"])
def test_everything_is_filled(schedule):
    table = jax.random.normal(jax.random.key(0), (3, 10, CODES))
    _, given, known = arrays()
    found = run(Partial(own_logits, table), given, known, steps=6, schedule=schedule)
    np.testing.assert_array_equal(found[known], given[known])
    assert (found < CODES).all() and (found >= 0).all()


def test_nothing_unknown():
    target, given, known = arrays()
    everything = jnp.ones_like(known)
    np.testing.assert_array_equal(run(Partial(oracle, target), given, everything, steps=3), given)


def test_what_the_network_sees():
    """The mask id at as many places as the schedule says; what was kept stays."""
    _, given, known = arrays(b=2, n=20)
    table = jax.random.normal(jax.random.key(0), (2, 20, CODES))
    seen = []

    def logits_fn(tokens, step):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), tokens, ordered=True)
        return own_logits(table, tokens, step)

    found = np.asarray(run(logits_fn, given, known, steps=5, on_step=lambda *_: None))
    jax.effects_barrier()
    unknown = jnp.sum(~known, axis=1)
    counts = mask_counts(unknown, steps=5, schedule="cosine")
    np.testing.assert_array_equal(seen[0], np.where(known, given, MASK))
    np.testing.assert_array_equal([(s == MASK).sum(1) for s in seen[1:]], counts[:, :-1].T)
    for before, after in zip(seen, [*seen[1:], found], strict=True):
        np.testing.assert_array_equal(after[before != MASK], before[before != MASK])


def test_stepwise_equals_scanned():
    table = jax.random.normal(jax.random.key(0), (3, 10, CODES))
    _, given, known = arrays()
    said = []
    scanned = run(Partial(own_logits, table), given, known, steps=4)
    stepwise = run(
        Partial(own_logits, table), given, known, steps=4, on_step=lambda *s: said.append(s)
    )
    np.testing.assert_array_equal(stepwise, scanned)
    assert [now[:2] for now in said] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    np.testing.assert_array_equal(said[-1][2](), scanned)
    first = np.asarray(said[0][2]())
    np.testing.assert_array_equal(first[known], given[known])
    assert (first != MASK).all()  # filled, where the state of the decoding has masks


def test_an_example_does_not_depend_on_its_batch():
    table = jax.random.normal(jax.random.key(0), (3, 10, CODES))
    _, given, known = arrays()
    keys = jax.random.split(jax.random.key(2), 3)
    whole = run(Partial(own_logits, table), given, known, keys=keys, steps=4)
    order = jnp.array([2, 0])
    part = run(
        Partial(own_logits, table[order]), given[order], known[order], keys=keys[order], steps=4
    )
    np.testing.assert_array_equal(part, whole[order])
    assert (run(Partial(own_logits, table), given, known, seed=3, steps=4) != whole).any()


def test_without_temperatures_nothing_is_random():
    table = jax.random.normal(jax.random.key(0), (3, 10, CODES))
    _, given, known = arrays()
    cold = {"steps": 4, "temperature": 0.0, "sample_temperature": 0.0}
    one, two = (run(Partial(own_logits, table), given, known, seed, **cold) for seed in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_distribution_of_the_tokens(tau):
    """In a single step: among several, the likelier tokens are kept and the others drawn anew."""
    logits = jnp.array([0.5, -1.0, 2.0, 0.0])

    def logits_fn(tokens, step):
        return jnp.broadcast_to(logits, (*tokens.shape, 4))

    blank = jnp.zeros((10, 1000), int)
    found = run(logits_fn, blank, blank > 0, steps=1, sample_temperature=tau)
    expected = jax.nn.softmax(logits / tau)
    often = np.bincount(np.asarray(found).ravel(), minlength=4) / found.size
    np.testing.assert_allclose(often, expected, atol=0.015)


def codes_at(logits, run, inside):
    """The codes at these quantiles, of one row of logits."""
    quantiles = jnp.stack(jnp.broadcast_arrays(jnp.asarray(run), jnp.asarray(inside)), axis=-1)
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (len(quantiles), len(logits)))
    return np.asarray(at_quantiles(rows, quantiles))


def test_codes_at_given_quantiles():
    """Shares 1/8, 1/2, 1/4, 1/8: the borders are 0.125, 0.625, 0.875, and belong to the upper."""
    below = np.nextafter(np.float32([0.125, 0.625, 0.875, 1.0]), np.float32(0))
    borders = np.float32([0.0, 0.125, 0.625, 0.875])
    logits = np.log([1, 4, 2, 1])
    for quantiles in (borders, below):
        np.testing.assert_array_equal(codes_at(logits, 0.5, quantiles), [0, 1, 2, 3])


@pytest.mark.parametrize("codes", [128, 200, 1000, 8192])
def test_quantiles_in_the_middle_of_each_code_give_all_of_them(codes):
    """The run by its share among runs, the code by its share within the run."""
    logits = np.random.default_rng(0).normal(size=codes)
    weights = np.pad(np.exp(logits), (0, -codes % 128)).reshape(-1, 128)
    runs = weights.sum(1) / weights.sum()
    inside = weights / weights.sum(1, keepdims=True)
    run = np.repeat(np.cumsum(runs) - runs / 2, 128).reshape(weights.shape)
    middle = np.cumsum(inside, 1) - inside / 2
    found = codes_at(logits, run.ravel()[:codes], middle.ravel()[:codes])
    np.testing.assert_array_equal(found, np.arange(codes))


@pytest.mark.parametrize("quantile", [0.0, 0.5, 1 - 2**-24])
def test_codes_of_probability_zero_are_never_picked(quantile):
    """Not at either end, not beside others, and also where a whole run has none."""
    logits = np.full(600, -np.inf)
    logits[[130, 131, 300]] = [0.0, 1.0, -1.0]
    quantiles = np.linspace(0, 1 - 2**-24, 50)
    found = codes_at(logits, quantile, quantiles)
    assert set(found) <= {130, 131, 300}
    assert set(codes_at(logits, quantiles, quantile)) <= {130, 131, 300}


def test_the_last_quantile_of_long_sums_picks_a_code_that_exists():
    """Sums of many float32 numbers may end below the quantile; 1,000 codes fill no whole run."""
    rows = np.random.default_rng(1).normal(size=(256, 1000)) * 3
    last = np.full((256, 2), 1 - 2**-24, np.float32)
    found = at_quantiles(jnp.asarray(rows, jnp.float32), jnp.asarray(last))
    assert (found < 1000).all()


def test_codes_below_the_resolution_of_float32_can_be_picked():
    """A run of 128 codes of 2^-30 each beside one of all the rest: 2^-23 for the run."""
    logits = np.concatenate([[0.0], np.full(127, -np.inf), np.full(128, -30 * np.log(2))])
    found = codes_at(logits, 1 - 2**-24, (np.arange(128) + 0.5) / 128)
    np.testing.assert_array_equal(found, 128 + np.arange(128))


@pytest.mark.parametrize("value", [np.inf, 3.4e38])
def test_an_infinite_logit_is_sure(value):
    found = codes_at([0.0, value, -value], 0.3, np.linspace(0, 0.99, 5))
    np.testing.assert_array_equal(found, np.ones(5))


def kept_first(temperature, b=4000):
    """Which of 3 positions keeps its token after the first of 2 steps, and its odds.

    Tokens are 0 in the first step and 1 in the second.
    """
    odds = jnp.array([0.5, 1.0, 2.0])

    def logits_fn(tokens, step):
        favor = jnp.where(step == 0, odds, -odds)
        return jnp.stack([jnp.broadcast_to(favor, tokens.shape), jnp.zeros(tokens.shape)], -1)

    blank = jnp.zeros((b, 3), int)
    found = np.asarray(
        run(logits_fn, blank, blank > 0, steps=2, temperature=temperature, sample_temperature=0.0)
    )
    assert (found.sum(1) == 2).all()
    return (found == 0).mean(0), jax.nn.log_sigmoid(odds)


def test_the_surest_token_is_kept_at_temperature_zero():
    np.testing.assert_array_equal(kept_first(0.0, b=4)[0], [0, 0, 1])


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_gumbel_noise_falls_with_the_steps(temperature):
    """The largest of c + ϑ/2 g, of the first step of two, is i with probability softmax(2c/ϑ)."""
    often, confidence = kept_first(temperature)
    np.testing.assert_allclose(often, jax.nn.softmax(confidence / (temperature / 2)), atol=0.03)


def late_oracle(tokens, step):
    """Sure of code 1 at position 0 in the first step, of code 0 afterwards and elsewhere."""
    wrong = (jnp.arange(tokens.shape[1]) == 0) & (step == 0)
    sure = jnp.where(wrong, 20.0, 3.0)
    logits = jnp.where(wrong[:, None], jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0]))
    return jnp.broadcast_to(sure[:, None] * logits, (*tokens.shape, 2))


def dislikes_ones(tokens, step):
    return jnp.where(tokens == 1, -10.0, 0.0)


def test_a_critic_takes_back_what_was_kept_but_never_what_is_known():
    blank = jnp.zeros((1, 8), int)
    known = jnp.arange(8)[None] == 7
    given = blank.at[0, 7].set(1)
    cold = {"steps": 4, "temperature": 0.0, "sample_temperature": 0.0}
    alone = run(late_oracle, given, known, **cold)
    judged = run(late_oracle, given, known, scores_fn=dislikes_ones, **cold)
    np.testing.assert_array_equal(alone[0], [1, 0, 0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(judged[0], [0, 0, 0, 0, 0, 0, 0, 1])


@pytest.mark.parametrize("on_step", [None, lambda *_: None])
def test_a_second_call_compiles_nothing(on_step):
    traced = []

    def logits_fn(table, tokens, step):
        traced.append(step)
        return own_logits(table, tokens, step)

    _, given, known = arrays()
    for seed in (0, 1):
        table = jax.random.normal(jax.random.key(seed), (3, 10, CODES))
        run(Partial(logits_fn, table), given, ~known, seed, steps=3, on_step=on_step)
        assert len(traced) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosines"}, "'cosines'.*cosine, linear"),
        ({"steps": 0}, "steps is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"sample_temperature": float("inf")}, "sample_temperature is inf"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        DecodingSpec(**settings)


def test_a_second_call_makes_no_program(caplog):
    """Of a film's segments every one would else leave a program in memory."""
    logits_fn = Partial(lambda tokens, i: jnp.zeros((*tokens.shape, 3)))
    tokens, known = jnp.zeros((1, 5), jnp.int32), jnp.zeros((1, 5), bool)

    def call(seed):
        keys = jax.random.split(jax.random.key(seed), 1)
        parallel_decode(
            logits_fn,
            tokens=tokens,
            known=known,
            mask_id=3,
            keys=keys,
            spec=DecodingSpec(steps=3),
            on_step=lambda *_: None,
        )

    call(0)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        call(1)
    assert [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()] == []
