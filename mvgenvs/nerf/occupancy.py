"""Where a lifted scene is empty: found once on a coarse grid, so that rays spend no samples on air.

Most rays of a picture hit nothing, and those that hit the object are in air most of the way. A cell is empty if the
field's density is negligible at its centre and at those of all its neighbours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.nerf.renderer import Bounds

NEGLIGIBLE = 0.2  # density: it would take a tenth of the light of a ray through the whole box; air is below .01
STEPS, AT_ONCE = 64, 16  # where a ray looks for occupied cells, and how many of these it looks at together
AT_ONCE_POINTS = 2**17  # points whose density is computed together


@dataclass(frozen=True, eq=False, slots=True)
class Occupancy:
    """The occupied cells of the box of half sides `extent` around the origin."""

    cells: Bool[Tensor, "batch d h w"]
    extent: tuple[float, float, float]

    def tightened(
        self,
        bounds: Bounds,
        origins: Float[Tensor, "batch ray 3"],
        directions: Float[Tensor, "batch ray 3"],
    ) -> Bounds:
        """The part of each ray from its first occupied cell to its last; rays without any count as misses."""
        step = (bounds.far - bounds.near) / STEPS
        size = torch.tensor(self.cells.shape[:0:-1], device=origins.device)  # along x, y, z
        scale = size / (2 * origins.new_tensor(self.extent))
        flat = self.cells.flatten(1)
        start = (origins + origins.new_tensor(self.extent)) * scale  # in cells
        along = directions * scale
        first, last = torch.full_like(bounds.near, STEPS), torch.full_like(bounds.near, -1)
        for block in torch.arange(STEPS, device=origins.device).split(AT_ONCE):
            t = bounds.near[..., None] + (block + 0.5) * step[..., None]  # (batch, ray, block)
            x, y, z = (
                (start[..., axis, None] + t * along[..., axis, None]).long().clamp(0, self.cells.shape[-1 - axis] - 1)
                for axis in range(3)
            )
            row = (z * size[1] + y) * size[0] + x
            occupied = flat.gather(1, row.flatten(1)).view(row.shape)
            first = torch.minimum(first, torch.where(occupied, block, STEPS).amin(dim=-1))
            last = torch.maximum(last, torch.where(occupied, block, -1).amax(dim=-1))
        hits = bounds.hits * (last >= 0)
        near = torch.maximum(bounds.near, bounds.near + (first - 0.5) * step)  # where it looked before
        far = torch.minimum(bounds.far, bounds.near + (last + 1.5) * step)
        return Bounds(torch.where(hits > 0, near, bounds.near), torch.where(hits > 0, far, bounds.far), hits)


def find_occupancy(
    density: Callable[[Float[Tensor, "batch n 3"]], Float[Tensor, "batch n"]],
    batch: int,
    cells: tuple[int, int, int],
    extent: tuple[float, float, float],
    device: torch.device,
) -> Occupancy:
    """The occupancy of a density on a grid of `cells` along x, y and z."""
    axes = [((torch.arange(n, device=device) + 0.5) / n * 2 - 1) * half for n, half in zip(cells, extent, strict=True)]
    z, y, x = torch.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    points = torch.stack([x, y, z], dim=-1).reshape(1, -1, 3)
    parts = [density(part.expand(batch, -1, -1)) for part in points.split(max(1, AT_ONCE_POINTS // batch), dim=1)]
    found = torch.cat(parts, dim=1).unflatten(1, x.shape)
    around = F.max_pool3d(found[:, None].float(), 3, stride=1, padding=1)[:, 0]
    return Occupancy(around > NEGLIGIBLE, extent)
