"""Feature networks as measures use them: which one, its weights' hash, and what goes into it.

Everything that changes a number is in `Network.protocol`, and is printed with the result: the
layer, the file and its SHA-256, the size that frames are brought to, how, and the range. Frames are
resized bilinearly without anti-aliasing, as the I3D of the Fréchet video distance had them
(Unterthiner et al. 2018) and the Inception network of FID.

    i3d            clips    I3D trained on Kinetics-400, logits (400): FVD, KVD
    efficientnet   frames   EfficientNet-Lite0 trained on ImageNet, pool (1280); this is NOT FID
    squeezenet     frames   SqueezeNet 1.1, for distances of pairs; this is NOT LPIPS
    inception      frames   Inception-v3 of FID, pool (2048) and logits: the user has the weights
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vidgen import assets
from vidgen.nn.backbones import efficientnet, i3d
from vidgen.types import Params

I3D_FRAMES = i3d.MIN_FRAMES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
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
      least_frames: of a clip.
    """

    name: str
    layer: str
    file: Path
    load: Callable[[], Params]
    apply: Callable[[Params, Array], Array]
    size: int
    per_frame: bool
    least_frames: int = 1

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
            "resize": "bilinear",
            "antialias": False,
            "range": "[-1, 1]",
            "per": "frame" if self.per_frame else "clip",
        }

    def features(
        self, params: Params, video: Float[Array, "b t h w 3"]
    ) -> Float[Array, "b d"] | Float[Array, "b t d"]:
        """Of clips in [-1, 1], a row a clip, or a row a frame."""
        b, t = video.shape[:2]
        x = jnp.clip(video.astype(jnp.float32), -1, 1)
        shape = (b, t, self.size, self.size, 3)
        if x.shape != shape:
            x = jax.image.resize(x, shape, "bilinear", antialias=False)
        if not self.per_frame:
            return self.apply(params, x)
        return self.apply(params, x.reshape(b * t, *shape[2:])).reshape(b, t, -1)


def kinetics() -> Network:
    """I3D; its weights are fetched where they are not here."""
    folder = assets.locate(i3d.ASSET)
    return Network(
        name="I3D-RGB Kinetics-400",
        layer="logits",
        file=folder / i3d.FILE,
        load=functools.partial(i3d.load_params, folder),
        apply=lambda params, x: i3d.features(params, x, ["logits"])["logits"],
        size=224,
        per_frame=False,
        least_frames=i3d.MIN_FRAMES,
    )


def lite0() -> Network:
    """EfficientNet-Lite0; its weights are fetched where they are not here."""
    folder = assets.locate(efficientnet.ASSET)
    return Network(
        name="EfficientNet-Lite0 ImageNet (not FID)",
        layer="pool",
        file=folder / efficientnet.FILE,
        load=functools.partial(efficientnet.load_params, folder),
        apply=lambda params, x: efficientnet.features(params, x, ["pool"])["pool"],
        size=224,
        per_frame=True,
    )


NETWORKS: Mapping[str, Callable[[], Network]] = MappingProxyType(
    {"i3d": kinetics, "efficientnet": lite0}
)
