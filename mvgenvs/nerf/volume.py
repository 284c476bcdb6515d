"""Frustum-aligned feature volumes: where a world point lies in the volume of a known view."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.cameras import Cameras


def frustum_coordinates(
    cameras: Cameras, points: Float[Tensor, "batch n 3"], near: float, far: float
) -> Float[Tensor, "batch view n 3"]:
    """Normalised volume coordinates (x, y, z) in [-1, 1] of world points, in each camera's frustum.

    x and y are the projected pixel over the image's width and height, z is the z-depth mapped linearly from
    [near, far]. With `align_corners=False` voxel i of N covers ((i, i + 1) / N) of the range, as pixel i of an image
    does.
    """
    pixels, depth = cameras.project(points[:, None])
    height, width = cameras.hw
    x, y = pixels[..., 0] / width, pixels[..., 1] / height
    return torch.stack([x, y, (depth - near) / (far - near)], dim=-1) * 2 - 1


def sample_volumes(
    volumes: Float[Tensor, "batch view c d h w"], coordinates: Float[Tensor, "batch view n 3"]
) -> Float[Tensor, "batch view n c"]:
    """Trilinear samples; outside the frustum the border voxel is returned."""
    grid = rearrange(coordinates, "b v n xyz -> (b v) 1 1 n xyz")
    flat = rearrange(volumes, "b v c d h w -> (b v) c d h w")
    sampled = F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return rearrange(sampled, "(b v) c 1 1 n -> b v n c", b=volumes.shape[0])


def sample_images(
    images: Float[Tensor, "batch view c h w"], coordinates: Float[Tensor, "batch view n 3"]
) -> Float[Tensor, "batch view n c"]:
    """Bilinear samples of the known images at the projections of the points; z is ignored."""
    grid = rearrange(coordinates[..., :2], "b v n xy -> (b v) 1 n xy")
    flat = rearrange(images, "b v c h w -> (b v) c h w")
    sampled = F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return rearrange(sampled, "(b v) c 1 n -> b v n c", b=images.shape[0])
