"""Viewing directions of cameras, as seen from the origin, where the object is."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras


def viewing_angles(cameras: Cameras) -> tuple[Float[Tensor, " view"], Float[Tensor, " view"]]:
    """Azimuth in [0, 360) and elevation in degrees of cameras around the origin; azimuth 0 is a car's front view.

    A camera at distance r is at r (cos el sin az, sin el, -cos el cos az).
    """
    x, y, z = (cameras.centers / cameras.centers.norm(dim=-1, keepdim=True)).unbind(-1)
    return torch.rad2deg(torch.atan2(x, -z)) % 360, torch.rad2deg(torch.asin(y.clamp(-1, 1)))


def unit_vectors(azimuth: np.ndarray | float, elevation: np.ndarray | float) -> np.ndarray:
    """Unit vectors from the origin to cameras at these angles in degrees, (…, 3)."""
    az, el = np.deg2rad(azimuth), np.deg2rad(elevation)
    return np.stack([np.cos(el) * np.sin(az), np.sin(el), -np.cos(el) * np.cos(az)], axis=-1)


def direction_cosines(cameras: Cameras, others: Cameras) -> Float[Tensor, "view other"]:
    """Cosines of the angles between the directions of each camera and each other one."""
    a, b = (torch.nn.functional.normalize(c.centers.double(), dim=-1) for c in (cameras, others))
    return a @ b.T


def angles_to_nearest(known: Cameras, targets: Cameras) -> list[float]:
    """Degrees between the direction of each target's camera and that of the known camera nearest to it."""
    cosines = direction_cosines(targets, known).amax(dim=1).clamp(-1, 1)
    return torch.rad2deg(cosines.acos()).tolist()
