"""benchmarks/accelerator.py: all of it at tiny size, its search for what fits in closed form."""

import json
import math
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from places import HELPERS, ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import accelerator  # noqa: E402
import accelerator_rows  # noqa: E402
import accelerator_training  # noqa: E402
import on_device  # noqa: E402
from accelerator_training import EXPERIMENTS, Experiment  # noqa: E402

from vidgen.train.partitioning import is_box  # noqa: E402

TRAINED = ("base", "ssr2", "ssr3", "cvivit_gan", "maskgit")


@pytest.fixture(scope="module")
def tiny(warm, tmp_path_factory):
    """What one run of the whole prints, and the rows that it writes, by name."""
    output = tmp_path_factory.mktemp("accelerator") / "rows.jsonl"
    flags = ["--size=tiny", f"--output={output}", "--seconds=3000"]
    done = warm(ROOT / "benchmarks" / "accelerator.py", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    return done.stdout, {row["row"]: row for row in rows}


def test_every_row_is_measured(tiny):
    printed, rows = tiny
    attention = {f"attention/{case}" for case in accelerator_rows.ATTENTION["tiny"]}
    assert set(rows) == attention | (set(accelerator.ROWS) - {"attention"})
    assert all(row["seconds"] > 0 and row["device"] == "cpu" for row in rows.values())
    head, _, _, _, *lines = printed.splitlines()
    assert head.startswith("cpu, ") and f"jax {jax.__version__}" in head
    assert [line.split(" | ")[0] for line in lines] == [f"| {name}" for name in rows]


def test_what_the_rows_say(tiny):
    _, rows = tiny
    for name in TRAINED:
        row = rows[f"train/{name}"]
        assert math.isfinite(row["loss"]) and row["flops"] > 0 and "batch 2 of" in row["setting"]
        assert row["predicted_bytes"] > 2**20
    assert rows["train/maskgit"]["setting"].startswith("1 layers,")
    assert "two evaluations" in rows["generate/ssr3"]["setting"]
    # 5 frames are 3 x 4 x 4 tokens: of a segment that knows 3 frames, the last 4 x 4 are new.
    told = rows["story"]
    assert told["setting"].startswith("16 tokens for 2 frames")
    assert told["tokens_per_second"] == pytest.approx(16 / told["seconds"])
    for name, row in rows.items():
        if name.startswith("attention"):
            assert row["kernel"] == "products" and 0 < max(row["errors"].values()) < 0.02


def test_sizes_are_published_ones():
    for stage in ("base", "ssr2", "ssr3"):
        model = accelerator_training.built(EXPERIMENTS["published"][stage]).trainer.model
        assert model.network.dtype == "bfloat16"
    network = accelerator_training.built(EXPERIMENTS["published"]["maskgit"]).trainer.model.network
    assert (network.layers, network.width, network.dtype) == (24, 2048, "bfloat16")
    tokenizer = accelerator_training.built(EXPERIMENTS["published"]["cvivit_gan"]).trainer.model
    assert tokenizer.autoencoder.dtype == tokenizer.discriminator.dtype == "bfloat16"


# ---- the largest size that fits ------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch, needed, memory, smaller",
    [
        (16, 10 + 16 * 5, 90, 8),  # at 5 an example, 16 would do; the compiler refused it
        (16, 10 + 16 * 5, 89, 8),
        (16, 10 + 16 * 5, 50, 8),
        (16, 10 + 16 * 5, 49, 4),
        (16, 10 + 16 * 5, 12, 1),
        (16, None, 12, 8),
        (2, None, 12, 1),
    ],
)
def test_the_next_batch(batch, needed, memory, smaller):
    assert accelerator_training.smaller_batch(batch, 10, needed, memory) == smaller


@pytest.fixture
def maskgit():
    """The published transformer, of whose step `compiled_training_step` says what it needs."""
    return accelerator_training.built(EXPERIMENTS["published"]["maskgit"])


class Compiler:
    """Says that a step needs so much a layer, and so much an example and layer."""

    def __init__(self, monkeypatch, layer, example):
        self.asked, self.layer, self.example = [], layer, example
        monkeypatch.setattr(accelerator_training.programs, "compiled_training_step", self.compile)
        monkeypatch.setattr(accelerator_training, "state_bytes", self.state)

    def state(self, trainer, spec):
        return trainer.model.network.layers * self.layer

    def compile(self, trainer, spec):
        layers, batch = trainer.model.network.layers, jax.tree.leaves(spec)[0].shape[0]
        self.asked.append((layers, batch))
        peak = layers * (self.layer + batch * self.example)
        return SimpleNamespace(report={"peak_bytes_per_device": peak}, program="a program")


NEVER = on_device.Deadline(math.inf)


@pytest.mark.parametrize(
    "layer, example, memory, asked",
    [
        (1, 1, 24 * 129, [(24, 128)]),
        (1, 1, 24 * 129 - 1, [(24, 128), (24, 64)]),
        (1, 1, 24 * 3, [(24, 128), (24, 2)]),
        (10, 1, 12 * 12, [(12, 128), (12, 2)]),  # the state of 24 layers is seen not to fit
        (10, 10, 24 * 14, [(24, 128), (24, 1), (12, 1)]),
    ],
)
def test_batch_and_layers_are_halved_until_the_step_fits(
    maskgit, monkeypatch, layer, example, memory, asked
):
    compiler = Compiler(monkeypatch, layer, example)
    batch, trainer, _ = accelerator_training.largest(maskgit, 128, memory, NEVER)
    assert compiler.asked == asked
    assert (trainer.model.network.layers, batch) == asked[-1]


def test_what_never_fits_and_what_takes_too_long(maskgit, monkeypatch):
    compiler = Compiler(monkeypatch, 10, 10)
    with pytest.raises(ValueError, match="one example .*one layer"):
        accelerator_training.largest(maskgit, 128, 12, NEVER)
    assert compiler.asked[-1] == (1, 1)
    over = on_device.Deadline(time.monotonic() - 1)
    with pytest.raises(TimeoutError, match="compiling 24 layers, batch 1 of 11 x 128 x 128 takes"):
        accelerator_training.largest(maskgit, 128, 24 * 21, over)


def test_layers_are_halved():
    base = accelerator_training.built(EXPERIMENTS["published"]["base"]).trainer
    for blocks in ([2, 2, 2], [1, 1, 1]):
        base = accelerator_training.halved(base)
        assert [level.blocks for level in base.model.network.levels] == blocks
        assert base.model.network.levels[2].width == 4096
    with pytest.raises(ValueError, match="one layer"):
        accelerator_training.halved(base)
    tokenizer = accelerator_training.built(EXPERIMENTS["published"]["cvivit_gan"]).trainer
    found = accelerator_training.halved(tokenizer).model
    assert (found.autoencoder.spatial_layers, found.autoencoder.temporal_layers) == (2, 2)
    assert found.image_perceptual == tokenizer.model.image_perceptual


def test_fresh_parameters_are_those_of_the_trainer():
    trainer = accelerator_training.built(Experiment("phenaki_maskgit_tiny", 2)).trainer
    spec = trainer.model.batch_spec(2, 4, 8)
    state = accelerator_training.fresh_state(trainer, spec)
    wanted = trainer.abstract_state(spec)
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype), wanted)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == kinds
    assert all(bool(jnp.all(x == 0)) for x in jax.tree.leaves(state.opt_state))
    boxes = jax.tree.leaves(trainer.boxed_params(spec), is_leaf=is_box)
    for box, value in zip(boxes, jax.tree.leaves(state.params), strict=True):
        if value.size > 500 or not box.distribution.std:  # cut off at two, .88 of it are left
            assert 0.75 <= (float(jnp.std(value)) or 1.0) / (box.distribution.std or 1.0) < 1.1


# ---- rows that fail ------------------------------------------------------------------------------


def test_a_row_that_fails_is_a_line_and_the_rest_goes_on(warm, tmp_path):
    output = tmp_path / "rows.jsonl"
    done = warm(HELPERS / "failing_rows.py", f"--output={output}", "--seconds=60")
    assert done.returncode == 1, done.stderr
    rows = {row["row"]: row for row in map(json.loads, output.read_text().splitlines())}
    failures = {name: row.get("failure", "") for name, row in rows.items()}
    assert failures["raises"] == "RuntimeError: it broke / here"
    assert failures["ends"] == "ended with status 3: the driver is gone"
    assert failures["hangs"].startswith("stopped after its ")
    assert rows["raises"]["setting"] == rows["hangs"]["setting"] == "known before"
    assert failures["goes on"] == "" and rows["goes on"]["mfu"] == 0.25
    lines = done.stdout.splitlines()[-4:]
    assert all(line.count("|") == 9 for line in lines)
    assert "| FAILED: ended with status 3" in lines[1]
    assert "| 2,000 |  | 25.0 % | 2 | 3 | memory x 1.50 |" in lines[3]


def test_rows_that_are_not_there(capsys):
    with pytest.raises(SystemExit):
        accelerator.main(["--rows=^no such"])
    assert "train/base" in capsys.readouterr().err


@pytest.mark.parametrize(
    "program, kernel",
    [
        ('custom_call_target="__cudnn$fmhaSoftmax"', "cuDNN"),
        ('custom_call_target="tpu_custom_call"', "Pallas flash"),
        ("fusion", "products"),
    ],
)
def test_the_kernel_is_read_off_the_program(program, kernel):
    assert accelerator_rows.kernel_of(program) == kernel


def test_attention_that_is_wrong_fails(monkeypatch):
    def wrong(q, k, v, mask=None):
        return 1.1 * jax.nn.dot_product_attention(q, k, v, mask=mask)

    monkeypatch.setattr(accelerator_rows.fused_attention, "dot_product_attention", wrong)
    told = {}
    accelerator_rows.attention("attention", "tiny", told.__setitem__, NEVER)
    assert set(told) == {"attention/512", "attention/600, masked"}
    assert all("off by 0.1" in row["failure"] for row in told.values())
