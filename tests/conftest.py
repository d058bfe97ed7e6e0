"""Settings of every test process. They act through the environment, so sub-processes share them."""

import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs compiled by one run of the tests are read by the next, and by sub-processes.
_CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE / "vidgen" / "tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Below this a program is quicker to compile again than to write.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

if "jax" in sys.modules:  # some plugin was quicker, and jax has read the environment already
    import jax

    jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


class Told(NamedTuple):
    """What a command line left behind."""

    status: int
    out: str
    err: str

    def assert_sentence(self, *words: str) -> None:
        """Status 2, nothing on stdout, one line on stderr that says `words`."""
        assert (self.status, self.out) == (2, ""), self.err
        assert self.err.startswith("vidgen: error: ") and self.err.count("\n") == 1, self.err
        for word in words:
            assert word in self.err, self.err


@pytest.fixture(autouse=True, scope="module")
def _programs_of_one_file():
    """A process that keeps every program of thousands of tests grows to gigabytes."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture
def vidgen(capsys, tmp_path, monkeypatch):
    """Runs a command line in this process, in an empty folder: (status, stdout, stderr)."""
    from vidgen import main  # once the import hook of the type checks is there

    # No test may depend on the current folder, nor write into the clone.
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            status = main.main(arguments)
        except SystemExit as stop:
            status = stop.code
        return Told(status, *capsys.readouterr())

    return run


@pytest.fixture
def on_devices():
    """Runs a script in a process of its own with simulated devices; returns what it prints."""

    def run(count, script, *arguments):
        env = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
            "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
            "JAX_PLATFORMS": "cpu",
        }
        command = [sys.executable, "-W", "error", str(script), *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        # "Involuntary full rematerialization": a layout that gathers a whole array at every step.
        assert "rematerialization" not in done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def tfds_sets(tmp_path_factory, worker_id):
    """The folder of the data sets that tests/data/tfds_sets.py writes, once for all workers."""
    root = tmp_path_factory.getbasetemp()
    root = root if worker_id == "master" else root.parent
    made = root / "tfds_sets"
    if not made.exists():
        partial = tmp_path_factory.mktemp("tfds_sets")
        script = pathlib.Path(__file__).parent / "data" / "tfds_sets.py"
        subprocess.run([sys.executable, str(script), str(partial)], check=True, capture_output=True)
        if not made.exists():  # another worker was quicker
            partial.rename(made)
    return made
