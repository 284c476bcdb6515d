"""The inputs of `infer_multiview.py`, read and checked: known views and target cameras."""

import math
from dataclasses import dataclass

from PIL import Image

from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError
from mvgenvs.infer_options import Given
from mvgenvs.mattes.cut import AUTO, cut_out, has_alpha
from mvgenvs.photos import read_image
from mvgenvs.pose.estimate import estimate_camera, framed
from mvgenvs.trajectories import (
    CANONICAL_AZIMUTH,
    CANONICAL_ELEVATION,
    RADIUS,
    TRAJECTORIES,
    angles_of,
    canonical_camera,
)
from mvgenvs.transforms import read_cameras

_ASSUMED = (
    f"The photo is assumed to show the object's front from {CANONICAL_AZIMUTH:.0f} degrees aside "
    f"and {CANONICAL_ELEVATION:.0f} degrees above."
)


@dataclass(frozen=True, eq=False, slots=True)
class KnownView:
    """A photo and its camera."""

    image: Image.Image  # RGBA, cut out
    camera: Cameras  # of the photo's middle square
    camera_given: bool  # if not, the camera is the canonical one, and the photo may be reframed to fit it
    notes: tuple[str, ...]  # sentences on how it was cut, and what was assumed


def read_known_view(given: Given) -> KnownView:
    """A photo, cut out, and its camera: that of a file, estimated, or the canonical one. Raises `UserError`.

    The default is to estimate it, for which the photo must be cut out; else it is the canonical one.
    """
    cut = cut_out(read_image(given.image), given.matte or AUTO, given.image)
    image = cut.image
    camera_path = given.camera or ("estimate" if has_alpha(image) else "canonical")
    if camera_path == "canonical":
        return KnownView(image, canonical_camera(), False, (*cut.notes, _ASSUMED))
    if camera_path == "estimate":
        if not has_alpha(image):
            raise UserError(f"--camera estimate needs {given.image} cut out: leave out --matte none.")
        found = estimate_camera(image)
        return KnownView(framed(image, found.window), found.camera, True, (*cut.notes, found.describe()))
    camera = read_cameras(camera_path)
    if camera.num_views != 1:
        raise UserError(
            f"--camera {camera_path} holds {camera.num_views} cameras, it must hold only that of {given.image}."
        )
    height, width = camera.hw
    if abs(math.log(width / height * image.height / image.width)) > 0.02:
        raise UserError(
            f"--camera {camera_path} is for images of {width}x{height}, "
            f"but {given.image} has {image.width}x{image.height}."
        )
    distance = camera.centers.norm().item()
    notes = cut.notes
    if not 0.8 * RADIUS < distance < 1.2 * RADIUS:
        warning = f"Warning: the camera of {given.image} is {distance:.2f} from the origin, models know {RADIUS}."
        notes = (*notes, warning)
    return KnownView(image, camera.resized((image.height, image.width)).middle_square(), True, notes)


def read_trajectory(
    trajectory: str, num_views: int | None, azimuth: float | None, elevation: float | None, first: Cameras | None
) -> Cameras:
    """The cameras to generate: a named trajectory, or those of a camera file. Raises `UserError`.

    None means the default: 24 views (for a file, as many as it has), azimuth 0 and elevation 20; for a circle, the
    angles of the camera `first`, the first known one.
    """
    if trajectory not in TRAJECTORIES:
        if not trajectory.endswith(".json"):
            names = ", ".join(TRAJECTORIES)
            raise UserError(f"--trajectory {trajectory} is neither one of {names} nor a camera file (.json).")
        if num_views is not None:
            raise UserError("--num-views goes with a named trajectory, a camera file has its own number of views.")
        cameras = read_cameras(trajectory)
        if cameras.hw[0] != cameras.hw[1]:
            raise UserError(f"--trajectory {trajectory}: 'w' and 'h' must be equal, models make square views.")
        return cameras
    middle = (0.0, 20.0)
    if trajectory == "circle":
        angles = angles_of((canonical_camera() if first is None else first).centers[0])
        middle = angles[0].item(), angles[1].item()
    azimuth = middle[0] if azimuth is None else azimuth
    elevation = middle[1] if elevation is None else elevation
    return TRAJECTORIES[trajectory](24 if num_views is None else num_views, elevation, azimuth, (128, 128))
