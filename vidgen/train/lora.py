"""LoRA: fine-tuning by a product of two thin matrices beside each kernel (2106.09685, section 4).

    W' = W + (α / r) A B        W "*in *out" is frozen,  A "*in r",  B "r *out"

Only A and B are trained and saved. A is drawn at random and B is zero at first, so that the first
step has the base's own weights to the bit. (The paper writes ΔW = B A of kernels "out in".) The sum
is made once a step, before the network is applied: layers know nothing of it and keep the paths of
their parameters, and a step holds one more copy of the adapted kernels and of their gradients, but
no optimizer state of them. Kernels that a scan stacks have a pair for each layer.

The base's weights come to the loss as `frozen["lora_base"]`; `lora_weights.py` puts the two
together again when a run is read.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, no_type_check

import jax
from jaxtyping import Array, Float, Key

from vidgen.model import Generator, Model, OnStep
from vidgen.nn import axes, initializers
from vidgen.train import lora_weights
from vidgen.train.frozen import restored
from vidgen.train.lora_weights import A, B, LoraRecord, fingerprint, merged, merged_on_devices
from vidgen.train.named_arrays import nested
from vidgen.train.partitioning import Partitioner, is_box
from vidgen.train.weights import open_weights
from vidgen.types import (
    Batch,
    Frozen,
    Known,
    Metrics,
    Params,
    TextEmbedding,
    TextEncoder,
    TextMix,
    VideoShape,
)

KINDS = ("attention", "dense", "conv")
BASE = "lora_base"  # what `frozen` calls the base's weights
_OF_CONVOLUTIONS = {"kernel", "conv_in", "conv_out"}  # axes of nn/axes.py


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA:
    """Which kernels get a pair of matrices, and of which rank.

    Attributes:
      rank: r, columns of A and rows of B. [guess] 8: a megabyte beside the demo's base model.
      alpha: the product is multiplied by alpha / rank. [guess] As large as the rank.
      layers: kinds of `KINDS`: projections of attention; dense layers; convolutions, 1 x 1 ones and
        those over time among them. The paper adapts attention alone.
    """

    rank: int = 8
    alpha: float = 8.0
    layers: Sequence[str] = ("attention", "dense")

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if self.rank < 1:
            raise ValueError(f"LoRA.rank is {self.rank}; it must be >= 1.")
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise ValueError(f"LoRA.alpha is {self.alpha}; it must be positive.")
        if not self.layers or set(self.layers) - set(KINDS):
            raise ValueError(f"LoRA.layers is {self.layers}; choose some of {KINDS}.")

    @property
    def scale(self) -> float:
        """The factor alpha / rank of the product."""
        return self.alpha / self.rank

    def adapters(self, boxed: Params, key: Key[Array, ""]) -> Params:
        """Draw fresh matrices for the kernels of a model, boxed with their axis names.

        Args:
          boxed: parameters of the base, or their ShapeDtypeStructs, in their boxes.
          key: the random key of A; each kernel takes its own from it by its path.

        Returns:
          A tree like that of the parameters, of the adapted kernels alone: in the place of each is
          {"lora_a": A, "lora_b": B}.

        Raises:
          ValueError: the model has no kernel of these kinds.
        """
        pairs: dict[str, Any] = {}
        for path, box in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_box):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            layer, _, last = name.rpartition("/")
            if last == "kernel" and is_box(box) and _kind(box.names) in self.layers:
                pair = self._pair(box, jax.random.fold_in(key, zlib.crc32(layer.encode())))
                pairs |= {f"{name}/{leaf}": x for leaf, x in pair.items()}
        if not pairs:
            raise ValueError(f"the model has no kernels of the kinds {self.layers} (LoRA.layers).")
        return nested(pairs)

    def _pair(self, box: Any, key: Key[Array, ""]) -> dict[str, Any]:
        """Return A and B for one kernel."""
        names, shape, rank = tuple(box.names), tuple(box.value.shape), (self.rank,)
        stacked = names.count("layers")
        split = stacked + _inputs(names[stacked:])
        variance = initializers.fan_in(axes=tuple(range(stacked, split)))
        of_a = axes.partitioned(variance, (*names[:split], None))
        of_b = axes.partitioned(initializers.zeros, (*names[:stacked], None, *names[split:]))
        return {
            A: of_a(key, (*shape[:split], *rank)),
            B: of_b(key, (*shape[:stacked], *rank, *shape[split:])),
        }


def _kind(names: Sequence[str | None]) -> str:
    """Return the kind of a kernel by the names of its axes."""
    if "heads" in names:
        return "attention"
    return "conv" if _OF_CONVOLUTIONS & set(names) else "dense"


def _inputs(names: Sequence[str | None]) -> int:
    """Return how many axes of a kernel are inputs: the first for heads, else all but the last."""
    to_heads = "heads" in names and names[-1] == "head_dim"
    return 1 if to_heads else len(names) - 1


@no_type_check  # gin may name any model here: the check below says it in words
@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraModel(Generator):
    """A model whose parameters are the matrices beside the frozen weights of another.

    Attributes:
      base: the model that is fine-tuned.
      lora: which kernels, and the rank.
    """

    name: str = dataclasses.field(init=False)
    shape: VideoShape = dataclasses.field(init=False)
    base: Generator
    lora: LoRA = dataclasses.field(default_factory=LoRA)

    def __post_init__(self) -> None:
        if not isinstance(self.base, Generator):
            kind = type(self.base).__name__
            raise ValueError(
                f"LoRA fine-tunes models that make clips, and MODEL is a {kind}; train it whole "
                "(leave out experiments/lora.gin)."
            )
        object.__setattr__(self, "name", self.base.name)
        object.__setattr__(self, "shape", self.base.shape)

    @property
    def frozen_networks(self) -> Mapping[str, Model | None]:
        """The base, and what its loss reads."""
        return {**self.base.frozen_networks, BASE: self.base}

    @property
    def input_shape(self) -> VideoShape | None:
        """The clip that the base makes its own clip from."""
        return self.base.input_shape

    @property
    def operators(self) -> Mapping[str, tuple[int, ...]] | None:
        """Those of the base."""
        return self.base.operators

    def batch_spec(
        self, batch_size: int, text_length: int, text_dim: int, *, captions_per_clip: int = 1
    ) -> Batch:
        """Describe the base's training batch; see `Model.batch_spec`."""
        return self.base.batch_spec(
            batch_size, text_length, text_dim, captions_per_clip=captions_per_clip
        )

    def init(self, key: Key[Array, ""], batch: Batch) -> Params:
        """Draw fresh matrices; the base's parameters are traced, and not made. See `Model.init`."""
        return self.lora.adapters(jax.eval_shape(self.base.init, key, batch), key)

    def loss(
        self, params: Params, frozen: Frozen, batch: Batch, key: Key[Array, ""], *, train: bool
    ) -> tuple[Float[Array, ""], Metrics]:
        """Compute the base's loss with the products added to its weights; see `Model.loss`."""
        weights = merged(frozen[BASE], params, self.lora.scale)
        return self.base.loss(weights, frozen, batch, key, train=train)

    def merge_params(self, params: Params, frozen: Frozen) -> Params:
        """Add the products to the base's weights, once for all steps; see `Model.merge_params`."""
        weights = merged_on_devices(frozen[BASE], params, self.lora.scale)
        return self.base.merge_params(weights, frozen)

    def generate(
        self,
        params: Params,
        text: TextEmbedding | TextMix,
        low_res: Float[Array, "b t0 h0 w0 c"] | None,
        keys: Key[Array, "b"],
        *,
        on_step: OnStep | None = None,
        known: Known | None = None,
        negative: TextEmbedding | None = None,
        init: Float[Array, "b t h w c"] | None = None,
    ) -> Float[Array, "b t h w c"]:
        """Make the base's clips with the merged weights; see `Generator.generate`."""
        more = {"on_step": on_step, "known": known, "negative": negative, "init": init}
        return self.base.generate(params, text, low_res, keys, **more)

    def degrade(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t0 h0 w0 c"] | None:
        """Shrink clips as the base does; see `Generator.degrade`."""
        return self.base.degrade(video)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraBase:
    """Loads the weights that are fine-tuned, for `Train.frozen`, and records which they were.

    Attributes:
      model: the model that is trained.
      base_dir: folder of the base's training run, or a model of the package; its averaged weights
        are taken.
      model_dir: folder of this run, which gets `lora.json`.
      text_encoder: has the length and width of the text.
      mesh: devices to lay the weights out over.
      others: loads what else the base's loss reads.
      step: which checkpoint of the base; None is the newest.
    """

    model: LoraModel
    base_dir: str
    model_dir: str
    text_encoder: TextEncoder
    mesh: Partitioner | None = None
    others: Callable[[], Frozen] | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        if not str(self.base_dir):
            raise ValueError(
                "INIT_FROM is empty: LoRA fine-tunes a trained model; give --gin.INIT_FROM=MODEL, "
                "its MODEL_DIR or the name of a model of the package."
            )

    def __call__(self) -> Frozen:
        """Return the base's weights and what `others` loads.

        Raises:
          FileNotFoundError: the base has no weights.
          CheckpointError: they are of another model, or not those that this run began with.
        """
        before = lora_weights.read_record(self.model_dir)
        wanted = before.step if self.step is None and before else self.step
        try:
            with open_weights(self.base_dir) as reader:
                step = reader.latest_step() if wanted is None else wanted
            text = (self.text_encoder.length, self.text_encoder.dim)
            params = restored(self.model.base, self.base_dir, step, self.mesh, text)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"no weights to fine-tune (INIT_FROM): {error}") from error
        record = LoraRecord(
            base=lora_weights.portable(self.base_dir),
            step=step or 0,
            fingerprint=fingerprint(params),
            rank=self.model.lora.rank,
            alpha=self.model.lora.alpha,
        )
        record.write(self.model_dir, before)
        return {**((self.others and self.others()) or {}), BASE: params}
