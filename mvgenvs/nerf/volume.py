"""Frustum-aligned feature volumes: where a world point lies in the volume of a known view."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.cameras import Cameras
from mvgenvs.nerf.trilinear import interpolate


def frustum_coordinates(
    cameras: Cameras, points: Float[Tensor, "batch n 3"], near: float, far: float
) -> Float[Tensor, "batch view n 3"]:
    """Normalised volume coordinates (x, y, z) in [-1, 1] of world points, in each camera's frustum.

    x and y are the projected pixel over the image's width and height, z is the z-depth mapped linearly from
    [near, far]. With `align_corners=False` voxel i of N covers ((i, i + 1) / N) of the range, as pixel i of an image
    does. Each coordinate lies together in memory.
    """
    height, width = cameras.hw
    to_camera = torch.linalg.inv(cameras.c2w)[..., :3, :]
    unit_square = torch.tensor([2 / width, 2 / height, 1.0], dtype=points.dtype, device=points.device)
    projection = unit_square[:, None] * (cameras.K @ to_camera)  # (batch, view, 3, 4)
    homogeneous = F.pad(points, (0, 1), value=1.0).transpose(1, 2)
    x, y, depth = (projection.flatten(1, 2) @ homogeneous).unflatten(1, (-1, 3)).unbind(dim=2)
    safe = torch.where(depth.abs() < 1e-8, torch.full_like(depth, 1e-8), depth)
    scaled = (depth - near) * (2 / (far - near))
    return torch.stack([x / safe - 1, y / safe - 1, scaled - 1], dim=2).transpose(2, 3)


def sample_volumes(
    volumes: Float[Tensor, "batch view c d h w"], coordinates: Float[Tensor, "batch view n 3"]
) -> Float[Tensor, "batch view n c"]:
    """Trilinear samples; outside the frustum the border voxel is returned. Differentiable in the volumes.

    Fast where the channels of a voxel lie together in memory, as the encoder makes them.
    """
    batch, views, _, depth, height, width = volumes.shape
    strides = (1, width, width * height)  # of x, y, z, in rows of the table
    volume = torch.arange(batch * views, dtype=torch.int32, device=volumes.device).view(batch, views, 1)
    first_row = volume * (width * height * depth)
    fractions = []
    for axis, (size, stride) in enumerate(zip((width, height, depth), strides, strict=True)):
        place = (coordinates[..., axis] * (size / 2) + (size - 1) / 2).clamp(0, size - 1)
        first = place.floor().clamp(max=max(size - 2, 0))  # the last voxel is the far neighbour of the one before
        fractions.append((place - first).flatten())
        first_row = first_row + first.to(torch.int32) * stride
    steps = tuple(stride if size > 1 else 0 for size, stride in zip((width, height, depth), strides, strict=True))
    table = rearrange(volumes, "b v c d h w -> (b v d h w) c").to(coordinates.dtype)
    sampled = interpolate(table, first_row.flatten(), torch.stack(fractions), steps)
    return sampled.view(batch, views, -1, table.shape[-1])


def sample_images(
    images: Float[Tensor, "batch view c h w"], coordinates: Float[Tensor, "batch view n 3"]
) -> Float[Tensor, "batch view c n"]:
    """Bilinear samples of the known images at the projections of the points; z is ignored."""
    grid = rearrange(coordinates[..., :2], "b v n xy -> (b v) 1 n xy").contiguous()
    flat = rearrange(images, "b v c h w -> (b v) c h w").to(grid.dtype)
    sampled = F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return rearrange(sampled, "(b v) c 1 n -> b v c n", b=images.shape[0])
