"""How a process begins."""

import gc
import logging
import os

import jax
import pytest

from vidgen.cli import startup


@pytest.fixture(autouse=True)
def _as_it_was():
    logger, before = logging.getLogger("vidgen"), jax.config.jax_compilation_cache_dir
    kept = (logger.handlers, logger.propagate, logger.level)
    yield
    logger.handlers, logger.propagate = kept[:2]
    logger.setLevel(kept[2])
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize(("before", "after"), [(700, 20_000), (50_000, 50_000), (0, 0)])
def test_garbage_is_searched_for_less_often(before, after):
    kept = gc.get_threshold()
    try:
        gc.set_threshold(before, 9, 8)
        startup.setup_process()
        assert gc.get_threshold() == (after, 9, 8)
    finally:
        gc.set_threshold(*kept)


def test_no_garbage_is_searched_for_at_the_end(monkeypatch):
    calls = []
    monkeypatch.setattr(startup.atexit, "register", calls.append)
    startup.search_for_garbage_less_often()
    assert calls == [gc.freeze]


def test_the_cache_is_the_one_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    startup.setup_process()  # after JAX was imported, as in a notebook
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "vidgen" / "xla")


def test_what_the_user_says_of_the_cache_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    startup.setup_process()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")


@pytest.mark.parametrize(("mine", "seconds"), [(None, 0.0), ("3", 3.0)])
def test_short_compilations_are_kept_too(monkeypatch, mine, seconds):
    name = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    monkeypatch.delenv(name)
    if mine is not None:
        monkeypatch.setenv(name, mine)
    try:
        startup.setup_process()
        assert jax.config.jax_persistent_cache_min_compile_time_secs == seconds
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


def machine(folder, vendors):
    for number, vendor in enumerate(vendors):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "vendor").write_text(f"{vendor}\n")
    return folder


@pytest.mark.parametrize(
    ("installed", "vendors", "expected"),
    [
        ({"libtpu"}, ["0x8086", "0x1af4"], True),
        ({"libtpu"}, ["0x8086", "0x1ae0"], False),  # a TPU, or what else a cloud has
        ({"libtpu"}, [], False),  # no bus to be seen: who knows
        ({"libtpu", "jax_plugins"}, ["0x8086"], False),  # perhaps a GPU
        (set(), ["0x8086"], False),  # JAX knows by itself
    ],
)
def test_libtpu_is_left_alone_where_there_is_no_tpu(
    monkeypatch, tmp_path, installed, vendors, expected
):
    monkeypatch.setattr(startup.importlib.util, "find_spec", lambda name: name in installed or None)
    monkeypatch.setattr(startup.importlib.metadata, "entry_points", lambda group: [])
    assert startup.only_cpus(machine(tmp_path / "devices", vendors)) is expected


def test_what_the_user_says_of_the_platform_stays(monkeypatch):
    monkeypatch.setattr(startup, "only_cpus", lambda: True)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    before = jax.config.jax_platforms
    startup.setup_process()
    assert os.environ["JAX_PLATFORMS"] == "tpu,cpu" and jax.config.jax_platforms == before


def test_the_log_speaks_once(capsys):
    startup.setup_process()
    startup.setup_process()
    logging.getLogger("vidgen.train").info("hello")
    assert capsys.readouterr().err == "vidgen: hello\n"
