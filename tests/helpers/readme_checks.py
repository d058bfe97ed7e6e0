"""What a command of a document leaves behind, and checks of it: functions that fail or do not."""

import functools
import json
import math
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import readme_commands
from told import Told


class Left(NamedTuple):
    """What a command said, and where and after when (ns) it wrote."""

    told: Told
    folder: Path
    began: int

    def file(self, name: str) -> Path:
        """A file that the command wrote, and not an earlier one."""
        path = self.folder / name
        assert path.is_file() and path.stat().st_size, f"there is no {name}"
        assert path.stat().st_mtime_ns >= self.began, f"{name} was there before"
        return path

    def rows(self, name: str) -> list[dict]:
        """Of a .jsonl file."""
        return [json.loads(line) for line in self.file(name).read_text().splitlines()]


def files(*names):
    """These files."""
    return lambda left: [left.file(name) for name in names]


def says(*words):
    """This, on standard output."""
    return lambda left: [_assert_in(word, left.told.out) for word in words]


def _assert_in(word: str, text: str) -> None:
    assert word in text, f"{word!r} is not in\n{text}"


def video(name, frames):
    """A video of so many frames."""

    def check(left):
        with av.open(str(left.file(name))) as container:
            assert sum(1 for _ in container.decode(video=0)) == frames, name

    return check


def array(name, *shape):
    """A .npy file of this shape."""
    return lambda left: _assert_shape(np.load(left.file(name)), shape)


def _assert_shape(found: np.ndarray, shape: tuple[int, ...]) -> None:
    assert found.shape == shape and len(np.unique(found)) > 9


def trained(*names, steps=2):
    """By command, the folder that it trains, with all that gin_configs/README.md says of it."""

    def check(name, left):
        own = f"runs/{name}"
        last = left.rows(f"{own}/metrics.jsonl")[-1]
        assert last["step"] == steps and math.isfinite(last["loss"])
        left.file(f"{own}/config.gin")
        assert any((left.folder / own / "checkpoints" / str(steps)).iterdir())
        assert any((left.folder / own / "tensorboard").iterdir())

    return {f"--gin.MODEL_DIR='runs/{name}'": functools.partial(check, name) for name in names}


def resolved(*names):
    """By command, the folder that it would train, as the configuration that it prints has it."""
    return {f"--gin.MODEL_DIR='runs/{n}'": says(f"MODEL_DIR = 'runs/{n}'") for n in names}


def all_of(*checks):
    """Every one of them."""
    return lambda left: [check(left) for check in checks]


def plan_of_the_paper(left):
    """The table that gin_configs/README.md prints."""
    text = readme_commands.text_of("gin_configs/README.md")
    (shown,) = (b for *_, b in readme_commands.blocks(text, "") if b.startswith("stage "))
    assert left.told.out.strip() == shown


def measured_table(left):
    """The whole table in a document, from the measurements that are kept."""
    texts = map(readme_commands.text_of, readme_commands.DOCUMENTS)
    assert sum(f"\n\n{left.told.out.strip()}\n\n" in text for text in texts) == 1
