"""Feature networks as measures use them: which one, its weights' hash, and what goes into it.

Everything that changes a number is in `FeatureNetwork.protocol`, and is printed with the result:
the layer, the file and its SHA-256, the size that frames are brought to, how, and the range. Frames
are resized bilinearly without anti-aliasing, as the I3D of the Fréchet video distance had them
(Unterthiner et al. 2018) and the Inception network of FID; those of CLIP as its own were, bicubic
with anti-aliasing, of the square in the middle.

    i3d            clips    I3D trained on Kinetics-400, logits (400): FVD, KVD
    efficientnet   frames   EfficientNet-Lite0 trained on ImageNet, pool (1280); this is NOT FID
    inception      frames   Inception-v3 of FID, pool (2048), then logits (1008) without their bias
    clip           frames   CLIP's image tower, unit vectors: the user has the weights, of both
    sprite_match   clips    a network trained on vidgen's sprites alone; this is NOT CLIP
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vidgen.assets import downloads
from vidgen.pretrained import clip, clip_files, efficientnet, i3d, inception
from vidgen.sprites import match
from vidgen.types import Params, TextEmbedding

I3D_FRAMES = i3d.MIN_FRAMES


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A frozen network and what goes into it.

    Attributes:
      name: for people.
      layer: what comes out of it.
      file: of the weights.
      load: the parameters.
      apply: (parameters, x) to features, x in [-1, 1]: "b t h w 3" where `per_frame` is False,
        otherwise "n h w 3".
      size: height and width that frames are brought to.
      per_frame: one feature vector a frame, not a clip.
      frames: clips are resampled to so many, like pixels; None takes them as they are.
      resize: "bilinear" or "bicubic".
      antialias: whether frames are smoothed before they are made small.
      crop: whether the square in the middle is taken, instead of all of it squeezed into one.
    """

    name: str
    layer: str
    file: Path
    load: Callable[[], Params]
    apply: Callable[[Params, Array], Array]
    size: int
    per_frame: bool
    frames: int | None = None
    resize: str = "bilinear"
    antialias: bool = False
    crop: bool = False

    @functools.cached_property
    def sha256(self) -> str:
        """Of the file of the weights."""
        with self.file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def protocol(self) -> dict[str, Any]:
        """All that a number depends on, besides the clips."""
        return {
            "name": self.name,
            "layer": self.layer,
            "file": self.file.name,
            "sha256": self.sha256,
            "size": self.size,
            "resize": self.resize,
            "antialias": self.antialias,
            "crop": "middle square" if self.crop else "none",
            "frames": self.frames or "as they are",
            "range": "[-1, 1]",
            "per": "frame" if self.per_frame else "clip",
        }

    def features(
        self, params: Params, video: Float[Array, "b t h w 3"]
    ) -> Float[Array, "b d"] | Float[Array, "b t d"]:
        """Of clips in [-1, 1], a row a clip, or a row a frame."""
        x = self._prepared(jnp.clip(video.astype(jnp.float32), -1, 1))
        if not self.per_frame:
            return self.apply(params, x)
        b, t = x.shape[:2]
        return self.apply(params, x.reshape(b * t, *x.shape[2:])).reshape(b, t, -1)

    def _prepared(self, x: Float[Array, "b t h w 3"]) -> Float[Array, "b t2 s s 3"]:
        if self.crop:
            side = min(x.shape[2:4])
            top, left = ((n - side) // 2 for n in x.shape[2:4])
            x = x[:, :, top : top + side, left : left + side]
        shape = (len(x), self.frames or x.shape[1], self.size, self.size, 3)
        if x.shape == shape:
            return x
        return jax.image.resize(x, shape, self.resize, antialias=self.antialias)


@functools.lru_cache(maxsize=4)
def kinetics() -> FeatureNetwork:
    """I3D; its weights are fetched where they are not here."""
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
def lite0() -> FeatureNetwork:
    """EfficientNet-Lite0; its weights are fetched where they are not here."""
    folder = downloads.locate(efficientnet.ASSET)
    return FeatureNetwork(
        name="EfficientNet-Lite0 ImageNet (not FID)",
        layer="pool",
        file=folder / efficientnet.FILE,
        load=functools.partial(efficientnet.load_params, folder),
        apply=lambda params, x: efficientnet.features(params, x, ["pool"])["pool"],
        size=224,
        per_frame=True,
    )


@functools.lru_cache(maxsize=4)
def inception_v3(file: Path) -> FeatureNetwork:
    """Inception-v3 with the user's weights."""

    def apply(params: Params, x: Array) -> Array:
        found = inception.features(params, x, ["pool", "logits"])
        unbiased = found["logits"] - params["logits"]["bias"]
        return jnp.concatenate([found["pool"], unbiased], axis=1)

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
    """The image tower of the user's CLIP."""
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


def clip_texts(folder: Path, prompts: Sequence[str]) -> Float[np.ndarray, "n d"]:
    """Features of prompts by the user's CLIP, of unit length."""
    model = clip.load(folder)
    program = jax.jit(clip.text_features)
    rows = []
    for start in range(0, len(prompts), 64):
        ids, mask = clip.tokens(model, list(prompts[start : start + 64]))
        rows.append(np.asarray(program(model, ids, mask)))
    return np.concatenate(rows)


@functools.lru_cache(maxsize=4)
def sprites() -> FeatureNetwork:
    """The clip tower of the network that knows vidgen's sprites."""
    return FeatureNetwork(
        name="sprite match (not CLIP)",
        layer="clip features",
        file=match.FILE,
        load=match.load_params,
        apply=match.video_features,
        size=match.PIXELS,
        per_frame=False,
        frames=match.FRAMES,
        antialias=True,
    )


def sprite_texts(
    encode: Callable[[Sequence[str]], TextEmbedding], captions: Sequence[str]
) -> Float[np.ndarray, "n d"]:
    """Features of captions by that network, of unit length; `encode` is MiniLM."""
    text = encode(list(captions))
    features = jax.jit(match.text_features)
    return np.asarray(features(match.load_params(), text.tokens, text.mask))


def asset_hash(name: str) -> str:
    """The SHA-256 of an asset's file of weights."""
    return downloads.get(name).files[0].sha256
