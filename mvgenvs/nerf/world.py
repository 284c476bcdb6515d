"""A volume in the world, computed from the known views' features by a 3-D U-Net: surfaces, hidden sides included.

A frustum volume contains what one view sees, repeated along every ray. Here each voxel gathers what the known views and
their mirror images show at its projections; a U-Net over the voxels decides what is really there.
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
LAYERS = 3  # of the transformer over the coarsest voxels
PIXEL_FEATURES, FINE_FEATURES = 32, 8  # channels from an image where a voxel projects to


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
    """Two levels of 3-D convolutions, and transformer layers at a third; the output has twice as many voxels."""

    def __init__(self, in_channels: int, channels: int, widths: Sequence[int], grid: Sequence[int]) -> None:
        super().__init__()
        fine, middle, deep = widths
        self.enter = nn.Conv3d(in_channels, fine, 1)
        self.down1 = nn.Sequential(VoxelBlock(fine), VoxelBlock(fine))
        self.shrink1 = nn.Conv3d(fine, middle, 2, stride=2)
        self.down2 = nn.Sequential(VoxelBlock(middle), VoxelBlock(middle))
        self.shrink2 = nn.Conv3d(middle, deep, 2, stride=2)
        self.places = nn.Parameter(torch.randn(grid[0] * grid[1] * grid[2] // 64, deep) * 0.02)
        layer = nn.TransformerEncoderLayer(deep, deep // 32, 4 * deep, 0.0, "gelu", batch_first=True, norm_first=True)
        self.attend = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
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


class VoxelDetail(nn.Module):
    """Adds to the fine voxels what the views show there; zero until it is trained."""

    def __init__(self, seen_channels: int, channels: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv3d(seen_channels + channels, width, 1)
        self.norm = nn.GroupNorm(width // 4, width)
        self.leave = nn.Conv3d(width, channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "n k d h w"], seen: Float[Tensor, "n c d h w"]) -> Float[Tensor, "n k d h w"]:
        return x + self.leave(F.silu(self.norm(self.enter(torch.cat([x, seen], dim=1)))))


def centers_of(grid: Sequence[int]) -> Float[Tensor, "3 d h w"]:
    """The centres of the voxels of a grid over [-1, 1]; `grid` has the numbers of voxels along x, y and z."""
    axes = [(torch.arange(n) + 0.5) / n * 2 - 1 for n in grid]
    z, y, x = torch.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    return torch.stack([x, y, z])


class WorldVolume(nn.Module):
    """Features of known views -> (channels, 2 depth, 2 height, 2 width) voxels of the box `extent` at the origin."""

    centers: Tensor
    fine_centers: Tensor

    def __init__(
        self,
        image_channels: int,
        channels: int,
        widths: Sequence[int] = (48, 96, 192),
        grid: Sequence[int] = (20, 20, 32),
        extent: Sequence[float] = (0.32, 0.32, 0.52),
        detail: int = 0,
        pixel_channels: int = 3,
    ) -> None:
        """`grid` is the number of voxels along x, y and z, multiples of 4; `extent` is half of the box's sides. With
        `detail`, the fine voxels also gather what views show there, for convolutions with `detail` channels.
        """
        super().__init__()
        self.extent = tuple(extent)
        for name, sides in (("centers", grid), ("fine_centers", [2 * n for n in grid])):
            self.register_buffer(name, centers_of(sides) * torch.tensor(self.extent).view(3, 1, 1, 1), persistent=False)
        seen = pixel_channels + 1  # besides the features: the pixel, and the voxel's depth in the view
        self.project = nn.Conv2d(image_channels, PIXEL_FEATURES, 1)
        self.unet = VoxelUNet(2 * (PIXEL_FEATURES + seen) + 6, channels, widths, grid)
        self.detail = None
        if detail:
            self.project_fine = nn.Conv2d(image_channels, FINE_FEATURES, 1)
            self.detail = VoxelDetail(2 * (FINE_FEATURES + seen), channels, detail)

    def forward(
        self,
        features: Float[Tensor, "batch view c fh fw"],
        images: Float[Tensor, "batch view i h w"],
        cameras: Cameras,
        num_mirrored: int,
        near: float,
        far: float,
    ) -> Float[Tensor, "batch k gd gh gw"]:
        """The last `num_mirrored` views are mirror images, which voxels keep apart from the true views."""

        def gathered(centers: Float[Tensor, "3 d h w"], project: nn.Module) -> Float[Tensor, "batch k d h w"]:
            narrow = project(features.flatten(0, 1)).unflatten(0, images.shape[:2])
            seen = gather(centers.flatten(1).T, narrow, images, cameras, near, far)
            return by_kind(seen, num_mirrored).unflatten(2, centers.shape[1:])

        seen = gathered(self.centers, self.project)
        places = self.centers / self.centers.new_tensor(self.extent).view(3, 1, 1, 1)
        places = torch.cat([places, places.square()]).to(seen.dtype)
        out: Tensor = self.unet(torch.cat([seen, places.expand(len(seen), -1, -1, -1, -1)], dim=1))
        return out if self.detail is None else self.detail(out, gathered(self.fine_centers, self.project_fine))


def by_kind(seen: Float[Tensor, "batch view k n"], num_mirrored: int) -> Float[Tensor, "batch 2*k n"]:
    """The mean over the true views, followed by the mean over the mirror images, zero if there are none."""
    known = seen.shape[1] - num_mirrored
    true = seen[:, :known].mean(dim=1)
    mirrored = seen[:, known:].mean(dim=1) if num_mirrored else torch.zeros_like(true)
    return torch.cat([true, mirrored], dim=1)


def gather(
    points: Float[Tensor, "n 3"],
    features: Float[Tensor, "batch view c fh fw"],
    images: Float[Tensor, "batch view i h w"],
    cameras: Cameras,
    near: float,
    far: float,
) -> Float[Tensor, "batch view k n"]:
    """What each view shows at every point: its features and pixels there, and the point's depth in the view."""
    coordinates = without_autocast(frustum_coordinates)(
        cameras, points.expand(len(images), -1, -1), near, far
    )  # (batch, view, n, 3)
    grid = rearrange(coordinates[..., :2], "b v n xy -> (b v) n 1 xy").contiguous()

    def at_points(x: Float[Tensor, "batch view c h w"]) -> Float[Tensor, "batch view c n"]:
        sampled = F.grid_sample(x.flatten(0, 1).to(grid.dtype), grid, padding_mode="border", align_corners=False)
        return sampled[..., 0].to(features.dtype).unflatten(0, x.shape[:2])

    depth = coordinates[:, :, None, :, 2].to(features.dtype)
    return torch.cat([at_points(features), at_points(images * 2 - 1), depth], dim=2)
