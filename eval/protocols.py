"""Protocols: which views of an object are given, and which are to be predicted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from scipy.optimize import linear_sum_assignment

from eval.directions import unit_vectors, viewing_angles
from mvgenvs.cameras import Cameras
from mvgenvs.data.stored import CachedScenes, SceneObject
from mvgenvs.errors import UserError
from mvgenvs.trajectories import angles_of

ORBIT_AZIMUTH, ORBIT_ELEVATION = 45.0, 20.0  # degrees: the input view, 3/4 front
ORBIT_ELEVATIONS = (5.0, 45.0)  # degrees: the range of targets
ORBIT_TARGETS = 23
FURTHER_INPUTS = (180.0, 90.0)  # degrees from the first input: the second, the third
SRN_INPUTS = (64, 104)  # the input view ids of pixelNeRF and its successors: the first, or both


@dataclass(frozen=True)
class ViewChoice:
    """Which views of an object are given and which are predicted: positions in its list of views, in their order."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


def evenly_chosen(scenes: CachedScenes, number: int) -> list[int]:
    """So many of the objects, from the whole list: training objects come family by family, and the first are alike."""
    return [index * len(scenes.objects) // number for index in range(number)]


def views_between(cameras: Cameras, low: float, high: float) -> Int[np.ndarray, " chosen"]:
    """The views whose elevation is within these degrees."""
    _, elevations = angles_of(cameras.centers)
    return np.flatnonzero(((elevations >= low) & (elevations <= high)).numpy())


def orbit_views(view_ids: Sequence[int], cameras: Cameras, num_inputs: int = 1) -> ViewChoice:
    """A closed orbit around the object: one input from 3/4 front, and from there 23 targets all around.

    Only views between 5 and 45 degrees of elevation are used. The input is the view nearest in direction to azimuth 45
    and elevation 20. The targets are distinct views in order of azimuth: those that together are nearest to an even
    spacing in azimuth and to that elevation (a linear assignment, in which a degree counts the same in both).

    Further inputs do not change the targets: the second is the remaining view nearest to azimuth 225, the other end of
    the car's diagonal; the third the one nearest to azimuth 135. Raises `UserError` if there are too few views, or
    `num_inputs` is not 1, 2 or 3.
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
    directions = unit_vectors(azimuth, elevation)

    def nearest(among: np.ndarray, azimuth: float) -> int:
        return int(among[np.argmax(directions[among] @ unit_vectors(azimuth, ORBIT_ELEVATION))])

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
    return ViewChoice(tuple(inputs), targets)


def srn_views(view_ids: Sequence[int], cameras: Cameras, num_inputs: int = 1) -> ViewChoice:
    """The protocol of pixelNeRF: view 64, or views 64 and 104, as input, all other views as targets, by id.

    Raises `UserError` if an input view is missing, or `num_inputs` is neither 1 nor 2.
    """
    if num_inputs not in (1, 2):
        raise UserError(f"the srn protocol takes 1 or 2 input views, not {num_inputs}")
    wanted = SRN_INPUTS[:num_inputs]
    for view_id in wanted:
        if view_id not in view_ids:
            raise UserError(f"the srn protocol takes view {view_id:06d} as input, and this object lacks it")
    inputs = tuple(list(view_ids).index(view_id) for view_id in wanted)
    return ViewChoice(inputs, tuple(i for i in range(len(view_ids)) if i not in inputs))


def choose_views(item: SceneObject, cameras: Cameras, protocol: str = "orbit", num_inputs: int = 1) -> ViewChoice:
    """A protocol's choice among the views of an object. Raises `UserError` that names its folder."""
    try:
        return PROTOCOLS[protocol](item.view_ids, cameras, num_inputs)
    except UserError as error:
        raise UserError(f"{item.folder}: {error}") from error


PROTOCOLS: dict[str, Callable[[Sequence[int], Cameras, int], ViewChoice]] = {"orbit": orbit_views, "srn": srn_views}
CLOSED = ("orbit",)  # protocols whose sequences end where they begin
