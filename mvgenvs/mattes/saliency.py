"""How much each pixel stands out: its barrier distance from the picture's borders, and its nearness to the centre.

Barrier distance (minimum over paths from the border of the largest minus the smallest value along the path): Strand et
al. 2013, and for saliency Zhang et al. 2015. What is connected to the border through even colours is background,
whatever its colours are, so that sky and asphalt both are.
"""

from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

SPREAD = 0.3  # of the centre's weight, in sides of the picture
LIGHT = 0.7  # weight of light against hue: shadows differ in light alone


def saliency(pixels: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """From 0 to 1, of a small picture in L*a*b*: the work grows with the cube of its side."""
    weights = np.array([LIGHT, 1.0, 1.0], np.float32)
    smooth = cv2.GaussianBlur(pixels, (0, 0), 0.8) * weights
    distance = sum(barrier_distance(np.ascontiguousarray(smooth[..., channel])) for channel in range(3))
    height, width = pixels.shape[:2]
    y, x = np.meshgrid((np.arange(height) + 0.5) / height - 0.5, (np.arange(width) + 0.5) / width - 0.5, indexing="ij")
    salient = np.asarray(distance) * np.exp(-(x**2 + y**2) / (2 * SPREAD**2))
    return (salient / max(float(salient.max()), 1e-6)).astype(np.float32)


def barrier_distance(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Of each pixel from the border, along paths of four neighbours; all pixels are updated at once until none changes.

    As in the usual raster scans, a pixel keeps one path, so that the result is a close upper bound.
    """
    high, low = values.copy(), values.copy()
    distance = np.full_like(values, np.inf)
    distance[[0, -1]] = 0
    distance[:, [0, -1]] = 0
    moves: list[tuple[Any, Any]] = [
        (np.s_[1:], np.s_[:-1]), (np.s_[:-1], np.s_[1:]), (np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :-1], np.s_[:, 1:]),
    ]  # fmt: skip
    for _ in range(2 * sum(values.shape)):
        changed = False
        for here, neighbour in moves:
            reached = np.isfinite(distance[neighbour])
            upper = np.maximum(high[neighbour], values[here])
            lower = np.minimum(low[neighbour], values[here])
            better = reached & (upper - lower < distance[here])
            if better.any():
                changed = True
                high[here][better], low[here][better] = upper[better], lower[better]
                distance[here][better] = (upper - lower)[better]
        if not changed:
            break
    return distance
