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

    x and y are the projected pixel over the image's width and height; z is the z-depth mapped linearly from
    [near, far]. With `align_corners=False`, voxel i of N covers ((i, i + 1) / N) of the range, like pixel i of an
    image. Points behind a camera are far outside. Each coordinate is contiguous in memory.
    """
    height, width = cameras.hw
    image = cameras.projections
    depth = image[..., 2:, :]
    xy = image[..., :2, :] * image.new_tensor([2 / width, 2 / height])[:, None] - depth
    z = (2 * depth - F.pad(depth.new_tensor([near + far]), (3, 0))) / (far - near)
    rows = torch.cat([xy, z, depth], dim=-2).flatten(1, 2)
    projected = torch.baddbmm(rows[..., 3:], rows[..., :3], points.transpose(1, 2)).unflatten(1, (-1, 4))
    projected[:, :, :2] /= projected[:, :, 3:].clamp(min=1e-6)
    return projected[:, :, :3].transpose(2, 3)


def sample_volumes(
    volumes: Float[Tensor, "batch view c d h w"], coordinates: Float[Tensor, "batch view n 3"]
) -> Float[Tensor, "batch view n c"]:
    """Trilinear samples; points outside the frustum get the border voxel. Differentiable in the volumes.

    Fast if the channels of a voxel are contiguous in memory, as they are in the encoder's output.
    """
    batch, views, _, depth, height, width = volumes.shape
    sizes = (width, height, depth)  # along x, y and z
    strides = (1, width, width * height)  # of x, y and z, in rows of the table
    size = coordinates.new_tensor(sizes)[:, None]
    last = torch.nextafter(size - 1, torch.zeros_like(size))  # just short of the last voxel: there is always one more
    place = torch.addcmul((size - 1) / 2, coordinates.transpose(2, 3), size / 2).clamp_(min=0).minimum(last)
    first = place.floor()
    x, y, z = first.unbind(dim=2)
    row = (z * height).add_(y).mul_(width).add_(x).to(torch.int32)  # exact in fp32 up to 256^3 voxels
    volume = torch.arange(batch * views, dtype=torch.int32, device=volumes.device).view(batch, views, 1)
    steps = tuple(stride if n > 1 else 0 for n, stride in zip(sizes, strides, strict=True))
    table = rearrange(volumes, "b v c d h w -> (b v d h w) c").to(coordinates.dtype)
    return interpolate(table, row + volume * (width * height * depth), (place - first).unbind(dim=2), steps)


def sample_images(
    images: Float[Tensor, "batch view c h w"], coordinates: Float[Tensor, "batch view n 3"]
) -> Float[Tensor, "batch view c n"]:
    """Bilinear samples of the known images at the projections of the points; z is ignored."""
    grid = rearrange(coordinates[..., :2], "b v n xy -> (b v) 1 n xy").contiguous()
    flat = rearrange(images, "b v c h w -> (b v) c h w").to(grid.dtype)
    sampled = F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return rearrange(sampled, "(b v) c 1 n -> b v c n", b=images.shape[0])
