"""Lenses that are no pinholes: which can be read from camera files, and how OpenCV straightens their images.

A perspective lens has OpenCV's k1, k2, p1, p2, k3, a fisheye its k1 to k4 (docs.opencv.org: calib3d, and its namespace
fisheye). Straightened images are those of a pinhole that sees no pixel beyond the photographed ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Shaped

from mvgenvs.errors import UserError

PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
FISHEYE = "OPENCV_FISHEYE"
COEFFICIENTS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
LISTED = ("k1", "k2", "k3", "k4", "p1", "p2")  # the order of nerfstudio's `distortion_params`
TAKEN = {False: ("k1", "k2", "p1", "p2", "k3"), True: ("k1", "k2", "k3", "k4")}  # by whether it is a fisheye
OTHER_KINDS = (  # keys of instant-ngp and nerfstudio for cameras that are not projections onto a plane
    "rolling_shutter", "transform_matrix_start", "transform_matrix_end", "ftheta_p0", "latlong", "equirectangular",
    "orthographic", "fisheye_crop_radius",
)  # fmt: skip
SLACK = 1.0  # pixels by which a straightened image may look beyond the photographed one
ZOOM, ZOOMS = 1.02, 60  # steps by which it is narrowed until it does not
NARROWEST = 4.0  # focal length of a straightened image by that of the photographed one


@dataclass(frozen=True)
class Lens:
    """How a lens bends rays. The coefficients are those of `TAKEN`, in that order."""

    fisheye: bool
    coefficients: tuple[float, ...]
    named_by: str  # what the file calls it, for messages

    @property
    def is_pinhole(self) -> bool:
        return not self.fisheye and not any(self.coefficients)


def read_lens(top: Mapping[str, Any], frame: Mapping[str, Any], where: str) -> Lens:
    """The lens of a frame of a camera file, from the keys at its top and those of the frame, which take precedence.

    Distortion is taken as a whole: if the frame has any of its keys, those at the top do not count. Raises `UserError`
    for a kind of camera that cannot be straightened, or a malformed key.
    """
    keys = {**top, **frame}
    model, fisheye = keys.get("camera_model", PERSPECTIVE[0]), keys.get("is_fisheye", False)
    if not isinstance(fisheye, bool):
        raise UserError(f"{where}: 'is_fisheye' must be true or false.")
    if model not in (*PERSPECTIVE, FISHEYE) or keys.get("camera_type", "perspective") != "perspective":
        kind = f"'camera_model' {model!r}" if model not in PERSPECTIVE else f"'camera_type' {keys['camera_type']!r}"
        raise UserError(f"{where}: {kind} is not supported: make pinhole images of them first.")
    for key in OTHER_KINDS:
        value = keys.get(key)
        if any(value) if isinstance(value, list) else value:
            raise UserError(f"{where}: cameras with '{key}' are not supported: make pinhole images of them first.")
    fisheye = fisheye or model == FISHEYE
    source = frame if any(key in frame for key in (*COEFFICIENTS, "distortion_params")) else top
    found = _coefficients(source, where)
    for key, value in found.items():
        if value and key not in TAKEN[fisheye]:
            kind = "a fisheye" if fisheye else "a perspective lens"
            raise UserError(
                f"{where}: lens distortion ('{key}') of {kind} is not supported: undistort the image first."
            )
    first = next((key for key in COEFFICIENTS if found[key]), "k1")
    named_by = f"lens distortion ('{'distortion_params' if 'distortion_params' in source else first}')"
    if fisheye:
        named_by = f"a fisheye camera ('{model}')" if model == FISHEYE else "a fisheye camera ('is_fisheye')"
    return Lens(fisheye, tuple(found[key] for key in TAKEN[fisheye]), named_by)


def _coefficients(keys: Mapping[str, Any], where: str) -> dict[str, float]:
    found = {key: keys.get(key, 0.0) for key in COEFFICIENTS}
    if (listed := keys.get("distortion_params")) is not None:
        if not isinstance(listed, list) or len(listed) > len(LISTED):
            raise UserError(f"{where}: 'distortion_params' must be a list of at most {len(LISTED)} numbers.")
        padded = [*listed, *[0.0] * (len(LISTED) - len(listed))]
        found |= dict.fromkeys(COEFFICIENTS, 0.0) | dict(zip(LISTED, padded, strict=True))
    for key, value in found.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e6:
            named = "distortion_params" if listed is not None else key
            raise UserError(f"{where}: '{named}' must hold finite numbers.")
    return {key: float(value) for key, value in found.items()}


@dataclass(frozen=True, eq=False)
class Rectification:
    """From a photographed image to that of a pinhole with the intrinsics `K`; both have the size `hw`."""

    lens: Lens
    photographed: Float[np.ndarray, "3 3"]  # intrinsics of the photographed image
    K: Float[np.ndarray, "3 3"]  # both with pixel centres at +0.5
    hw: tuple[int, int]

    def __call__(self, pixels: Shaped[np.ndarray, "h w *c"], nearest: bool = False) -> Shaped[np.ndarray, "h w *c"]:
        """The image, mask or, with `nearest`, depth map as the pinhole sees it; z-depth itself stays as it was."""
        maps = cv2.fisheye.initUndistortRectifyMap if self.lens.fisheye else cv2.initUndistortRectifyMap
        x, y = maps(
            _centred(self.photographed), np.array(self.lens.coefficients), np.eye(3), _centred(self.K), self.hw[::-1],
            cv2.CV_32FC1,
        )  # fmt: skip
        how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
        return cv2.remap(pixels, x, y, how, borderMode=cv2.BORDER_REPLICATE)


def rectification(lens: Lens, K: Float[np.ndarray, "3 3"], hw: tuple[int, int], where: str) -> Rectification:
    """How to straighten the images of a lens with the intrinsics `K`. Raises `UserError` if it bends rays too far."""
    size, coefficients, given = hw[::-1], np.array(lens.coefficients), _centred(K)
    if lens.fisheye:
        new = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(given, coefficients, size, np.eye(3), balance=0.0)
    else:
        new, _ = cv2.getOptimalNewCameraMatrix(given, coefficients, size, 0)
    for _ in range(ZOOMS):
        zoom = np.diag(new)[:2] / np.diag(given)[:2]
        if not (np.isfinite(new).all() and zoom.min() > 0 and zoom.max() < NARROWEST):
            break
        rays = _border(hw, new)
        if not _one_to_one(lens, float(np.linalg.norm(rays, axis=-1).max())):
            break
        outside = _bent(lens, rays, given)
        beyond = np.maximum(-0.5 - outside, outside - (np.array(size) - 0.5)).max()
        if beyond <= SLACK:
            shift = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
            return Rectification(lens, np.asarray(K, np.float64), new + shift, hw)
        new[0, 0], new[1, 1] = ZOOM * new[0, 0], ZOOM * new[1, 1]
    raise UserError(f"{where}: {lens.named_by} bends rays too far to be straightened: undistort the image first.")


def _centred(K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """Intrinsics whose pixel centres lie at whole numbers, as in OpenCV."""
    moved = np.array(K, dtype=np.float64)
    moved[:2, 2] -= 0.5
    return moved


def _border(hw: tuple[int, int], K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "n 2"]:
    """Rays (x, y, at z = 1) through points along the border of an image; pixel centres at whole numbers."""
    height, width = hw
    along = np.linspace(0, 1, 33)
    ends = [np.stack([along, np.full_like(along, end)], axis=-1) for end in (0.0, 1.0)]
    corners = np.concatenate([*ends, *(points[:, ::-1] for points in ends)]) * [width, height] - 0.5
    return (corners - K[:2, 2]) / [K[0, 0], K[1, 1]]


def _bent(lens: Lens, rays: Float[np.ndarray, "n 2"], K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "n 2"]:
    """Where the lens shows rays, in pixels of the photographed image."""
    still, coefficients = np.zeros(3), np.array(lens.coefficients)
    if lens.fisheye:
        return cv2.fisheye.distortPoints(rays[:, None], K, coefficients)[:, 0]
    points = np.concatenate([rays, np.ones_like(rays[:, :1])], axis=-1)
    return cv2.projectPoints(points, still, still, K, coefficients)[0][:, 0]


def _one_to_one(lens: Lens, radius: float) -> bool:
    """Whether rays up to `radius` from the axis (at z = 1) keep their order: no two of them meet in one pixel."""
    r = np.linspace(0, np.arctan(radius) if lens.fisheye else radius, 257)
    k1, k2, *_, k3 = lens.coefficients
    powers = lens.coefficients if lens.fisheye else (k1, k2, k3)
    shown = r * (1 + sum(k * r ** (2 * i) for i, k in enumerate(powers, start=1)))
    return bool((np.diff(shown) > 0).all())
