"""What the rendering tells of a view in advance: the surface that each cell shows, and how far latents may differ."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.cameras import Cameras
from mvgenvs.diffusion.codec import SIGMA_DATA
from mvgenvs.nerf.model import Rendering

AIR_OPACITY = 0.05  # where no latent nearby sees an opacity above this, there is nothing


def surface_points(
    rendering: Rendering, cameras: Cameras, hw: tuple[int, int], dropped: Bool[Tensor, "batch view"]
) -> Float[Tensor, "batch view 3 h w"]:
    """The point of the world that each cell of a picture of size `hw` shows: the mean of what its pixels hit.

    Where nothing is hit, or the rendering is dropped, the point of the ray through its middle nearest to the origin.
    """
    origins, directions = cameras.resized(hw).rays()
    nearest = -(origins * directions).sum(dim=-1)  # distance along the ray
    forward = cameras.c2w[..., None, None, :3, 2]
    cosine = (directions * forward).sum(dim=-1)
    opacity = rendering.opacity.detach().flatten(0, 1).float()
    kept = F.adaptive_avg_pool2d(opacity, hw)
    depth = F.adaptive_avg_pool2d(rendering.depth.detach().flatten(0, 1).float() * opacity, hw) / kept.clamp(min=1e-6)
    kept, depth = (x[:, 0].unflatten(0, dropped.shape) for x in (kept, depth))
    seen = (kept > AIR_OPACITY) & ~dropped[..., None, None]
    distance = torch.where(seen, depth / cosine, nearest)
    return (origins + distance[..., None] * directions).movedim(-1, 2)


def prior_deviation(
    opacity: Float[Tensor, "batch view 1 rh rw"],
    hw: tuple[int, int],
    config: Any,
    keep: Float[Tensor, "batch view 1 1 1"],
) -> Float[Tensor, "batch view k h w"]:
    """By how much latents of size `hw` may differ from the rendering's, whose opacity this is; `config` has the
    constants of `JointDenoiser`. `keep` is 0 where the rendering is dropped: then it is EDM's sigma_data.
    """
    # Not a way for gradients: the square root's is infinite where nothing is hit.
    largest = F.adaptive_max_pool2d(opacity.detach().flatten(0, 1), hw)
    std = (config.std_floor + config.std_slope * largest.clamp(min=0).sqrt()).clamp(max=config.std_ceiling)
    reach = config.air_distance
    nearby = F.max_pool2d(largest, 2 * reach + 1, stride=1, padding=reach)
    std = torch.where(nearby < AIR_OPACITY, config.std_air, std).unflatten(0, keep.shape[:2])
    if config.get("std_channels") is not None:
        std = std * std.new_tensor(config.std_channels)[:, None, None]
    return keep * std + (1 - keep) * SIGMA_DATA
