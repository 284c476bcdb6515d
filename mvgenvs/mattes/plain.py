"""A plain background, cut away by a flood from the picture's borders.

The background's colour is fitted to the borders as a smooth function of the place, so that gradients count as plain.
The flood passes where a pixel has that colour, or is a shadow: darker, of the same hue, and without an edge.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from mvgenvs.mattes.shapes import lab, object_part, shrunk

SIDE = 512  # pixels of the longer side at which the flood runs
BLURRED_FROM = 256  # pixels: larger pictures have edges two pixels wide
RING = 0.02  # of the side: the border that the background is fitted to
SIDE_SHARE, ALL_SHARE, PLAIN_NOISE = 0.95, 0.6, 3.0  # least shares of background on a side, all around; its noise
TOLERANCE, NOISES = 2.5, 4.0  # in L*a*b*: a pixel within the larger of TOLERANCE and NOISES deviations is background
EXACT, EXACT_PARTS, EXACT_FAINT = 0.6, 4, 0.14  # tolerance, parts, and share of faint pixels of cleanly cut objects
FADED, EXACT_FADED = 1.0, 0.1  # hardly off the background, in L*a*b*; the share of such pixels at a clean edge
SHADOW_ERROR, SHADOW_LIGHT, SHADOW_EDGE = 5.0, 0.2, 2.2  # a shadow's L*a*b* error, least light, L* per pixel


@dataclass(frozen=True, eq=False, slots=True)
class PlainCut:
    """The object of a picture with a plain background."""

    matte: Float[np.ndarray, "h w"]
    colours: UInt8[np.ndarray, "h w 3"]  # the object's own: at its edge, the background's share is taken out


def plain_matte(rgb: UInt8[np.ndarray, "h w 3"]) -> PlainCut | None:
    """The matte of a picture whose background is plain; None if it is not. The matte is empty if all is background."""
    small = shrunk(rgb, SIDE)
    pixels = lab(small)
    fitted = fit_background(pixels)
    if fitted is None:
        return None
    background, noise = fitted
    error = pixels - background
    distance = np.linalg.norm(error, axis=-1)
    if noise < EXACT / 10 and _is_exact(distance):
        tolerance = EXACT
        passable = distance < tolerance
    else:
        tolerance = max(TOLERANCE, NOISES * noise)
        passable = (distance < tolerance) | _shadow(small, background, tolerance)
    there = object_part(~_flooded(passable, distance < tolerance))
    matte = _soft(there, distance, tolerance)
    if small.shape != rgb.shape:
        size = (rgb.shape[1], rgb.shape[0])
        matte = np.asarray(cv2.resize(matte, size, interpolation=cv2.INTER_LINEAR), dtype=np.float32)
        background = np.asarray(cv2.resize(background, size, interpolation=cv2.INTER_LINEAR), dtype=np.float32)
    return PlainCut(matte, _own_colours(rgb, matte, background))


def fit_background(pixels: Float[np.ndarray, "h w 3"]) -> tuple[Float[np.ndarray, "h w 3"], float] | None:
    """The background's colour at every pixel and its noise, in L*a*b*; None if the border is not plain.

    Least squares of a quadratic function of the place, trimmed: what the object or a mark covers does not count. The
    object may cross one side of the picture, the others must be plain.
    """
    height, width, _ = pixels.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    sides = _sides(height, width)
    ring = np.logical_or.reduce(sides)
    a, b = terms[ring], pixels[ring].astype(np.float64)
    error = np.linalg.norm(b - np.median(b, axis=0), axis=-1)
    for _ in range(12):
        near = error <= max(TOLERANCE, 2.5 * float(np.median(error)))
        weights, *_ = np.linalg.lstsq(a[near], b[near], rcond=None)
        error = np.linalg.norm(b - a @ weights, axis=-1)
    noise = float(np.median(error)) / 1.54  # the median length of a 3-D normal vector is 1.54 deviations
    background = (terms @ weights).astype(np.float32)
    fits = np.linalg.norm(pixels - background, axis=-1) < max(2 * TOLERANCE, NOISES * noise)
    plain = [float(fits[side].mean()) >= SIDE_SHARE for side in sides]
    if sum(plain) < 3 or float(fits[ring].mean()) < ALL_SHARE or noise > PLAIN_NOISE:
        return None
    return background, noise


def _is_exact(distance: Float[np.ndarray, "h w"]) -> bool:
    """Whether a background of one colour has no trace of compression: the object was drawn, rendered or cut before.

    There, a hint of colour is paint and neither noise nor a shadow. Compression leaves specks, and noise or a shadow
    fades out: the last pixels before the background are hardly off its colour.
    """
    off = distance > EXACT / 10
    outside = cv2.dilate((~off).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    last = distance[off & outside]
    if len(last) and float((last < FADED).mean()) < EXACT_FADED:
        return True
    parts, _ = cv2.connectedComponents(off.astype(np.uint8), connectivity=8)
    faint = (off & (distance < TOLERANCE)).sum() / max(1, off.sum())
    return parts - 1 <= EXACT_PARTS and float(faint) < EXACT_FAINT


def _sides(height: int, width: int) -> list[Bool[np.ndarray, "h w"]]:
    """The strips along the four sides of a picture."""
    depth = max(1, round(RING * max(height, width)))
    strips = []
    for part in (np.s_[:depth], np.s_[-depth:], np.s_[:, :depth], np.s_[:, -depth:]):
        strip = np.zeros((height, width), dtype=bool)
        strip[part] = True
        strips.append(strip)
    return strips


def _shadow(
    rgb: UInt8[np.ndarray, "h w 3"], background: Float[np.ndarray, "h w 3"], tolerance: float
) -> Bool[np.ndarray, "h w"]:
    """Where a pixel may be the background in less light, and light changes slowly."""
    pixels, lit = lab(rgb), np.clip(cv2.cvtColor(background, cv2.COLOR_LAB2RGB), 0.01, 1)
    light = (rgb / np.float32(255) * lit).sum(axis=-1) / (lit * lit).sum(axis=-1)  # the best fit of rgb = light * lit
    darkened = cv2.cvtColor((lit * light[..., None]).astype(np.float32), cv2.COLOR_RGB2LAB)
    error = np.linalg.norm(pixels - darkened, axis=-1)
    smooth = cv2.GaussianBlur(pixels[..., 0], (0, 0), 1.0)
    edge = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)) / 8
    edge *= max(rgb.shape[:2]) / SIDE  # per pixel of a picture of that side
    return np.asarray(
        (light < 1.05) & (light > SHADOW_LIGHT) & (error < max(SHADOW_ERROR, tolerance)) & (edge < SHADOW_EDGE)
    )


def _flooded(passable: Bool[np.ndarray, "h w"], source: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """All passable pixels that are connected to a `source` on the picture's border."""
    _, labels = cv2.connectedComponents(passable.astype(np.uint8), connectivity=4)
    rim = [(labels[edge], source[edge]) for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1])]
    reached = np.unique(np.concatenate([where[there] for where, there in rim]))
    return np.isin(labels, reached[reached > 0])


def _soft(
    there: Bool[np.ndarray, "h w"], distance: Float[np.ndarray, "h w"], tolerance: float
) -> Float[np.ndarray, "h w"]:
    """The mask with soft edges: there, a pixel's share is its distance from the background by that of the object."""
    width = 2 if max(there.shape) >= BLURRED_FROM else 1  # of an edge, in pixels
    inside = cv2.erode(there.astype(np.uint8), np.ones((2 * width + 1, 2 * width + 1), np.uint8))
    solid = np.asarray(inside, dtype=bool)
    reach = np.ones((4 * width + 1, 4 * width + 1), np.uint8)
    contrast = cv2.dilate(np.where(solid, distance, 0).astype(np.float32), reach)
    share = np.clip(distance / np.maximum(contrast, 2 * tolerance), 0, 1)
    return np.where(solid, 1.0, np.where(there, share, 0.0)).astype(np.float32)


def _own_colours(
    rgb: UInt8[np.ndarray, "h w 3"], matte: Float[np.ndarray, "h w"], background: Float[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The object's colours F of pixels C = a F + (1 - a) B."""
    behind = np.clip(cv2.cvtColor(background, cv2.COLOR_LAB2RGB), 0, 1) * 255
    share = matte[..., None]
    own = (rgb - (1 - share) * behind) / np.maximum(share, 0.2)
    return np.where(share < 1, own.clip(0, 255).round(), rgb).astype(np.uint8)
