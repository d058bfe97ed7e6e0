"""What C-ViViT and the causal convolutional autoencoder have in common (Phenaki, section 2.1).

Nothing flows back in time. The first step of the latents is the first frame alone, and every later
step belongs to the next `strides[0]` frames: a clip of 1 + k·s frames has 1 + k steps, the latents
of a prefix are the prefix of the latents, and an image is the first frame of a clip.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

State = Any  # what an autoencoder keeps of the chunks before; each has its own


class CausalAutoencoder(nn.Module):
    """A causal video autoencoder: its methods are called through `apply(..., method="encode")`.

    `setup` of a subclass makes `encoder` and `decoder`, which return a pair: the latents or the
    video, and the state for the next chunk.
    """

    @property
    def features(self) -> int:
        """Size of the last axis of the latents."""
        raise NotImplementedError

    @property
    def strides(self) -> tuple[int, int, int]:
        """(frames, height, width) that one latent stands for; one frame at the first step."""
        raise NotImplementedError

    @nn.nowrap
    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Find the grid of latents of a clip.

        Args:
          frames: number of frames t.
          height: height in pixels.
          width: width in pixels.

        Returns:
          The number of (steps, rows, columns).

        Raises:
          ValueError: no grid fits a clip of this size; the message names the nearest sizes.
        """
        time, rows, columns = self.strides
        sizes = (("frames", frames, time, 1), ("height", height, rows, 0))
        for name, size, stride, first in (*sizes, ("width", width, columns, 0)):
            least = first or stride
            if size < least or (size - first) % stride:
                below = first + (size - first) // stride * stride
                near = " or ".join(str(n) for n in (below, below + stride) if n >= least)
                rule = f"1 + a multiple of {stride}" if first else f"a multiple of {stride}"
                raise ValueError(
                    f"the tokenizer takes {name} of {rule}; got {size}, the nearest is {near}."
                )
        return 1 + (frames - 1) // time, height // rows, width // columns

    @nn.nowrap
    def frames_of(self, steps: int) -> int:
        """Compute the number of frames that steps of latents decode to: 1 + (steps - 1) · s.

        Args:
          steps: number of steps in time, >= 1; the first is one frame.

        Returns:
          The number of frames.
        """
        return 1 + (steps - 1) * self.strides[0]

    def encode(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b gt gh gw d"]:
        """Encode clips of any size that has a `grid`.

        Args:
          video: clips in [-1, 1].

        Returns:
          The latents, not quantised; those of a prefix of a clip are the prefix of its latents.

        Raises:
          ValueError: no grid fits the clips.
        """
        self.grid(*video.shape[1:4])
        return self.encoder(video)[0]

    def decode(self, latents: Float[Array, "b gt gh gw d"]) -> Float[Array, "b t h w c"]:
        """Decode latents to clips.

        Args:
          latents: those that `encode` gives, or their quantised copies.

        Returns:
          Clips, float32, about in [-1, 1] and not clipped.
        """
        return self.decoder(latents)[0]

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """Encode clips and decode them again, without a quantizer between.

        Args:
          video: clips in [-1, 1].

        Returns:
          Clips of the same shape, not clipped.
        """
        return self.decode(self.encode(video))

    def encode_chunk(
        self, video: Float[Array, "b t h w c"], state: State = None
    ) -> tuple[Float[Array, "b gt gh gw d"], State]:
        """Encode the next frames of a long clip, with the result of `encode` of the whole.

        Args:
          video: 1 + k·s frames at the start of a clip, a multiple of s frames after it.
          state: what was returned with the chunk before; None at the start.

        Returns:
          The latents of these frames, and the state for the next chunk.

        Raises:
          ValueError: the chunk has another number of frames, or a size that does not fit.
        """
        raise NotImplementedError

    def decode_chunk(
        self, latents: Float[Array, "b gt gh gw d"], state: State = None
    ) -> tuple[Float[Array, "b t h w c"], State]:
        """Decode the next steps of a long clip, with the result of `decode` of the whole.

        Args:
          latents: one or more steps; at the start of a clip the first of them is its first frame.
          state: what was returned with the chunk before; None at the start.

        Returns:
          The frames of these steps, and the state for the next chunk.
        """
        raise NotImplementedError

    def _check_chunk(self, video: Float[Array, "b t h w c"], later: bool) -> None:
        """Raise ValueError where a chunk does not fit behind the one before, if there is one."""
        _, frames, height, width, _ = video.shape
        stride = self.strides[0]
        if later and (frames < 1 or frames % stride):
            below = frames // stride * stride
            near = " or ".join(str(n) for n in (below, below + stride) if n)
            raise ValueError(
                f"a later chunk of a clip takes frames of a multiple of {stride}; got {frames}, "
                f"the nearest is {near}."
            )
        self.grid(frames + later, height, width)


def settings_of(module: nn.Module, settings: type[nn.Module]) -> dict[str, Any]:
    """Read the settings that a module hands on to its halves.

    Args:
      module: the autoencoder.
      settings: the class that declares them, of which both halves are.

    Returns:
      Their values by name.
    """
    names = {field.name for field in dataclasses.fields(settings)} - {"parent", "name"}
    return {name: getattr(module, name) for name in names}
