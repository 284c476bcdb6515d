"""The re-noising scheduler: brings views made before to the current noise level, and steps only the new ones.

It wraps diffusers' EDM schedulers, which give the noise levels and do the steps; churn and Heun's correction, which
need the denoiser at the churned level and at the next one, are added here. Sampling is written once, in `sample`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from mvgenvs.diffusion.noise import preconditioning
from mvgenvs.errors import UserError

SAMPLERS = {
    "euler": EDMEulerScheduler,
    "heun": EDMEulerScheduler,
    "dpmpp-2m": EDMDPMSolverMultistepScheduler,
}
RENOISE = ("fresh", "fixed")
ANCHOR_LEVELS = ("matched", "clean")
CLEAN_SIGMA = 0.02  # the noise level of a "clean" anchor, in training and in sampling

Denoise = Callable[[Tensor, Tensor], Tensor]  # latents (batch, view, c, h, w), sigma (batch, view) -> latents x0


@dataclass(frozen=True)
class SamplerOptions:
    """How a set is sampled."""

    sampler: str = "euler"
    num_steps: int = 20
    churn: float = 0.0  # S_churn of [EDM, algorithm 2]
    renoise: str = "fresh"  # noise on the anchors: drawn at every step, or once
    anchor_level: str = "matched"  # anchors at the current noise level, or nearly clean

    def __post_init__(self) -> None:
        for name, value, known in (
            ("sampler", self.sampler, tuple(SAMPLERS)),
            ("renoise", self.renoise, RENOISE),
            ("anchor_level", self.anchor_level, ANCHOR_LEVELS),
        ):
            if value not in known:
                raise UserError(f"there is no {name} '{value}': choose one of {', '.join(known)}")
        if self.churn < 0:
            raise UserError(f"churn must not be negative, but is {self.churn}")
        if self.num_steps < 1:
            raise UserError(f"the number of steps must be at least 1, not {self.num_steps}")
        if self.sampler == "dpmpp-2m" and self.churn:
            raise UserError("dpmpp-2m is a multistep sampler and takes no churn: use euler or heun")


@dataclass(frozen=True, eq=False, slots=True)
class SamplerState:
    """After one step of one set."""

    step: int  # from 0
    num_steps: int
    sigma: float  # the noise level that was denoised from
    latents: Float[Tensor, "batch view c h w"]  # of the new views, at the next level
    denoised: Float[Tensor, "batch view c h w"]  # the current estimate of their x0


class RenoisingScheduler:
    """One sampling run of one set around a diffusers EDM scheduler."""

    def __init__(
        self,
        scheduler: EDMEulerScheduler | EDMDPMSolverMultistepScheduler,
        options: SamplerOptions,
        anchors: Float[Tensor, "batch anchor c h w"],
        generator: torch.Generator | None,
    ) -> None:
        """`scheduler` lends its configuration (noise levels, rho); `anchors` are clean latents, possibly none."""
        self.scheduler = SAMPLERS[options.sampler].from_config(scheduler.config)
        self.scheduler.set_timesteps(options.num_steps, device=anchors.device)
        self.scheduler.set_begin_index(0)
        self.options, self.x0, self.generator = options, anchors, generator
        self.fixed_noise = self.noise(anchors) if options.renoise == "fixed" else None

    def noise(self, like: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return randn_tensor(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)

    def sigma(self, step: int) -> float:
        return float(self.scheduler.sigmas[step])

    def churn(
        self, step: int, latents: Float[Tensor, "batch view c h w"]
    ) -> tuple[Float[Tensor, "batch view c h w"], float]:
        """Raises the latents to sigma_hat = (1 + gamma) sigma by added noise [EDM, algorithm 2, lines 4-6]."""
        sigma = self.sigma(step)
        gamma = min(self.options.churn / self.options.num_steps, 2**0.5 - 1)
        if not gamma:
            return latents, sigma
        sigma_hat = sigma * (1 + gamma)
        self.scheduler.sigmas[step] = sigma_hat  # so that diffusers steps down from where we are
        return latents + (sigma_hat**2 - sigma**2) ** 0.5 * self.noise(latents), sigma_hat

    def anchors_at(self, sigma: float) -> tuple[Float[Tensor, "batch anchor c h w"], float]:
        """The anchors re-noised, x0 + sigma eps, and their noise level. Exact at sigma = 0."""
        level = min(sigma, CLEAN_SIGMA) if self.options.anchor_level == "clean" else sigma
        noise = self.noise(self.x0) if self.fixed_noise is None else self.fixed_noise
        return self.x0 + level * noise, level

    def step(
        self, step: int, denoised: Float[Tensor, "batch view c h w"], latents: Float[Tensor, "batch view c h w"]
    ) -> Float[Tensor, "batch view c h w"]:
        """One step of diffusers' scheduler, which takes the network's F and so gets D's F back [EDM eq. 7]."""
        scale = preconditioning(self.scheduler.sigmas[step])
        timestep = self.scheduler.timesteps[step]
        self.scheduler.scale_model_input(latents, timestep)  # only tells diffusers that a step follows
        return self.scheduler.step((denoised - scale.c_skip * latents) / scale.c_out, timestep, latents).prev_sample


def sample(
    denoise: Denoise,
    scheduler: EDMEulerScheduler | EDMDPMSolverMultistepScheduler,
    options: SamplerOptions,
    num_new: int,
    anchors: Float[Tensor, "batch anchor c h w"],
    generator: torch.Generator | None = None,
) -> Iterator[SamplerState]:
    """Samples `num_new` views jointly with the anchors, new views first in the set; yields a state per step.

    What the denoiser makes of the anchors is thrown away. Pass anchors of shape (batch, 0, c, h, w) for none.
    """
    run = RenoisingScheduler(scheduler, options, anchors, generator)

    def denoise_at(latents: Tensor, sigma: float) -> Tensor:
        known, level = run.anchors_at(sigma)
        levels = torch.full((latents.shape[0], num_new + known.shape[1]), sigma, device=latents.device)
        levels[:, num_new:] = level
        return denoise(torch.cat([latents, known], dim=1), levels.to(latents.dtype))[:, :num_new]

    batch, _, *shape = anchors.shape
    latents = run.sigma(0) * run.noise(anchors.new_empty(batch, num_new, *shape))
    for step in range(options.num_steps):
        latents, sigma = run.churn(step, latents)
        denoised = denoise_at(latents, sigma)
        following = run.step(step, denoised, latents)
        next_sigma = run.sigma(step + 1)
        if options.sampler == "heun" and next_sigma > 0:  # the trapezoidal rule [EDM, algorithm 1, lines 6-8]
            slope = (latents - denoised) / sigma
            denoised = denoise_at(following, next_sigma)
            slope_next = (following - denoised) / next_sigma
            following = latents + (next_sigma - sigma) * (slope + slope_next) / 2
        latents = following
        yield SamplerState(step, options.num_steps, sigma, latents, denoised)
