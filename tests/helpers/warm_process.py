"""Programs in forks of a process that has imported JAX and the package, which takes seconds.

No device has been asked for in it, so each fork reads its own XLA_FLAGS. Run as a program, this is
that process: it starts what the lines of its standard input say, one after the other.
"""

import contextlib
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import compiled_programs
import places

SECONDS = 300  # then a program is ended


@contextlib.contextmanager
def started():
    """Yields a function that runs a program: (script, arguments, environment) -> what it did."""
    command = [sys.executable, "-W", "error", __file__]
    env = os.environ | {"PYTHONPATH": places.PYTHONPATH, "JAX_PLATFORMS": "cpu"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=env, **pipes) as process:

        def run(script, *arguments, **environment):
            with tempfile.TemporaryDirectory() as folder:
                asked = [folder, str(script), arguments, environment]
                process.stdin.write(json.dumps(asked) + "\n")
                process.stdin.flush()
                status = int(process.stdout.readline())
                out, err = ((Path(folder) / name).read_text() for name in ("out", "err"))
            return subprocess.CompletedProcess(script, status, out, err)

        yield run
        process.stdin.close()  # it ends


def _serve():
    import jax._src.xla_bridge

    import vidgen.cli.main  # noqa: F401
    import vidgen.imagen.distillation  # noqa: F401
    import vidgen.phenaki.tokenizer  # noqa: F401
    import vidgen.train.train  # noqa: F401

    assert not jax._src.xla_bridge.backends_are_initialized()
    compiled_programs.share_contexts()
    gc.freeze()  # or the first search would copy every page
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(folder, script, arguments, environment):
    """In a fork, and ends it."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT), number)
    os.environ.update(environment)
    signal.alarm(SECONDS)
    sys.argv, status = [script, *arguments], 0
    try:
        runpy.run_path(script, run_name="__main__")
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve()
