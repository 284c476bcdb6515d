"""Noise laws of training and EDM's preconditioning [EDM, Table 1], with one noise level per view."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.diffusion.codec import SIGMA_DATA


@dataclass(frozen=True)
class NoiseLaw:
    """ln sigma ~ N(mean, std^2). The mean may move from `mean` to `mean_end` during training."""

    mean: float
    std: float
    mean_end: float | None = None

    def sigma(self, normal: Float[Tensor, "*shape"], progress: float = 0.0) -> Float[Tensor, "*shape"]:
        """Noise levels from standard normal draws, at `progress` in [0, 1] of the training."""
        end = self.mean if self.mean_end is None else self.mean_end
        return torch.exp(self.mean + (end - self.mean) * progress + self.std * normal)


NOISE_LAWS = {
    "high": NoiseLaw(1.0, 1.4),  # genvs_unofficial: good x0 predictions early, with a strong image condition
    "mid": NoiseLaw(0.5, 1.4),  # genvs_unofficial, later in training
    "low": NoiseLaw(-1.2, 1.2),  # EDM
    "latent": NoiseLaw(0.0, 1.1),  # between mid and low: latents around the rendering, see JointDenoiser
    "wide": NoiseLaw(-0.5, 1.4),  # down to the finest detail of lossless latents
    "high-to-low": NoiseLaw(1.0, 1.4, mean_end=-0.4),
}


@dataclass(frozen=True, eq=False, slots=True)
class Preconditioning:
    """D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)  [EDM eq. 7]."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor  # of sigma's shape


def preconditioning(sigma: Tensor, sigma_data: Tensor | float = SIGMA_DATA) -> Preconditioning:
    """EDM's coefficients for data of standard deviation `sigma_data`; both arguments broadcast."""
    total = sigma**2 + sigma_data**2
    return Preconditioning(sigma_data**2 / total, sigma * sigma_data / total.sqrt(), total.rsqrt(), sigma.log() / 4)


def loss_weight(sigma: Float[Tensor, "*shape"], min_snr: float = 0.0) -> Float[Tensor, "*shape"]:
    """Weight of the squared error of x0: lambda(sigma) = 1 / c_out^2 for sigma_data = 0.5 [EDM eq. 8], or Min-SNR's.

    It is the same where the preconditioning has a map of sigma_data, so errors count alike everywhere; the background,
    which is known from the rendering, hardly has any.

    With SNR = sigma_data^2 / sigma^2, lambda is (SNR + 1) / sigma_data^2. Min-SNR takes min(SNR, `min_snr`) /
    sigma_data^2 instead [Hang et al. 2023, arXiv 2303.09556]; the divisor accounts for the paper's latents being scaled
    to unit variance. `min_snr` = 0 is EDM's weight.
    """
    if min_snr:
        return (SIGMA_DATA / sigma).square().clamp(max=min_snr) / SIGMA_DATA**2
    return (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2


def with_offset(
    noise: Float[Tensor, "*shape c h w"], constants: Float[Tensor, "*shape c"], amplitude: float
) -> Float[Tensor, "*shape c h w"]:
    """White noise plus `amplitude` times a standard normal constant per view and channel ("offset noise").

    White noise hardly changes a channel's mean, so a model trained on it alone need not learn to change means
    [Guttenberg 2023, "Diffusion with offset noise", crosslabs.org].
    """
    return noise + amplitude * constants[..., None, None]
