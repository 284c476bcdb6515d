"""A coloured point cloud with normals, from views with depth alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.errors import UserError
from mvgenvs.reconstruction.fusion import NOTHING
from mvgenvs.reconstruction.observations import ObservedViews, sample_nearest

SPACING = 0.7  # of points, in pixels of a view at the object's distance
OPAQUE = 0.9  # pixels of less opacity, at silhouettes, also show what is behind them
GRAZING = 0.15  # cosine below which a normal from depth means nothing
BEFORE = 0.02  # world units: a point so far before the surface that a view sees floats in air
FLOATING = 0.1  # share of the views that may see through a point


@dataclass(frozen=True, eq=False, slots=True)
class PointCloud:
    """Points of a surface, about evenly spread."""

    points: Float[np.ndarray, "n 3"]  # in the world
    normals: Float[np.ndarray, "n 3"]  # unit, pointing outwards
    colours: Float[np.ndarray, "n 3"]  # in [0, 1]
    spacing: float  # of neighbouring points, in world units


def point_cloud(sources: Sequence[ObservedViews]) -> PointCloud:
    """Points that the views of the first source show; those of the next, where it has none nearby.

    Points in the air are left out, and those of several views in one cell become one. Raises `UserError` if nothing is
    opaque.
    """
    spacing = SPACING * _footprint(sources[0])
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    taken: Int[np.ndarray, " n"] = np.empty(0, np.int64)
    for views in sources:
        points, normals, colours, weights = (torch.cat(x) for x in zip(*_of_views(views), strict=True))
        kept = _not_floating(points, sources)
        kept &= torch.from_numpy(~np.isin(_cells(points, 3 * spacing), taken))
        if not kept.any():
            continue
        points, normals, colours, weights = (x[kept] for x in (points, normals, colours, weights))
        parts.append(_merged(_cells(points, spacing), points, normals, colours, weights))
        taken = np.union1d(taken, _cells(points, 3 * spacing))
    if not parts:
        raise UserError(NOTHING)
    places, outwards, paint = (torch.cat(x).numpy() for x in zip(*parts, strict=True))
    return PointCloud(places, outwards, paint, spacing)


def _of_views(views: ObservedViews) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Of each view, its points with normals, colours, and weights: the cosine between ray and normal."""
    found = []
    for view in range(len(views.images)):
        solid = views.solid[view, 0]
        points = torch.zeros(*solid.shape, 3)
        points[solid] = views.points(view)
        across, down = _differences(points, solid)
        normals = F.normalize(torch.linalg.cross(down, across), dim=-1)  # towards the camera: y points down in images
        towards = F.normalize(views.cameras.centers[view] - points, dim=-1)
        cosine = (normals * towards).sum(dim=-1)
        kept = solid & (cosine > GRAZING) & (views.opacity[view, 0] > OPAQUE)
        found.append((points[kept], normals[kept], views.images[view].movedim(0, -1)[kept], cosine[kept]))
    return found


def _differences(
    points: Float[Tensor, "h w 3"], solid: Bool[Tensor, "h w"]
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w 3"]]:
    """Differences between the neighbours to the right and left, and below and above; 0 where one is not solid."""
    results = []
    for axis in (1, 0):
        ahead, behind = points.roll(-1, axis), points.roll(1, axis)
        whole = solid & solid.roll(-1, axis) & solid.roll(1, axis)
        results.append(torch.where(whole[..., None], ahead - behind, 0.0))
    return results[0], results[1]


def _not_floating(points: Float[Tensor, "n 3"], sources: Sequence[ObservedViews]) -> Bool[Tensor, " n"]:
    """Whether no more than a few views see something behind the points, or the background."""
    through, seen = torch.zeros(len(points)), torch.zeros(len(points))
    for views in sources:
        for view in range(len(views.images)):
            (pixels,), (z,) = views.cameras.select([view]).project(points[None])
            (depth, solid), inside = sample_nearest(torch.cat([views.depth[view], views.solid[view]]), pixels)
            inside &= z > 0
            through += inside & ((solid == 0) | (depth > z + BEFORE))
            seen += inside
    return through <= FLOATING * seen


def _footprint(views: ObservedViews) -> float:
    """The size of a pixel at the object, in world units: the median over all solid pixels."""
    solid = views.solid
    if not solid.any():
        raise UserError(NOTHING)
    focal = views.cameras.K[:, 0, 0, None, None, None]
    return float((views.depth / focal)[solid].median())


def _cells(points: Float[Tensor, "n 3"], size: float) -> Int[np.ndarray, " n"]:
    """A number for the cube of this size in which each point lies."""
    x, y, z = np.floor(points.double().numpy() / size).astype(np.int64).T + 2**20
    return (x << 42) | (y << 21) | z


def _merged(
    cells: Int[np.ndarray, " n"],
    points: Float[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    colours: Float[Tensor, "n 3"],
    weights: Float[Tensor, " n"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted means of the points, normals and colours in each cell."""
    number = torch.from_numpy(np.unique(cells, return_inverse=True)[1].reshape(-1))
    count = int(number.max()) + 1
    total = torch.zeros(count).index_add_(0, number, weights)[:, None]

    def mean(values: Float[Tensor, "n 3"]) -> Float[Tensor, "m 3"]:
        return torch.zeros(count, 3).index_add_(0, number, values * weights[:, None]) / total

    return mean(points), F.normalize(mean(normals), dim=-1), mean(colours)
