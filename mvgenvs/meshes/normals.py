"""Normals for shading: smooth across gentle edges, broken at sharp ones."""

import numpy as np
from jaxtyping import Float, Int

WELD = 1e-5  # in diagonals of the box: vertices closer than this are one point, since files repeat them at seams


def crease_normals(
    positions: Float[np.ndarray, "vertex 3"], triangles: Int[np.ndarray, "face 3"], crease: float = 40.0
) -> Float[np.ndarray, "face 3 3"]:
    """One unit normal for each corner of each triangle.

    A corner's normal is the area-weighted mean of the normals of the faces around its point that are within `crease`
    degrees of its own face. Triangles without area get (0, 0, 1).
    """
    corners = positions[triangles]  # (face, 3, 3)
    areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # twice the area, times the normal
    length = np.linalg.norm(areas, axis=-1, keepdims=True)
    units = np.where(length > 1e-20, areas / np.maximum(length, 1e-20), np.array([0.0, 0.0, 1.0]))
    if not len(triangles):
        return np.empty((0, 3, 3))

    # All pairs (corner, face that shares its point), from the corners sorted by point.
    points = _welded(positions)[triangles].ravel()  # (3 face)
    order = np.argsort(points, kind="stable")
    _, start, count = np.unique(points[order], return_index=True, return_counts=True)
    group = np.repeat(np.arange(len(count)), count)  # of each sorted corner
    pairs = count[group]
    first = np.repeat(np.arange(len(order)), pairs)
    second = np.arange(pairs.sum()) - np.repeat(np.cumsum(pairs) - pairs, pairs) + np.repeat(start[group], pairs)
    corner, face, other = order[first], order[first] // 3, order[second] // 3

    near = np.einsum("ij,ij->i", units[face], units[other]) >= np.cos(np.deg2rad(crease))
    weights, owners = areas[other[near]], corner[near]
    sums = np.stack([np.bincount(owners, weights[:, axis], 3 * len(triangles)) for axis in range(3)], axis=-1).reshape(
        -1, 3, 3
    )
    length = np.linalg.norm(sums, axis=-1, keepdims=True)
    return np.where(length > 1e-20, sums / np.maximum(length, 1e-20), units[:, None, :])


def _welded(positions: Float[np.ndarray, "vertex 3"]) -> Int[np.ndarray, " vertex"]:
    """A number for each vertex, the same for all vertices at one point."""
    low = positions.min(axis=0)
    step = max(float(np.linalg.norm(positions.max(axis=0) - low)), 1e-12) * WELD
    cells = np.round((positions - low) / step).astype(np.int64)  # below 2^17 in each axis
    _, numbers = np.unique((cells[:, 0] << 40) | (cells[:, 1] << 20) | cells[:, 2], return_inverse=True)
    return numbers
