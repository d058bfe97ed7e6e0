"""Makes clips with the cascade in a folder on however many devices there are; prints what it did.

Run as `python space_mesh.py FOLDER OUTPUT [FLAG ...]`; see test_space_mesh.py.
"""

import json
import re
import sys

import jax

from vidgen.cli import main
from vidgen.diffusion import sampling

COLLECTIVES = ("all-gather", "collective-permute", "all-to-all")


def watched(step, seen):
    """`sampling.compiled_step` that notes each program: its collectives, layout and memory."""

    def run(*arguments):
        z = arguments[3][0]
        if z.shape not in seen:
            compiled = step.lower(*arguments).compile()
            text = compiled.as_text()
            counts = {name: len(re.findall(rf" {name}(?:-start)?\(", text)) for name in COLLECTIVES}
            ways = [n // m for n, m in zip(z.shape, z.sharding.shard_shape(z.shape), strict=True)]
            memory = compiled.memory_analysis().temp_size_in_bytes
            seen[z.shape] = {"collectives": counts, "ways": ways, "memory": memory}
        return step(*arguments)

    return run


def report(folder, output, *flags):
    seen, step = {}, sampling.compiled_step
    sampling.compiled_step = watched(step, seen)
    command = ["generate", "a tiger", f"--model={folder}", "-o", output, *flags]
    out, sys.stdout = sys.stdout, sys.stderr
    try:
        assert main.main(command) == 0
    finally:
        sys.stdout = out
    programs = {"x".join(map(str, shape)): found for shape, found in seen.items()}
    found = {"devices": jax.device_count(), "programs": programs, "compiled": step._cache_size()}
    print(json.dumps(found))


if __name__ == "__main__":
    report(*sys.argv[1:])
