"""Pinhole cameras: the one camera type of the project, with its rays and its projection.

Conventions, everywhere: OpenCV camera axes (+x right, +y down, +z forward); `c2w` maps camera to world; `K` is in
pixels, with pixel centres at +0.5, so that the image spans [0, W] x [0, H]. The world is y-up. The object is centred at
the origin, with a bounding-box diagonal of 1; a car's front points to -z. Depth is z-depth, not distance along the ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.precision import without_autocast


@dataclass(frozen=True, eq=False, slots=True)
class Cameras:
    """Pinhole cameras of one scene, or of a batch of scenes with equally many views."""

    c2w: Float[Tensor, "*batch view 4 4"]
    K: Float[Tensor, "*batch view 3 3"]
    hw: tuple[int, int]

    @property
    def num_views(self) -> int:
        return self.c2w.shape[-3]

    @property
    def centers(self) -> Float[Tensor, "*batch view 3"]:
        """Camera centres in the world."""
        return self.c2w[..., :3, 3]

    def to(self, device: torch.device | str) -> "Cameras":
        return Cameras(self.c2w.to(device), self.K.to(device), self.hw)

    def select(self, views: Sequence[int] | slice) -> "Cameras":
        """The cameras of some views, in the order given."""
        index = views if isinstance(views, slice) else list(views)
        return Cameras(self.c2w[..., index, :, :], self.K[..., index, :, :], self.hw)

    def repeat(self, times: int) -> "Cameras":
        """Each entry of the batch repeated `times` times in a row."""
        return Cameras(self.c2w.repeat_interleave(times, dim=0), self.K.repeat_interleave(times, dim=0), self.hw)

    def batched(self) -> "Cameras":
        """Adds a leading batch axis of 1."""
        return Cameras(self.c2w[None], self.K[None], self.hw)

    def resized(self, hw: tuple[int, int]) -> "Cameras":
        """The same cameras for images of another size: `K` scales with the image."""
        scale = torch.tensor([hw[1] / self.hw[1], hw[0] / self.hw[0], 1.0], dtype=self.K.dtype, device=self.K.device)
        return Cameras(self.c2w, self.K * scale[:, None], hw)

    def with_focal(self, focal: float) -> "Cameras":
        """The same cameras with another focal length in pixels; the images' size stays."""
        K = self.K.clone()
        K[..., 0, 0] = K[..., 1, 1] = focal
        return Cameras(self.c2w, K, self.hw)

    def middle_square(self) -> "Cameras":
        """The same cameras for images cropped to their middle square."""
        height, width = self.hw
        side = min(height, width)
        K = self.K.clone()
        K[..., 0, 2] -= (width - side) // 2
        K[..., 1, 2] -= (height - side) // 2
        return Cameras(self.c2w, K, (side, side))

    @without_autocast
    def mirrored(self) -> "Cameras":
        """The cameras that see the world reflected in x when their images are flipped left to right: P' = M P M.

        `M = diag(-1, 1, 1, 1)` reflects the world on the left and keeps the camera right-handed on the right; the
        principal point is reflected with the image.
        """
        mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=self.c2w.dtype, device=self.c2w.device))
        K = self.K.clone()
        K[..., 0, 2] = self.hw[1] - K[..., 0, 2]
        return Cameras(mirror @ self.c2w @ mirror, K, self.hw)

    @without_autocast
    def moved(self, matrix: Float[Tensor, "*batch 4 4"]) -> "Cameras":
        """The cameras moved together with the world by one rigid motion per scene: their images stay the same."""
        return Cameras(matrix[..., None, :, :].to(self.c2w) @ self.c2w, self.K, self.hw)

    @without_autocast
    def rays(self) -> tuple[Float[Tensor, "*batch view h w 3"], Float[Tensor, "*batch view h w 3"]]:
        """World-space origins and unit directions through the centre of every pixel."""
        centers = self._pixel_centers
        pixels = torch.cat([centers, torch.ones_like(centers[..., :1])], dim=-1)  # (h, w, 3), homogeneous
        pixel_to_world = self.c2w[..., :3, :3] @ torch.linalg.inv(self.K)  # (*batch, view, 3, 3)
        directions = torch.einsum("...ij,hwj->...hwi", pixel_to_world, pixels)
        directions = directions / directions.norm(dim=-1, keepdim=True)
        return self.centers[..., None, None, :].expand_as(directions), directions

    def plucker(self) -> Float[Tensor, "*batch view 6 h w"]:
        """Plücker coordinates (direction, moment o x d) of every pixel's ray."""
        origins, directions = self.rays()
        return torch.cat([directions, torch.linalg.cross(origins, directions)], dim=-1).movedim(-1, -3)

    @property
    @without_autocast
    def projections(self) -> Float[Tensor, "*batch view 3 4"]:
        """K [R | t]: world points, homogeneous, to pixels times depth, and depth."""
        return self.K @ torch.linalg.inv(self.c2w)[..., :3, :]

    @without_autocast
    def project(
        self, points: Float[Tensor, "*batch #view n 3"]
    ) -> tuple[Float[Tensor, "*batch view n 2"], Float[Tensor, "*batch view n"]]:
        """Pixel coordinates (x, y) and z-depth of world points in each view; depth <= 0 is behind the camera."""
        rotation, centers = self.c2w[..., :3, :3], self.centers
        local = (points - centers[..., None, :]) @ rotation  # R^T (p - c), written for row vectors
        depth = local[..., 2]
        safe = torch.where(depth.abs() < 1e-8, torch.full_like(depth, 1e-8), depth)
        pixels = (local / safe[..., None]) @ self.K.transpose(-1, -2)
        return pixels[..., :2], depth

    @without_autocast
    def unproject(
        self, pixels: Float[Tensor, "*batch view n 2"], depth: Float[Tensor, "*batch view n"]
    ) -> Float[Tensor, "*batch view n 3"]:
        """World points at the given pixels and z-depths: the inverse of `project`."""
        homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1) * depth[..., None]
        local = homogeneous @ torch.linalg.inv(self.K).transpose(-1, -2)
        return local @ self.c2w[..., :3, :3].transpose(-1, -2) + self.centers[..., None, :]

    def unproject_map(self, depth: Float[Tensor, "*batch view 1 h w"]) -> Float[Tensor, "*batch view h*w 3"]:
        """World points that the centres of all pixels show, row by row, where these are their z-depths."""
        pixels = self._pixel_centers.flatten(0, 1).expand(*self.c2w.shape[:-2], -1, -1)
        return self.unproject(pixels, depth.flatten(-3))

    @property
    def _pixel_centers(self) -> Float[Tensor, "h w 2"]:
        """(x, y) of each pixel's centre."""
        options: dict[str, Any] = {"dtype": self.c2w.dtype, "device": self.c2w.device}
        v, u = torch.meshgrid(*(torch.arange(side, **options) + 0.5 for side in self.hw), indexing="ij")
        return torch.stack([u, v], dim=-1)


def concatenate(cameras: Sequence[Cameras]) -> Cameras:
    """Joins cameras of one image size along the view axis."""
    c2w = torch.cat([c.c2w for c in cameras], dim=-3)
    return Cameras(c2w, torch.cat([c.K for c in cameras], dim=-3), cameras[0].hw)


def turn_about_vertical(angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 4 4"]:
    """The rotation of the world by `angle` radians about +y."""
    matrix = torch.eye(4, dtype=angle.dtype, device=angle.device).repeat(*angle.shape, 1, 1)
    matrix[..., 0, 0] = matrix[..., 2, 2] = angle.cos()
    matrix[..., 0, 2], matrix[..., 2, 0] = angle.sin(), -angle.sin()
    return matrix


def look_at_origin(centers: Float[Tensor, "view 3"]) -> Float[Tensor, "view 4 4"]:
    """Camera-to-world matrices at `centers` looking at the origin, with the world's +y up in the image."""
    forward = -centers / centers.norm(dim=-1, keepdim=True)
    world_down = torch.tensor([0.0, -1.0, 0.0], dtype=centers.dtype, device=centers.device).expand_as(forward)
    # Seen from straight above, "up" is the object's front (-z): any fixed choice would do.
    front_down = torch.tensor([0.0, 0.0, 1.0], dtype=centers.dtype, device=centers.device).expand_as(forward)
    degenerate = (forward * world_down).sum(dim=-1, keepdim=True).abs() > 1 - 1e-6
    reference_down = torch.where(degenerate, front_down, world_down)
    right = torch.linalg.cross(reference_down, forward)
    right = right / right.norm(dim=-1, keepdim=True)
    down = torch.linalg.cross(forward, right)
    c2w = torch.eye(4, dtype=centers.dtype, device=centers.device).repeat(len(centers), 1, 1)
    c2w[:, :3, :3] = torch.stack([right, down, forward], dim=-1)
    c2w[:, :3, 3] = centers
    return c2w
