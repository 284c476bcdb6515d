"""Measures how much latents differ from those of the rendering: the constants of the denoiser's preconditioning."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.data.sampling import Batch
from mvgenvs.diffusion.joint_model import JointModel
from mvgenvs.diffusion.rendered_prior import AIR_OPACITY
from mvgenvs.errors import UserError
from mvgenvs.training.loop import Items
from mvgenvs.training.objective import Objective, TrueSets

SETS = 64
SOLID = 0.9  # opacity inside an object
LEAST = 0.01  # smallest deviation, even of a latent that is never wrong: it keeps the network's inputs finite
CONSTANTS = ("std_floor", "std_slope", "std_ceiling", "std_air")


def first_sets(sets: Items, size: int, device: torch.device) -> Iterator[Batch]:
    """The first training sets in batches: the same for all processes. Training still sees all of them."""
    for begin in itertools.count(0, size):
        yield sets.collate([sets[index] for index in range(begin, begin + size)]).to(device)


def recall_prior(denoiser: JointModel, pipeline: Path) -> None:
    """Gives a denoiser the constants of a checkpoint, which are not weights. Raises `UserError` if it is damaged."""
    try:
        config = json.loads((pipeline / "denoiser" / "config.json").read_text())
        denoiser.register_to_config(**{name: config[name] for name in (*CONSTANTS, denoiser.std_factors)})
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{pipeline} is damaged: choose another --run.output") from error


@torch.no_grad()
def fit_prior(objective: Objective, data: Iterator[Batch]) -> None:
    """Sets the denoiser's `std_floor`, `std_slope`, `std_ceiling`, `std_air`, and its factors, from training sets."""
    objective.eval()
    found: list[TrueSets] = []
    while sum(len(sets.x0) for sets in found) < SETS:
        found.append(objective.true_sets(next(data)))
    denoiser = objective.denoiser
    components = denoiser.components(torch.cat([sets.residual.float() for sets in found]).flatten(0, 1))
    opacity = torch.cat([sets.opacity.float() for sets in found]).flatten(0, 1)
    constants = deviations(components, F.adaptive_max_pool2d(opacity, components.shape[-2:]))
    constants[denoiser.std_factors] = constants.pop("std_channels")
    denoiser.register_to_config(**constants)
    denoiser.fit_moves(((sets.x0, sets.conditions) for sets in found), LEAST)
    print("prior: " + ", ".join(f"{k} {v:.4f}" for k, v in constants.items() if isinstance(v, float)))


def deviations(residual: Float[Tensor, "n c h w"], opacity: Float[Tensor, "n 1 h w"]) -> dict[str, float | list[float]]:
    """The constants from latents minus encoded renderings, with the largest opacity of each latent's pixels."""
    inside, empty = opacity[:, 0] > SOLID, opacity[:, 0] < AIR_OPACITY

    def rms(x: Tensor) -> float:
        return max(LEAST, float(x.square().mean().sqrt())) if x.numel() else LEAST

    channels = residual.movedim(1, 0)
    within = rms(channels[:, inside])
    factors = [max(LEAST, rms(channel[inside]) / within) for channel in channels]
    floor = rms(channels[:, empty])
    return {
        "std_floor": floor,
        "std_slope": within - floor if within > floor else LEAST,
        "std_ceiling": max(within, floor),
        "std_air": floor / 4,
        "std_channels": factors,
    }
