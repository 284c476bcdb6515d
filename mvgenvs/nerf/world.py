"""A volume in the world, made of the known views' features by a 3-D U-Net: where surfaces are, hidden sides included.

A frustum volume knows what one view sees, and repeats it along every ray. Here each voxel gathers what the known views
and their mirror images show at its projections; a U-Net over the voxels decides what is really there.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mvgenvs.cameras import Cameras
from mvgenvs.nerf.volume import frustum_coordinates
from mvgenvs.precision import without_autocast

GROUPS = 16
PIXEL_FEATURES = 32  # of an image feature, where a voxel projects to


class VoxelBlock(nn.Module):
    """A residual block of two 3-D convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, channels) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv3d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Float[Tensor, "n c d h w"]) -> Float[Tensor, "n c d h w"]:
        out = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            out = convolution(F.silu(norm(out)))
        return x + out


class VoxelUNet(nn.Module):
    """Two levels of 3-D convolutions, transformer layers over the voxels of a third; twice as many voxels come out."""

    def __init__(
        self, in_channels: int, channels: int, widths: Sequence[int], grid: Sequence[int], layers: int
    ) -> None:
        super().__init__()
        fine, middle, deep = widths
        self.enter = nn.Conv3d(in_channels, fine, 1)
        self.down1 = nn.Sequential(VoxelBlock(fine), VoxelBlock(fine))
        self.shrink1 = nn.Conv3d(fine, middle, 2, stride=2)
        self.down2 = nn.Sequential(VoxelBlock(middle), VoxelBlock(middle))
        self.shrink2 = nn.Conv3d(middle, deep, 2, stride=2)
        self.places = nn.Parameter(torch.randn(grid[0] * grid[1] * grid[2] // 64, deep) * 0.02)
        layer = nn.TransformerEncoderLayer(deep, deep // 32, 4 * deep, 0.0, "gelu", batch_first=True, norm_first=True)
        self.attend = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.grow2 = nn.ConvTranspose3d(deep, middle, 2, stride=2)
        self.merge2 = nn.Conv3d(2 * middle, middle, 1)
        self.up2 = nn.Sequential(VoxelBlock(middle), VoxelBlock(middle))
        self.grow1 = nn.ConvTranspose3d(middle, fine, 2, stride=2)
        self.merge1 = nn.Conv3d(2 * fine, fine, 1)
        self.up1 = nn.Sequential(VoxelBlock(fine), VoxelBlock(fine), nn.GroupNorm(GROUPS, fine), nn.SiLU())
        self.leave = nn.ConvTranspose3d(fine, channels, 4, stride=2, padding=1)

    def forward(self, x: Float[Tensor, "n c d h w"]) -> Float[Tensor, "n k 2*d 2*h 2*w"]:
        x1 = self.down1(self.enter(x))
        x2 = self.down2(self.shrink1(x1))
        x3 = self.shrink2(x2)
        tokens = self.attend(rearrange(x3, "b c d h w -> b (d h w) c") + self.places)
        deep = rearrange(tokens, "b (d h w) c -> b c d h w", d=x3.shape[2], h=x3.shape[3])
        x2 = self.up2(self.merge2(torch.cat([x2, self.grow2(deep)], dim=1)))
        x1 = self.up1(self.merge1(torch.cat([x1, self.grow1(x2)], dim=1)))
        return self.leave(x1)


class WorldVolume(nn.Module):
    """Features of known views -> (channels, 2 depth, 2 height, 2 width) voxels of the box `extent` at the origin."""

    centers: Tensor

    def __init__(
        self,
        image_channels: int,
        channels: int,
        widths: Sequence[int] = (48, 96, 192),
        grid: Sequence[int] = (20, 20, 32),
        extent: Sequence[float] = (0.32, 0.32, 0.52),
        layers: int = 3,
    ) -> None:
        """`grid` is the number of voxels along x, y and z, multiples of 4; `extent` is half of the box's sides."""
        super().__init__()
        self.extent = tuple(extent)
        axes = [(torch.arange(n) + 0.5) / n * 2 - 1 for n in grid]
        z, y, x = torch.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
        self.register_buffer("centers", torch.stack([x, y, z]), persistent=False)  # (3, d, h, w), in [-1, 1]
        self.project = nn.Conv2d(image_channels, PIXEL_FEATURES, 1)
        of_group = PIXEL_FEATURES + 3 + 1  # features, colour, depth of the voxel in the view
        self.unet = VoxelUNet(2 * of_group + 6, channels, widths, grid, layers)

    def forward(
        self,
        features: Float[Tensor, "batch view c fh fw"],
        images: Float[Tensor, "batch view 3 h w"],
        cameras: Cameras,
        num_mirrored: int,
        near: float,
        far: float,
    ) -> Float[Tensor, "batch k gd gh gw"]:
        """The last `num_mirrored` views are mirror images, which voxels keep apart from the true ones."""
        gathered = self._gathered(features, images, cameras, near, far)
        known = gathered.shape[1] - num_mirrored
        true = gathered[:, :known].mean(dim=1)
        mirrored = gathered[:, known:].mean(dim=1) if num_mirrored else torch.zeros_like(true)
        places = torch.cat([self.centers, self.centers.square()]).to(true.dtype)
        return self.unet(torch.cat([true, mirrored, places.expand(len(true), -1, -1, -1, -1)], dim=1))

    def _gathered(
        self,
        features: Float[Tensor, "batch view c fh fw"],
        images: Float[Tensor, "batch view 3 h w"],
        cameras: Cameras,
        near: float,
        far: float,
    ) -> Float[Tensor, "batch view k gd gh gw"]:
        """What each view shows at every voxel: its features and colours there, and how deep in the view it lies."""
        batch, views = images.shape[:2]
        points = self.centers.flatten(1).T * self.centers.new_tensor(self.extent)
        coordinates = without_autocast(frustum_coordinates)(cameras, points.expand(batch, -1, -1), near, far)
        grid = rearrange(coordinates[..., :2], "b v n xy -> (b v) n 1 xy").contiguous()
        narrow = self.project(features.flatten(0, 1))

        def at_voxels(x: Float[Tensor, "m c h w"]) -> Float[Tensor, "m c n"]:
            sampled = F.grid_sample(x.to(grid.dtype), grid, padding_mode="border", align_corners=False)
            return sampled[..., 0].to(narrow.dtype)

        depth = rearrange(coordinates[..., 2], "b v n -> (b v) 1 n").to(narrow.dtype)
        rows = torch.cat([at_voxels(narrow), at_voxels(images.flatten(0, 1) * 2 - 1), depth], dim=1)
        return rows.unflatten(2, self.centers.shape[1:]).unflatten(0, (batch, views))
