"""Runs a program in a fork that loads libtpu: its path, and its arguments.

As in processes of their own (for_tpu/sitecustomize.py), what the compiler says is kept: see
tpu_programs.py.
"""

import os
import runpy
import sys
import warnings

import compiled_programs
import tpu_programs

from vidgen.plan import programs


def _leave_out_what_libtpu_does_not_know():
    if "XLA_FLAGS" not in os.environ:  # or it was left out before
        return
    environment = compiled_programs.environment_with_libtpu()
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)


if __name__ == "__main__":
    warnings.resetwarnings()  # which are errors in the tests, and none to a user
    _leave_out_what_libtpu_does_not_know()
    programs._compile = tpu_programs.kept(programs._compile)
    del sys.argv[0]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
