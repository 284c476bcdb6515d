"""Camera trajectories around the origin.

Azimuth and elevation are in degrees. Azimuth 0 is the camera in front of the object (at -z), growing towards +x:
centre = r (cos(el) sin(az), sin(el), -cos(el) cos(az)). All trajectories look at the origin with +y up in the image.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras, look_at_origin

RADIUS = 1.3  # the distance of SRN's cameras, in world units
FOCAL_PER_WIDTH = 131.25 / 128  # SRN's intrinsics: 131.25 px at 128 px
CANONICAL_AZIMUTH, CANONICAL_ELEVATION = 45.0, 20.0  # three quarters from the front: how people photograph cars


def centers_at(
    azimuth: Float[Tensor, " view"], elevation: Float[Tensor, " view"], radius: float = RADIUS
) -> Float[Tensor, "view 3"]:
    """Camera centres at angles in degrees."""
    az, el = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    return radius * torch.stack([el.cos() * az.sin(), el.sin(), -el.cos() * az.cos()], dim=-1)


def angles_of(centers: Float[Tensor, "*batch 3"]) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Azimuth in (-180, 180] and elevation of camera centres, in degrees: the inverse of `centers_at`."""
    x, y, z = centers.unbind(-1)
    elevation = torch.atan2(y, torch.linalg.vector_norm(torch.stack([x, z], dim=-1), dim=-1))
    return torch.rad2deg(torch.atan2(x, -z)), torch.rad2deg(elevation)


def cameras_at(centers: Float[Tensor, "view 3"], hw: tuple[int, int] = (128, 128)) -> Cameras:
    """Cameras of SRN's field of view at `centers`, looking at the origin; the focal length scales with the width."""
    focal = FOCAL_PER_WIDTH * hw[1]
    K = torch.tensor([[focal, 0.0, hw[1] / 2], [0.0, focal, hw[0] / 2], [0.0, 0.0, 1.0]], dtype=centers.dtype)
    return Cameras(look_at_origin(centers), K.repeat(len(centers), 1, 1), hw)


def canonical_camera() -> Cameras:
    """The camera that is assumed for a photo without a camera: three quarters from the front, a little above."""
    return cameras_at(centers_at(torch.tensor([CANONICAL_AZIMUTH]), torch.tensor([CANONICAL_ELEVATION])))


def orbit(
    num_views: int = 24,
    elevation: float = 20.0,
    azimuth: float = 0.0,
    hw: tuple[int, int] = (128, 128),
) -> Cameras:
    """A full turn at one elevation, evenly spaced from `azimuth` on; the last view is one step short of the first."""
    turn = azimuth + torch.arange(num_views, dtype=torch.float64) * 360.0 / num_views
    return cameras_at(centers_at(turn, torch.full_like(turn, elevation)).float(), hw)


def srn_spiral(num_views: int = 251, hw: tuple[int, int] = (128, 128)) -> Cameras:
    """The Archimedean spiral of the test sets in SRN's layout: from the equator up to the pole, 20 radians around it.

    View i of n is at elevation 90 i / n degrees, 20 (1 + i / n) radians around from +x towards -z. The 251 poses of
    OpenCars' test sets equal these to 1e-6.
    """
    progress = torch.arange(num_views, dtype=torch.float64) / num_views
    azimuth = 90.0 - torch.rad2deg(20.0 * (1.0 + progress))
    return cameras_at(centers_at(azimuth, 90.0 * progress).float(), hw)


def circle(
    num_views: int = 24,
    elevation: float = CANONICAL_ELEVATION,
    azimuth: float = CANONICAL_AZIMUTH,
    angle: float = 12.0,
    hw: tuple[int, int] = (128, 128),
) -> Cameras:
    """A small circle around one viewing direction, at an angle of `angle` degrees: the camera wobbles."""
    middle = look_at_origin(centers_at(torch.tensor([azimuth]), torch.tensor([elevation]), 1.0).double())[0]
    right, down, forward = middle[:3, :3].unbind(-1)
    turn = torch.arange(num_views, dtype=torch.float64)[:, None] * 2 * math.pi / num_views
    tilt = math.radians(angle)
    centers = -math.cos(tilt) * forward + math.sin(tilt) * (turn.cos() * right - turn.sin() * down)
    return cameras_at((RADIUS * centers).float(), hw)


def random_views(
    num_views: int,
    rng: np.random.Generator,
    upper: bool = True,
    hw: tuple[int, int] = (128, 128),
) -> Cameras:
    """Cameras in random directions, uniform over the sphere or its upper half, as in SRN's train sets."""
    height = rng.uniform(0 if upper else -1, 1, num_views)  # [Archimedes] equal heights cut equal areas off a sphere
    azimuth = rng.uniform(0, 360, num_views)
    elevation = torch.rad2deg(torch.asin(torch.from_numpy(height)))
    return cameras_at(centers_at(torch.from_numpy(azimuth), elevation).float(), hw)


# Every named trajectory, from (num_views, elevation, azimuth, hw); the spiral has its own angles.
TRAJECTORIES: dict[str, Callable[[int, float, float, tuple[int, int]], Cameras]] = {
    "orbit": lambda num_views, elevation, azimuth, hw: orbit(num_views, elevation, azimuth, hw=hw),
    "spiral": lambda num_views, _elevation, _azimuth, hw: srn_spiral(num_views, hw=hw),
    "circle": lambda num_views, elevation, azimuth, hw: circle(num_views, elevation, azimuth, hw=hw),
}


def evenly_spread(number: int, most: int, closed: bool = False) -> list[int]:
    """At most `most` of `number` views; of a `closed` turn, whose last view is next to the first, one step apart."""
    count = min(number, most)
    span = number * (count - 1) / count if closed else number - 1
    return sorted({round(i * span / max(1, count - 1)) for i in range(count)})
