"""TSED, the thresholded symmetric epipolar distance [Yu et al. 2023, arXiv 2304.10700, section 4.1].

It tests whether neighbouring frames show one rigid object seen by the known cameras: features matched between two
frames must lie on each other's epipolar lines. It needs no depth and no ground truth. It is blind to changes of colour,
and to displacements along the epipolar lines, which on an orbit are nearly horizontal.
"""

from dataclasses import dataclass
from typing import TypedDict

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from eval.metrics.pairs import adjacent_pairs
from mvgenvs.cameras import Cameras

MATCH_SIZE = 256  # pixels; smaller images are enlarged to this side, and distances are in pixels of this size
LOWE_RATIO = 0.75
MIN_MATCHES = 10
MAX_MEDIAN = 2.0  # pixels
MIN_BASELINE = 1e-6  # world units; two cameras in one place have no epipolar lines


class TsedFigures(TypedDict):
    """TSED of one sequence; lists have one entry per pair."""

    score: float | None  # share of the pairs that pass, higher is better; None without any pair that has a baseline
    num_pairs: int  # with a baseline
    matches: list[int]
    medians: list[float | None]  # pixels; None without a match or a baseline
    passes: list[bool | None]  # None without a baseline


@dataclass(frozen=True, eq=False)
class Features:
    """SIFT features of one image."""

    points: Float[np.ndarray, "n 2"]  # pixels of the enlarged image, centres at +0.5
    descriptors: Float[np.ndarray, "n 128"]


def tsed(images: Float[Tensor, "view 3 h w"], cameras: Cameras, closed: bool = False) -> TsedFigures:
    """TSED over the neighbours of a sequence with images in [0, 1].

    A pair passes with at least `MIN_MATCHES` matches whose median distance is below `MAX_MEDIAN`; a pair with fewer
    matches fails, however good they are.
    """
    height, width = images.shape[-2:]
    scale = max(1.0, MATCH_SIZE / max(height, width))
    size = (round(height * scale), round(width * scale))
    cameras = cameras.resized(size)
    features = [find_features(image, size) for image in _to_uint8(images)]
    pairs = adjacent_pairs(len(images), closed)
    matches: list[int] = []
    medians: list[float | None] = []
    passes: list[bool | None] = []
    for i, j in pairs:
        first, second = _matched(features[i], features[j])
        matches.append(len(first))
        if (cameras.centers[i] - cameras.centers[j]).norm() < MIN_BASELINE:
            medians.append(None)
            passes.append(None)
            continue
        distances = symmetric_epipolar_distance(first, second, fundamental_matrix(cameras, i, j))
        medians.append(float(np.median(distances)) if len(first) else None)
        passes.append(bool(len(first) >= MIN_MATCHES and np.median(distances) < MAX_MEDIAN))
    judged = [passed for passed in passes if passed is not None]
    score = sum(judged) / len(judged) if judged else None
    return {"score": score, "num_pairs": len(judged), "matches": matches, "medians": medians, "passes": passes}


def fundamental_matrix(cameras: Cameras, i: int, j: int) -> Float[np.ndarray, "3 3"]:
    """F with p_j^T F p_i = 0 for homogeneous pixels of one world point in views i and j: F = K_j^-T [t]x R K_i^-1."""
    c2w, K = cameras.c2w.double().cpu().numpy(), cameras.K.double().cpu().numpy()
    rotation = c2w[j, :3, :3].T @ c2w[i, :3, :3]  # x_j = rotation x_i + t
    t = c2w[j, :3, :3].T @ (c2w[i, :3, 3] - c2w[j, :3, 3])
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    return np.linalg.inv(K[j]).T @ cross @ rotation @ np.linalg.inv(K[i])


def symmetric_epipolar_distance(
    first: Float[np.ndarray, "n 2"], second: Float[np.ndarray, "n 2"], F: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, " n"]:
    """1/2 (d(p2, F p1) + d(p1, F^T p2)) in pixels, for matched pixels p1 and p2."""
    p1, p2 = (np.concatenate([p, np.ones_like(p[:, :1])], axis=1) for p in (first, second))
    return (_distance_to_lines(p2, p1 @ F.T) + _distance_to_lines(p1, p2 @ F)) / 2


def _distance_to_lines(points: Float[np.ndarray, "n 3"], lines: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    return np.abs((points * lines).sum(axis=1)) / np.linalg.norm(lines[:, :2], axis=1)


def _to_uint8(images: Float[Tensor, "view 3 h w"]) -> UInt8[np.ndarray, "view h w 3"]:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def find_features(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> Features:
    """SIFT features of the image enlarged to `size` (height, width)."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    if grey.shape != size:
        grey = cv2.resize(grey, size[::-1], interpolation=cv2.INTER_CUBIC)
    # Without the precise upscale OpenCV's keypoints lie 0.25 px too far to the right and down.
    keypoints, descriptors = cv2.SIFT.create(enable_precise_upscale=True).detectAndCompute(grey, None)
    if descriptors is None:
        return Features(np.zeros((0, 2)), np.zeros((0, 128), dtype=np.float32))
    return Features(np.array([k.pt for k in keypoints], dtype=np.float64) + 0.5, descriptors)


def _matched(a: Features, b: Features) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
    """Points of a and their nearest neighbours in b that pass Lowe's ratio test."""
    if len(b.points) < 2:
        return np.zeros((0, 2)), np.zeros((0, 2))
    candidates = cv2.BFMatcher(cv2.NORM_L2).knnMatch(a.descriptors, b.descriptors, k=2)
    good = [best for best, other in candidates if best.distance < LOWE_RATIO * other.distance]
    return a.points[[m.queryIdx for m in good]], b.points[[m.trainIdx for m in good]]
