"""The layout of every array: a device mesh, and rules from logical axis names to mesh axes.

A model names the axes of its parameters and activations ("embed", "heads", "batch"); an ordered
list of rules maps names to mesh axes. Rules are tried in order for each array. A rule applies if

    its name is on the array, that axis has no mesh axis yet, no other axis of the array uses the
    rule's mesh axes, and the axis length is a multiple of their product;

so several rules for one name are alternatives, and an axis that fits none of its rules is
replicated with a note (`Placement.note`) rather than refused: a 3-channel axis must not forbid a
mesh. A name that has no rule at all is an error, where Linen would replicate without a word.

Mesh axes are in JAX's Auto mode: the compiler places what the constraints leave open.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn  # only for its axis rules: layers stay out of this package
from flax.core import meta
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vidgen import traced
from vidgen.train import device_mesh
from vidgen.train.state import TrainState
from vidgen.types import Batch, Params

MeshAxes = str | Sequence[str] | None
_VIDEO_AXES = ("batch", "frames", "height", "width", "channels")
Rules = Sequence[Any]  # of (logical name, MeshAxes) pairs; gin gives lists as well as tuples


class Placement(NamedTuple):
    """How one array is laid out; `note` says where a rule could not be followed."""

    path: str
    shape: tuple[int, ...]
    names: tuple[str | None, ...]
    spec: PartitionSpec
    note: str = ""


def is_box(x: Any) -> bool:
    """Whether a node of a tree is a parameter in its box of metadata.

    Args:
      x: any node or leaf.

    Returns:
      True for Linen's boxes, which carry the names of the axes.
    """
    return isinstance(x, meta.AxisMetadata)


def unbox(boxed: Params) -> Params:
    """Take parameters out of their Linen boxes; no sharding constraint is added.

    Args:
      boxed: a tree whose leaves may be boxes.

    Returns:
      The same tree of bare arrays or ShapeDtypeStructs.
    """
    return jax.tree.map(lambda b: getattr(b, "value", b), boxed, is_leaf=is_box)


def laid_out(shapes: Any, shardings: Any) -> Any:
    """Describe arrays with their layout.

    Args:
      shapes: a tree of arrays or ShapeDtypeStructs.
      shardings: a tree like it.

    Returns:
      ShapeDtypeStructs with shardings.
    """
    return jax.tree.map(
        lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to), shapes, shardings
    )


def state_layout(
    shapes: TrainState, params: Any, whole: Any, tx: optax.GradientTransformation
) -> TrainState:
    """Return the layout of a train state: what has a parameter's shape lies like it.

    These are Adam's moments and the averaged weights; factored moments and counters are small
    and replicated.

    Args:
      shapes: the state as ShapeDtypeStructs.
      params: the layout of each parameter, a tree like theirs.
      whole: the layout of what is replicated.
      tx: the optimizer whose state it has.

    Returns:
      A state with layouts for leaves.
    """

    def like(x: Any, param: Any, layout: Any) -> Any:
        if isinstance(x, optax.MaskedNode):  # of a parameter that a group's optimizer leaves out
            return x
        return layout if x.shape == param.shape else whole

    opt_state = optax.tree_utils.tree_map_params(
        tx,
        like,
        shapes.opt_state,
        shapes.params,
        params,
        transform_non_params=lambda _: whole,
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )
    ema = None if shapes.ema is None else params
    power = shapes.power_ema and dict.fromkeys(shapes.power_ema, params)
    return TrainState(step=whole, params=params, opt_state=opt_state, ema=ema, power_ema=power)


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function that is called and lowered inside the mesh and the axis rules.

    Both contexts matter: without `jax.set_mesh` Linen drops activation constraints silently. On one
    CPU it is traced by the first process that needs it, and found again by others
    (vidgen/traced.py).

    Attributes:
      function: what `jax.jit` returned.
      context: enters the mesh and the rules.
      options: of `traced.program`.
    """

    function: Any
    context: Callable[[], contextlib.AbstractContextManager[None]]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    _kept: dict[Any, Callable[..., Any]] = dataclasses.field(default_factory=dict)

    def __call__(self, *args: Any) -> Any:
        """Run the function."""
        with self.context():
            return self.kept(*args)(*args)

    def kept(self, *args: Any) -> Callable[..., Any]:
        """Prepare the program for arguments of these shapes.

        Args:
          *args: arrays.

        Returns:
          `traced.Kept`, or the function where nothing can be kept.
        """
        leaves, tree = jax.tree.flatten(args)
        signature = tree, tuple((np.shape(x), x.dtype) for x in leaves)
        if signature not in self._kept:
            with self.context():
                self._kept[signature] = traced.program(self.function, *args, **self.options)
        return self._kept[signature]

    def trace(self, *args: Any) -> Any:
        """Trace the program without lowering it.

        Args:
          *args: its arguments, arrays or ShapeDtypeStructs.

        Returns:
          The traced program of JAX.
        """
        with self.context():
            return self.function.trace(*args)

    def lower(self, *args: Any) -> Any:
        """Lower the program without running it.

        Args:
          *args: its arguments, arrays or ShapeDtypeStructs.

        Returns:
          The lowered program of JAX.
        """
        with self.context():
            return self.function.lower(*args)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Partitioner:
    """A mesh of devices and the rules that lay arrays out on it.

    Attributes:
      mesh_axes: names of the mesh axes.
      mesh_shape: devices along each axis; one may be -1, "all that are left".
      rules: ordered pairs of a logical name and a mesh axis, a tuple of mesh axes, or None.
      device_count: use only the first so many devices; None uses all.
      slice_axis: the mesh axis along which slices follow each other (`train/device_mesh.py`).
    """

    rules: Rules
    mesh_axes: Sequence[str] = ("data", "fsdp", "tensor")
    mesh_shape: Sequence[int] = (-1, 1, 1)
    device_count: int | None = None
    slice_axis: str = "data"

    def __post_init__(self) -> None:
        # Tuples throughout, so that it can be hashed.
        rules = tuple((n, tuple(to) if isinstance(to, list) else to) for n, to in self.rules)
        object.__setattr__(self, "rules", rules)
        object.__setattr__(self, "mesh_axes", tuple(self.mesh_axes))
        object.__setattr__(self, "mesh_shape", tuple(self.mesh_shape))
        if len(self.mesh_axes) != len(self.mesh_shape):
            raise ValueError(
                f"Partitioner has mesh_axes {self.mesh_axes} but mesh_shape {self.mesh_shape}; "
                "give one size for each axis."
            )
        if self.mesh_shape.count(-1) > 1 or any(n < 1 and n != -1 for n in self.mesh_shape):
            raise ValueError(
                f"Partitioner.mesh_shape is {self.mesh_shape}; sizes are >= 1, and one may be -1."
            )
        for name, to in self.rules:
            unknown = [axis for axis in axes_of(to) if axis not in self.mesh_axes]
            if unknown:
                raise ValueError(
                    f"the partitioning rule ({name!r}, {to!r}) uses mesh axis {unknown[0]!r}; "
                    f"choose from {self.mesh_axes}."
                )

    def sizes(self, device_count: int | None = None) -> dict[str, int]:
        """Fill the -1 in `mesh_shape`.

        Args:
          device_count: devices to divide; None takes those of this run.

        Returns:
          Devices along each mesh axis, in the order of `mesh_axes`.

        Raises:
          ValueError: the sizes do not multiply to that number.
        """
        count = device_count or self.device_count or jax.device_count()
        fixed = math.prod(n for n in self.mesh_shape if n != -1)
        if -1 in self.mesh_shape and count % fixed == 0:
            shape = tuple(count // fixed if n == -1 else n for n in self.mesh_shape)
        else:
            shape = self.mesh_shape
        if math.prod(shape) != count:
            raise ValueError(
                f"mesh_shape {self.mesh_shape} over {self.mesh_axes} does not make {count} "
                f"device(s): its sizes give {'multiples of ' if -1 in shape else ''}{fixed}. "
                "Change MESH_SHAPE, or set Partitioner.device_count."
            )
        return dict(zip(self.mesh_axes, shape, strict=True))

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The device mesh, made on first use."""
        available = jax.device_count()
        if (self.device_count or 0) > available:
            raise ValueError(
                f"Partitioner.device_count is {self.device_count}; there are {available} device(s)."
            )
        sizes = self.sizes()
        devices = jax.devices()[: math.prod(sizes.values())]
        return device_mesh.make(devices, sizes, self.slice_axis)

    def placements(self, boxed_params: Params, device_count: int | None = None) -> list[Placement]:
        """Return the layout of every parameter, in tree order.

        Args:
          boxed_params: parameters in their boxes of metadata, or ShapeDtypeStructs in them.
          device_count: devices of the mesh, which then need not be here.

        Returns:
          A placement for each, with a note where a rule could not be followed.

        Raises:
          ValueError: a parameter has an axis name without a rule, or the wrong number of names.
        """
        sizes = self.sizes(device_count)
        leaves = jax.tree_util.tree_leaves_with_path(boxed_params, is_leaf=is_box)
        return [_place(jax.tree_util.keystr(p), leaf, self.rules, sizes) for p, leaf in leaves]

    def param_shardings(self, boxed_params: Params) -> Params:
        """Return a NamedSharding for every parameter.

        Args:
          boxed_params: parameters in their boxes of metadata, or ShapeDtypeStructs in them.

        Returns:
          A tree like the unboxed parameters.

        Raises:
          ValueError: a parameter has an axis name without a rule, or the wrong number of names.
        """
        specs = [NamedSharding(self.mesh, p.spec) for p in self.placements(boxed_params)]
        return jax.tree.unflatten(jax.tree.structure(unbox(boxed_params)), specs)

    def replicated(self) -> NamedSharding:
        """Return the sharding of a value that every device holds."""
        return NamedSharding(self.mesh, PartitionSpec())

    def sampling_sharding(self, shape: Sequence[int]) -> NamedSharding:
        """Return the sharding of an input or output of sampling, which has a row for each clip.

        Args:
          shape: the shape of the array, clips first. One of five axes is video, and may be split in
            time and space too.

        Returns:
          The sharding by the rules for "batch", and for video those of its other axes.
        """
        names = _VIDEO_AXES if len(shape) == 5 else ("batch", *[None] * (len(shape) - 1))
        box = meta.Partitioned(jax.ShapeDtypeStruct(tuple(shape), "float32"), names)
        return NamedSharding(self.mesh, _place("", box, self.rules, dict(self.mesh.shape)).spec)

    def batch_spec(self) -> PartitionSpec:
        """Return the layout of data: the first axis over the mesh axes of the rule for "batch"."""
        return PartitionSpec(self._batch_axes())

    def batch_sharding(self) -> NamedSharding:
        """Return the sharding of data."""
        return NamedSharding(self.mesh, self.batch_spec())

    def _batch_axes(self) -> MeshAxes:
        for name, to in self.rules:
            if name == "batch":
                return to
        raise ValueError('no partitioning rule for "batch"; add one, e.g. ("batch", "data").')

    def batch_ways(self, device_count: int | None = None) -> int:
        """Return into how many parts a batch is cut.

        Args:
          device_count: devices of the mesh, which then need not be here; None takes this run's.

        Returns:
          The product of the mesh axes of the rule for "batch".
        """
        sizes = dict(self.mesh.shape) if device_count is None else self.sizes(device_count)
        return math.prod(sizes[axis] for axis in axes_of(self._batch_axes()))

    def check_batch_size(self, batch_size: int, device_count: int | None = None) -> None:
        """Check that a batch divides evenly over the devices.

        Args:
          batch_size: examples of a step, over all processes.
          device_count: as in `batch_ways`.

        Raises:
          ValueError: it does not.
        """
        ways = self.batch_ways(device_count)
        if batch_size % ways:
            raise ValueError(
                f"a batch of {batch_size} does not divide over {ways} devices (mesh axes "
                f"{axes_of(self._batch_axes())}); make BATCH_SIZE a multiple of {ways}."
            )

    def batch_part(self) -> tuple[int, int]:
        """Return (index, count): this process loads part `index` of `count` parts of a batch.

        Processes whose devices hold the same examples load the same part. The batches of N
        processes are those of one, in its order, so a checkpoint serves any number of processes.
        """
        ways = self.batch_ways()
        rows: dict[int, set[int]] = {}
        for device, (at, *_) in self.batch_sharding().devices_indices_map((ways,)).items():
            rows.setdefault(device.process_index, set()).update(range(*at.indices(ways)))
        parts = sorted({tuple(sorted(held)) for held in rows.values()})
        return parts.index(tuple(sorted(rows[jax.process_index()]))), len(parts)

    def to_global(self, batch: Batch) -> Batch:
        """Turn this process's part of a batch into global arrays on the mesh.

        Args:
          batch: in numpy, the rows that `batch_part` says.

        Returns:
          The whole batch, cut over the mesh along its first axis.
        """
        sharding = self.batch_sharding()
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Enter the mesh and the axis rules, as `Program` does."""
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(self.rules):
            yield

    def jit(
        self,
        function: Callable[..., Any],
        summary: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> Program:
        """Compile a function so that it runs and lowers inside `context()`.

        Args:
          function: to compile.
          summary: see `traced.program`.
          **options: options of `jax.jit`.

        Returns:
          The program; nothing is compiled before its first call.
        """
        kept = {
            "donated": options.get("donate_argnums", ()),
            "out_shardings": options.get("out_shardings"),
            "summary": summary,
        }
        return Program(jax.jit(function, **options), self.context, kept)


def axes_of(to: MeshAxes) -> tuple[str, ...]:
    """Return the mesh axes that a rule names.

    Args:
      to: the right side of a rule: None, one name, or several.

    Returns:
      A tuple of names, empty where the rule replicates.
    """
    if to is None:
        return ()
    return (to,) if isinstance(to, str) else tuple(to)


def _place(path: str, leaf: Any, rules: Rules, sizes: Mapping[str, int]) -> Placement:
    """Return the placement of one parameter; a bare one is replicated, with a note."""
    shape = tuple(getattr(leaf, "value", leaf).shape)
    if not is_box(leaf):
        names: tuple[str | None, ...] = (None,) * len(shape)
        return Placement(path, shape, names, PartitionSpec(), "no logical axis names: replicated")
    names = tuple(leaf.names)
    _check_names(path, shape, names, rules)
    chosen: dict[int, MeshAxes] = {}
    used: set[str] = set()
    for name, to in rules:
        if name not in names or names.index(name) in chosen:
            continue
        at, axes = names.index(name), axes_of(to)
        if not used & set(axes) and shape[at] % math.prod(sizes[a] for a in axes) == 0:
            chosen[at] = to
            used |= set(axes)
    missed = []  # axes whose rules ask for several devices, and that got none
    for i, name in enumerate(names):
        wanted = [axes_of(to) for n, to in rules if n == name]
        if any(math.prod(sizes[a] for a in axes) > 1 for axes in wanted) and i not in chosen:
            missed.append(f"{name} ({shape[i]}) replicated: no free, dividing mesh axis")
    spec = PartitionSpec(*(chosen.get(i) for i in range(len(shape))))
    return Placement(path, shape, names, spec, "; ".join(missed))


def _check_names(
    path: str, shape: tuple[int, ...], names: tuple[str | None, ...], rules: Rules
) -> None:
    if len(names) != len(shape):
        raise ValueError(f"parameter {path} has shape {shape} but axis names {names}.")
    known = {name for name, _ in rules}
    unknown = [name for name in names if name is not None and name not in known]
    if unknown:
        raise ValueError(
            f"parameter {path} has the axis name {unknown[0]!r}, which no partitioning rule "
            f"mentions; add a rule (None replicates). Names with rules: {sorted(known)}."
        )
