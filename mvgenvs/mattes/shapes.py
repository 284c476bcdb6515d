"""Binary masks: shrinking pictures to where masks are sought, and what of a mask is the object."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

CLOSING = 0.012  # of the picture's side: gaps of this width are no gaps
THREAD = 0.005  # of the picture's side: what is thinner than twice this and leads away is no part of an object


def shrunk(rgb: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "small_h small_w 3"]:
    """The picture with its longer side at most `side`: means over areas, which also lowers the noise."""
    scale = side / max(rgb.shape[:2])
    if scale >= 1:
        return rgb
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def lab(rgb: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """CIE L*a*b*, in which a distance of 2 is just noticeable."""
    return np.asarray(cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), dtype=np.float32)


def object_part(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The main part of a mask, without holes and specks: the largest, where parts nearer to the centre count more."""
    height, width = mask.shape
    radius = max(1, round(CLOSING * max(height, width)))
    closed = without_holes(_closed(mask, radius))
    count, labels, stats, centres = cv2.connectedComponentsWithStats(closed.astype(np.uint8), connectivity=8)
    if count == 1:
        return mask
    offsets = (centres[1:] - np.array([width / 2, height / 2])) / max(width, height)
    weights = stats[1:, cv2.CC_STAT_AREA] * np.exp(-6 * (offsets**2).sum(axis=1))
    main = 1 + int(weights.argmax())
    return np.asarray(labels == main) & (mask | _eroded(closed, radius) | without_holes(mask))


def without_threads(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The mask without what is thin and leads away from it, such as a horizon that passes behind the object."""
    radius = max(1, round(THREAD * max(mask.shape)))
    body = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _disc(radius))
    return mask & np.asarray(cv2.dilate(body, _disc(3 * radius)), dtype=bool)


def without_holes(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The mask, and all of its complement that is not connected to the picture's border."""
    outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.connectedComponents(outside, connectivity=4)
    return np.asarray(labels != labels[0, 0])[1:-1, 1:-1]


def _closed(mask: Bool[np.ndarray, "h w"], radius: int) -> Bool[np.ndarray, "h w"]:
    """Gaps of up to twice the radius closed. The picture's border closes nothing."""
    padded = np.pad(mask, 2 * radius).astype(np.uint8)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, _disc(radius))
    return np.asarray(closed[2 * radius : -2 * radius, 2 * radius : -2 * radius], dtype=bool)


def _eroded(mask: Bool[np.ndarray, "h w"], radius: int) -> Bool[np.ndarray, "h w"]:
    return np.asarray(cv2.erode(mask.astype(np.uint8), _disc(radius)), dtype=bool)


def _disc(radius: int) -> UInt8[np.ndarray, "d d"]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), dtype=np.uint8)
