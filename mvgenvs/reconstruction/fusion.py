"""Depth maps of many views fused into one signed distance on a grid [Curless and Levoy 1996].

Where a view sees the background, or something farther away, there is air; what no view has seen through is solid, so
that surfaces are closed.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.errors import UserError
from mvgenvs.reconstruction.observations import ObservedViews, sample_nearest

TRUNCATION = 3  # in cells: how far from a surface its distance counts
MARGIN = 3  # cells around the object
STRAY = 0.0005  # share of points that may lie outside the grid at each side: edges of depth maps have strays
NOTHING = "there is no object in these views: nothing in them is opaque"


@dataclass(frozen=True, eq=False, slots=True)
class DistanceGrid:
    """Signed distances on a regular grid."""

    values: Float[Tensor, "x y z"]  # in units of the truncation, negative inside
    low: Float[Tensor, "3"]  # of the first grid point
    step: float  # world units between grid points


def fuse(views: ObservedViews, resolution: int = 112) -> DistanceGrid:
    """Fuses the depth maps; `resolution` is the number of cells along the diagonal of the object's box.

    Raises `UserError` if nothing is opaque.
    """
    points, low, step = _grid(views, resolution)
    flat = points.reshape(-1, 3)
    total, count = torch.zeros(len(flat)), torch.zeros(len(flat))
    for view in range(len(views.images)):
        camera = views.cameras.select([view])
        (pixels,), (z,) = camera.project(flat[None])
        (depth, solid), inside = sample_nearest(torch.cat([views.depth[view], views.solid[view]]), pixels)
        distance = torch.where(solid > 0, (depth - z) / (TRUNCATION * step), 1.0)
        counts = inside & (z > 0) & (distance > -1)
        total += torch.where(counts, distance.clamp(max=1), 0.0)
        count += counts
    values = torch.where(count > 0, total / count.clamp(min=1), -1.0)
    return DistanceGrid(values.view(points.shape[:-1]), low, step)


def _grid(views: ObservedViews, resolution: int) -> tuple[Float[Tensor, "x y z 3"], Float[Tensor, "3"], float]:
    """Grid points around all that the views show: the points, the first of them, and the step."""
    shown = torch.cat([views.points(view) for view in range(len(views.images))])
    if not len(shown):
        raise UserError(NOTHING)
    ends = np.quantile(shown.numpy(), [STRAY, 1 - STRAY], axis=0)
    low, high = torch.from_numpy(ends).float()
    step = max(float((high - low).norm()), 1e-6) / resolution
    low, high = low - MARGIN * step, high + MARGIN * step
    axes = [float(a) + step * torch.arange(int((b - a) / step) + 2) for a, b in zip(low, high, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1), low, step
