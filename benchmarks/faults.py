"""What becomes of a run of four processes when one is lost, stops or is slow, or a file is damaged.

    python benchmarks/faults.py --trials=155 --seed=0 -o faults.jsonl   # goes on where it was
    python benchmarks/faults.py --from=faults.jsonl                     # the table

Four processes train together by `vidgen train`, joined by jax.distributed on CPUs, parameters cut
over all of them (mesh/fsdp.gin), clips out of tar shards of which one is damaged, so that examples
are skipped as well. Faults come one after the other, at instants drawn from the seed: so many
lines of the log after the start, and a part of a second; one in five while the processes start:

    coordinator  process 0, which coordinates the others and writes the log, is killed (SIGKILL)
    sigterm      one process gets SIGTERM while a checkpoint is being written
    straggler    one process is stopped (SIGSTOP), and goes on after up to two seconds
    checkpoint   all are killed, and one file of the newest checkpoint is damaged: a bit turned, a
                 block zeroed, the end cut off, or the file deleted

After each the same command runs again, as a launcher would, until the log is beyond where it was;
a straggler's run just goes on. Then every line of the log so far, which is one a step, must equal
that of an undisturbed run in all digits: losses, norms and learning rates. The state of a run and
the undisturbed log stay in --folder. One JSON line a trial goes to --output.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import shutil
import signal
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fault_processes
import numpy as np

SHARDS, SAMPLES = 4, 16
KINDS = ("coordinator", "sigterm", "straggler", "checkpoint")
# What a line of the log says of this machine's time and memory; all else is of the training.
RATES = ("_per_step", "_per_second", "_fraction", "_gib", "_mib", "mfu")
HANG = 1500.0  # seconds without a new line after which a run has failed
PATIENCE = 2.0  # seconds after a failure until the other processes are killed


@dataclasses.dataclass(kw_only=True)
class Run:
    """A run that goes from fault to fault, and the log that it has to repeat.

    Attributes:
      folder: everything lies here.
      steps: to train to; a run that gets there begins anew.
      processes: that train together.
    """

    folder: Path
    steps: int
    processes: int
    group: fault_processes.Group | None = None
    save_seconds: float = 0.3  # how long a checkpoint is being written, as last seen

    @property
    def model_dir(self) -> Path:
        """The folder of the training."""
        return self.folder / "run"

    def flags(self, model_dir: Path) -> list[str]:
        """Return the command line of the training."""
        files = ["experiments/imagen_base_tiny.gin", "data/tar_shards.gin", "mesh/fsdp.gin"]
        files.append(str(Path(__file__).with_name("faults.gin")))
        shards = self.folder / "shards" / f"{{00000..{SHARDS - 1:05d}}}.tar"
        settings = {"MODEL_DIR": model_dir, "SHARDS": shards}
        settings["TarShards.index_dir"] = self.folder / "index"
        bindings = [f"--gin.{name}={str(value)!r}" for name, value in settings.items()]
        bindings.append(f"--gin.TRAIN_STEPS={self.steps}")
        return [*(f"--gin_file={file}" for file in files), *bindings]

    def start(self) -> fault_processes.Group:
        """Start the processes; they go on from the newest checkpoint."""
        flags, logs = self.flags(self.model_dir), self.folder / "logs"
        self.group = fault_processes.Group(flags, logs, self.processes)
        return self.group

    def lines(self) -> dict[int, dict[str, float]]:
        """The whole lines of the log by step, without what depends on the machine."""
        return log_lines(self.model_dir / "metrics.jsonl")

    def last(self) -> int:
        """The step of the last whole line of the log."""
        with contextlib.suppress(FileNotFoundError), open(self.model_dir / "metrics.jsonl") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            whole = file.read().rpartition("\n")[0].splitlines()
            return json.loads(whole[-1])["step"] if whole else 0
        return 0

    def checkpoints(self) -> list[int]:
        """The steps of all complete checkpoints."""
        folder = self.model_dir / "checkpoints"
        return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())

    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any((self.model_dir / "checkpoints").glob("*.orbax-checkpoint-tmp"))

    def wait(self, until: Callable[[], bool], seconds: float = HANG) -> bool:
        """Wait for something, as long as the processes run; return whether it came."""
        end = time.monotonic() + seconds
        while not until():
            assert self.group is not None
            if self.group.poll() or self.group.failed() or time.monotonic() > end:
                return until()
            time.sleep(0.03)
        return True

    def begin_anew(self) -> None:
        """End the processes, and delete what they have trained."""
        if self.group is not None:
            self.group.kill()
        shutil.rmtree(self.model_dir, ignore_errors=True)


def log_lines(file: Path) -> dict[int, dict[str, float]]:
    """Read a log that another process is writing."""
    lines = {}
    with contextlib.suppress(FileNotFoundError):
        for text in file.read_text().splitlines(keepends=True):
            if text.endswith("\n"):
                line = json.loads(text)
                step = line.pop("step")
                lines[step] = {n: v for n, v in line.items() if not n.endswith(RATES)}
    return lines


# What the trials do -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Strike:
    """When and whom a fault strikes."""

    starting: bool  # while the processes start, or else after `lines` more lines of the log
    lines: int
    delay: float  # a part of a second, or of the time that a checkpoint takes
    process: int
    rng: np.random.Generator

    @classmethod
    def drawn(cls, seed: int, trial: int, processes: int) -> Strike:
        """Draw the instant of a trial."""
        kind, rng = KINDS[trial % len(KINDS)], np.random.default_rng((seed, trial))
        starting = kind in ("coordinator", "straggler") and rng.random() < 0.2
        lines, delay = int(rng.integers(1, 5)), float(rng.random())
        process = 0 if kind == "coordinator" else int(rng.integers(processes))
        return cls(starting, lines, delay, process, rng)


def strike(run: Run, kind: str, when: Strike) -> dict[str, Any] | None:
    """Wait for the instant, and strike; None if the run ended before, or has no such instant."""
    group = run.group
    assert group is not None
    first = run.last()
    if not when.starting and not run.wait(lambda: run.last() >= first + when.lines):
        return None
    if kind == "sigterm":
        if not _in_a_save(run, when):
            return None
    elif kind == "checkpoint":
        if not run.wait(lambda: len(run.checkpoints()) > 1):
            return None
        time.sleep(0.5 * when.delay)
    else:
        time.sleep(when.delay * (4.0 if when.starting else 0.5))
    if group.poll() or group.failed():
        return None
    struck = {"step": run.last(), "saving": run.saving()}
    began = time.monotonic()
    if kind == "straggler":
        group.send(signal.SIGSTOP, when.process)
        time.sleep(seconds := 2.0 * float(when.rng.random()))
        group.send(signal.SIGCONT, when.process)
        return struck | {"stopped_s": round(seconds, 3)}
    if kind == "checkpoint":
        group.kill()
        struck |= damage(run, when.rng)
    else:
        group.send(signal.SIGTERM if kind == "sigterm" else signal.SIGKILL, when.process)
    alone = group.ended(PATIENCE)
    return struck | {
        "ended_s": round(time.monotonic() - began, 3),
        "alone": alone,
        "statuses": list(group.statuses),
    }


def _in_a_save(run: Run, when: Strike) -> bool:
    """Wait for a random instant while a checkpoint is being written."""
    for part in (when.delay, when.delay / 2, when.delay / 4, 0.0, 0.0, 0.0):
        if not (run.wait(lambda: not run.saving()) and run.wait(run.saving)):
            return False
        began = time.monotonic()
        if part == 0 or not run.wait(lambda: not run.saving(), part * run.save_seconds):
            return run.saving()
        run.save_seconds = time.monotonic() - began
    return False


def damage(run: Run, rng: np.random.Generator) -> dict[str, Any]:
    """Damage one file of the newest checkpoint: half of the times any, else by its size."""
    step = run.checkpoints()[-1]
    folder = run.model_dir / "checkpoints" / f"{step}"
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    sizes = np.array([p.stat().st_size for p in files], float)
    file = files[rng.choice(len(files), p=None if rng.random() < 0.5 else sizes / sizes.sum())]
    content = bytearray(file.read_bytes())
    way, place = str(rng.choice(["bit", "block", "cut", "gone"])), int(rng.integers(len(content)))
    if way == "bit":
        content[place] ^= 1 << int(rng.integers(8))
    elif way == "block":
        content[place : place + 64] = bytes(len(content[place : place + 64]))
    elif way == "cut":
        del content[place:]
    file.unlink() if way == "gone" else file.write_bytes(content)
    return {"damaged": step, "file": str(file.relative_to(folder)), "way": way}


def trial(run: Run, number: int, seed: int, expected: dict[int, Any]) -> dict[str, Any]:
    """Do one trial, and return its line."""
    kind = KINDS[number % len(KINDS)]
    struck, when = None, Strike.drawn(seed, number, run.processes)
    if run.group is None or when.starting:
        if run.group is not None:
            run.group.kill()
        run.start()
    for _ in range(4):
        if (struck := strike(run, kind, when)) is not None:
            break
        if run.group is None or run.group.failed():
            break
        _go_on_anew(run)
    line: dict[str, Any] = {"trial": number, "kind": kind, "seed": seed}
    line |= {"processes": run.processes, "starting": when.starting}
    if struck is None:
        return line | {"equal": False, "why": "it failed before", "log": _tail(run)}
    line |= {"process": when.process, "delay": round(when.delay, 4)} | struck
    began = time.monotonic()
    highest = max(run.last(), struck["step"])
    if kind != "straggler":
        run.start()
    came = run.wait(lambda: run.last() > highest or run.last() == run.steps)
    seen = run.lines()
    wrong = [step for step, values in seen.items() if values != expected[step]]
    complete = sorted(seen) == list(range(1, len(seen) + 1))
    resumption = _resumption(run, struck) if highest < run.steps else {}  # else nothing is left
    line |= resumption | {"again_s": round(time.monotonic() - began, 3)}
    line |= {"compared": len(seen), "equal": came and complete and not wrong}
    if not line["equal"]:
        line |= {"wrong": wrong[:5], "log": _tail(run)}
        run.begin_anew()
        run.group = None
    return line


def _resumption(run: Run, struck: dict[str, Any]) -> dict[str, Any]:
    """Where the run went on, from the log of process 0."""
    if "stopped_s" in struck:
        return {}
    words = _log(run).partition("resuming from step ")[2].split()
    resumed = int(words[0]) if words else 0
    aside = run.model_dir / "damaged"
    noticed = aside.exists()
    shutil.rmtree(aside, ignore_errors=True)
    return {"resumed": resumed, "redone": max(struck["step"] - resumed, 0), "noticed": noticed}


def _go_on_anew(run: Run) -> None:
    """Start a run again from its first step if it is done."""
    assert run.group is not None
    if run.last() >= run.steps:
        run.group.ended(PATIENCE)
        run.begin_anew()
        run.start()


def _log(run: Run) -> str:
    assert run.group is not None
    return run.group.logs[0].read_text(errors="replace")


def _tail(run: Run) -> list[str]:
    """The end of what each process said."""
    assert run.group is not None
    return [log.read_text(errors="replace")[-600:] for log in run.group.logs]


# The undisturbed run, its data, the table ---------------------------------------------------------


def make_shards(folder: Path) -> None:
    """Write the tar shards: clips of one color, some of them in shard 1 overwritten by noise."""
    from vidgen.data.video.encode import write_video

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for sample in range(SAMPLES):
                clip = np.broadcast_to(rng.uniform(-1, 1, (1, 1, 1, 3)), (8, 16, 16, 3))
                with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
                    write_video(Path(file.name), clip.astype(np.float32), 8, min_side=0)
                    content = Path(file.name).read_bytes()
                if shard == 1 and sample < 3:
                    content = rng.bytes(len(content))
                for name, data in ((f"{sample}.mp4", content), (f"{sample}.txt", b"a color")):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def undisturbed(run: Run) -> dict[int, Any]:
    """The log of the run without faults, trained at the first call."""
    file = run.folder / "undisturbed.jsonl"
    if not file.exists():
        if not (run.folder / "shards").exists():
            make_shards(run.folder / "shards")
        shutil.rmtree(run.model_dir, ignore_errors=True)
        group = run.start()
        run.wait(lambda: False, 3600.0)
        group.ended(PATIENCE)
        if group.statuses != [0] * run.processes:
            raise SystemExit(f"the undisturbed run failed: {_tail(run)}")
        shutil.copy(run.model_dir / "metrics.jsonl", file)
        run.begin_anew()
    run.group = None
    return log_lines(file)


def trials(flags: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Do the trials that are missing in the output."""
    output = Path(flags.output)
    done = len(output.read_text().splitlines()) if output.exists() else 0
    if done >= flags.trials:
        return
    folder = Path(flags.folder).absolute()
    fault_processes.setup(folder / "programs")
    run = Run(folder=folder, steps=flags.steps, processes=flags.processes)
    expected = undisturbed(run)
    print(f"seed {flags.seed}, trials {done} to {flags.trials - 1}", file=sys.stderr)
    try:
        for number in range(done, flags.trials):
            line = trial(run, number, flags.seed, expected)
            with output.open("a") as file:
                file.write(json.dumps(line) + "\n")
            yield line
    finally:
        if run.group is not None:
            run.group.kill()


HARDWARE = {
    "coordinator": "the same with the slice's own network: how soon libtpu gives up, and how long "
    "the slice takes to come back",
    "sigterm": "whether a checkpoint of full size is written within the notice (30 s for spot)",
    "straggler": "how much slower a step gets by one slow chip, and who finds it",
    "checkpoint": "damage in a bucket, where objects are replaced whole",
}


def table(lines: list[dict[str, Any]]) -> str:
    """The trials as Markdown."""
    rows = [
        "| fault | trials | equal | starting / saving | others ended by themselves | damage seen "
        "| all ended after, s | steps made again | on hardware, to measure |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        own = [line for line in lines if line["kind"] == kind]
        if not own:
            continue
        equal = sum(line["equal"] for line in own)
        when = f"{sum(x['starting'] for x in own)} / {sum(x.get('saving', False) for x in own)}"
        alone = sum(-signal.SIGKILL not in line.get("statuses", [0, -9])[1:] for line in own)
        cells = [kind, len(own), equal, when, alone if kind == "coordinator" else "-"]
        cells += [sum(x.get("noticed", False) for x in own) if kind == "checkpoint" else "-"]
        cells += [spread(own, "ended_s"), spread(own, "redone"), HARDWARE[kind]]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def spread(lines: list[dict[str, Any]], name: str) -> str:
    """Median and maximum of a number over trials."""
    values = [line[name] for line in lines if name in line]
    return f"{statistics.median(values):.3g}, at most {max(values):.3g}" if values else "-"


def main() -> None:
    """Do trials, or print their table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=50, help="in all, the kinds in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=4, help="that train together")
    parser.add_argument("--steps", type=int, default=80, help="of the undisturbed run")
    parser.add_argument("--folder", default="faults", help="of the run, its data and its programs")
    parser.add_argument("-o", "--output", default="faults.jsonl", help="a line for each trial")
    parser.add_argument("--from", dest="lines", help="print the table of such a file, and stop")
    flags = parser.parse_args()
    if flags.lines is None:
        for line in trials(flags):
            words = {k: v for k, v in line.items() if k != "log"}
            print(json.dumps(words), file=sys.stderr, flush=True)
    file = Path(flags.output if flags.lines is None else flags.lines)
    print(table([json.loads(text) for text in file.read_text().splitlines()]))


if __name__ == "__main__":
    main()
