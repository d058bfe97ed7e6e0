"""LoRA: the product in closed form, what is trained, and what a run needs to be read again.

Tests of vidgen/train/lora_weights.py too.
"""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import lora_on_devices
import numpy as np
import optax
import pytest
import toy_training as toy
from lora_on_devices import Affine

from vidgen.nn import axes, initializers
from vidgen.train import lora, lora_weights, optimizers, weights
from vidgen.train.checkpoints import Checkpointer, CheckpointError
from vidgen.train.lora import LoRA, LoraBase, LoraModel
from vidgen.train.state import named_leaves
from vidgen.train.warm_start import WarmStart


def boxed(seed=0):
    """A parameter of every kind: (shape, names)."""
    given = {
        "query": {"kernel": ((6, 2, 3), ("embed", "heads", "head_dim"))},
        "out": {"kernel": ((2, 3, 6), ("heads", "head_dim", "embed"))},
        "mlp": {"kernel": ((6, 8), ("embed", "mlp")), "bias": ((8,), ("mlp",))},
        "blocks": {"key": {"kernel": ((4, 6, 2, 3), ("layers", "embed", "heads", "head_dim"))}},
        "conv": {"kernel": ((3, 3, 6, 8), (None, "kernel", "conv_in", "conv_out"))},
        "norm": {"scale": ((6,), ("norm",))},
    }
    rng = np.random.default_rng(seed)

    def box(leaf):
        shape, names = leaf
        value = jnp.asarray(rng.normal(size=shape), jnp.float32)
        return axes.Named(value, names, distribution=initializers.normal(1.0)(shape))

    return jax.tree.map(box, given, is_leaf=lambda x: isinstance(x, tuple))


def unboxed(tree):
    return jax.tree.map(lambda b: b.value, tree, is_leaf=lambda x: isinstance(x, axes.Named))


def random_like(tree, seed=1):
    """Adapters whose B is not zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), tree)


# The sum ------------------------------------------------------------------------------------------


def test_the_product_of_each_kind_in_float64():
    base = boxed()
    settings = LoRA(rank=3, alpha=6.0, layers=lora.KINDS)
    adapters = random_like(unboxed(settings.adapters(base, jax.random.key(0))))
    found = named_leaves(lora_weights.merged(unboxed(base), adapters, settings.scale))
    before = named_leaves(unboxed(base))
    of = {name: np.asarray(x, np.float64) for name, x in named_leaves(adapters).items()}
    for name, sum_ in {
        "query/kernel": "ir,rhd->ihd",
        "out/kernel": "hdr,ri->hdi",
        "mlp/kernel": "ir,ro->io",
        "blocks/key/kernel": "lir,lrhd->lihd",
        "conv/kernel": "xyir,ro->xyio",
    }.items():
        product = np.einsum(sum_, of[f"{name}/lora_a"], of[f"{name}/lora_b"])
        np.testing.assert_allclose(found[name], before[name] + 2.0 * product, rtol=2e-6, atol=2e-6)
        assert found[name].shape == before[name].shape
    for name in ("mlp/bias", "norm/scale"):
        assert found[name] is before[name]
    assert found.keys() == before.keys()


def test_shapes_and_names_of_the_matrices():
    made = LoRA(rank=2, layers=lora.KINDS).adapters(boxed(), jax.random.key(0))
    key = made["blocks"]["key"]["kernel"]
    assert key["lora_a"].value.shape == (4, 6, 2) and key["lora_b"].value.shape == (4, 2, 2, 3)
    assert key["lora_a"].names == ("layers", "embed", None)
    assert key["lora_b"].names == ("layers", None, "heads", "head_dim")
    assert made["out"]["kernel"]["lora_a"].names == ("heads", "head_dim", None)
    assert made["conv"]["kernel"]["lora_b"].names == (None, "conv_out")
    assert "norm" not in made and "bias" not in made["mlp"]


def test_kinds_choose_the_kernels():
    def adapted(*layers):
        return set(LoRA(layers=layers).adapters(boxed(), jax.random.key(0)))

    assert adapted("attention") == {"query", "out", "blocks"}
    assert adapted("dense") == {"mlp"}
    assert adapted("conv") == {"conv"}
    assert set(LoRA().adapters(boxed(), jax.random.key(0))) == {"query", "out", "blocks", "mlp"}


def test_a_is_random_with_the_variance_of_its_inputs_and_b_is_zero():
    kernel = axes.Named(jnp.zeros((400, 20, 20)), ("embed", "heads", "head_dim"))
    made = LoRA(rank=50).adapters({"q": {"kernel": kernel}}, jax.random.key(0))["q"]["kernel"]
    assert not np.any(made["lora_b"].value)
    assert np.std(made["lora_a"].value) == pytest.approx(400**-0.5, rel=0.02)
    assert made["lora_a"].distribution.std == pytest.approx(400**-0.5 / 0.8796, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "LoRA.rank is 0.*>= 1"),
        ({"alpha": 0.0}, "LoRA.alpha is 0.0"),
        ({"layers": ("attention", "norms")}, "LoRA.layers is .*'norms'.*'dense'"),
        ({"layers": ()}, r"LoRA.layers is \(\).*'dense'"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**settings)


def test_a_model_without_such_kernels():
    with pytest.raises(ValueError, match=r"no kernels .*\('conv',\)"):
        LoRA(layers=("conv",)).adapters({"mlp": boxed()["mlp"]}, jax.random.key(0))


def test_only_what_makes_clips_is_fine_tuned():
    other: Any = toy.ToyEncoder()
    with pytest.raises(ValueError, match=r"LoRA .*MODEL is a ToyEncoder; .*lora\.gin"):
        LoraModel(base=other)


# Training -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a trained `Affine`, and its weights."""
    folder = tmp_path_factory.mktemp("base")
    trainer = toy.make_trainer(Affine(), ema_decay=None)
    state = trainer.init_state(jax.random.key(0), toy.spec())
    state, _ = toy.run_steps(trainer, state, 0, 3)
    with Checkpointer(folder) as checkpointer:
        checkpointer.save(3, state)
    return folder, jax.tree.map(np.asarray, state.params)


def fine_tuning(base_dir, folder, **settings):
    """A trainer of a LoRA of rank 2 for it, and what loads the base."""
    model = LoraModel(base=Affine(), lora=LoRA(rank=2, **settings))
    rate = optimizers.LearningRate(peak=0.05)
    trainer = toy.make_trainer(model, optimizers.SGD(learning_rate=rate), ema_decay=None)
    frozen = LoraBase(
        model=model, base_dir=str(base_dir), model_dir=str(folder), text_encoder=toy.ToyEncoder()
    )
    return trainer, frozen


def test_the_first_step_is_the_base_to_the_bit(base, tmp_path):
    folder, params = base
    trainer, frozen = fine_tuning(folder, tmp_path)
    state, loaded = trainer.init_state(jax.random.key(1), toy.spec()), frozen()
    assert np.any(state.params["dense"]["kernel"]["lora_a"])
    merged = trainer.model.merge_params(state.params, loaded)
    jax.tree.map(np.testing.assert_array_equal, merged, params)
    key, batch = jax.random.key(3), toy.batch()
    whole = toy.make_trainer(Affine()).eval_step(params, None, batch, key)
    ours = trainer.eval_step(state.params, loaded, batch, key)
    assert float(ours["loss"].value()) == float(whole["loss"].value())


def test_steps_of_gradient_descent_in_closed_form(base, tmp_path):
    """dL/dA = s dL/dW Bᵀ and dL/dB = s Aᵀ dL/dW, in float64; the base stays as it is."""
    folder, params = base
    trainer, frozen = fine_tuning(folder, tmp_path, alpha=4.0)
    state, loaded = trainer.init_state(jax.random.key(1), toy.spec()), frozen()
    a, b = (
        np.asarray(state.params["dense"]["kernel"][n], np.float64) for n in ("lora_a", "lora_b")
    )
    w0, bias = (np.asarray(params["dense"][n], np.float64) for n in ("kernel", "bias"))
    key = jax.random.key(7)
    for n in range(4):
        batch = toy.batch(8, n)
        state, _ = trainer.train_step(state, loaded, batch, key)
        text = np.asarray(batch.text.tokens, np.float64).mean(axis=1)
        target = np.asarray(batch.video, np.float64).reshape(8, -1)
        error = text @ (w0 + 2.0 * a @ b) + bias - target
        gradient = text.T @ (2 * error / error.size)
        a, b = a - 0.05 * 2.0 * gradient @ b.T, b - 0.05 * 2.0 * a.T @ gradient
    found = state.params["dense"]["kernel"]
    np.testing.assert_allclose(found["lora_a"], a, rtol=1e-5)
    np.testing.assert_allclose(found["lora_b"], b, rtol=1e-4, atol=1e-8)
    assert np.abs(b).max() > 1e-3
    jax.tree.map(np.testing.assert_array_equal, loaded[lora.BASE], params)


def test_nothing_but_the_matrices_is_trained_and_kept(base, tmp_path):
    trainer, _ = fine_tuning(base[0], tmp_path)
    adam = dataclasses.replace(
        trainer, optimizer=optimizers.AdamW(learning_rate=optimizers.LearningRate(peak=1e-3))
    )
    abstract = adam.abstract_state(toy.spec())
    rows, columns = base[1]["dense"]["kernel"].shape
    size = 2 * (rows + columns)
    assert sum(x.size for x in jax.tree.leaves(abstract.params)) == size
    moments = optax.tree.get(abstract.opt_state, "nu")
    assert sum(x.size for x in jax.tree.leaves(moments)) == size


# On disk ------------------------------------------------------------------------------------------


@pytest.fixture
def run(base, tmp_path):
    """The folder of a LoRA run of three steps, and what its model is in full."""
    folder = tmp_path / "run"
    trainer, frozen = fine_tuning(base[0], folder)
    state, loaded = trainer.init_state(jax.random.key(1), toy.spec()), frozen()
    for n in range(3):
        state, _ = trainer.train_step(state, loaded, toy.batch(8, n), jax.random.key(7))
    with Checkpointer(folder) as checkpointer:
        checkpointer.save(3, state)
    return folder, trainer.model.merge_params(state.params, loaded)


def test_a_run_is_read_as_the_whole_model(run, base):
    folder, whole = run
    with weights.open_weights(folder) as reader:
        assert isinstance(reader, lora_weights.LoraWeights)
        assert reader.latest_step() == 3
        spec = reader.stored_params()
        jax.tree.map(np.testing.assert_array_equal, reader.restore_params(), whole)
        half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), spec)
        assert {x.dtype.name for x in jax.tree.leaves(reader.restore_params(half))} == {"bfloat16"}
        with pytest.raises(FileNotFoundError, match=r"step 4 .*\[3\]"):
            reader.stored_params(4)
    changed = np.abs(np.asarray(whole["dense"]["kernel"]) - base[1]["dense"]["kernel"])
    assert changed.max() > 1e-4
    np.testing.assert_array_equal(whole["dense"]["bias"], base[1]["dense"]["bias"])


def test_the_run_does_not_hold_the_base(run):
    with weights.open_own_weights(run[0]) as own:
        names = set(named_leaves(own.stored_params()))
    assert names == {"dense/kernel/lora_a", "dense/kernel/lora_b"}


def test_a_run_of_a_run(run, tmp_path):
    """The base may be a LoRA run itself."""
    trainer, frozen = fine_tuning(run[0], tmp_path / "second")
    state, loaded = trainer.init_state(jax.random.key(5), toy.spec()), frozen()
    jax.tree.map(np.testing.assert_array_equal, loaded[lora.BASE], run[1])
    with Checkpointer(tmp_path / "second") as checkpointer:
        checkpointer.save(0, state)
    read = weights.open_weights(tmp_path / "second").restore_params()
    jax.tree.map(np.testing.assert_array_equal, read, run[1])


def test_training_begins_with_a_run(run):
    """All weights of it, as with any other INIT_FROM."""
    trainer = toy.make_trainer(Affine())
    fresh = trainer.init_state(jax.random.key(9), toy.spec()).params
    found = WarmStart(model_dir=str(run[0]))(fresh)
    jax.tree.map(np.testing.assert_array_equal, found, run[1])


def test_both_moved_together(run, base, tmp_path):
    folder, whole = run
    record = json.loads((folder / "lora.json").read_text())
    assert record["base"] == str(base[0]) and record["step"] == 3
    (folder / "lora.json").write_text(json.dumps(record | {"base": "/gone/away/base0"}))
    with pytest.raises(
        FileNotFoundError, match="LoRA weights of /gone/away/base0.* not there; put"
    ):
        weights.open_weights(folder)
    (tmp_path / "base0").symlink_to(base[0])
    jax.tree.map(
        np.testing.assert_array_equal, weights.open_weights(folder).restore_params(), whole
    )


def test_other_weights_in_the_place_of_the_base(run, base, tmp_path):
    """A training that went on there, say: it is not read with matrices that do not belong to it."""
    folder, _ = run
    other = jax.tree.map(lambda x: x + 1e-6, base[1])
    weights.write(tmp_path / "other", other, 3, eight_bits=False)
    record = json.loads((folder / "lora.json").read_text())
    (folder / "lora.json").write_text(json.dumps(record | {"base": str(tmp_path / "other")}))
    with pytest.raises(CheckpointError, match=r"/other, .*other weights .*step 3\)"):
        weights.open_weights(folder).restore_params()


def test_going_on_takes_the_same_base_rank_and_alpha(run, base):
    folder, _ = run
    before = (folder / "lora.json").read_bytes()
    fine_tuning(base[0], folder)[1]()
    assert (folder / "lora.json").read_bytes() == before
    with pytest.raises(CheckpointError, match=r"LoRA alpha 8.0, not 4.0; .*MODEL_DIR"):
        fine_tuning(base[0], folder, alpha=4.0)[1]()
    with Checkpointer(base[0]) as checkpointer:  # the base has been trained further
        state = toy.make_trainer(Affine(), ema_decay=None).init_state(jax.random.key(2), toy.spec())
        checkpointer.save(9, state)
    loaded = fine_tuning(base[0], folder)[1]()
    jax.tree.map(np.testing.assert_array_equal, loaded[lora.BASE], base[1])


def test_no_base(base, tmp_path):
    with pytest.raises(ValueError, match="INIT_FROM is empty"):
        fine_tuning("", tmp_path)
    with pytest.raises(FileNotFoundError, match="INIT_FROM.*nowhere"):
        fine_tuning(tmp_path / "nowhere", tmp_path)[1]()
    weights.write(tmp_path / "small", {"dense": {"kernel": jnp.ones((4, 4))}}, 1)
    with pytest.raises(CheckpointError, match=r"small.*dense/bias .*\(32,\)"):
        fine_tuning(tmp_path / "small", tmp_path / "m")[1]()
    assert not (tmp_path / "m").exists()


def test_a_record_that_is_not_whole(tmp_path):
    (tmp_path / "lora.json").write_text('{"base": "x"')
    with pytest.raises(CheckpointError, match=r"lora\.json .*LoRA record"):
        lora_weights.read_record(tmp_path)


def test_fingerprints_tell_weights_apart():
    one = unboxed(boxed())
    assert lora_weights.fingerprint(one) == lora_weights.fingerprint(unboxed(boxed()))
    other = jax.tree.map(lambda x: x, one)
    kernel = np.array(other["mlp"]["kernel"])
    kernel[2, 3] = np.nextafter(kernel[2, 3], np.float32(9))
    other["mlp"] = other["mlp"] | {"kernel": jnp.asarray(kernel)}
    assert lora_weights.fingerprint(one) != lora_weights.fingerprint(other)
    renamed = {("mlp2" if n == "mlp" else n): x for n, x in one.items()}
    assert lora_weights.fingerprint(one) != lora_weights.fingerprint(renamed)


def test_over_four_devices_as_on_one(on_devices, tmp_path):
    """The same losses, fingerprint and merged weights, and matrices laid out by their names."""
    one = lora_on_devices.report((1, 1, 1), str(tmp_path / "one"))
    four = on_devices(4, "lora_on_devices.py", "1,2,2", str(tmp_path / "four"))
    assert four["fingerprint"] == one["fingerprint"]
    np.testing.assert_allclose(four["losses"], one["losses"], rtol=1e-5)
    np.testing.assert_allclose(four["sums"], one["sums"], rtol=1e-5)
    assert four["specs"]["dense/kernel/lora_a"] == "P('fsdp', None)"
    assert four["specs"]["dense/kernel/lora_b"] == "P(None, 'tensor')"
    assert four["base"] == "P('fsdp', 'tensor')" and four["merged"] == four["base"]
