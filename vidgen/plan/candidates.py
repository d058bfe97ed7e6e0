"""Ways to train a model on a slice of chips, and what each costs: cheap estimates, no compiler.

A candidate is a mesh, a batch, what is computed again and microbatches. Of one device, with d, f
and t devices along the axes data, fsdp and tensor, s slices along data, m microbatches, P bytes of
parameters, e = batch/(d·f) examples, of F operations and A bytes that the backward pass needs,

    compute   F(remat) · e / t
    links     P/t · (f - 1)/f · 3m             gathers forward and backward, and gradients scattered
              + R/t · 2(f - 1)/f               gradients summed of the R bytes that no rule cuts
              + P/(t·f) · 2(d/s - 1)/(d/s)     gradients summed over data, within a slice
              + A(products) · e · 4(t - 1)/t   partial results summed over tensor, both ways
    network   P/(t·f) · 2(s - 1)/s             gradients summed over slices
    memory    2 · state + P/t · (2m + 1)/2 + A(none) · e · (2, or 3 where blocks run again)
    peak      state + gradients + (A(remat) + A(none)/8 of blocks that run again) · e/(t·m)

Between its products every device along tensor has all features. With r devices along space in its
place, each has the rows r divides, and whole parameters: P/t above is P, d/s in the gradients is
d·r/s, the last of the links is A(products) · e · 4/H, one of H rows from either neighbor, both
ways, and the traffic to memory is 1/r, times what the copies with the rows of neighbors add: 3.5
where nothing runs again and 1.4 else (3.0 to 3.9, and 1.3 to 1.4 in programs of tsr2 and tsr3).
Where fsdp is all chips of a slice, the gathers and the scattered gradients count twice: there, and
only there, the compiler for TPUs writes them as all-reduces (32 x 2 of 64 chips receive 44 % less
than 64 x 1).

State and gradients are exact. F and A are read off the jaxpr, before any fusion. The share of one
block in A(none), 1/8, is a [guess]: the networks have some dozen blocks, of unlike sizes. Each
program that was compiled corrects the estimates of the others (`Corrections`).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from vidgen.imagen.stage import DiffusionStage
from vidgen.model import Model
from vidgen.nn.remat import POLICIES
from vidgen.plan import bound, memory
from vidgen.train import flops
from vidgen.train import frozen as trained
from vidgen.train.chips import Chip
from vidgen.train.partitioning import Partitioner, unbox
from vidgen.train.trainer import Trainer

_BLOCK = 1 / 8
_HALVES = 3  # batches: the one that was asked for, a half of it, a quarter
_TOGETHER = (2, 4, 8)  # devices that share heads and features, or rows: those of one or two hosts
_COPIES = {False: 3.5, True: 1.4}  # traffic with the rows of neighbors, by whether blocks run again
SPACE = "mesh/fsdp_space.gin"
MESHES = ("mesh/fsdp.gin", "mesh/fsdp_tensor.gin", SPACE)


Kind = tuple[str, str | None]  # file of a mesh, and `remat`


class Candidate(NamedTuple):
    """A way to train.

    Attributes:
      mesh: the file of `gin_configs/mesh/`, one of `MESHES`.
      shape: devices along data, fsdp, and tensor or space.
      batch: examples of a step.
      remat: of `nn/remat.py`; None where the network has no such setting.
      microbatches: parts of the batch.
    """

    mesh: str
    shape: tuple[int, int, int]
    batch: int
    remat: str | None
    microbatches: int

    @property
    def kind(self) -> Kind:
        """By which estimates are corrected."""
        return self.mesh, self.remat

    def __str__(self) -> str:
        last = "space" if self.mesh == SPACE else "tensor"
        mesh = ", ".join(
            f"{axis} {size}"
            for axis, size in zip(("data", "fsdp", last), self.shape, strict=True)
            if size > 1
        )
        remat = "" if self.remat is None else f", remat {self.remat}"
        return f"{mesh or 'one device'}, batch {self.batch} in {self.microbatches}{remat}"


@dataclasses.dataclass(frozen=True)
class Work:
    """What one example costs a model.

    Attributes:
      model_flops: of the loss and its gradient, nothing computed twice.
      flops: with what is computed twice, by what is.
      kept: bytes that the backward pass finds, by the same.
    """

    model_flops: float
    flops: Mapping[str | None, float]
    kept: Mapping[str | None, float]


def work_of(trainer: Trainer, text: tuple[int, int]) -> Work:
    """Trace what one example costs a model, with every policy of `remat`.

    Args:
      trainer: its model is traced as for the devices of its partitioner; nothing is allocated.
      text: length (tokens) and width (features) of the text in a batch.

    Returns:
      Operations and bytes of an example.
    """
    operations: dict[str | None, float] = {}
    kept: dict[str | None, float] = {}
    policies: Sequence[str | None] = (
        tuple(POLICIES) if bound.networks_with_remat(trainer.model) else (None,)
    )
    for policy in policies:
        model = trainer.model if policy is None else bound.with_remat(trainer.model, policy)
        operations[policy], kept[policy] = _traced(model, trainer.partitioner, text)
    return Work(operations[policies[0]], operations, kept)


def _traced(model: Model, partitioner: Partitioner, text: tuple[int, int]) -> tuple[float, float]:
    """Return the operations of an example, and the bytes that its backward pass finds."""
    examples = partitioner.batch_ways()
    batch, key = model.batch_spec(examples, *text), jax.eval_shape(lambda: jax.random.key(0))
    loss = functools.partial(model.loss, train=True)

    def backward(params: Any, *rest: Any) -> Any:
        return jax.vjp(lambda values: loss(values, *rest), params, has_aux=True)[1]

    params = unbox(jax.eval_shape(model.init, key, batch))
    frozen = trained.spec(model, text)
    with partitioner.context():
        operations = flops.loss_and_gradient(model, params, frozen, batch)
        residuals = jax.tree.leaves(jax.eval_shape(backward, params, frozen, batch, key))
    weights = {x.shape for x in jax.tree.leaves(params)}  # or casts of them
    kept = sum(x.size * x.dtype.itemsize for x in residuals if x.shape not in weights)
    return operations / examples, kept / examples


class Estimate(NamedTuple):
    """What a candidate would cost a device.

    Attributes:
      peak: bytes; `state` of them do not depend on the batch.
      state: bytes of parameters, optimizer state, averages and gradients.
      bound: as `bound.of` gives it.
    """

    peak: float
    state: float
    bound: Mapping[str, Any]


@dataclasses.dataclass
class Corrections:
    """Ratios of what the compiler reports to what was estimated.

    Attributes:
      ratios: by quantity (one of `bound.from_work`, or "activations"), and by mesh and `remat`.
    """

    ratios: dict[str, dict[Kind, float]] = dataclasses.field(default_factory=dict)

    def note(self, quantity: str, kind: Kind, ratio: float) -> None:
        """Store the newest ratio of a quantity.

        Args:
          quantity: what was estimated.
          kind: file of the mesh and `remat` of the program that was compiled.
          ratio: the compiler's value over the uncorrected estimate, > 0.
        """
        self.ratios.setdefault(quantity, {})[kind] = ratio

    def of(self, quantity: str, kind: Kind) -> float:
        """Look up the factor that corrects an estimate.

        Args:
          quantity: what is estimated.
          kind: file of the mesh and `remat` of the candidate.

        Returns:
          The ratio of the same kind, or the mean over others; 1 before anything was compiled.
        """
        known = self.ratios.get(quantity, {})
        if kind in known or not known:
            return known.get(kind, 1.0)
        return sum(known.values()) / len(known)


@dataclasses.dataclass(eq=False)
class Estimator:
    """Estimates of candidates for one model and one kind of chip.

    Attributes:
      trainer: model, optimizer and averages.
      meshes: partitioners by the file of `gin_configs/mesh/`.
      text: length and width of the text in a batch.
      work: of one example.
      chip: what is known of a device.
      slices: that a slower network connects.
      corrections: from what was compiled.
    """

    trainer: Trainer
    meshes: Mapping[str, Partitioner]
    text: tuple[int, int]
    work: Work
    chip: Chip
    slices: int
    corrections: Corrections = dataclasses.field(default_factory=Corrections)
    _held: dict[Any, Mapping[str, int]] = dataclasses.field(default_factory=dict)

    def candidates(self, chips: int, batch: int) -> Iterator[Candidate]:
        """List the ways to train on a slice.

        Args:
          chips: devices of all slices together.
          batch: the largest batch, in examples over all devices.

        Yields:
          Meshes of powers of two, each with the batch, a half and a quarter of it, every `remat`,
          and microbatches that divide the batch of a device.
        """
        for (mesh, last), shift in itertools.product(self._meshes(), range(chips.bit_length())):
            fsdp, rest = 2**shift, chips // last >> shift
            shape = (rest, fsdp, last)
            if rest * fsdp * last != chips or rest % self.slices:
                continue
            for half, remat, power in itertools.product(
                range(_HALVES), self.work.flops, range(batch.bit_length())
            ):
                size, parts = batch >> half, 2**power
                if size << half == batch and size % (rest * fsdp * parts) == 0:
                    yield Candidate(mesh, shape, size, remat, parts)

    def _meshes(self) -> Iterator[tuple[str, int]]:
        """Yield each file of a mesh with the devices that share examples in it."""
        yield "mesh/fsdp.gin", 1
        coarsest = self._rows()[1]
        for devices in _TOGETHER:
            yield "mesh/fsdp_tensor.gin", devices
            if coarsest and coarsest % devices == 0:
                yield SPACE, devices

    def _rows(self) -> tuple[int, int]:
        """Return the rows of a U-Net's clip and of its coarsest level; (0, 0) of others."""
        model = self.trainer.model
        if not isinstance(model, DiffusionStage):
            return 0, 0
        height = (model.train_shape or model.shape).height
        return height, height // model.stride

    def estimate(self, candidate: Candidate) -> Estimate:
        """Estimate what a candidate would cost, corrected by the programs that were compiled.

        Args:
          candidate: one of `candidates`.

        Returns:
          Memory and bound of a device; see the module docstring.
        """
        (data, fsdp, last), remat, parts = candidate.shape, candidate.remat, candidate.microbatches
        held = self._of_state(candidate.mesh, candidate.shape)
        state = held["total"] - held["batch"]
        whole = self._of_state(candidate.mesh, (data * fsdp, 1, last))["parameters"]
        examples = candidate.batch / (data * fsdp)
        none = next(iter(self.work.kept))
        every, again = self.work.kept[none], remat not in (none, None)
        traffic = every * examples * (2 + again)
        if candidate.mesh == SPACE:
            traffic *= _COPIES[again] / last
        quantities = self._received(candidate, whole, held["parameters"], examples) | {
            "compute": self.work.flops[remat] * examples / last,
            "memory": 2 * state + whole * (2 * parts + 1) / 2 + traffic,
        }
        fixed = {
            name: x * self.corrections.of(name, candidate.kind) for name, x in quantities.items()
        }
        activations = (self.work.kept[remat] + again * _BLOCK * every) * examples
        activations *= self.corrections.of("activations", candidate.kind) / (last * parts)
        useful = self.work.model_flops * examples / last
        return Estimate(state + activations, state, bound.from_work(self.chip, useful, **fixed))

    def _received(
        self, candidate: Candidate, whole: int, share: int, examples: float
    ) -> dict[str, float]:
        """Return the bytes that a device receives over `links` and over `network`.

        Args:
          candidate: the way to train.
          whole: bytes of the parameters that a device computes with.
          share: those of them that it stores.
          examples: of a device and those that it shares them with.
        """
        (data, fsdp, last), slices = candidate.shape, self.slices
        rows = candidate.mesh == SPACE
        cut = (whole - share) * fsdp / max(fsdp - 1, 1)
        gathers = 2 if data == slices and last == 1 else 1
        links = (whole - share) * 3 * candidate.microbatches * gathers
        links += (whole - cut) * 2 * (fsdp - 1) / fsdp
        sums = data * (last if rows else 1) / slices
        links += share * 2 * (sums - 1) / sums
        kept = self.work.kept.get("products", next(iter(self.work.kept.values()))) * examples
        if rows:
            links += kept * 4 / self._rows()[0]
        else:
            links += kept * 4 * (last - 1) / last
        return {"links": links, "network": share * 2 * (slices - 1) / slices}

    def correct(self, candidate: Candidate, program: Mapping[str, Any]) -> None:
        """Correct later estimates by what the compiler reports of a candidate.

        Args:
          candidate: that was compiled.
          program: of `programs.training_step`.
        """
        estimate, kind = self.estimate(candidate), candidate.kind
        activations = estimate.peak - estimate.state
        peak = program["peak_bytes_per_device"] or 2 * estimate.peak  # it did not fit: more
        compiled = max(peak - estimate.state, 0.01 * activations)
        before = self.corrections.of("activations", kind)
        self.corrections.note("activations", kind, before * compiled / activations)
        if not program.get("bound"):
            return
        for name, seconds in program["bound"]["seconds"].items():
            guess = estimate.bound["seconds"][name]
            if seconds and guess:
                ratio = self.corrections.of(name, kind) * seconds / guess
                self.corrections.note(name, kind, ratio)

    def _of_state(self, mesh: str, shape: tuple[int, int, int]) -> Mapping[str, int]:
        """Return the exact bytes of a device."""
        if (mesh, shape) not in self._held:
            chips = math.prod(shape)
            trainer = self.trainer_of(Candidate(mesh, shape, chips, None, 1))
            batch = trainer.model.batch_spec(chips, *self.text)
            report = memory.bytes_per_device(trainer, self._boxed, batch, chips)
            self._held[mesh, shape] = report["bytes_per_device"]
        return self._held[mesh, shape]

    @functools.cached_property
    def _boxed(self) -> Any:
        return self.trainer.boxed_params(self.trainer.model.batch_spec(1, *self.text))

    def trainer_of(self, candidate: Candidate) -> Trainer:
        """Build the trainer that a candidate describes.

        Args:
          candidate: one of `candidates`.

        Returns:
          A trainer with its mesh, `remat` and microbatches; the batch size is no setting of a
          trainer.
        """
        mesh = dataclasses.replace(
            self.meshes[candidate.mesh], mesh_shape=candidate.shape, device_count=None
        )
        model = self.trainer.model
        if candidate.remat is not None:
            model = bound.with_remat(model, candidate.remat)
        return dataclasses.replace(
            self.trainer, model=model, partitioner=mesh, microbatches=candidate.microbatches
        )
