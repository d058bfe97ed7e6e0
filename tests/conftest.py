"""Settings of every test process. They act through the environment, so sub-processes share them."""

import fcntl
import functools
import gc
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types
import uuid

import fsspec
import hypothesis
import pytest
from fsspec.implementations.memory import MemoryFileSystem

sys.path.insert(0, str(pathlib.Path(__file__).parent / "helpers"))  # modules, by their names

import compiled_programs  # noqa: E402
import kept_folders  # noqa: E402
import places  # noqa: E402
import type_checks  # noqa: E402
import warm_process  # noqa: E402
from told import Told  # noqa: E402

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.pop("WANDB_PROJECT", None)  # or every training of a test would be logged there
# Programs compiled by one run of the tests are read by the next, and by sub-processes.
_CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE / "vidgen" / "tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Every program: the smallest takes 11 ms to compile and 1 to read.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Each worker has a core: products of NumPy in more threads wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Tiny programs that run a step or two: it is compiling that takes time, and this halves it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if compiled_programs.XLA_FLAGS not in os.environ.get("XLA_FLAGS", ""):  # as in a worker of pytest
    flags = f"{compiled_programs.XLA_FLAGS} {os.environ.get('XLA_FLAGS', '')}"
    os.environ["XLA_FLAGS"] = flags.strip()

type_checks.install()
gc.disable()  # until all is collected: nothing of it becomes garbage

if "jax" in sys.modules:  # some plugin was quicker, and jax has read the environment already
    import jax

    jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update(
        "jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
    )

# The same examples in every run, and few: what was found once is a test of its own.
hypothesis.settings.register_profile(
    "tests", deadline=None, derandomize=True, database=None, max_examples=50
)
# HYPOTHESIS_PROFILE=long looks for new ones.
hypothesis.settings.register_profile("long", deadline=None, max_examples=3000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))


# Files that take long. They come first, or at the end one worker would wait for the others.
_LONGEST = (
    "test_notebooks.py",
    "test_readme.py",
    "test_devices.py",
    "test_evaluate.py",
    "test_launch.py",
    "test_unet.py",
    "test_tpu.py",
    "test_train.py",
    "test_page.py",
)


def pytest_xdist_auto_num_workers():
    """One more than cores, as workers wait for processes that they start."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    """Brings the longest files to the front; the others keep their order."""
    place = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_collection_finish():
    """What importing and collecting made stays: no search for garbage looks through it again."""
    from vidgen import allocator, traced
    from vidgen.cli import startup  # once the import hook of the type checks is there

    gc.freeze()
    gc.enable()
    startup.search_for_garbage_less_often()
    allocator.keep_freed_memory()
    allocator.set_holes_aside = lambda: None  # no program here runs for long
    traced.enabled = False  # but see `kept_programs`
    compiled_programs.share_contexts()
    if "grain" in sys.modules:
        _keep_shuffled_positions()


def _keep_shuffled_positions():
    """Computes once what many tests ask for: where grain's shuffle puts an example.

    Of a data set of three clips each takes 4 ms: it walks through 2^16 positions to one of three.
    """
    from grain._src.python.dataset.transformations import shuffle

    kept = functools.cache(shuffle.index_shuffle.index_shuffle)
    shuffle.index_shuffle = types.SimpleNamespace(index_shuffle=kept)


@pytest.fixture(autouse=True, scope="module")
def _programs_of_earlier_files():
    yield
    compiled_programs.forget_if_large()


@pytest.fixture(scope="module")
def kept_programs():
    """What was traced is found again by later runs, as commands do, and not traced anew.

    For files whose tests replace no function of a network: its programs would be left to others.
    """
    from vidgen import traced  # once the import hook of the type checks is there

    traced.enabled = True
    yield
    traced.enabled = False


@pytest.fixture(scope="module")
def shared_steps():
    """Trainers of equal settings have one training step, which is traced and lowered once a file.

    For files that train by commands, again and again, and replace no function of a network.
    """
    from vidgen import traced  # once the import hook of the type checks is there
    from vidgen.train.trainer import Trainer

    programs = {}

    def cached(trainer):
        return programs.setdefault(traced.described(trainer), {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_cached", property(functools.cache(cached)))
        yield


@pytest.fixture
def vidgen(capsys, tmp_path, monkeypatch):
    """Runs a command line in this process, in an empty folder: (status, stdout, stderr)."""
    from vidgen.cli import main  # once the import hook of the type checks is there

    # No test may depend on the current folder, nor write into the clone.
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            status = main.main(arguments)
        except SystemExit as stop:
            status = stop.code
        return Told(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def warm():
    """Runs a program in a process that need not import JAX any more."""
    with warm_process.started() as run:
        yield run


@pytest.fixture
def on_devices(warm):
    """Runs a helper in a process of its own with simulated devices; returns what it prints."""

    def run(count, script, *arguments):
        flags = compiled_programs.xla_flags(count)
        done = warm(places.HELPERS / script, *arguments, XLA_FLAGS=flags)
        assert done.returncode == 0, done.stderr
        # "Involuntary full rematerialization": a layout that gathers a whole array at every step.
        assert "rematerialization" not in done.stderr
        return json.loads(done.stdout)

    return run


class _Flaky(MemoryFileSystem):
    """Objects in memory, of a service that can be told to fail."""

    protocol = "flaky"
    store, pseudo_dirs = {}, [""]
    cachable = False
    failures = 0
    requests = 0

    @classmethod
    def _answer(cls):
        _Flaky.requests += 1
        if _Flaky.failures:
            _Flaky.failures -= 1
            raise ConnectionError("503 come again later")

    def cat_file(self, path, start=None, end=None, **settings):
        self._answer()
        return super().cat_file(path, start, end, **settings)

    def info(self, path, **settings):
        self._answer()
        return super().info(path, **settings)


class ObjectStore:
    """A folder of an object store of which this process is the service.

    Attributes:
      url: of the folder.
    """

    def __init__(self, scheme):
        self.url = f"{scheme}://{uuid.uuid4().hex}"

    def put(self, name, data):
        """Makes an object, and returns its path."""
        data = data.encode() if isinstance(data, str) else data
        fsspec.filesystem(self.url.partition(":")[0]).pipe_file(f"{self.url}/{name}", data)
        return f"{self.url}/{name}"

    def fail(self, times):
        """The next requests fail."""
        _Flaky.failures = times

    @property
    def requests(self):
        """How many there were so far."""
        return _Flaky.requests


@pytest.fixture
def store(monkeypatch):
    """An object store that can fail, and no waiting for it."""
    from vidgen import paths  # once the import hook of the type checks is there

    monkeypatch.setattr(paths, "_WAITS", (0.0, 0.0, 0.0))
    fsspec.register_implementation("flaky", _Flaky, clobber=True)
    yield ObjectStore("flaky")
    _Flaky.failures = 0
    _Flaky.store.clear()


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id):
    """Makes a folder once for all workers: (name, what fills an empty folder) -> the folder."""
    root = tmp_path_factory.getbasetemp()
    root = root if worker_id == "master" else root.parent

    def folder(name, fill):
        made, whole = root / name, root / f"{name}.whole"
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed, or its process ends
            if not whole.exists():
                shutil.rmtree(made, ignore_errors=True)
                made.mkdir()
                fill(made)
                whole.touch()
        return made

    return folder


@pytest.fixture(scope="session")
def tfds_sets(once):
    """The folder of the data sets that tests/helpers/tfds_sets.py writes, in one of all runs."""
    script = places.HELPERS / "tfds_sets.py"

    def write(folder):
        subprocess.run([sys.executable, str(script), str(folder)], check=True, capture_output=True)

    packages = (
        "tensorflow_datasets",
        "tensorflow",
        "array_record",
        "av",
        "numpy",
        "etils",
        "pillow",
    )
    fill = functools.partial(
        kept_folders.copied, "tfds_sets", fill=write, sources=[script], packages=packages
    )
    return once("tfds_sets", fill)


@pytest.fixture(scope="session")
def phenaki(once, tmp_path_factory):
    """A folder that holds cvivit/ and maskgit/, tiny, each trained for two steps."""
    import tiny_phenaki

    made, own = once("trained_phenaki", tiny_phenaki.train), tmp_path_factory.mktemp("phenaki")
    shutil.copytree(made, own, dirs_exist_ok=True)
    config = own / "maskgit" / "config.gin"  # which names its tokenizer
    config.write_text(config.read_text().replace(str(made), str(own)))
    return own
