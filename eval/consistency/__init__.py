"""Consistency across the views of one generated sequence, each figure to be read beside the true images' own."""

from typing import TypedDict

from jaxtyping import Float
from torch import Tensor

from eval.consistency.flicker import FlickerFigures, adjacent_distances, flicker
from eval.consistency.loop import LoopFigures, loop_closure
from eval.consistency.pairs import Distance, adjacent_pairs
from eval.consistency.radiance import FitSettings, RadianceFigures, consistency_3d
from eval.consistency.tsed import TsedFigures, tsed
from eval.consistency.warp import WarpFigures, warp_error
from mvgenvs.views import ViewSet

__all__ = [
    "ConsistencyFigures",
    "Distance",
    "FitSettings",
    "FlickerFigures",
    "LoopFigures",
    "RadianceFigures",
    "TsedFigures",
    "WarpFigures",
    "adjacent_distances",
    "adjacent_pairs",
    "consistency",
    "consistency_3d",
    "flicker",
    "loop_closure",
    "tsed",
    "warp_error",
]


class ConsistencyFigures(TypedDict):
    """All that is measured of one sequence; plain numbers and lists, as JSON wants them."""

    closed: bool
    tsed: TsedFigures
    warp: WarpFigures | None  # None without depth
    flicker: FlickerFigures | None  # None without a perceptual distance
    loop_lpips: LoopFigures | None  # None without a perceptual distance, or for an open sequence
    loop_warp: LoopFigures | None  # of the warp's root mean square error; None without depth, or for an open sequence
    radiance: RadianceFigures | None  # None where it was left out, or for fewer than three views


def consistency(
    images: Float[Tensor, "view 3 h w"],
    truth: ViewSet,
    distance: Distance | None = None,
    closed: bool = True,
    radiance: bool = True,
) -> ConsistencyFigures:
    """Measures a sequence of images in [0, 1] that shows the views of `truth`, in order.

    `closed` sequences have the pair (last, first) besides. `radiance=False` leaves out the fit, which takes most of the
    time. Images, truth and `distance` are on one device.
    """
    flickering = None if distance is None else flicker(images, truth.images, distance, closed)
    warped = warp_error(images, truth, distance, closed)
    return {
        "closed": closed,
        "tsed": tsed(images, truth.cameras, closed),
        "warp": warped,
        "flicker": flickering,
        "loop_lpips": loop_closure(flickering["generated"]) if closed and flickering is not None else None,
        "loop_warp": loop_closure(warped["rmse"]) if closed and warped is not None else None,
        "radiance": consistency_3d(images, truth.cameras, distance) if radiance else None,
    }
