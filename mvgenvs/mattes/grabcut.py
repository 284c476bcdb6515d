"""The object of any photo by grabCut (Rother et al. 2004, OpenCV's), started from what stands out."""

import math

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from mvgenvs.mattes.saliency import saliency
from mvgenvs.mattes.shapes import lab, object_part, shrunk, without_threads

SIDE, SALIENCY_SIDE = 320, 96  # pixels of the longer side for grabCut, and for the saliency
ROUNDS = 4
RIM = 0.02  # of the side: the picture's border, background for certain
CERTAIN = 0.6  # of the highest excess over the threshold: from there, the object for certain
MARGIN = 0.2  # of the object's longer side: what the second cut sees around it


def grabcut_matte(rgb: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """The matte of the object; empty if nothing stands out. The same for the same picture.

    A first cut of the whole picture tells where the object is; a second one, of its surroundings alone, where it ends.
    """
    small = shrunk(rgb, SIDE)
    there = _cut(small, _start(small))
    matte = np.zeros(rgb.shape[:2], np.float32)
    if not there.any():
        return matte
    part = _surroundings(there, rgb.shape[:2])
    near = shrunk(rgb[part], SIDE)
    before = cv2.resize(there.astype(np.float32), rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)[part]
    before = cv2.resize(before, near.shape[1::-1], interpolation=cv2.INTER_AREA)
    there = _cut(near, before - 0.5)
    soft = cv2.GaussianBlur(there.astype(np.float32), (0, 0), 0.7)
    matte[part] = cv2.resize(soft, matte[part].shape[::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)
    return matte


def _surroundings(there: Bool[np.ndarray, "small_h small_w"], hw: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns, in a picture of size `hw`, of the mask's box with a margin."""
    margin = MARGIN * max(np.ptp(places) for places in np.nonzero(there))
    parts = []
    for places, length, full in zip(np.nonzero(there), there.shape, hw, strict=True):
        first, last = max(0, places.min() - margin), min(length, places.max() + 1 + margin)
        parts.append(slice(int(first * full / length), math.ceil(last * full / length)))
    return parts[0], parts[1]


def _start(rgb: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """The saliency of each pixel, over Otsu's threshold: positive where the object is to be expected, in one part."""
    salient = saliency(lab(shrunk(rgb, SALIENCY_SIDE)))
    levels = (salient * 255).round().astype(np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    over = cv2.resize(salient, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR) - threshold / 255
    return np.where(object_part(over > 0), over, np.minimum(over, 0)).astype(np.float32)


def _cut(rgb: UInt8[np.ndarray, "h w 3"], start: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The object's part of a cut that starts with the pixels where `start` is positive; where it is high, they stay."""
    labels = np.where(start > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[start > CERTAIN * start.max()] = cv2.GC_FGD
    rim = max(1, round(RIM * max(start.shape)))
    inner = np.zeros(start.shape, dtype=bool)
    inner[rim:-rim, rim:-rim] = True
    labels[~inner] = cv2.GC_BGD
    if not (labels[inner] % 2).any() or (labels % 2).all():  # grabCut needs both kinds; foreground's labels are odd
        return np.zeros(start.shape, dtype=bool)
    cv2.setRNGSeed(0)  # grabCut draws the first clusters of its colour models
    bgr, whole = np.ascontiguousarray(rgb[..., ::-1]), (0, 0, 0, 0)  # the rectangle is not used with a mask
    cv2.grabCut(bgr, labels, whole, np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK)
    return object_part(without_threads(labels % 2 == 1))
