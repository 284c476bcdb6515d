"""What known views see and what is hidden from them, according to the density of the world volume.

A view's features and colours extend along its rays, also behind the surface that they show. Without knowing where that
surface is, a field paints a car's back with its front, and with a cross if the mirror image does the same.
"""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.cameras import Cameras
from mvgenvs.precision import without_autocast

SAMPLES = 4  # of the world volume's density along a ray, for each voxel of a frustum volume


@without_autocast
@torch.no_grad()
def visibility(
    logits: Float[Tensor, "batch wd wh ww"],
    extent: Sequence[float],
    cameras: Cameras,
    near: float,
    far: float,
    shape: Sequence[int],
) -> Float[Tensor, "batch view d h w"]:
    """The share of light that reaches each camera from the near side of each voxel of its frustum volume.

    `logits` are of matter, in the box of half sides `extent`; `shape` is (d, h, w). No gradients flow to the logits.
    """
    depth, height, width = shape
    views, number = cameras.resized((height, width)), depth * SAMPLES
    options: dict[str, Any] = {"dtype": logits.dtype, "device": logits.device}
    z = near + (torch.arange(number, **options) + 0.5) / number * (far - near)
    v, u = (torch.arange(side, **options) + 0.5 for side in (height, width))
    places = torch.stack([x.flatten() for x in torch.meshgrid(z, v, u, indexing="ij")], dim=-1)
    shown = (*views.c2w.shape[:2], -1)
    points = views.unproject(places[:, [2, 1]].expand(*shown, -1), places[:, 0].expand(*shown))
    grid = rearrange(points / points.new_tensor(extent), "b v n xyz -> b v n 1 xyz")
    matter = F.grid_sample(logits.sigmoid()[:, None], grid, padding_mode="zeros", align_corners=False)
    clear = rearrange(1 - matter, "b 1 v (z h w) 1 -> b v z h w", z=number, h=height).cumprod(dim=2)
    before = clear[:, :, SAMPLES - 1 : number - 1 : SAMPLES]  # all samples of the voxels before one
    return torch.cat([torch.ones_like(clear[:, :, :1]), before], dim=2)


def with_visibility(
    volumes: Float[Tensor, "batch view c d h w"], seen: Float[Tensor, "batch view d h w"]
) -> Float[Tensor, "batch view e d h w"]:
    """Frustum volumes with another channel, the last but one: the last is the logit of a view's weight."""
    together = volumes.movedim(2, -1)  # a voxel's channels are contiguous, and must stay so
    parts = [together[..., :-1], seen[..., None].to(volumes.dtype), together[..., -1:]]
    return torch.cat(parts, dim=-1).movedim(-1, 2)
