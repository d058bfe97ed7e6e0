"""Checkpoints of the published stages: what their thousands of arrays cost, without the bytes.

    python benchmarks/manifests.py -o manifests.jsonl         # those of the seven stages
    python benchmarks/manifests.py imagen_ssr3_paper -o manifests.jsonl
    python benchmarks/manifests.py --from=manifests.jsonl

The state of a stage (weights, averages, both moments) has the real tree of the real configuration,
with the axes that mesh/fsdp.gin and mesh/fsdp_tensor.gin cut. Real is what is saved and restored of
it: each array with every axis shortened to what the meshes cut it into, one element a piece, on 8
simulated devices of one process; written by the checkpointer of a training under fsdp (1, 8, 1),
read by it under fsdp_tensor (2, 2, 2), compared element by element, with dtypes and shardings.
By arithmetic are the bytes of the whole arrays, and the pieces that the 1,024 devices of 16 x 64
(data x fsdp) write, each once, with the most bytes that one device has of them.

    arrays     of the state;  pieces: of all arrays on 1,024 devices, as the manifest lists them
    files      of the checkpoint, and their bytes: tree, shardings, shapes, offsets, checksums
    save       processor seconds until everything is written;  restore: until the arrays are there
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import child_rows

from vidgen.types import STAGES

EXPERIMENTS = tuple(f"imagen_{stage}_paper" for stage in STAGES)
DEVICES = 8
MESHES = {"fsdp": (1, DEVICES, 1), "fsdp_tensor": (2, DEVICES // 4, 2)}
LARGE = {"data": 16, "fsdp": 64, "tensor": 1}
GIB, MIB, KIB = 2**30, 2**20, 2**10
HEADER = (
    "| stage | parameters | arrays | state, GiB | pieces | most on a device, MiB | files, KiB "
    "| save, s | restore, s | equal |\n|---|---|---|---|---|---|---|---|---|---|"
)


def built(experiment: str, mesh: str) -> Any:
    """Build the training of an experiment on one of the two meshes."""
    from vidgen.config import gin_utils
    from vidgen.train.train import Train

    files = ["runs/train.gin", f"experiments/{experiment}.gin", f"mesh/{mesh}.gin"]
    bindings = ["MODEL_DIR='none'", f"MESH_SHAPE={MESHES[mesh]}"]
    with gin_utils.session(files, bindings):
        return gin_utils.build(Train)


def states(experiment: str) -> tuple[Any, Any]:
    """Return the abstract state on either mesh; the network is traced once."""
    one, other = (built(experiment, mesh) for mesh in MESHES)
    encoder = one.text_encoder
    spec = one.trainer.model.batch_spec(DEVICES, encoder.length, encoder.dim)
    first = one.trainer.abstract_state(spec)
    second = dataclasses.replace(one.trainer, partitioner=other.trainer.partitioner)
    second._cached.update(one.trainer._cached)
    return first, second.abstract_state(spec)


def ways(sharding: Any, sizes: dict[str, int], axes: int) -> tuple[int, ...]:
    """Into how many parts each axis of an array is cut on a mesh of these sizes."""
    from vidgen.train.partitioning import axes_of

    spec = tuple(sharding.spec) + (None,) * (axes - len(sharding.spec))
    return tuple(math.prod(sizes[name] for name in axes_of(entry)) for entry in spec)


def shortened(one: Any, other: Any) -> tuple[Any, Any]:
    """Shorten every axis of two states to the parts that the meshes cut it into."""
    import jax

    def shape(x: Any, y: Any) -> tuple[int, ...]:
        cuts = [ways(z.sharding, dict(z.sharding.mesh.shape), x.ndim) for z in (x, y)]
        return tuple(map(max, zip(*cuts, strict=True)))

    def short(x: Any, y: Any) -> Any:
        return jax.ShapeDtypeStruct(shape(x, y), x.dtype, sharding=x.sharding)

    return jax.tree.map(short, one, other), jax.tree.map(short, other, one)


def arithmetic(state: Any) -> dict[str, int]:
    """Return arrays, bytes, pieces and the most bytes of a device, on the 1,024 devices."""
    import jax

    leaves = jax.tree.leaves(state)
    counts = [math.prod(ways(x.sharding, LARGE, x.ndim)) for x in leaves]
    sizes = [x.size * x.dtype.itemsize for x in leaves]
    device = sum(size // count for size, count in zip(sizes, counts, strict=True))
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "arrays": len(leaves),
        "bytes": sum(sizes),
        "pieces": sum(counts),
        "device_bytes": device,
    }


def filled(state: Any) -> Any:
    """Make arrays of these shapes and shardings, whose elements all differ from their neighbors."""
    import jax
    import numpy as np

    leaves, tree = jax.tree.flatten(state)
    arrays = [
        jax.device_put((np.arange(x.size).reshape(x.shape) + number).astype(x.dtype), x.sharding)
        for number, x in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, arrays)


def measure(experiment: str) -> dict[str, Any]:
    """Save and restore the state of a stage; it needs the simulated devices."""
    import jax
    import numpy as np

    from vidgen.train.checkpoints import Checkpointer

    one, other = states(experiment)
    row: dict[str, Any] = {"experiment": experiment} | arithmetic(one)
    one, other = shortened(one, other)
    state = filled(one)
    with tempfile.TemporaryDirectory() as folder, Checkpointer(folder) as checkpointer:
        begin = time.process_time()
        checkpointer.save(1, state, {"position": 0})
        checkpointer.wait()
        row["save_s"] = round(time.process_time() - begin, 2)
        files = [p for p in Path(folder, "checkpoints").rglob("*") if p.is_file()]
        row |= {"files": len(files), "file_bytes": sum(p.stat().st_size for p in files)}
        begin = time.process_time()
        restored, _ = checkpointer.restore(other)
        jax.block_until_ready(restored)
        row["restore_s"] = round(time.process_time() - begin, 2)
    same = jax.tree.map(
        lambda x, y, z: bool(
            np.array_equal(x, y) and y.dtype == z.dtype and y.sharding == z.sharding
        ),
        state,
        restored,
        other,
    )
    return row | {"equal": all(jax.tree.leaves(same))}


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    cells = [row["experiment"].removesuffix("_paper").replace("_", " ")]
    cells += [f"{row['parameters'] / 1e9:.2f} B", f"{row['arrays']:,}"]
    cells += [f"{row['bytes'] / GIB:.1f}", f"{row['pieces']:,}"]
    cells += [f"{row['device_bytes'] / MIB:.0f}", f"{row['file_bytes'] / KIB:,.0f}"]
    cells += [f"{row['save_s']:.1f}", f"{row['restore_s']:.1f}", str(row["equal"])]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure each stage in a process of its own, or print the table of a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="*", default=EXPERIMENTS, help="default: all seven")
    parser.add_argument("-o", "--output", help="a JSON line for each stage")
    parser.add_argument("--from", dest="lines", help="print the table of such a file, and stop")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        print(json.dumps(measure(flags.experiments[0])))
        return
    print(HEADER, flush=True)
    if flags.lines:
        for text in Path(flags.lines).read_text().splitlines():
            print(line(json.loads(text)))
        return
    devices = f"--xla_force_host_platform_device_count={DEVICES}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": devices}
    for experiment in flags.experiments:
        row = child_rows.measure(experiment, [__file__, experiment, "--child"], environment)
        print(line(row), flush=True)
        child_rows.append(row, flags.output)


if __name__ == "__main__":
    main()
