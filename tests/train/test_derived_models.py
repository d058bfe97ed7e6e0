"""Models made of a run: what is written, what it says of itself, and wrong input.

Tests of vidgen/cli/derive_command.py too.
"""

import jax
import numpy as np
import pytest
import toy_training as toy
from lora_on_devices import Affine

from vidgen.train import derived_models, optimizers, weights
from vidgen.train.checkpoints import Checkpointer, CheckpointSettings
from vidgen.train.lora import LoRA, LoraBase, LoraModel
from vidgen.train.power_ema import PowerEma
from vidgen.train.snapshots import Snapshots

CONFIG = "# Weights: something older.\nMODEL_DIR = 'runs/x'\n"


def save(folder, state):
    with Checkpointer(folder) as checkpointer:
        checkpointer.save(int(state.step), state)
    (folder / "config.gin").write_text(CONFIG)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A base, and a LoRA run of it with snapshots; and the LoRA run's last state and base."""
    root = tmp_path_factory.mktemp("runs")
    plain = toy.make_trainer(Affine(), ema_decay=None)
    save(root / "base", plain.init_state(jax.random.key(0), toy.spec()))
    model, power = LoraModel(base=Affine(), lora=LoRA(rank=2, alpha=6.0)), PowerEma(every=2)
    rate = optimizers.SGD(learning_rate=optimizers.LearningRate(peak=0.05))
    trainer = toy.make_trainer(model, rate, ema_decay=0.5, power_ema=power)
    frozen = LoraBase(
        model=model,
        base_dir=str(root / "base"),
        model_dir=str(root / "lora"),
        text_encoder=toy.ToyEncoder(),
    )()
    state = trainer.init_state(jax.random.key(1), toy.spec())
    stored = Snapshots(root / "lora", CheckpointSettings(), 0)
    for n in range(6):
        state, _ = trainer.train_step(state, frozen, toy.batch(8, n), jax.random.key(7))
        if n % 2:
            stored.store(state)
    stored.close()
    save(root / "lora", state)
    return root, trainer, state, frozen


def test_merged_weights_are_those_that_generate(runs, tmp_path):
    root, trainer, state, frozen = runs
    made = derived_models.merge(str(root / "lora"), str(tmp_path / "out"))
    exact = trainer.model.merge_params(state.ema, frozen)
    beside = weights.open_weights(root / "lora").restore_params()
    with weights.open_weights(tmp_path / "out") as found:
        assert isinstance(found, weights.WeightsFile) and found.latest_step() == 6
        jax.tree.map(np.testing.assert_array_equal, found.restore_params(), exact)
        jax.tree.map(np.testing.assert_array_equal, found.restore_params(), beside)
    assert (made.step, made.warning) == (6, "")
    config = (tmp_path / "out" / "config.gin").read_text().splitlines()
    assert config == [f"# Weights: {made.what}.", "MODEL_DIR = 'runs/x'"]
    assert made.what.startswith(f"the weights of {root / 'lora'} at step 6, merged with")


def test_averages_of_a_lora_run_are_whole_weights(runs, tmp_path):
    """The matrices are averaged, and then added to the base."""
    root, trainer, state, frozen = runs
    derived_models.average(str(root / "lora"), 0.1, str(tmp_path / "out"))
    exact = trainer.model.merge_params(state.power_ema["0.1"], frozen)
    found = weights.open_weights(tmp_path / "out").restore_params()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found, exact)


def test_an_average_may_end_earlier(runs, tmp_path):
    root, *_ = runs
    made = derived_models.average(str(root / "lora"), 0.1, str(tmp_path / "out"), step=4)
    assert made.step == 4 and "made of 2 snapshots with the lengths 0.05 and 0.1" in made.what
    assert weights.open_weights(tmp_path / "out").latest_step() == 4
    with pytest.raises(ValueError, match=r"snapshot of step 5 .*\[2, 4, 6\]"):
        derived_models.average(str(root / "lora"), 0.1, str(tmp_path / "out"), step=5)


def test_a_profile_that_the_snapshots_do_not_give(runs, tmp_path):
    made = derived_models.average(str(runs[0] / "lora"), 0.25, str(tmp_path / "out"), step=2)
    assert "give the profile of that length only to" in made.warning


def test_the_same_again_replaces_what_was_made(runs, tmp_path):
    lora = str(runs[0] / "lora")
    derived_models.average(lora, 0.2, str(tmp_path / "out"))
    first = (tmp_path / "out" / weights.FILE).read_bytes()
    derived_models.average(lora, 0.05, str(tmp_path / "out"))
    assert (tmp_path / "out" / weights.FILE).read_bytes() != first
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.gin", weights.FILE]
    assert "length 0.05" in (tmp_path / "out" / "config.gin").read_text()


# The command --------------------------------------------------------------------------------------


def test_both_commands(vidgen, runs, tmp_path):
    root = runs[0]
    status, out, err = vidgen("merge", str(root / "lora"), "-o", "merged")
    assert (status, err) == (0, "")
    assert out.startswith("merged/model.safetensors: the weights of") and out.count("\n") == 1
    status, out, err = vidgen("average", str(root / "lora"), "--length=0.1", "-o", "averaged")
    assert (status, err) == (0, "") and "relative length 0.1" in out
    arguments = ("average", str(root / "lora"), "--length=0.25", "--step=2", "-o", "poor")
    status, out, err = vidgen(*arguments)
    assert status == 0 and err.startswith("vidgen: note: the snapshots give the profile")


WRONG = {
    ("merge", "BASE", "-o", "x"): ["holds whole weights: it has no lora.json"],
    ("merge", "LORA", "-o", "LORA"): ["is the folder of a training run (checkpoints is in it)"],
    ("merge", "LORA", "-o", "file"): ["--output=file is a file; name a folder"],
    ("merge", "LORA"): ["-o/--output"],
    ("merge", "LORA", "-o", "x", "--step=5"): ["no checkpoint of step 5", "there are [6]"],
    ("merge", "LORA", "-o", "x", "--gin.A=1"): ["takes no --gin.A=1"],
    ("merge", "nowhere", "-o", "x"): ["there is no folder nowhere"],
    ("merge", "phenaki_demo", "-o", "x"): ["config.gin; it holds cvivit, maskgit: name one"],
    ("average", "BASE", "--length=0.1", "-o", "x"): [
        "no snapshots of averages",
        "post_hoc_ema.gin",
    ],
    ("average", "LORA", "--length=0.5", "-o", "x"): ["is 0.5; it must be over 0, and at most 0.28"],
    ("average", "LORA", "--length=long", "-o", "x"): ["--length", "long"],
    ("average", "LORA", "-o", "x"): ["--length"],
    ("average", "LORA", "--length=0.1", "-o", "x", "--step=3"): ["there are [2, 4, 6]"],
}


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_input_is_one_sentence(vidgen, runs, tmp_path, arguments):
    (tmp_path / "file").write_text("")
    places = {"BASE": str(runs[0] / "base"), "LORA": str(runs[0] / "lora")}
    status, out, err = vidgen(*(places.get(a, a) for a in arguments))
    assert (status, out) == (2, "") and err.count("\n") == 1, err
    assert err.startswith("vidgen: error: ")
    for words in WRONG[arguments]:
        assert words in err
    assert not (tmp_path / "x").exists()


def test_nothing_is_written_where_the_base_is_another(vidgen, runs, tmp_path):
    root, _, state, _ = runs
    moved = tmp_path / "runs" / "lora"
    save(moved, state)
    weights.write(
        tmp_path / "runs" / "base",
        jax.tree.map(lambda x: x * 2, weights.open_weights(root / "base").restore_params()),
        0,
        eight_bits=False,
    )
    record = (root / "lora" / "lora.json").read_text()
    (moved / "lora.json").write_text(record.replace(str(root), "/gone"))
    status, _, err = vidgen("merge", str(moved), "-o", "x")
    assert status == 2 and "has other weights now than those that were fine-tuned" in err
    assert not (tmp_path / "x").exists()


def test_weights_are_written_exactly(tmp_path):
    value = jax.numpy.asarray(np.random.default_rng(0).normal(size=(64, 64)), "float32") * 1e6
    weights.write(tmp_path, {"kernel": value}, 3, eight_bits=False)
    np.testing.assert_array_equal(weights.open_weights(tmp_path).restore_params()["kernel"], value)
    with pytest.raises(ValueError, match="NaN"):
        weights.write(tmp_path, {"kernel": value * np.nan}, 3, eight_bits=False)
