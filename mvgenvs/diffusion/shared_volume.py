"""A volume that the noisy views of a set share, and to whose samples along its rays each view attends.

[SyncDreamer, Liu et al. 2023, arXiv 2309.03453]: at each step, all views are lifted into one voxel grid in the
world, 3-D convolutions fill it, and the UNet's middle and decoder blocks attend, cell by cell, along the depth of the
cell's ray. Anchors are views of the set like others: so the known image enters, too. The attention's output starts at
zero, so that a new volume changes nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mvgenvs.cameras import Cameras
from mvgenvs.nerf.world import VoxelBlock, centers_of

RADIUS = 0.55  # of the sphere that holds the object; half the side of the volume
DEPTHS = 8  # samples along a ray
WIDTH = 32  # channels of the volume


def normalised_projections(cameras: Cameras) -> Float[Tensor, "*batch view 3 4"]:
    """World points, homogeneous, to places in the picture times depth, and depth; its sides are at -1 and 1."""
    height, width = cameras.hw
    image = cameras.projections
    depth = image[..., 2:, :]
    scale = image.new_tensor([2 / width, 2 / height])[:, None]
    return torch.cat([image[..., :2, :] * scale - depth, depth], dim=-2)


def ray_points(projections: Float[Tensor, "n 3 4"], hw: tuple[int, int]) -> Float[Tensor, "n depth h w 3"]:
    """Points of the world along the ray of each cell of a picture, evenly spaced in depth through the sphere."""
    rotation, shift = projections[..., :3].float(), projections[..., 3].float()
    inverse = torch.linalg.inv(rotation)
    distance = torch.einsum("nij,nj->ni", inverse, shift).norm(dim=-1)  # of the camera from the origin
    steps = RADIUS * (2 * (torch.arange(DEPTHS, device=shift.device) + 0.5) / DEPTHS - 1)
    depth = distance[:, None] + steps  # (n, depth)
    v, u = (2 * (torch.arange(side, device=shift.device) + 0.5) / side - 1 for side in hw)
    places = torch.stack([u.expand(len(v), -1), v[:, None].expand(-1, len(u)), torch.ones(hw, device=u.device)], dim=-1)
    seen = depth[:, :, None, None, None] * places - shift[:, None, None, None]
    return torch.einsum("nij,ndhwj->ndhwi", inverse, seen)


class DepthAttention(nn.Module):
    """Each cell of a feature map attends to the samples of the volume along its ray. Zero until it is trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(16, channels)
        self.query = nn.Conv2d(channels, WIDTH, 1)
        self.key, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.leave = nn.Conv2d(WIDTH, channels, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]
        self.volume: tuple[Tensor, Tensor] | None = None  # of the sets at work, and the projections of their views

    def forward(
        self,
        x: Float[Tensor, "views c h w"],
        volume: Float[Tensor, "set k d d d"],
        projections: Float[Tensor, "set view 3 4"],
    ) -> Float[Tensor, "views c h w"]:
        points = ray_points(projections.flatten(0, 1), (x.shape[-2], x.shape[-1]))
        grid = rearrange(points / RADIUS, "(s v) d h w xyz -> s v d (h w) xyz", s=len(volume))
        sampled = F.grid_sample(volume.float(), grid, align_corners=False)  # (set, k, view, depth, cells)
        along = rearrange(sampled, "s k v d n -> (s v) n d k").to(x.dtype)
        query = rearrange(self.query(self.norm(x)), "n k h w -> n (h w) k")
        weights = torch.einsum("nck,ncdk->ncd", query, self.key(along)).div(WIDTH**0.5).softmax(dim=-1)
        told = torch.einsum("ncd,ncdk->nck", weights, self.value(along))
        return x + self.leave(rearrange(told, "n (h w) k -> n k h w", h=x.shape[-2]))

    def after(self, _: nn.Module, __: Any, output: Float[Tensor, "views c h w"]) -> Float[Tensor, "views c h w"]:
        """The hook behind a block of the UNet."""
        return output if self.volume is None else self(output, *self.volume)


class SharedVolume(nn.Module):
    """Lifts what the UNet is given of the views of a set, and tells its middle and decoder blocks of the volume."""

    centers: Tensor

    def __init__(self, in_channels: int, side: int, unet: nn.Module, block_out_channels: Sequence[int]) -> None:
        """`in_channels` are those of the UNet's input; `side` is that of the volume in voxels."""
        super().__init__()
        self.enter = nn.Conv2d(in_channels + 1, WIDTH, 3, padding=1)
        self.fill = nn.Sequential(nn.Conv3d(2 * WIDTH, WIDTH, 1), VoxelBlock(WIDTH), VoxelBlock(WIDTH))
        self.register_buffer("centers", RADIUS * centers_of((side,) * 3), persistent=False)
        network: Any = unet
        blocks = [network.mid_block, *network.up_blocks]
        channels = [block_out_channels[-1], *reversed(block_out_channels)]
        self.attention = nn.ModuleList(DepthAttention(count) for count in channels)
        for block, attention in zip(blocks, self.attention, strict=True):
            block.register_forward_hook(attention.after)

    def lift(
        self,
        inputs: Float[Tensor, "set view c h w"],
        levels: Float[Tensor, "set view"],
        projections: Float[Tensor, "set view 3 4"],
    ) -> Float[Tensor, "set k d d d"]:
        """Mean and variance, over the views, of what they show at each voxel, filled by 3-D convolutions.

        `levels` tell noisy views from clean ones.
        """
        shown = torch.cat([inputs, levels[..., None, None, None].expand(-1, -1, 1, *inputs.shape[-2:])], dim=2)
        features = self.enter(shown.flatten(0, 1)).float()
        homogeneous = F.pad(self.centers.flatten(1), (0, 0, 0, 1), value=1.0)  # (4, voxels)
        place = projections.flatten(0, 1).float() @ homogeneous
        grid = (place[:, :2] / place[:, 2:].clamp(min=1e-6)).mT[:, None]
        sampled = F.grid_sample(features, grid, align_corners=False)[:, :, 0].unflatten(0, inputs.shape[:2])
        variance, mean = torch.var_mean(sampled, dim=1, correction=0)
        return self.fill(torch.cat([mean, variance], dim=1).unflatten(-1, self.centers.shape[1:]))

    @contextmanager
    def seen(
        self,
        inputs: Float[Tensor, "set view c h w"],
        levels: Float[Tensor, "set view"],
        projections: Float[Tensor, "set view 3 4"],
    ) -> Iterator[None]:
        """Within the block, the UNet attends to the volume of these sets."""
        volume = self.lift(inputs, levels, projections)
        for attention in self.attention:
            attention.volume = (volume, projections)  # type: ignore[assignment]
        try:
            yield
        finally:
            for attention in self.attention:
                attention.volume = None  # type: ignore[assignment]
