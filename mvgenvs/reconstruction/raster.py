"""Which pixel centres triangles cover, in numpy: for atlases, and for depth maps of small images."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mvgenvs.cameras import Cameras

_EDGE = 1e-9  # pixel centres on an edge belong to both triangles


@dataclass(frozen=True, eq=False, slots=True)
class Coverage:
    """Pairs of a triangle and a pixel whose centre it covers."""

    pixel: Int[np.ndarray, " n"]  # row * width + column
    triangle: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, "n 3"]  # barycentric coordinates of the pixel's centre


def cover(corners: Float[np.ndarray, "triangle 3 2"], hw: tuple[int, int]) -> Coverage:
    """All pixels covered by triangles with these corners (x, y); pixel centres are at +0.5. Either side faces us."""
    height, width = hw
    limit = np.array([width - 1, height - 1])
    first = np.clip(np.ceil(corners.min(axis=1) - 0.5), 0, limit + 1).astype(np.int64)
    last = np.clip(np.floor(corners.max(axis=1) - 0.5), -1, limit).astype(np.int64)
    columns, rows = np.maximum(last - first + 1, 0).T
    number = columns * rows  # of the pixels in each triangle's box
    triangle = np.repeat(np.arange(len(corners)), number)
    place = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    row, column = np.divmod(place, columns[triangle])
    x, y = first[triangle, 0] + column, first[triangle, 1] + row
    a, b, c = (corners[triangle, i] - np.stack([x, y], axis=-1) - 0.5 for i in range(3))  # seen from the centre
    weights = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], axis=-1)
    area = weights.sum(axis=-1)
    flat = np.abs(area) < 1e-12
    weights /= np.where(flat, 1.0, area)[:, None]
    inside = ~flat & (weights >= -_EDGE).all(axis=-1)
    return Coverage((y * width + x)[inside], triangle[inside], weights[inside])


def depth_map(
    vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"], camera: Cameras
) -> Float[np.ndarray, "h w"]:
    """Z-depth of the nearest triangle at each pixel's centre, for one unbatched camera; 0 where there is none.

    Triangles that reach behind the camera are left out.
    """
    matrix = camera.projections[0].double().cpu().numpy()
    projected = vertices @ matrix[:, :3].T + matrix[:, 3]
    z = projected[:, 2]
    shown = faces[(z[faces] > 1e-6).all(axis=1)]
    covered = cover((projected[:, :2] / np.maximum(z, 1e-6)[:, None])[shown], camera.hw)
    # 1 / z is linear in the image.
    inverse = (covered.weights / z[shown[covered.triangle]]).sum(axis=-1)
    nearest = np.zeros(camera.hw[0] * camera.hw[1])
    np.maximum.at(nearest, covered.pixel, inverse)
    depth = np.divide(1.0, nearest, out=np.zeros_like(nearest), where=nearest > 0)
    return depth.reshape(camera.hw)


def _cross(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
