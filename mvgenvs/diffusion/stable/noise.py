"""The noise levels of a checkpoint that was trained on discrete timesteps, and its prediction as D(x; sigma)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float
from torch import Tensor

from mvgenvs.diffusion.codec import SIGMA_DATA
from mvgenvs.diffusion.noise import Preconditioning, preconditioning

SETTINGS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr",
    "prediction_type",
)  # fmt: skip
PREDICTION_TYPES = ("epsilon", "v_prediction")


class DiscreteNoise:
    """x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, read as x0 + sigma eps.

    Divided by sqrt(abar_t), x_t has noise level sqrt((1 - abar_t) / abar_t) for data of RMS 1. The codec's latents have
    RMS sigma_data, so their sigma_t is sigma_data times that, and the network's input c_in x is EDM's.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """`settings` are those of the checkpoint's scheduler; the names in `SETTINGS` are used."""
        alphas = DDPMScheduler(**{name: settings[name] for name in SETTINGS if name in settings}).alphas_cumprod
        alphas = alphas.double().clamp(min=2**-24)  # zero terminal SNR has no finite sigma
        self.log_sigmas = (math.log(SIGMA_DATA) + ((1 - alphas) / alphas).log() / 2).float()  # ascending
        self.prediction_type = settings.get("prediction_type", "epsilon")

    def timestep(self, sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The fractional timestep of noise level sigma, linear in ln sigma between neighbours; clamped at the ends."""
        table = self.log_sigmas.to(sigma.device)
        log_sigma = sigma.float().clamp(min=table[0].exp()).log()
        above = torch.searchsorted(table, log_sigma.contiguous()).clamp(1, len(table) - 1)
        low, high = table[above - 1], table[above]
        return above - 1 + ((log_sigma - low) / (high - low)).clamp(0, 1)

    def preconditioning(self, sigma: Float[Tensor, "*shape"]) -> Preconditioning:
        """D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) with F the checkpoint's network, c_noise its timestep.

        If F predicts eps, D = x - sigma F. If it predicts v = sqrt(abar) eps - sqrt(1 - abar) x0 [Salimans & Ho 2022,
        arXiv 2202.00512], D = sqrt(abar) x_t - sqrt(1 - abar) F: EDM's preconditioning, except for the sign of F.
        """
        edm = preconditioning(sigma)
        if self.prediction_type == "v_prediction":
            return Preconditioning(edm.c_skip, -edm.c_out, edm.c_in, self.timestep(sigma))
        return Preconditioning(torch.ones_like(sigma), -sigma, edm.c_in, self.timestep(sigma))
