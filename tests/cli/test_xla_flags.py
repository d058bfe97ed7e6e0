"""Compiler settings: added once, never against the user; tests/plan/test_tpu.py uses them."""

import importlib.util
import os

import compiled_programs
import pytest

from vidgen.cli import xla_flags


@pytest.mark.parametrize("plugin", ["", "jax_cuda12_plugin", "jax_cuda13_plugin"])
def test_gpu_settings_where_there_is_the_plugin(monkeypatch, plugin):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == plugin or None)
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "")
    xla_flags.set_defaults()
    found = os.environ["XLA_FLAGS"].split()
    assert found == ["--xla_a=1", *xla_flags.CPU, *(xla_flags.GPU if plugin else ())]


def test_what_the_user_says_of_cpus_stays(monkeypatch):
    mine = "--xla_backend_extra_options=xla_cpu_optimize_for_size"
    monkeypatch.setenv("XLA_FLAGS", mine)
    xla_flags.set_defaults()
    assert mine in os.environ["XLA_FLAGS"].split()
    assert not set(xla_flags.CPU) & set(os.environ["XLA_FLAGS"].split())


def test_the_tests_compile_with_what_a_command_sets():
    assert compiled_programs.XLA_FLAGS.endswith(" ".join(xla_flags.CPU))


def test_the_users_word_stays_and_nothing_is_added_twice(monkeypatch):
    mine = "--xla_tpu_overlap_compute_collective_tc=false"
    monkeypatch.setenv("LIBTPU_INIT_ARGS", mine)
    xla_flags.set_defaults()
    once = os.environ["LIBTPU_INIT_ARGS"]
    assert once.split()[0] == mine and len(once.split()) == len(xla_flags.TPU)
    xla_flags.set_defaults()
    assert os.environ["LIBTPU_INIT_ARGS"] == once
