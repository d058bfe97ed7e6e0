"""Prints by how many bytes a clip a process grows that loads clips; run by test_pipeline.py.

python memory_of_loading.py FOLDER folder|tar|leaking
"""

import dataclasses
import gc
import os
import resource
import sys

import numpy as np

from vidgen.data.pipeline import Pipeline
from vidgen.data.source import Example, Source
from vidgen.data.sources.folder import FolderSource
from vidgen.data.sources.tar_shards import TarShards
from vidgen.types import VideoShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaking(Source):
    """Black clips, of each of which something is kept."""

    shape: VideoShape
    kept: list = dataclasses.field(default_factory=list)

    def __len__(self):
        return 6

    def load(self, index, rng):
        self.kept.append(np.ones(80_000, np.uint8))
        return Example(video=np.zeros(self.shape.thwc, np.uint8), caption="")


def resident():
    """Bytes of this process in memory now: Linux tells, elsewhere the peak has to do."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def growth(source):
    """Bytes a clip, after 200 others: the least of three times 200.

    A leak shows in each of them; what an allocator or a thread takes once, in one.
    """
    iterator = Pipeline(source=source, batch_size=8, repeat=True).iterator()
    sizes = []
    for _ in range(4):
        for _ in range(25):
            next(iterator)
        gc.collect()
        sizes.append(resident())
    iterator.close()
    return min(np.diff(sizes)) // 200


if __name__ == "__main__":
    path, kind = sys.argv[1:]
    shape = VideoShape(frames=4, height=16, width=16)
    kinds = {
        "folder": lambda: FolderSource(path=f"{path}/clips", shape=shape),
        "tar": lambda: TarShards(path=path, shape=shape),
        "leaking": lambda: Leaking(shape=shape),
    }
    print(growth(kinds[kind]()))
