"""Consistency across views as the table names it, see `eval.consistency` for what it means."""

from jaxtyping import Float
from torch import Tensor

from eval.consistency import ConsistencyFigures, Distance, consistency
from eval.records import Figures
from mvgenvs.views import ViewSet


def sequence_figures(
    images: Float[Tensor, "view 3 h w"], truth: ViewSet, distance: Distance | None, closed: bool, radiance: bool
) -> Figures:
    """How well the views of a sequence fit each other, whether or not they are right.

    `closed` sequences end where they begin. `radiance` asks for the 3-D consistency score, which takes long.
    """
    found = consistency(images, truth, distance, closed, radiance)
    figures = _pair_figures(found)
    if closed:  # the pair of the last and the first view counts for the loop alone, as it may lie further apart
        figures = {name: pairs[:-1] for name, pairs in figures.items()}
        for name in ("loop_lpips", "loop_warp"):
            loop = found[name]
            figures[name.replace("_", "-")] = [] if loop is None else [loop["difference"]]
    if radiance:
        fitted = found["radiance"]
        figures["3d-psnr"] = [] if fitted is None else list(fitted["psnr"])
    return figures


def _pair_figures(found: ConsistencyFigures) -> Figures:
    """One figure of each pair; empty lists for what needs depth or a perceptual distance where that is not there."""
    matched, warped, flickering = found["tsed"], found["warp"], found["flicker"]
    excess: list[float | None] = []
    if flickering is not None:
        excess = [a - b for a, b in zip(flickering["generated"], flickering["truth"], strict=True)]
    return {
        "tsed": [None if passed is None else float(passed) for passed in matched["passes"]],
        "tsed-matches": [float(count) for count in matched["matches"]],
        "warp-psnr": [] if warped is None else warped["psnr"],
        "warp-lpips": [] if warped is None else warped["lpips"] or [],
        "flicker": excess,
    }
