"""Noise laws of training and EDM's preconditioning [EDM, Table 1], with one noise level per view."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.diffusion.codec import SIGMA_DATA


@dataclass(frozen=True)
class NoiseLaw:
    """ln sigma ~ N(mean, std^2). The mean may move over training, from `mean` to `mean_end`."""

    mean: float
    std: float
    mean_end: float | None = None

    def sigma(self, normal: Float[Tensor, "*shape"], progress: float = 0.0) -> Float[Tensor, "*shape"]:
        """Noise levels from standard normal draws at `progress` in [0, 1] of the training."""
        end = self.mean if self.mean_end is None else self.mean_end
        return torch.exp(self.mean + (end - self.mean) * progress + self.std * normal)


NOISE_LAWS = {
    "high": NoiseLaw(1.0, 1.4),  # genvs_unofficial: good x0 predictions early, with a strong image condition
    "mid": NoiseLaw(0.5, 1.4),  # genvs_unofficial, later in training
    "low": NoiseLaw(-1.2, 1.2),  # EDM
    "latent": NoiseLaw(0.0, 1.1),  # between mid and low: latents around the rendering, see JointDenoiser
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


def loss_weight(sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """lambda(sigma) = 1 / c_out^2 for sigma_data = 0.5 [EDM eq. 8].

    It stays the same where the preconditioning has a map for sigma_data: an error counts alike wherever it is, and the
    background, which is known from the rendering, hardly at all.
    """
    return (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
