"""What the network sees of a photo: a square crop around the object, on white, with its matte."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float

SIDE = 64  # pixels of a crop
MARGIN = 1.15  # the crop's side by the longer side of the object's bounding box


@dataclass(frozen=True, slots=True)
class Window:
    """A square part of an image, in its pixels; it may reach beyond the image."""

    x: float  # of the centre
    y: float
    side: float


def window_around(there: Bool[np.ndarray, "h w"]) -> Window:
    """The window around a mask, which must not be empty."""
    rows, columns = np.nonzero(there.any(axis=1))[0], np.nonzero(there.any(axis=0))[0]
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return Window((left + right) / 2, (top + bottom) / 2, MARGIN * max(right - left, bottom - top))


def crop(rgba: Float[np.ndarray, "h w 4"], window: Window, roll: float = 0.0) -> Float[np.ndarray, "side side 4"]:
    """The window of an image in [0, 1] on white with its matte, turned by `roll` degrees about its centre."""
    shrink = window.side / SIDE
    smooth = cv2.GaussianBlur(rgba, (0, 0), 0.4 * shrink) if shrink > 1.2 else rgba
    # The inverse map, from the crop's pixel centres to the image's; both lie at +0.5.
    cos, sin = shrink * np.cos(np.deg2rad(roll)), shrink * np.sin(np.deg2rad(roll))
    middle = SIDE / 2 - 0.5
    inverse = np.array(
        [
            [cos, -sin, window.x - 0.5 - (cos - sin) * middle],
            [sin, cos, window.y - 0.5 - (sin + cos) * middle],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    found = cv2.warpAffine(
        smooth, inverse, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=(1, 1, 1, 0)
    )
    return np.asarray(found, dtype=np.float32)
