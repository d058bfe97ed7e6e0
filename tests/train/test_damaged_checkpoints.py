"""Checkpoints that a disk has damaged: they are set aside, and the one before is read.

Tests of vidgen/train/checkpoint_errors.py too.
"""

import gc
import json
import time

import jax
import jax.numpy as jnp
import pytest
import toy_training as toy

from vidgen.train import positions
from vidgen.train.checkpoint_errors import DamagedCheckpoint
from vidgen.train.checkpoints import Checkpointer, CheckpointError

# Reads that are under way when one fails find orbax's event loop closed, and say so to nobody.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("settled"),
]


@pytest.fixture(scope="module")
def settled():
    """Lets those reads end here, and not in another file."""
    yield
    time.sleep(1.0)
    gc.collect()


@pytest.fixture(scope="module")
def trainer():
    return toy.make_trainer()


def fresh(t):
    return t.init_state(jax.random.key(0), toy.spec())


def test_a_damaged_checkpoint_is_set_aside(tmp_path, trainer, caplog):
    """Whatever file of the newest is cut or gone, the one before is read, and nothing deleted."""
    abstract = trainer.abstract_state(toy.spec())
    with Checkpointer(tmp_path) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, fresh(trainer).replace(step=jnp.int32(step)), {"at": step})
        checkpointer.wait()
    newest = tmp_path / "checkpoints" / "2"
    files = [path.relative_to(newest) for path in newest.rglob("*") if path.is_file()]
    whole = {name: (newest / name).read_bytes() for name in files}
    harmful = 0
    for name in files:
        newest.mkdir(exist_ok=True)
        for other, content in whole.items():
            (newest / other).parent.mkdir(parents=True, exist_ok=True)
            (newest / other).write_bytes(content)
        (newest / name).write_bytes(whole[name][: len(whole[name]) // 2])
        caplog.clear()
        with Checkpointer(tmp_path) as checkpointer:
            state, position = checkpointer.restore_newest(abstract)
        step = int(state.step)
        assert position == [{"at": step}]
        if step == 2:  # a file that is not needed, or was not cut where it matters
            continue
        harmful += 1
        assert "2 is damaged and cannot be read" in caplog.text
        assert "going back to step 1" in caplog.text
        assert not newest.exists() and (tmp_path / "damaged" / "2" / name).exists()
    assert harmful >= 8, files


def test_damage_is_not_taken_for_another_model(tmp_path, trainer):
    """A checkpoint of another model stays where it is."""
    other = toy.make_trainer(model=toy.ToyModel(network=toy.Regressor(hidden=8)))
    with Checkpointer(tmp_path) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, fresh(trainer))
        checkpointer.wait()
        with pytest.raises(CheckpointError, match=r"checkpoints/2 .*in_bias is \(16,\).*\(8,\)"):
            checkpointer.restore_newest(other.abstract_state(toy.spec()))
        assert checkpointer.steps() == [1, 2]


def two_saved(tmp_path, trainer):
    """Checkpoints of the steps 1 and 2, whose moments are no zeros; returns the newest."""
    state = fresh(trainer)
    with Checkpointer(tmp_path) as checkpointer:
        for step in (1, 2):
            state, _ = toy.run_steps(trainer, state, step - 1, 1)
            checkpointer.save(step, state, {"at": step})
    return tmp_path / "checkpoints" / "2"


@pytest.mark.parametrize("item", ["params", "optimizer", "ema", "data"])
def test_a_bit_that_turned_is_seen(tmp_path, trainer, caplog, item):
    """Where the numbers themselves lie, nothing but our checksums would tell."""
    newest = two_saved(tmp_path, trainer)
    largest = max((newest / item).rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    if item != "data":
        largest = max((newest / item).glob("ocdbt.*/d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    place = content.index(b"at") + 5 if item == "data" else len(content) // 2
    content[place] ^= 1
    largest.write_bytes(content)
    with Checkpointer(tmp_path) as checkpointer:
        state, position = checkpointer.restore_newest(trainer.abstract_state(toy.spec()))
    assert int(state.step) == 1 and position == [{"at": 1}]
    assert "2 is damaged" in caplog.text


@pytest.mark.parametrize("averaged", [True, False])
def test_weights_alone_are_checked_too(tmp_path, trainer, averaged):
    """Of a model that generates, or begins another run."""
    newest = two_saved(tmp_path, trainer)
    files = (newest / ("ema" if averaged else "params")).glob("ocdbt.*/d/*")
    largest = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1  # of a number or of its compression
    largest.write_bytes(content)
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(DamagedCheckpoint, match="2 is damaged"):
            checkpointer.restore_params(averaged=averaged)
        assert checkpointer.restore_params(averaged=not averaged)


def test_weights_alone_that_cannot_be_unpacked(tmp_path, trainer, monkeypatch):
    two_saved(tmp_path, trainer)
    with Checkpointer(tmp_path) as checkpointer:

        def restore(*args, **kwargs):
            raise ValueError("ZSTD_decompressStream() failed")

        monkeypatch.setattr(checkpointer._manager, "restore", restore)
        with pytest.raises(DamagedCheckpoint, match="2 is damaged .*ZSTD_decompressStream"):
            checkpointer.restore_params()


def test_what_lost_its_names_is_damaged_and_no_other_model(tmp_path, trainer, caplog):
    newest = two_saved(tmp_path, trainer)
    metadata = newest / "params" / "_METADATA"
    metadata.write_text(metadata.read_text().replace("mid_bias", "mid_bjas"))
    with Checkpointer(tmp_path) as checkpointer:
        state, _ = checkpointer.restore_newest(trainer.abstract_state(toy.spec()))
    assert int(state.step) == 1 and "2 is damaged" in caplog.text


def test_damage_that_another_process_sees(tmp_path, trainer, caplog, monkeypatch):
    """All go back together, or they would wait for each other."""
    newest = two_saved(tmp_path, trainer)
    answers = iter([False, True])
    monkeypatch.setattr(positions, "everywhere", lambda own: own and next(answers))
    with Checkpointer(tmp_path) as checkpointer:
        state, _ = checkpointer.restore_newest(trainer.abstract_state(toy.spec()))
    assert int(state.step) == 1 and not newest.exists()
    assert "another process cannot read it" in caplog.text


def test_a_checkpoint_without_checksums_is_read(tmp_path, trainer):
    """As vidgen wrote them before it had any."""
    newest = two_saved(tmp_path, trainer)
    (file,) = (newest / "data").glob("metadata*")
    kept = {"processes": json.loads(file.read_text())["processes"]}
    file.write_text(json.dumps(kept))
    with Checkpointer(tmp_path) as checkpointer:
        state, position = checkpointer.restore_newest(trainer.abstract_state(toy.spec()))
    assert int(state.step) == 2 and position == [{"at": 2}]


def test_when_all_are_damaged_it_is_one_sentence(tmp_path, trainer):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, fresh(trainer))
        checkpointer.wait()
        (tmp_path / "checkpoints/1/params/_METADATA").write_text("")
        with pytest.raises(CheckpointError, match="checkpoints/1 .*damaged.*cannot be read"):
            checkpointer.restore_newest(trainer.abstract_state(toy.spec()))
        assert checkpointer.steps() == [1]
