"""Gaussian splats of a point cloud: flat discs in the surface, opaque, of one colour seen from all sides.

They are in the parameters of [Kerbl et al. 2023]: colours as spherical harmonics of degree 0, opacities as logits,
scales as logarithms, rotations as quaternions (w, x, y, z). They are not optimised against the views.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mvgenvs.reconstruction.points import PointCloud

HARMONIC_0 = 0.5 / math.sqrt(math.pi)  # the spherical harmonic of degree 0
WIDTH = 0.65  # standard deviation within the surface, in spacings: neighbours overlap, and detail stays
THICKNESS = 0.1  # across the surface, in widths
OPACITY = 0.95


@dataclass(frozen=True, eq=False, slots=True)
class GaussianSplats:
    """Gaussians with the parameters that are stored in files."""

    centers: Float[np.ndarray, "n 3"]
    harmonics: Float[np.ndarray, "n 3"]  # RGB = 1/2 + HARMONIC_0 * harmonics
    opacity_logits: Float[np.ndarray, " n"]
    log_scales: Float[np.ndarray, "n 3"]  # natural logarithms of standard deviations along the rotated axes
    rotations: Float[np.ndarray, "n 4"]  # unit quaternions (w, x, y, z)


def gaussian_splats(cloud: PointCloud) -> GaussianSplats:
    """One disc for each point; its third axis is the normal."""
    width = WIDTH * cloud.spacing
    number = len(cloud.points)
    return GaussianSplats(
        cloud.points.astype(np.float32),
        ((cloud.colours - 0.5) / HARMONIC_0).astype(np.float32),
        np.full(number, math.log(OPACITY / (1 - OPACITY)), np.float32),
        np.tile(np.log([width, width, THICKNESS * width]), (number, 1)).astype(np.float32),
        quaternions_to(cloud.normals).astype(np.float32),
    )


def quaternions_to(directions: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 4"]:
    """The shortest rotations of +z to unit directions, as quaternions (w, x, y, z)."""
    x, y, z = directions.astype(np.float64).T
    halves = np.stack([1 + z, -y, x, np.zeros_like(x)], axis=-1)  # 1 + cosine, and the cross product of +z with them
    opposite = 1 + z < 1e-9
    halves[opposite] = (0.0, 1.0, 0.0, 0.0)  # half a turn about x
    return halves / np.linalg.norm(halves, axis=-1, keepdims=True)
