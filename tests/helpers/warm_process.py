"""Programs in forks of a process that has imported JAX and the package, which takes seconds.

No device has been asked for in it, so each fork reads its own XLA_FLAGS. Run as a program, this is
that process: it starts what is asked for at its socket, several at a time.
"""

import contextlib
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from concurrent import futures
from pathlib import Path

import compiled_programs
import places

SECONDS = 300  # then a program is ended

# A command that runs as a fork. It passes signals on, ends as the fork does, and is quickly there.
COMMAND = """#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = [os.getcwd(), {program!r}, sys.argv[1:], dict(os.environ)]
socket.send_fds(server, [b"."], [0, 1, 2])
signals = signal.SIGTERM, signal.SIGINT
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
server.sendall(json.dumps(asked).encode() + b"\\n")
answers = server.makefile()
fork = int(answers.readline())
for number in signals:
    signal.signal(number, lambda number, _: os.kill(fork, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


class Warm:
    """Runs a program in a fork: (script, arguments, environment) -> what it did."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(self, script, *arguments, **environment):
        program = [str(script), [str(argument) for argument in arguments]]
        asked = [
            os.getcwd(),
            *program,
            dict(os.environ, PYTHONPATH=places.PYTHONPATH) | environment,
        ]
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
            with contextlib.ExitStack() as stack:
                paths = [Path(folder, name) for name in ("out", "err")]
                files = [stack.enter_context(path.open("wb")) for path in paths]
                null = stack.enter_context(open(os.devnull, "rb"))
                server.connect(self.address)
                socket.send_fds(server, [b"."], [null.fileno(), *(f.fileno() for f in files)])
            server.sendall(json.dumps(asked).encode() + b"\n")
            with server.makefile() as answers:
                _, status = int(answers.readline()), int(answers.readline())
            return subprocess.CompletedProcess(script, status, *(p.read_text() for p in paths))

    def group(self, count, script, *arguments, **environment):
        """What each of `count` processes that JAX joins to one group did."""
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        joint = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)}

        def one(number):
            own = environment | joint | {"JAX_PROCESS_ID": str(number)}
            return self(script, *arguments, **own)

        with futures.ThreadPoolExecutor(count) as pool:
            return list(pool.map(one, range(count)))

    def start(self, program: Path, *arguments, **options) -> subprocess.Popen:
        """A fork as a process to wait for and to send signals to; options are those of Popen."""
        path = Path(tempfile.mkdtemp(dir=Path(self.address).parent), "command")
        self.command(path, program)
        return subprocess.Popen([path, *map(str, arguments)], **options)

    def command(self, path: Path, program: Path) -> None:
        """Writes a command that runs `program` in a fork, with the arguments that it gets."""
        settings = {"address": self.address, "program": str(program)}
        path.write_text(COMMAND.format(python=sys.executable, **settings))
        path.chmod(0o755)


@contextlib.contextmanager
def started():
    """Yields a `Warm`."""
    env = os.environ | {"PYTHONPATH": places.PYTHONPATH, "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        address = os.path.join(folder, "socket")
        # As pyproject.toml has it: a program whose writer was killed is compiled again.
        damaged = "ignore:Error reading persistent compilation cache entry:UserWarning"
        command = [sys.executable, "-W", "error", "-W", damaged, __file__, address]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout.readline() == "ready\n"
                yield Warm(address)
            finally:
                process.terminate()


def _serve(address):
    import jax._src.xla_bridge

    import vidgen.cli.main  # noqa: F401
    import vidgen.imagen.distillation  # noqa: F401
    import vidgen.phenaki.tokenizer  # noqa: F401
    import vidgen.train.train  # noqa: F401

    assert not jax._src.xla_bridge.backends_are_initialized()
    compiled_programs.share_contexts()
    compiled_programs.keep_those_of_all_processes()
    gc.freeze()  # or the first search would copy every page
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    ended, wakeup = socket.socketpair()  # one byte for each fork that ended
    wakeup.setblocking(False)
    signal.set_wakeup_fd(wakeup.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    print("ready", flush=True)
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    waiting.register(ended, selectors.EVENT_READ)
    forks = {}
    while True:
        for key, _ in waiting.select():
            if key.fileobj is listener:
                asks = listener.accept()[0]
                forks[_begin(asks)] = asks
                waiting.register(asks, selectors.EVENT_READ)
            elif key.fileobj is ended:
                ended.recv(100)
            else:  # who asked for it is gone
                waiting.unregister(key.fileobj)
                _end(fork for fork, asks in forks.items() if asks is key.fileobj)
        _tell(forks, waiting)


def _begin(asks):
    """Starts what a client asks for; the number of the fork."""
    fds = socket.recv_fds(asks, 1, 3)[1]
    with asks.makefile() as lines:
        asked = json.loads(lines.readline())
    fork = os.fork()
    if not fork:
        _run(fds, *asked)
    for fd in fds:
        os.close(fd)
    asks.sendall(f"{fork}\n".encode())
    return fork


def _end(forks):
    for fork in forks:
        os.kill(fork, signal.SIGKILL)


def _tell(forks, waiting):
    """Tells the clients of those that have ended."""
    for fork, asks in list(forks.items()):
        ended, status = os.waitpid(fork, os.WNOHANG)
        if ended:
            with contextlib.suppress(KeyError):
                waiting.unregister(asks)
            with contextlib.suppress(BrokenPipeError):
                asks.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            asks.close()
            del forks[fork]


def _run(fds, current, script, arguments, environment):
    """In a fork, and ends it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(environment)
    signal.alarm(SECONDS)
    os.chdir(current)
    sys.argv, status = [script, *arguments], 0
    sys.path[0] = os.path.dirname(script)  # as `python FILE` has it
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if status and status is not stop.code:
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # waits for what they write
    _leave_others()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _leave_others():
    """As at a usual end of one of several processes; all that JAX does then takes far longer."""
    import jax

    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


if __name__ == "__main__":
    _serve(sys.argv[1])
