"""Checkpoints: exact, atomic, onto another mesh, and one sentence when they do not fit.

Tests of vidgen/train/positions.py too.
"""

import compiled_programs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training as toy

from vidgen.train import optimizers
from vidgen.train.checkpoints import Checkpointer, CheckpointError, CheckpointSettings
from vidgen.train.partitioning import unbox

RATE = optimizers.LearningRate(peak=1e-2)


@pytest.fixture(scope="module")
def trainer():
    return toy.make_trainer()


def fresh(t):
    return t.init_state(jax.random.key(0), toy.spec())


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_going_on_from_a_checkpoint_is_exact(tmp_path, kind, trainer):
    factored = optimizers.Adafactor(learning_rate=RATE, min_factored_size=8)
    t = trainer if kind == "adamw" else toy.make_trainer(optimizer=factored)
    state, _ = toy.run_steps(t, fresh(t), 0, 3)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(3, state, {"at": 3})
        host = jax.device_get(state)
        end, losses = toy.run_steps(t, state, 3, 3)  # donates the buffers being written
    with Checkpointer(tmp_path) as checkpointer:
        restored, position = checkpointer.restore(t.abstract_state(toy.spec()))
    assert position == [{"at": 3}]
    assert_equal(host, jax.device_get(restored))
    again, losses_again = toy.run_steps(t, restored, 3, 3)
    assert losses_again == losses
    assert_equal(again, end)


@pytest.mark.parametrize("position", [b"\x00\xffgrain", {"a": [1, 2.5]}, None])
def test_data_positions(tmp_path, trainer, position):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, fresh(trainer), position)
        checkpointer.wait()
        assert checkpointer.restore(trainer.abstract_state(toy.spec()))[1] == [position]


def test_keeps_the_newest_and_every_nth(tmp_path, trainer):
    settings = CheckpointSettings(keep=2, keep_every=4, asynchronous=False)
    state = fresh(trainer)
    with Checkpointer(tmp_path, settings) as checkpointer:
        for step in range(2, 12, 2):
            checkpointer.save(step, state)
        assert checkpointer.steps() == [4, 8, 10]
        assert checkpointer.latest_step() == 10
        checkpointer.save(10, state)  # there already: left as it is


@pytest.mark.parametrize("settings", [{"keep": 0}, {"keep_every": 0}])
def test_wrong_settings(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is 0"):
        CheckpointSettings(**settings)


def test_weights_alone(tmp_path, trainer):
    state, _ = toy.run_steps(trainer, fresh(trainer), 0, 2)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(2, state)
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        assert_equal(checkpointer.restore_params(), state.ema)
        assert_equal(checkpointer.restore_params(averaged=False), state.params)
        boxed = jax.eval_shape(toy.ToyModel().init, jax.random.key(0), toy.spec())
        found = checkpointer.restore_params(unbox(boxed))
    assert_equal(found, state.ema)
    assert all(len(x.devices()) == 1 for x in jax.tree.leaves(found))


def test_weights_of_a_run_without_average(tmp_path):
    t = toy.make_trainer(ema_decay=None)
    state = fresh(t)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(0, state)
        checkpointer.wait()
        assert_equal(checkpointer.restore_params(), state.params)
        assert checkpointer.restore(t.abstract_state(toy.spec()))[0].ema is None
        averaged = toy.make_trainer()  # averaging switched on later starts at the weights
        restored, _ = checkpointer.restore(averaged.abstract_state(toy.spec()))
    assert_equal(restored.ema, state.params)
    toy.run_steps(averaged, restored, 0, 1)  # and shares no buffer with them


def test_missing(tmp_path, trainer):
    with pytest.raises(FileNotFoundError, match="no model directory .*nowhere"):
        Checkpointer(tmp_path / "nowhere", read_only=True)
    (tmp_path / "config.gin").write_text("")
    with pytest.raises(FileNotFoundError, match=r"it has: config.gin"):
        Checkpointer(tmp_path, read_only=True)
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_step() is None
        with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
            checkpointer.restore_params()
        checkpointer.save(4, fresh(trainer))
        checkpointer.wait()
        with pytest.raises(FileNotFoundError, match=r"step 5 .*there are \[4\]"):
            checkpointer.restore_params(step=5)


def test_other_shapes_name_the_parameter(tmp_path, trainer):
    other = toy.make_trainer(model=toy.ToyModel(network=toy.Regressor(hidden=8)))
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, fresh(trainer))
        checkpointer.wait()
        with pytest.raises(CheckpointError, match=r"in_bias is \(16,\) there and \(8,\) here"):
            checkpointer.restore(other.abstract_state(toy.spec()))
        with pytest.raises(CheckpointError, match="more_bias is absent there"):
            more = {"more_bias": jax.ShapeDtypeStruct((2,), jnp.float32)}
            checkpointer.restore_params(trainer.abstract_state(toy.spec()).params | more)


def test_other_optimizer(tmp_path, trainer):
    other = toy.make_trainer(optimizer=optimizers.Adafactor(learning_rate=RATE))
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, fresh(trainer))
        checkpointer.wait()
        with pytest.raises(CheckpointError, match="optimizer .*opt_state/1/0/mu"):
            checkpointer.restore(other.abstract_state(toy.spec()))


@pytest.fixture
def script(warm, tmp_path):
    """Runs a text in a process of its own, in which D is the folder."""
    head = (
        "import jax, os, resource, signal, toy_training as toy\n"
        "from vidgen.train.checkpoints import *\n"
        f"D = {str(tmp_path)!r}\n"
    )

    def run(body, *, devices=1):
        (tmp_path / "script.py").write_text(head + body)
        return warm(tmp_path / "script.py", XLA_FLAGS=compiled_programs.xla_flags(devices))

    return run


@pytest.mark.multidevice
def test_restore_onto_another_mesh(script, tmp_path, trainer):
    """Written on 2x2x2 devices, read on one: the same numbers go on."""
    body = (
        "t = toy.make_trainer(mesh_shape=(2, 2, 2))\n"
        "s, _ = toy.run_steps(t, t.init_state(jax.random.key(0), toy.spec()), 0, 3)\n"
        "with Checkpointer(D) as c:\n"
        "    c.save(3, s)\n"
        "print(toy.run_steps(t, s, 3, 3)[1])\n"
    )
    done = script(body, devices=8)
    assert done.returncode == 0, done.stderr
    with Checkpointer(tmp_path) as checkpointer:
        state, _ = checkpointer.restore(trainer.abstract_state(toy.spec()))
    _, losses = toy.run_steps(trainer, state, 3, 3)
    np.testing.assert_allclose(
        losses, [float(x) for x in done.stdout.strip("[]\n").split(",")], rtol=1e-5
    )


def test_restore_where_the_devices_of_the_run_are_unknown(tmp_path, trainer):
    """As from a TPU pod onto a laptop: the checkpoint names devices that are nowhere."""
    state, _ = toy.run_steps(trainer, fresh(trainer), 0, 2)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(2, state)
    here, there = r"{\"id\": 0}", r"{\"id\": 4096}"
    named = [path for path in tmp_path.rglob("_sharding") if here in path.read_text()]
    assert named
    for path in named:
        path.write_text(path.read_text().replace(here, there))
    with Checkpointer(tmp_path) as checkpointer:
        found, _ = checkpointer.restore(trainer.abstract_state(toy.spec()))
        alone = checkpointer.restore_params()
    jax.tree.map(np.testing.assert_array_equal, found, state)
    jax.tree.map(np.testing.assert_array_equal, alone, state.ema)


def test_killed_while_saving_leaves_no_half_checkpoint(script, tmp_path, trainer):
    body = (
        "t = toy.make_trainer()\n"
        "s = t.init_state(jax.random.key(0), toy.spec())\n"
        "c = Checkpointer(D)\n"
        "c.save(1, s)\n"
        "c.wait()\n"
        "c.save(2, s)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = script(body)
    assert done.returncode == -9, done.stderr
    left = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    with Checkpointer(tmp_path) as checkpointer:
        found = checkpointer.steps()
        # The kill normally comes first; whole or not there are both right, half is not.
        assert found in ([1], [1, 2])
        for step in found:
            state, _ = checkpointer.restore(trainer.abstract_state(toy.spec()), step)
        checkpointer.save(3, state)  # orbax removes leftovers in the background until then
    after = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert after == {str(step) for step in (*found, 3)}, f"leftovers were not removed: {left}"


def test_write_that_fails_is_one_sentence(script, tmp_path):
    """A limit on file size stands in for a full disk."""
    body = (
        "t = toy.make_trainer(model=toy.ToyModel(network=toy.Regressor(hidden=512)))\n"
        "s = t.init_state(jax.random.key(0), toy.spec())\n"
        "small = toy.make_trainer().init_state(jax.random.key(0), toy.spec())\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "for mode in (True, False):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))\n"
        "    c = Checkpointer(f'{D}/{mode}', CheckpointSettings(asynchronous=mode))\n"
        "    c.save(1, small)\n"
        "    c.wait()\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))\n"
        "    try:\n"
        "        c.save(2, s)\n"
        "        c.wait()\n"
        "    except CheckpointError as e:\n"
        "        print(e, c.steps(), flush=True)\n"
        "os._exit(0)\n"
    )
    done = script(body)
    told = done.stdout.splitlines()
    assert len(told) == 2, done.stdout + done.stderr
    for mode, line in zip(("True", "False"), told, strict=True):
        assert "cannot write a checkpoint to" in line, line
        assert "File too large" in line and "step 1 is safe" in line
        assert f"/{mode}/" in line and line.endswith(" [1]")
        left = [path.name for path in (tmp_path / mode / "checkpoints").iterdir()]
        assert left == ["1"], left  # nothing half-written keeps the disk full
