"""The surface in a grid of signed distances: marching cubes [Lewiner et al. 2003], by scikit-image."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mvgenvs.errors import UserError
from mvgenvs.reconstruction.fusion import NOTHING, DistanceGrid

SMOOTHING = 0.5  # in cells: takes the steps off that depth maps of few pixels leave
SMALLEST = 0.02  # of the largest piece's volume: smaller ones are strays


@dataclass(frozen=True, eq=False, slots=True)
class Surface:
    """A closed triangle mesh; its faces are counterclockwise seen from outside."""

    vertices: Float[np.ndarray, "vertex 3"]  # in the world
    faces: Int[np.ndarray, "face 3"]
    normals: Float[np.ndarray, "vertex 3"]  # unit, pointing outwards


def extract_surface(grid: DistanceGrid) -> Surface:
    """The zero level set, without stray pieces. Raises `UserError` if the grid holds nothing solid."""
    from scipy.ndimage import gaussian_filter
    from skimage.measure import label, marching_cubes

    values = np.pad(grid.values.numpy(), 1, constant_values=1.0)  # air around the box, so that the surface is closed
    values = gaussian_filter(values, SMOOTHING)
    pieces = label(values < 0, connectivity=1)
    volumes = np.bincount(pieces.ravel())
    if len(volumes) < 2:
        raise UserError(NOTHING)
    volumes[0] = 0
    strays = volumes < SMALLEST * volumes.max()
    strays[0] = False
    values = np.where(strays[pieces], np.abs(values) + 1e-6, values)
    vertices, faces, _, _ = marching_cubes(values, 0.0, gradient_direction="descent", allow_degenerate=False)
    vertices = (vertices - 1) * grid.step + grid.low.numpy()
    faces = faces.astype(np.int64)
    return Surface(vertices.astype(np.float64), faces, vertex_normals(vertices, faces))


def vertex_normals(
    vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]
) -> Float[np.ndarray, "vertex 3"]:
    """Means of the normals of the faces around each vertex, weighted by their areas."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    areas = np.cross(b - a, c - a)
    sums = np.stack(
        [np.bincount(faces.ravel(), np.repeat(areas[:, axis], 3), minlength=len(vertices)) for axis in range(3)],
        axis=-1,
    )
    return sums / np.maximum(np.linalg.norm(sums, axis=-1, keepdims=True), 1e-20)
