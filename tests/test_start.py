"""How a process begins."""

import logging

import jax
import pytest

from vidgen import start


@pytest.fixture(autouse=True)
def _as_it_was():
    logger, before = logging.getLogger("vidgen"), jax.config.jax_compilation_cache_dir
    kept = (logger.handlers, logger.propagate, logger.level)
    yield
    logger.handlers, logger.propagate = kept[:2]
    logger.setLevel(kept[2])
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_cache_is_the_one_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    start.begin()  # after JAX was imported, as in a notebook
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "vidgen" / "xla")


def test_what_the_user_says_of_the_cache_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    start.begin()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")


def test_the_log_speaks_once(capsys):
    start.begin()
    start.begin()
    logging.getLogger("vidgen.runs").info("hello")
    assert capsys.readouterr().err == "vidgen: hello\n"
