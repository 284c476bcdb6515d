"""The re-noising scheduler: noises finished views to the current noise level, and steps only the new ones.

It wraps diffusers' EDM schedulers, which define the noise levels and the steps; churn and Heun's correction, which need
the denoiser at the churned level and at the next one, are added here. Sampling is written once, in `sample`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from mvgenvs.diffusion.codec import SIGMA_DATA
from mvgenvs.diffusion.noise import preconditioning
from mvgenvs.diffusion.options import SamplingOptions
from mvgenvs.errors import UserError

EDMScheduler: TypeAlias = EDMEulerScheduler | EDMDPMSolverMultistepScheduler
SAMPLERS = {
    "euler": EDMEulerScheduler,
    "heun": EDMEulerScheduler,
    "dpmpp-2m": EDMDPMSolverMultistepScheduler,
}

# Latents (batch, view, c, h, w) and sigma (batch, view) -> latents x0, of all views or only of the new ones.
Denoise = Callable[[Tensor, Tensor], Tensor]
Generators = torch.Generator | Sequence[torch.Generator]  # one for all sets, or one for each set of the batch


@dataclass(eq=False, slots=True)
class SamplerState:
    """The state after one step of one set. If the latents are replaced, the next step continues from the new ones."""

    step: int  # from 0
    num_steps: int
    sigma: float  # the noise level of the step's input
    timestep: Float[Tensor, ""]  # the scheduler's name for it, without churn
    latents: Float[Tensor, "batch view c h w"]  # of the new views, at the next level
    denoised: Float[Tensor, "batch view c h w"]  # the current estimate of their x0


def check_scheduler(scheduler: Any) -> None:
    """Raises `UserError` for a scheduler whose noise levels or steps would be misread."""
    kind, known = type(scheduler).__name__, sorted({cls.__name__ for cls in SAMPLERS.values()})
    if kind not in known:
        raise UserError(f"the scheduler must be one of {', '.join(known)}, but is {kind}: it holds the noise levels")
    needed = {"sigma_data": SIGMA_DATA, "prediction_type": "epsilon", "algorithm_type": "dpmsolver++"}
    for name, value in needed.items():
        found = scheduler.config.get(name, value)
        if found != value:
            raise UserError(f"the scheduler's {name} must be {value}, as this model was trained, but is {found}")


def check_levels(scheduler: EDMScheduler, options: SamplingOptions, name: str = "sigma_max") -> dict[str, Any]:
    """The scheduler's configuration, overridden by `options`.

    Raises `UserError` unless the noise levels decrease; there `options.sigma_max` is called by its `name`.
    """
    check_scheduler(scheduler)
    own = {"sigma_max": options.sigma_max, "rho": options.rho}
    config = {**scheduler.config, **{name: value for name, value in own.items() if value is not None}}
    low, high = config["sigma_min"], config["sigma_max"]
    if not low < high < math.inf:
        raise UserError(f"{name} must be above this model's lowest noise level, {low}, but is {high}")
    return config


def check_generators(generator: Generators | None, batch: int) -> None:
    """Raises `UserError` unless there is one generator for all sets, one for each, or none."""
    if isinstance(generator, Sequence) and len(generator) != batch:
        raise UserError(f"{len(generator)} generators cannot serve {batch} sets: give one for each")


def initial_seed(generator: Generators | None) -> int:
    """The seed of the first generator; 0 without any."""
    first = generator[0] if isinstance(generator, Sequence) else generator
    return 0 if first is None else first.initial_seed()


def listed(generator: Generators | None) -> torch.Generator | list[torch.Generator] | None:
    """The generators in the form that diffusers takes."""
    return list(generator) if isinstance(generator, Sequence) else generator


class RenoisingScheduler:
    """One sampling run of one set, around a diffusers EDM scheduler."""

    def __init__(
        self,
        scheduler: EDMScheduler,
        options: SamplingOptions,
        anchors: Float[Tensor, "batch anchor c h w"],
        generator: Generators | None,
        anchor_noise: Float[Tensor, "batch anchor c h w"] | None = None,
    ) -> None:
        """`scheduler` supplies its configuration, overridden by `options`; `anchors` are clean latents, maybe none.

        `anchor_noise` is the fixed noise of the anchors. Without it, fixed noise is drawn here, for this set alone.
        """
        self.scheduler = SAMPLERS[options.sampler].from_config(check_levels(scheduler, options))
        self.scheduler.set_timesteps(options.num_steps, device=anchors.device)
        self.scheduler.set_begin_index(0)
        check_generators(generator, anchors.shape[0])
        self.options, self.x0, self.generator = options, anchors, listed(generator)
        highest = options.highest_levels(anchors.shape[1])
        self.highest = torch.tensor(highest, dtype=torch.float32, device=anchors.device)
        if anchor_noise is not None and options.renoise != "fixed":
            raise ValueError("anchor_noise is for fixed noise: fresh noise is drawn at every step")
        self.fixed_noise = self.noise(anchors) if options.renoise == "fixed" and anchor_noise is None else anchor_noise

    def noise(self, like: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape"]:
        """Standard normal noise; with one generator per set, it does not depend on how sets are batched."""
        return randn_tensor(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)

    def sigma(self, step: int) -> float:
        return float(self.scheduler.sigmas[step])

    def churn(
        self, step: int, latents: Float[Tensor, "batch view c h w"]
    ) -> tuple[Float[Tensor, "batch view c h w"], float]:
        """Raises the latents to noise level sigma_hat = (1 + gamma) sigma by adding noise [EDM, algorithm 2, 4-6]."""
        sigma = self.sigma(step)
        gamma = min(self.options.churn / self.options.num_steps, 2**0.5 - 1)
        if not gamma:
            return latents, sigma
        sigma_hat = sigma * (1 + gamma)
        self.scheduler.sigmas[step] = sigma_hat  # so that diffusers steps down from this level
        return latents + (sigma_hat**2 - sigma**2) ** 0.5 * self.noise(latents), sigma_hat

    def anchors_at(self, sigma: float) -> tuple[Float[Tensor, "batch anchor c h w"], Float[Tensor, " anchor"]]:
        """The anchors re-noised, x0 + level eps, and their noise levels min(sigma, highest). Exact at sigma = 0."""
        # The last sigma may be the level of `clean` except for rounding: the anchors then stay as they were.
        levels = torch.where(self.highest <= sigma * (1 + 1e-5), self.highest, sigma)
        noise = self.noise(self.x0) if self.fixed_noise is None else self.fixed_noise
        return self.x0 + (levels[:, None, None, None] * noise).to(noise.dtype), levels

    def step(
        self, step: int, denoised: Float[Tensor, "batch view c h w"], latents: Float[Tensor, "batch view c h w"]
    ) -> Float[Tensor, "batch view c h w"]:
        """One step of diffusers' scheduler. It takes the network's F, so it gets F computed back from D [EDM eq. 7]."""
        scale = preconditioning(self.scheduler.sigmas[step])
        timestep = self.scheduler.timesteps[step]
        self.scheduler.scale_model_input(latents, timestep)  # only tells diffusers that a step follows
        return self.scheduler.step((denoised - scale.c_skip * latents) / scale.c_out, timestep, latents).prev_sample


def sample(
    denoise: Denoise,
    scheduler: EDMScheduler,
    options: SamplingOptions,
    num_new: int,
    anchors: Float[Tensor, "batch anchor c h w"],
    generator: Generators | None = None,
    anchor_noise: Float[Tensor, "batch anchor c h w"] | None = None,
    start: Float[Tensor, "batch new c h w"] | None = None,
) -> Iterator[SamplerState]:
    """Samples `num_new` views jointly with the anchors, new views first in the set; yields a state per step.

    The denoiser's output for the anchors is discarded. Pass anchors of shape (batch, 0, c, h, w) for none. `start` are
    clean latents, an estimate of the new views, to which the first noise is added; with a low sigma_max, sampling stays
    near them [SDEdit, Meng et al. 2022, arXiv 2108.01073], and the lower `options.temperature`, the nearer. Without
    `start`, sampling starts from noise alone.
    """
    run = RenoisingScheduler(scheduler, options, anchors, generator, anchor_noise)

    def denoise_at(latents: Tensor, sigma: float) -> Tensor:
        known, anchor_levels = run.anchors_at(sigma)
        levels = torch.full((latents.shape[0], num_new + known.shape[1]), sigma, device=latents.device)
        levels[:, num_new:] = anchor_levels
        return denoise(torch.cat([latents, known], dim=1), levels.to(latents.dtype))[:, :num_new]

    batch, _, *shape = anchors.shape
    latents = options.start_temperature * run.sigma(0) * run.noise(anchors.new_empty(batch, num_new, *shape))
    if start is not None:
        latents = start + latents
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
        state = SamplerState(step, options.num_steps, sigma, run.scheduler.timesteps[step], following, denoised)
        yield state
        latents = state.latents
