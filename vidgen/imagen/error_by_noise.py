"""The error of a denoiser at noisy, middle and clean levels, for the log of a training run."""

from __future__ import annotations

from jaxtyping import Array, Float

from vidgen.types import Mean


def by_noise(error: Float[Array, "b"], logsnr: Float[Array, "b"]) -> dict[str, Mean]:
    """Average the error over three ranges of log-SNR: below -2, to 2, above.

    [guess] The ranges: amplitudes of signal and noise differ there by more than e = 2.7, or less.

    Args:
      error: error of each example.
      logsnr: λ of each.

    Returns:
      The means under "loss_noisy", "loss_middle" and "loss_clean"; a range without examples has no
      weight.
    """
    noisy, clean = logsnr < -2, logsnr > 2
    return {
        "loss_noisy": Mean.of(error, noisy),
        "loss_middle": Mean.of(error, ~(noisy | clean)),
        "loss_clean": Mean.of(error, clean),
    }
