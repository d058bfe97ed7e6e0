"""LoRA and post-hoc EMA by the command: a stage and a transformer, from training to clips."""

import json

import jax
import numpy as np
import pytest
import tiny_phenaki
from small_stage import SMALL

from vidgen.train.checkpoints import Checkpointer
from vidgen.train.state import named_leaves
from vidgen.train.weights import open_own_weights, open_weights

TINY = ["--gin_file=experiments/imagen_base_tiny.gin", "--gin_file=small.gin"]
LORA = "--gin_file=experiments/lora.gin"
SHORT = ["BATCH_SIZE=2", "CHECKPOINT_EVERY=99", "Train.log_every=1", "LORA_RANK=2"]
SHORT = [f"--gin.{name}" for name in (*SHORT, "SAMPLE_VIDEOS=None", "HELD_OUT_LOSS=None")]
PROMPT = "a tiger moving right on a green background"

pytestmark = pytest.mark.usefixtures("kept_programs", "shared_steps")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A stage of one level after two steps."""
    root = tmp_path_factory.mktemp("stage")
    (root / "small.gin").write_text(SMALL)
    files = [name.replace("small.gin", str(root / "small.gin")) for name in TINY]
    short = [name for name in SHORT if "LORA" not in name]
    tiny_phenaki.run(
        "train", *files, *short, "--gin.TRAIN_STEPS=2", f"--gin.MODEL_DIR={root / 'a'}"
    )
    return root / "a"


@pytest.fixture
def tune(vidgen, base, tmp_path):
    """Fine-tunes it in the current folder: (status, stdout, stderr)."""
    (tmp_path / "small.gin").write_text(SMALL)

    def run(folder, *flags, steps=2, init=base):
        words = ["train", *TINY, LORA, *SHORT, f"--gin.INIT_FROM={init}"]
        return vidgen(*words, f"--gin.TRAIN_STEPS={steps}", f"--gin.MODEL_DIR={folder}", *flags)

    return run


def clip(vidgen, model):
    status, _, err = vidgen("generate", PROMPT, f"--model={model}", "--steps=1", "-o", "out.npy")
    assert status == 0, err
    return np.load("out.npy")


def params(folder):
    return {
        n: np.asarray(x) for n, x in named_leaves(open_weights(folder).restore_params()).items()
    }


def assert_near(found, exact):
    """But for what steps of 1e-30 add to kernels that are zero."""
    assert found.keys() == exact.keys()
    for name in exact:
        np.testing.assert_allclose(found[name], exact[name], rtol=0, atol=1e-28, err_msg=name)


def test_a_stage_is_fine_tuned_generates_and_is_merged(vidgen, tune, base):
    # Steps too small to change a clip: that of the base, to the bit.
    assert tune("still", "--gin.LEARNING_RATE=1e-30").status == 0
    before = params(base)
    assert_near(params("still"), before)
    of_base = clip(vidgen, base)
    np.testing.assert_array_equal(clip(vidgen, "still"), of_base)
    # A real one.
    told = tune("moved", "--gin.LEARNING_RATE=0.1", steps=3)
    assert told.status == 0 and "training 7" not in told.out
    changed = {n for n, x in params("moved").items() if not np.array_equal(x, before[n])}
    assert changed and all(name.endswith("/kernel") for name in changed)
    assert any("/query/" in n for n in changed) and not any("stem" in n for n in changed)
    of_run = clip(vidgen, "moved")
    assert not np.array_equal(of_run, of_base)
    assert vidgen("merge", "moved", "-o", "merged").status == 0
    np.testing.assert_array_equal(clip(vidgen, "merged"), of_run)


def test_the_run_is_small_and_repeats_itself(vidgen, tune, tmp_path):
    assert tune("one").status == 0
    with open_own_weights(tmp_path / "one") as own:
        kept = named_leaves(own.stored_params())
    assert {name.rpartition("/")[2] for name in kept} == {"lora_a", "lora_b"}
    config = (tmp_path / "one" / "config.gin").read_text()
    told = vidgen("train", "--gin_file=one/config.gin", "--dry_run")
    assert told.status == 0 and told.err == "" and told.out == config
    assert "LoRA.rank = %LORA_RANK" in config and "LORA_RANK = 2" in config


def test_gone_on_after_a_stop_it_is_the_same_to_the_bit(tune, tmp_path):
    assert tune("whole", steps=4).status == 0
    assert tune("parts", steps=2).status == 0
    assert tune("parts", steps=4).status == 0
    with Checkpointer("whole") as whole, Checkpointer("parts") as parts:
        for averaged in (True, False):
            jax.tree.map(
                np.testing.assert_array_equal,
                whole.restore_params(averaged=averaged),
                parts.restore_params(averaged=averaged),
            )


def test_settings_reach_the_run(tune, tmp_path):
    flags = ["--gin.LORA_ALPHA=5.0", "--gin.LORA_LAYERS=('conv',)"]
    assert tune("conv", *flags).status == 0
    record = json.loads((tmp_path / "conv" / "lora.json").read_text())
    assert (record["rank"], record["alpha"]) == (2, 5.0)
    with open_own_weights(tmp_path / "conv") as own:
        kept = named_leaves(own.stored_params())
    assert any("stem" in name for name in kept) and not any("/query/" in name for name in kept)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--gin.LORA_RANK=0"], ["LoRA.rank is 0; it must be >= 1"]),
        (["--gin.LORA_ALPHA=-1.0"], ["LoRA.alpha is -1.0"]),
        (["--gin.LORA_LAYERS=('norms',)"], ["choose some of ('attention', 'dense', 'conv')"]),
        (["--gin.INIT_FROM=''"], ["INIT_FROM is empty", "--gin.INIT_FROM=MODEL"]),
        (["--gin.INIT_FROM=nowhere"], ["no weights to fine-tune (INIT_FROM)", "nowhere"]),
        (["--gin.INIT_FROM=imagen_teachers/base"], ["does not fit this model: params/"]),
        (["--gin.INIT_FROM=phenaki_demo/cvivit"], ["does not fit this model"]),
    ],
)
def test_wrong_input_is_one_sentence(tune, tmp_path, flags, words):
    status, out, err = tune("m", *flags)
    told = [line for line in err.splitlines() if not line.startswith("training ")]
    assert status == 2 and out == "" and len(told) == 1, err
    for word in words:
        assert word in told[0]
    assert not (tmp_path / "m").exists()


def test_another_alpha_is_not_the_same_run(tune):
    assert tune("m").status == 0
    status, _, err = tune("m", "--gin.LORA_ALPHA=3.0", steps=3)
    assert status == 2 and "m was begun with the LoRA alpha 8.0, not 3.0" in err


def test_it_is_planned(vidgen, tune, tmp_path):
    told = vidgen("plan", *TINY, LORA, "--gin.INIT_FROM=x", "--gin.MODEL_DIR=m", "--json")
    assert told.status == 0, told.err
    (model,) = json.loads(told.out)["models"]
    assert 0 < model["parameters"] < 20_000 and model["flops_per_step"] > 0


def test_a_transformer_over_tokens(vidgen, phenaki, tmp_path):
    small = tmp_path / "small.gin"
    small.write_text(tiny_phenaki.SMALL + tiny_phenaki.NETWORK)
    flags = [f"--gin.TOKENIZER_DIR={phenaki / 'cvivit'}", f"--gin.INIT_FROM={phenaki / 'maskgit'}"]
    files = ["--gin_file=experiments/phenaki_maskgit_tiny.gin", f"--gin_file={small}", LORA]
    for folder, rate in (("still", "1e-30"), ("moved", "0.1")):
        own = [f"--gin.MODEL_DIR={folder}", f"--gin.LEARNING_RATE={rate}", "--gin.TRAIN_STEPS=2"]
        told = vidgen("train", *files, *flags, *SHORT, *own)
        assert told.status == 0, told.err
    before = params(phenaki / "maskgit")
    assert_near(params("still"), before)
    moved = params("moved")
    (stacked,) = [n for n in moved if n.endswith("blocks/self/query/kernel")]
    change = np.abs(moved[stacked] - before[stacked]).max(axis=(1, 2, 3))
    assert (change > 0).all()  # in each of the stacked layers
    of_run = clip(vidgen, "moved")
    assert vidgen("merge", "moved", "-o", "merged").status == 0
    np.testing.assert_array_equal(clip(vidgen, "merged"), of_run)


def test_averages_of_any_length_after_training(vidgen, base, tmp_path):
    (tmp_path / "small.gin").write_text(SMALL)
    flags = [*SHORT[:3], *SHORT[4:], "--gin.SNAPSHOT_EVERY=2", "--gin.TRAIN_STEPS=6"]
    files = [*TINY, "--gin_file=experiments/post_hoc_ema.gin"]
    told = vidgen("train", *files, *flags, "--gin.MODEL_DIR=kept")
    assert told.status == 0, told.err
    config = (tmp_path / "kept" / "config.gin").read_text()
    assert "power_ema.PowerEma.lengths = (0.05, 0.1)" in config
    assert sorted(int(p.name) for p in (tmp_path / "kept" / "snapshots").iterdir()) == [2, 4, 6]
    for length in ("0.08", "0.2"):
        told = vidgen("average", "kept", f"--length={length}", "-o", f"of_{length}")
        assert told.status == 0, told.err
    assert np.isfinite(clip(vidgen, "of_0.08")).all()
    short, long = params("of_0.08"), params("of_0.2")
    last = params("kept")  # the run's own average, by its decay
    assert short.keys() == long.keys() == last.keys()
    assert any(not np.array_equal(short[n], long[n]) for n in short)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("SNAPSHOT_EVERY=0", "PowerEma.every is 0"),
        ("PowerEma.lengths=(0.5,)", "the length of an average is 0.5"),
        ("PowerEma.lengths=()", "give one or more different lengths"),
    ],
)
def test_wrong_averages_are_one_sentence(vidgen, tmp_path, flag, words):
    (tmp_path / "small.gin").write_text(SMALL)
    files = [*TINY, "--gin_file=experiments/post_hoc_ema.gin"]
    status, _, err = vidgen("train", *files, "--gin.MODEL_DIR=m", f"--gin.{flag}")
    assert status == 2 and words in err and err.count("\n") == 1
    assert not (tmp_path / "m").exists()
