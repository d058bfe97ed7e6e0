"""Feature networks as metrics use them: which one, the hash of its weights, and what goes into it.

`FeatureNetwork.protocol` holds everything that changes a number, and is printed with the result:
the layer, the file and its SHA-256, the size that frames are brought to, how, and the range. Frames
are resized bilinearly without anti-aliasing, as for the I3D of the Fréchet video distance
(Unterthiner et al. 2018) and the Inception network of FID. Those of CLIP are resized as in its own
code: bicubic with anti-aliasing, after a crop to the square in the middle.

    I3D            clips    trained on Kinetics-400, logits (400): FVD, KVD; fetched
    Inception-v3   frames   that of FID: pool (2048), then logits (1008) without their bias; a file
                            of the user
    CLIP           frames   the image tower, unit vectors; a folder of the user
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from vidgen.assets import downloads
from vidgen.evals.clips import digest
from vidgen.evals.collect import ClipBatch, Measurement
from vidgen.pretrained import clip, clip_files, i3d, inception
from vidgen.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A frozen network and what goes into it.

    Attributes:
      name: shown with the results.
      layer: which layer gives the features, shown with the results.
      file: the file of the weights.
      load: reads the parameters.
      apply: turns (parameters, x) into features "n d", for x in [-1, 1]: frames "n h w 3" if
        `per_frame`, otherwise clips "b t h w 3".
      size: height and width in pixels that frames are brought to.
      per_frame: whether each frame has a feature vector of its own.
      resize: "bilinear" or "bicubic".
      antialias: whether frames are smoothed before they are made smaller.
      crop: whether the square in the middle is taken, instead of squeezing the whole frame.
    """

    name: str
    layer: str
    file: Path
    load: Callable[[], Params]
    apply: Callable[[Params, Array], Array]
    size: int
    per_frame: bool
    resize: str = "bilinear"
    antialias: bool = False
    crop: bool = False

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of the file of the weights."""
        with self.file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def protocol(self) -> dict[str, Any]:
        """Everything that a number depends on, besides the clips."""
        return {
            "name": self.name,
            "layer": self.layer,
            "file": self.file.name,
            "sha256": self.sha256,
            "size": self.size,
            "resize": self.resize,
            "antialias": self.antialias,
            "crop": "middle square" if self.crop else "none",
            "frames": "as they are",
            "range": "[-1, 1]",
            "per": "frame" if self.per_frame else "clip",
        }

    def features(
        self, params: Params, video: Float[Array, "b t h w 3"]
    ) -> Float[Array, "b d"] | Float[Array, "b t d"]:
        """Compute features of clips, one row per clip, or one per frame if `per_frame`.

        Args:
          params: from `load`.
          video: clips; values outside of [-1, 1] are cut.

        Returns:
          "b d", or "b t d" if `per_frame`.
        """
        x = self._resized(jnp.clip(video.astype(jnp.float32), -1, 1))
        if not self.per_frame:
            return self.apply(params, x)
        b, t = x.shape[:2]
        return self.apply(params, x.reshape(b * t, *x.shape[2:])).reshape(b, t, -1)

    def _resized(self, x: Float[Array, "b t h w 3"]) -> Float[Array, "b t s s 3"]:
        if self.crop:
            side = min(x.shape[2:4])
            top, left = ((n - side) // 2 for n in x.shape[2:4])
            x = x[:, :, top : top + side, left : left + side]
        shape = (*x.shape[:2], self.size, self.size, 3)
        if x.shape == shape:
            return x
        return jax.image.resize(x, shape, self.resize, antialias=self.antialias)

    def measurement(self, side: Literal["generated", "real"], batch_size: int = 8) -> Measurement:
        """Return the measurement of these features on all devices of this process.

        Args:
          side: whose clips are measured.
          batch_size: clips that are computed at a time, at most. The last ones of a block are
            filled up to as many, so that one program is compiled.

        Returns:
          A measurement with float32 rows "b d", or "b t d" of frames.
        """
        return Measurement(
            side=side,
            key=digest(self.protocol),
            compute=functools.partial(_compute, self, batch_size),
        )


def _compute(network: FeatureNetwork, batch_size: int, batch: ClipBatch) -> np.ndarray:
    program, params, mesh = _on_devices(network)
    ways = mesh.devices.size
    size = -(-min(batch_size, len(batch.video)) // ways) * ways
    rows = []
    for start in range(0, len(batch.video), size):
        part = batch.video[start : start + size]
        full = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        placed = jax.device_put(full, NamedSharding(mesh, PartitionSpec("clips")))
        features = program(params, placed)
        rows.append(np.asarray(features, np.float32)[: len(part)])
    return np.concatenate(rows)


@functools.lru_cache(maxsize=8)
def _on_devices(
    network: FeatureNetwork,
) -> tuple[Callable[..., Array], Params, jax.sharding.Mesh]:
    """Copy the parameters to every device of this process; return program, copies and devices."""
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("clips",))
    params = jax.device_put(network.load(), NamedSharding(mesh, PartitionSpec()))
    return jax.jit(network.features), params, mesh


@functools.lru_cache(maxsize=4)
def kinetics_i3d() -> FeatureNetwork:
    """Return I3D trained on Kinetics-400, and fetch its weights if they are not on this machine."""
    folder = downloads.locate(i3d.ASSET)
    return FeatureNetwork(
        name="I3D-RGB Kinetics-400",
        layer="logits",
        file=folder / i3d.FILE,
        load=functools.partial(i3d.load_params, folder),
        apply=lambda params, x: i3d.features(params, x, ["logits"])["logits"],
        size=224,
        per_frame=False,
    )


@functools.lru_cache(maxsize=4)
def inception_v3(file: Path) -> FeatureNetwork:
    """Return the Inception-v3 of FID, with the user's weights.

    Args:
      file: the file of the weights (`vidgen.pretrained.inception`).

    Returns:
      A network of 2048 pooled features and 1008 logits without their bias.
    """

    def apply(params: Params, x: Array) -> Array:
        layers = inception.features(params, x, ["pool", "logits"])
        unbiased = layers["logits"] - params["logits"]["bias"]
        return jnp.concatenate([layers["pool"], unbiased], axis=1)

    return FeatureNetwork(
        name="Inception-v3 of FID",
        layer="pool, logits without bias",
        file=file,
        load=functools.partial(inception.load_params, file),
        apply=apply,
        size=inception.TRAINED_PIXELS,
        per_frame=True,
    )


@functools.lru_cache(maxsize=4)
def clip_images(folder: Path) -> FeatureNetwork:
    """Return the image tower of the user's CLIP.

    Args:
      folder: the folder of the model, as Hugging Face keeps it.

    Returns:
      A network of unit vectors.

    Raises:
      FileNotFoundError: the folder or one of its files is missing.
      ValueError: they are not those of a CLIP.
    """
    sizes = clip_files.read_sizes(folder)
    return FeatureNetwork(
        name=f"CLIP in {folder.name}",
        layer="image features",
        file=clip_files.weights_file(folder),
        load=functools.partial(clip.load, folder),
        apply=clip.image_features,
        size=sizes.pixels,
        per_frame=True,
        resize="bicubic",
        antialias=True,
        crop=True,
    )


@functools.lru_cache(maxsize=2)
def clip_texts(folder: Path, prompts: Sequence[str]) -> Float[np.ndarray, "n d"]:
    """Compute unit-length features of prompts with the user's CLIP.

    Args:
      folder: the folder of the model, as Hugging Face keeps it.
      prompts: a tuple of texts, by which results are kept.

    Returns:
      One vector for each prompt.

    Raises:
      FileNotFoundError: the folder or one of its files is missing.
      ValueError: they are not those of a CLIP.
    """
    model = clip.load(folder)
    program = jax.jit(clip.text_features)
    rows = []
    for start in range(0, len(prompts), 64):
        ids, mask = clip.tokens(model, list(prompts[start : start + 64]))
        rows.append(np.asarray(program(model, ids, mask)))
    return np.concatenate(rows)
