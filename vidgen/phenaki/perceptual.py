"""Perceptual losses: distances between features of frozen networks (Phenaki 2.1, L_IP and L_VP).

With the features f_l(x) [.. c] of layer l, unit length along their channels:

    u_l(x)  = f_l(x) / √(‖f_l(x)‖² + ε)
    d(a, b) = Σ_l mean over places of ‖u_l(a) - u_l(b)‖²            each term lies in [0, 4]

That is LPIPS (Zhang et al. 2018) with all channels weighing 1; its published weights of channels
fit no network that a package carries. Images go through SqueezeNet 1.1, or through VGG-16 where the
user has its weights; video goes through I3D. Phenaki publishes neither the image network nor the
layers nor the distance: these are ours [guess], in the manner of LPIPS for both; Mixed_4f, the last
layer before space shrinks to 1/32, sees blur, noise and a frozen first frame about equally.

The networks are frozen: their parameters come from `load` and are handed in with every call, as
part of what a loss calls `frozen`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vidgen import checks
from vidgen.assets import downloads
from vidgen.pretrained import i3d, layers, squeezenet, vgg
from vidgen.types import Params

NETWORKS: Mapping[str, ModuleType] = {"squeezenet": squeezenet, "vgg16": vgg}
_EPSILON = 1e-6  # bounds the gradient where all channels of a place are 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagePerceptual:
    """Distance between images in features of an ImageNet classifier.

    Attributes:
      network: "squeezenet" (fetched, 5 MB) or "vgg16".
      weights: for "vgg16": torchvision's `vgg16-*.pth`, or the same as .safetensors.
      layers: layers that are compared; empty means those of LPIPS.
      size: pixels to which the shorter side is scaled before the network (bilinear); None leaves
        images as they are. The network was trained at 224, and sees little far below 64.
      required: whether training stops where the weights are missing, instead of going on without.
    """

    network: str = "squeezenet"
    weights: str | None = None
    layers: tuple[str, ...] = ()
    size: int | None = None
    required: bool = True

    def __post_init__(self) -> None:
        checks.one_of(self, network=NETWORKS)
        if (self.network == "vgg16") != (self.weights is not None):
            raise ValueError(
                "ImagePerceptual.weights is the file of a VGG-16: set it together with "
                f"network='vgg16', and only then (network={self.network!r}, "
                f"weights={self.weights!r})."
            )
        _check_settings(self, NETWORKS[self.network].LAYERS)

    def load(self) -> Params:
        """Load the network's parameters, numpy float32, from the user's file or as fetched.

        Raises:
          vidgen.assets.downloads.AssetError: the weights cannot be found or fetched.
          ValueError: the user's file is not a VGG-16.
        """
        if self.weights is None:
            return squeezenet.load_params(downloads.locate(squeezenet.ASSET))
        path = Path(self.weights).expanduser()
        if not path.is_file():
            raise downloads.AssetError(
                f"ImagePerceptual.weights names {self.weights!r}, which is no file; put "
                "torchvision's VGG-16 weights there, or take network='squeezenet'."
            )
        return vgg.load_params(path)

    def __call__(
        self, params: Params, a: Float[Array, "n h w 3"], b: Float[Array, "_ _ _ 3"]
    ) -> Float[Array, "n"]:
        """Compute the distance of each pair of images.

        Args:
          params: the weights, from `load`.
          a: images in [-1, 1].
          b: images of the same shape.

        Returns:
          Distances >= 0; 0 for equal images.

        Raises:
          ValueError: the two differ in shape, or are too small for the network.
        """
        _check_pair(a, b)
        network = NETWORKS[self.network]
        wanted = self.layers or network.PERCEPTUAL
        pair = (network.features(params, _scaled(x, self.size), wanted) for x in (a, b))
        return _distance(*pair)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoPerceptual:
    """Distance between videos in features of I3D, which was trained to recognise actions.

    Attributes:
      layers: layers that are compared. A step in time of Mixed_3*, 4*, 5* covers 2, 4, 8 frames, a
        step in space 8, 16, 32 pixels; they take any number of frames of any size.
      size: pixels to which the shorter side is scaled before the network (bilinear); None leaves
        frames as they are.
      required: whether training stops where the weights are missing, instead of going on without.
    """

    layers: tuple[str, ...] = ("Mixed_4f",)
    size: int | None = None
    required: bool = True

    def __post_init__(self) -> None:
        _check_settings(self, i3d.LAYERS)
        if not self.layers:
            raise ValueError("VideoPerceptual.layers is empty; it must name at least one layer.")

    def load(self) -> Params:
        """Load the network's parameters, numpy float32.

        Raises:
          vidgen.assets.downloads.AssetError: the weights cannot be found or fetched.
        """
        return i3d.load_params(downloads.locate(i3d.ASSET))

    def __call__(
        self, params: Params, a: Float[Array, "b t h w 3"], b: Float[Array, "_ _ _ _ 3"]
    ) -> Float[Array, "b"]:
        """Compute the distance of each pair of videos.

        Args:
          params: the weights, from `load`.
          a: videos in [-1, 1].
          b: videos of the same shape.

        Returns:
          Distances >= 0; 0 for equal videos.

        Raises:
          ValueError: the two differ in shape, or have fewer than 9 frames of 193 x 193 pixels
            where the layer is "logits".
        """
        _check_pair(a, b)
        pair = (i3d.features(params, _scaled(x, self.size), self.layers) for x in (a, b))
        return _distance(*pair)


def _distance(a: Mapping[str, Array], b: Mapping[str, Array]) -> Float[Array, "n"]:
    terms = []
    for name in a:
        squared = jnp.sum((_unit_length(a[name]) - _unit_length(b[name])) ** 2, axis=-1)
        terms.append(squared.mean(tuple(range(1, squared.ndim))))
    return jnp.sum(jnp.stack(terms), axis=0)


def _unit_length(x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + _EPSILON)


def _scaled(x: Float[Array, "*n h w c"], size: int | None) -> Float[Array, "*n h2 w2 c"]:
    """Scale x, in float32, to a shorter side of `size` pixels."""
    x = x.astype(jnp.float32)
    *outer, h, w, c = x.shape
    if size is None or min(h, w) == size:
        return x
    shape = (round(h * size / min(h, w)), round(w * size / min(h, w)))
    return jax.image.resize(x, (*outer, *shape, c), "bilinear")


def _check_settings(of: ImagePerceptual | VideoPerceptual, names: Sequence[str]) -> None:
    if of.layers:
        try:
            layers.check_layers(of.layers, names)
        except ValueError as error:
            raise ValueError(f"{type(of).__name__}.layers: {error}") from None
    checks.at_least(of, size=1)


def _check_pair(a: Array, b: Array) -> None:
    if a.shape != b.shape:
        raise ValueError(
            f"a perceptual distance compares arrays of one shape; got {a.shape} and {b.shape}."
        )
