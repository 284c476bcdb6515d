"""Warp error: do neighbouring frames show the same colour at the same point of the true surface?

Frame j is warped to frame i by the true depth of i and compared where the point is visible in both. Blank or blurred
frames agree with each other too, so compare it with the quality of the images, and with the true images' own values:
resampling, shading and the edges of the mask keep these from being perfect.
"""

from dataclasses import dataclass
from typing import TypedDict

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from eval.metrics.figures import mean_of_present
from eval.metrics.image import MAX_PSNR, rounded_to_8_bits
from eval.metrics.pairs import Distance, adjacent_pairs
from mvgenvs.views import ViewSet

MAX_DEPTH_ERROR = 0.01  # relative; a larger error means that another surface is in front


class WarpFigures(TypedDict):
    """Warp errors of one sequence; lists have one entry per pair, None if the two have no visible point in common."""

    psnr: list[float | None]  # dB over the pixels visible in both, higher is better
    rmse: list[float | None]  # the same as a root mean square difference, 0 to 1, lower is better
    lpips: list[float | None] | None  # None without a perceptual distance
    coverage: list[float]  # visible in both / object's pixels in i
    mean_psnr: float | None  # over the pairs that have one
    mean_lpips: float | None
    num_pairs: int  # with a common point


@dataclass(frozen=True, eq=False)
class Warped:
    """View j as seen from view i, for each of several pairs (i, j)."""

    images: Float[Tensor, "pair 3 h w"]
    visible: Bool[Tensor, "pair 1 h w"]  # the surface seen at this pixel of i is also seen by j


def warp_error(
    images: Float[Tensor, "view 3 h w"], truth: ViewSet, distance: Distance | None = None, closed: bool = False
) -> WarpFigures | None:
    """Warp errors between neighbours of a sequence with images in [0, 1] that show the views of `truth`.

    Only cameras, depth and mask of `truth` are used; None if it has no depth. `distance` compares images that are white
    outside the pixels visible in both.
    """
    if truth.depth is None or len(images) < 2:
        return None
    first, second = (list(side) for side in zip(*adjacent_pairs(len(images), closed), strict=True))
    images = rounded_to_8_bits(images)
    warped = warp(images[second], truth, first, second)
    target, visible = images[first], warped.visible
    pixels = visible.sum(dim=(1, 2, 3))
    on_object = (_object(truth)[first]).sum(dim=(1, 2, 3)).clamp(min=1)
    mse = ((target - warped.images).square() * visible).sum(dim=(1, 2, 3)) / (3 * pixels.clamp(min=1))
    psnr = -10 * mse.clamp(min=10 ** (-MAX_PSNR / 10)).log10()

    def defined(values: Tensor) -> list[float | None]:
        return [value if seen else None for value, seen in zip(values.tolist(), pixels.tolist(), strict=True)]

    perceptual = None
    if distance is not None:
        perceptual = defined(distance(torch.where(visible, warped.images, 1.0), torch.where(visible, target, 1.0)))
    psnr_per_pair = defined(psnr)
    return {
        "psnr": psnr_per_pair,
        "rmse": defined(mse.sqrt()),
        "lpips": perceptual,
        "coverage": (pixels / on_object).tolist(),
        "mean_psnr": mean_of_present(psnr_per_pair),
        "mean_lpips": None if perceptual is None else mean_of_present(perceptual),
        "num_pairs": int((pixels > 0).sum()),
    }


def warp(sources: Float[Tensor, "pair 3 h w"], truth: ViewSet, first: list[int], second: list[int]) -> Warped:
    """Samples `sources`, images of the views `second`, where the surface seen by the views `first` projects to.

    A point counts as visible if all four pixels that are interpolated there are on the object and their depth agrees
    with the point's within `MAX_DEPTH_ERROR`.
    """
    assert truth.depth is not None
    height, width = truth.cameras.hw
    here, there = truth.cameras.select(first), truth.cameras.select(second)
    mask = _object(truth)
    projected, depth = there.project(here.unproject_map(truth.depth[first]))
    grid = projected / projected.new_tensor([width, height]) * 2 - 1  # pixel i covers (i, i + 1) / N of the image
    grid = grid.unflatten(1, (height, width))
    seen = torch.cat([sources, truth.depth[second], mask[second].to(sources)], dim=1)
    sampled = F.grid_sample(seen, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    colours, depth_there, mask_there = sampled.split([3, 1, 1], dim=1)
    error = (depth.unflatten(1, (1, height, width)) / depth_there.clamp(min=1e-6) - 1).abs()
    visible = mask[first] & (mask_there > 1 - 1e-4) & (error <= MAX_DEPTH_ERROR)
    return Warped(colours, visible)


def _object(truth: ViewSet) -> Bool[Tensor, "view 1 h w"]:
    """Pixels on the object: those that have a depth and, if there is a mask, are inside it."""
    assert truth.depth is not None
    with_depth = truth.depth > 0
    return with_depth if truth.mask is None else with_depth & (truth.mask > 0.5)
