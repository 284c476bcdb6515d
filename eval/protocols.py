"""Protocols: which views of an object are given, and which are to be predicted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError

ORBIT_AZIMUTH, ORBIT_ELEVATION = 45.0, 20.0  # degrees: the input view, 3/4 front
ORBIT_ELEVATIONS = (5.0, 45.0)  # degrees: where targets may lie
ORBIT_TARGETS = 23
FURTHER_INPUTS = (180.0, 90.0)  # degrees beyond the first input: the second, the third
SRN_INPUTS = (64, 104)  # the view ids that pixelNeRF and all after it take as input: the first, or both


@dataclass(frozen=True)
class Task:
    """Positions in an object's list of views, in the order in which they make up a sequence."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


def viewing_angles(cameras: Cameras) -> tuple[Float[Tensor, " view"], Float[Tensor, " view"]]:
    """Azimuth in [0, 360) and elevation in degrees of cameras around the origin; azimuth 0 looks at a car's front.

    A camera of radius r stands at r (cos el sin az, sin el, -cos el cos az).
    """
    x, y, z = (cameras.centers / cameras.centers.norm(dim=-1, keepdim=True)).unbind(-1)
    return torch.rad2deg(torch.atan2(x, -z)) % 360, torch.rad2deg(torch.asin(y.clamp(-1, 1)))


def orbit(view_ids: Sequence[int], cameras: Cameras, num_inputs: int = 1) -> Task:
    """A closed tour round the object: input from 3/4 front, 23 targets going round it from there.

    A second input is the view that lies nearest to the other end of the car's diagonal and is no target, a third the
    one nearest to the corner between: the targets are those of one input.

    Of the views between 5 and 45 degrees of elevation, the input is the one nearest in direction to azimuth 45 and
    elevation 20. The targets are the distinct views that together lie nearest to an even spacing in azimuth and to
    that elevation (a linear assignment; a degree counts the same in both), in order of azimuth. Raises `UserError`
    where there are too few views, or `num_inputs` is not 1, 2 or 3.
    """
    if num_inputs not in (1, 2, 3):
        raise UserError(f"the orbit protocol takes 1 to 3 input views, not {num_inputs}")
    azimuth, elevation = (angle.double().numpy() for angle in viewing_angles(cameras))
    low, high = ORBIT_ELEVATIONS
    usable = np.flatnonzero((elevation >= low) & (elevation <= high))
    if len(usable) < ORBIT_TARGETS + num_inputs:
        raise UserError(
            f"the orbit protocol needs {ORBIT_TARGETS + num_inputs} views between {low:g} and {high:g} degrees of "
            f"elevation, and this object has {len(usable)}"
        )
    directions = _directions(azimuth, elevation)

    def nearest(among: np.ndarray, azimuth: float) -> int:
        return int(among[np.argmax(directions[among] @ _directions(azimuth, ORBIT_ELEVATION))])

    start = nearest(usable, ORBIT_AZIMUTH)
    rest = usable[usable != start]
    offset = (azimuth[rest] - azimuth[start]) % 360
    wanted = 360 * np.arange(1, ORBIT_TARGETS + 1) / (ORBIT_TARGETS + 1)
    gap = np.abs(offset[None, :] - wanted[:, None])
    cost = np.minimum(gap, 360 - gap) + np.abs(elevation[rest] - ORBIT_ELEVATION)
    chosen = linear_sum_assignment(cost)[1]
    in_turn = chosen[np.argsort(offset[chosen], kind="stable")]
    targets = tuple(int(rest[i]) for i in in_turn)
    inputs = [start]
    for turn in FURTHER_INPUTS[: num_inputs - 1]:
        inputs.append(nearest(np.setdiff1d(rest, [*targets, *inputs]), ORBIT_AZIMUTH + turn))
    return Task(tuple(inputs), targets)


def srn(view_ids: Sequence[int], cameras: Cameras, num_inputs: int = 1) -> Task:
    """The protocol of pixelNeRF: view 64, or views 64 and 104, in, and every other view out, in order of their ids.

    Raises `UserError` where an input view is missing, or `num_inputs` is neither 1 nor 2.
    """
    if num_inputs not in (1, 2):
        raise UserError(f"the srn protocol takes 1 or 2 input views, not {num_inputs}")
    wanted = SRN_INPUTS[:num_inputs]
    for view_id in wanted:
        if view_id not in view_ids:
            raise UserError(f"the srn protocol takes view {view_id:06d} as input, and this object lacks it")
    inputs = tuple(list(view_ids).index(view_id) for view_id in wanted)
    return Task(inputs, tuple(i for i in range(len(view_ids)) if i not in inputs))


PROTOCOLS: dict[str, Callable[[Sequence[int], Cameras, int], Task]] = {"orbit": orbit, "srn": srn}
CLOSED = ("orbit",)  # whose sequences end where they begin


def _directions(azimuth: np.ndarray | float, elevation: np.ndarray | float) -> np.ndarray:
    az, el = np.deg2rad(azimuth), np.deg2rad(elevation)
    return np.stack([np.cos(el) * np.sin(az), np.sin(el), -np.cos(el) * np.cos(az)], axis=-1)
