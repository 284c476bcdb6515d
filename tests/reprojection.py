"""How well depth maps and cameras agree: points of one view must lie on the surface that another view sees."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mvgenvs.cameras import Cameras

TOLERANCE = 0.01  # world units; an object's diagonal is 1


def agreement(depth: Tensor, cameras: Cameras) -> tuple[float, int]:
    """Share of co-visible pixels whose depth lands within `TOLERANCE` of another view's surface, and their number.

    The other view is the nearest in direction. A pixel is co-visible if its point falls on the object in that view,
    not on the one-pixel rim where depth jumps, and is not hidden there by something nearer. `depth` is (view, h, w),
    0 on the background.
    """
    height, width = cameras.hw
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([u, v], dim=-1).reshape(-1, 2)
    directions = F.normalize(cameras.centers, dim=-1)
    nearest = (directions @ directions.T - 2 * torch.eye(len(depth))).argmax(dim=1)
    good = total = 0
    for i in range(len(depth)):
        j = int(nearest[i])
        known = depth[i].flatten() > 0
        points = cameras.select([i]).unproject(pixels[None], depth[i].reshape(1, -1))[0, known]
        place, z = cameras.select([j]).project(points[None])
        column, row = place[0].floor().long().unbind(-1)
        inside = (column >= 1) & (column < width - 1) & (row >= 1) & (row < height - 1)
        column, row, z = column[inside], row[inside], z[0, inside]
        around = torch.stack([depth[j, row + dy, column + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
        grid = torch.stack([place[0, inside, 0] / width, place[0, inside, 1] / height], dim=-1) * 2 - 1
        seen = F.grid_sample(depth[None, None, j], grid[None, None], align_corners=False)[0, 0, 0]  # bilinear
        smooth = (around > 0).all(dim=0) & (around.amax(dim=0) - around.amin(dim=0) < 0.05)
        visible = smooth & (z < seen + 0.02)  # farther: hidden behind what the other view sees
        total += int(visible.sum())
        good += int(((z - seen).abs() < TOLERANCE)[visible].sum())
    return good / max(total, 1), total
