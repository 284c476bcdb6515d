"""Consistency across the views of one sequence: all metrics together, each to be compared with the true images' own."""

from typing import TypedDict

from jaxtyping import Float
from torch import Tensor

from eval.metrics.figures import Figures
from eval.metrics.flicker import FlickerFigures, flicker
from eval.metrics.loop import LoopFigures, loop_closure
from eval.metrics.pairs import Distance
from eval.metrics.radiance import RadianceFigures, consistency_3d
from eval.metrics.tsed import TsedFigures, tsed
from eval.metrics.warp import WarpFigures, warp_error
from mvgenvs.cameras import Cameras
from mvgenvs.views import ViewSet


class ConsistencyFigures(TypedDict):
    """All metrics of one sequence, as plain numbers and lists for JSON."""

    closed: bool
    tsed: TsedFigures
    warp: WarpFigures | None  # None without depth
    flicker: FlickerFigures | None  # None without a perceptual distance
    loop_lpips: LoopFigures | None  # None without a perceptual distance, or for an open sequence
    loop_warp: LoopFigures | None  # of the warp's root mean square error; None without depth, or for an open sequence
    radiance: RadianceFigures | None  # None if it was left out, or for fewer than three views


def consistency(
    images: Float[Tensor, "view 3 h w"],
    truth: ViewSet | Cameras,
    distance: Distance | None = None,
    closed: bool = True,
    radiance: bool = True,
) -> ConsistencyFigures:
    """Measures a sequence of images in [0, 1] that shows the views of `truth`, or of these cameras, in order.

    `closed` sequences also have the pair (last, first). `radiance=False` leaves out the fit, which takes most of the
    time. Images, truth and `distance` are on one device.
    """
    cameras, true_images = (truth, None) if isinstance(truth, Cameras) else (truth.cameras, truth.images)
    flickering = None if distance is None else flicker(images, true_images, distance, closed)
    warped = None if isinstance(truth, Cameras) else warp_error(images, truth, distance, closed)
    return {
        "closed": closed,
        "tsed": tsed(images, cameras, closed),
        "warp": warped,
        "flicker": flickering,
        "loop_lpips": loop_closure(flickering["generated"]) if closed and flickering is not None else None,
        "loop_warp": loop_closure(warped["rmse"]) if closed and warped is not None else None,
        "radiance": consistency_3d(images, cameras, distance) if radiance else None,
    }


def sequence_figures(
    images: Float[Tensor, "view 3 h w"],
    truth: ViewSet | Cameras,
    distance: Distance | None,
    closed: bool,
    radiance: bool,
) -> Figures:
    """The same metrics by the names of the table's columns: how well the views agree with each other, right or wrong.

    `closed` sequences end where they begin. `radiance` adds the 3-D consistency score, which takes long.
    """
    found = consistency(images, truth, distance, closed, radiance)
    figures = _pair_figures(found)
    if closed:  # the pair (last, first) may be further apart than the others: it counts only for the loop
        figures = {name: pairs[:-1] for name, pairs in figures.items()}
        for name in ("loop_lpips", "loop_warp"):
            loop = found[name]
            figures[name.replace("_", "-")] = [] if loop is None else [loop["closing"]]
    if radiance:
        fitted = found["radiance"]
        figures["3d-psnr"] = [] if fitted is None else list(fitted["psnr"])
    return figures


def _pair_figures(found: ConsistencyFigures) -> Figures:
    """One value for each pair; an empty list if depth or a perceptual distance is needed and missing."""
    matched, warped = found["tsed"], found["warp"]
    figures: Figures = {
        "tsed": [None if passed is None else float(passed) for passed in matched["passes"]],
        "tsed-matches": [float(count) for count in matched["matches"]],
        "warp-psnr": [] if warped is None else warped["psnr"],
        "warp-lpips": [] if warped is None else warped["lpips"] or [],
    }
    return figures | _neighbours(found["flicker"])


def _neighbours(found: FlickerFigures | None) -> Figures:
    """How much neighbours differ: more than the true ones, or at all where these are not known."""
    if found is None:
        return {"flicker": []}
    if found["truth"] is None:
        return {"neighbour-lpips": [*found["generated"]]}
    return {"flicker": [a - b for a, b in zip(found["generated"], found["truth"], strict=True)]}
