"""Does the NeRF know where surfaces are? Its renderings against true depth and mattes, and the use of its depth.

Views can agree about a surface only as far as the model knows where it is. A neighbour's true pixels, warped by the
rendered depth, show what joint attention, warped pixels and anchors could gain; warped by the true depth, what is
possible; the NeRF's own colours, what there is without them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eval.metrics.figures import mean_of_present
from eval.metrics.image import MAX_PSNR, psnr
from eval.metrics.warp import warp
from eval.protocols import choose_views, evenly_chosen
from eval.report.columns import Column
from eval.report.records import write_json
from eval.report.tables import Table, format_table
from mvgenvs.data.stored import CachedScenes
from mvgenvs.errors import UserError
from mvgenvs.files import write_text
from mvgenvs.media import color_depth, contact_sheet, write_png
from mvgenvs.nerf.model import ViewNeRF
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.views import ViewSet

NEIGHBOUR = 3  # places along the orbit: an eighth of it
TOKEN = 8  # pixels: the side of a token of the joint transformer
FEWEST = 20  # pixels visible in both views that a comparison needs
COLUMNS = (
    Column("psnr", "PSNR", "view", "high", 2, "of the rendering"),
    Column("depth-error", "depth error", "view", "low", 4, "mean absolute, on the object, in world units"),
    Column("iou", "IoU", "view", "high", 3, "of silhouettes"),
    Column("warp", "neighbour warp", "view", "high", 2, "a neighbour's true pixels, warped by the rendered depth"),
    Column("ceiling", "by true depth", "view", "high", 2, "the same, warped by the true depth"),
    Column("own", "own colours", "view", "high", 2, "the rendering's, on the same pixels"),
    Column("match", "correspondence", "view", "high", 3, "share of these pixels that the rendered depth finds there"),
)
ANGLES = {"all": (0, 181), "0 to 60 degrees": (0, 60), "60 to 120": (60, 120), "120 to 180": (120, 181)}

PICTURED = (0, 4, 8, 12, 16, 20)  # of the targets, a sixth of the orbit apart

Figures = dict[str, Float[Tensor, " view"]]
Rows = list[tuple[str, Float[Tensor, "view 3 h w"]]]


@dataclass(frozen=True, eq=False)
class ObjectFigures:
    """Metrics of one object's targets, NaN where there is none, and their angles from the input in degrees."""

    figures: Figures
    angles: Float[Tensor, " view"]


@dataclass(frozen=True, eq=False)
class RenderedTargets:
    """Renderings of the targets."""

    rgb: Float[Tensor, "view 3 h w"]
    depth: Float[Tensor, "view 1 h w"]
    opacity: Float[Tensor, "view 1 h w"]


def study(
    output: Path,
    pipeline: MultiViewPipeline,
    scenes: CachedScenes,
    num_objects: int,
    num_inputs: int = 1,
    mattes: bool = True,
    on_object: Callable[[], object] = lambda: None,
) -> str:
    """Writes geometry.json, .md and .png, and returns the text. `mattes`: known views come with their mattes.

    Raises `UserError` if the data have no depth or masks.
    """
    indices = evenly_chosen(scenes, num_objects)
    found: list[ObjectFigures] = []
    rows: Rows = []
    for index in indices:
        views = scenes.read(index).view_set()
        if views.depth is None or views.mask is None:
            raise UserError(f"{scenes.objects[index].folder} has no depth or masks, which this study compares with")
        chosen = choose_views(scenes.objects[index], views.cameras, num_inputs=num_inputs)
        known = views.select(chosen.inputs)
        known, truth = known if mattes else replace(known, mask=None), views.select(chosen.targets)
        seen = rendered(pipeline.nerf, known, truth)
        found.append(ObjectFigures(compare(seen, truth), angles_from(known, truth)))
        rows += pictures(scenes.objects[index].name, seen, truth)
        on_object()
    table = make_table(found)
    text = format_table(table, COLUMNS)
    write_json(output / "geometry.json", {"table": table, "objects": [scenes.objects[i].name for i in indices]})
    write_text(output / "geometry.md", text + "\n")
    write_png(output / "geometry.png", contact_sheet(rows, numbers=PICTURED))
    return text


@torch.no_grad()
def rendered(nerf: ViewNeRF, known: ViewSet, truth: ViewSet) -> RenderedTargets:
    """The views of `truth`, rendered from the known views."""
    device = next(nerf.parameters()).device
    scene = nerf.encode(known.rgba[None].to(device), known.cameras.batched().to(device), find_empty=True)
    seen = nerf.render(scene, truth.cameras.batched().to(device))
    return RenderedTargets(*(x[0].cpu() for x in (seen.rgb.clamp(0, 1), seen.depth, seen.opacity)))


def angles_from(known: ViewSet, truth: ViewSet) -> Float[Tensor, " view"]:
    """Degrees between each view of `truth` and the first known one, seen from the origin."""
    directions, start = (c / c.norm(dim=-1, keepdim=True) for c in (truth.cameras.centers, known.cameras.centers[:1]))
    return torch.rad2deg((directions @ start[0]).clamp(-1, 1).acos())


def pictures(name: str, seen: RenderedTargets, truth: ViewSet) -> Rows:
    """Colours and depths of some of the views, true ones above rendered ones."""
    assert truth.depth is not None
    shown = [place for place in PICTURED if place < truth.num_views]
    depth = torch.where(seen.opacity > 0.5, seen.depth, 0.0)
    both = (truth.images, seen.rgb, color_depth(truth.depth), color_depth(depth))
    labels = (f"{name}: truth", "rendering", "true depth", "rendered depth")
    return [(label, x[shown]) for label, x in zip(labels, both, strict=True)]


def compare(seen: RenderedTargets, truth: ViewSet) -> Figures:
    """The columns, for renderings of the views of `truth`, which go around the object."""
    assert truth.depth is not None and truth.mask is not None
    rgb, depth, opacity = seen.rgb, seen.depth, seen.opacity
    solid, there = opacity > 0.5, truth.mask > 0.5
    both = there & (truth.depth > 0)
    places = list(range(len(rgb)))
    neighbours = [(place + NEIGHBOUR) % len(places) for place in places]
    sources = truth.images[neighbours]
    by_truth = warp(sources, truth, places, neighbours)
    by_rendering = warp(sources, replace(truth, depth=torch.where(solid, depth, 0.0)), places, neighbours)
    found = solid & (displacement(depth, truth, places, neighbours) <= TOKEN)
    return {
        "psnr": psnr(rgb, truth.images),
        "depth-error": _sum((depth - truth.depth).abs() * both) / _sum(both),
        "iou": _sum(solid & there) / _sum(solid | there),
        "warp": _psnr_where(by_rendering.images, truth.images, by_truth.visible),
        "ceiling": _psnr_where(by_truth.images, truth.images, by_truth.visible),
        "own": _psnr_where(rgb, truth.images, by_truth.visible),
        "match": _sum(found & by_truth.visible) / _sum(by_truth.visible),
    }


def displacement(
    depth: Float[Tensor, "view 1 h w"], truth: ViewSet, first: list[int], second: list[int]
) -> Float[Tensor, "pair 1 h w"]:
    """Pixels between where `depth` and the true depth find each point of the views `first` in the views `second`."""
    assert truth.depth is not None
    here, there = truth.cameras.select(first), truth.cameras.select(second)
    found, true = (there.project(here.unproject_map(values[first]))[0] for values in (depth, truth.depth))
    return (found - true).norm(dim=-1).unflatten(1, (1, *truth.cameras.hw))


def make_table(found: list[ObjectFigures]) -> Table:
    """Means within each object and each range of angles, then over the objects that have views there."""
    return {
        name: {
            column.key: mean_of_present([_mean(each, column.key, low, high) for each in found]) for column in COLUMNS
        }
        for name, (low, high) in ANGLES.items()
    }


def _mean(found: ObjectFigures, key: str, low: int, high: int) -> float | None:
    values = found.figures[key][(found.angles >= low) & (found.angles < high)]
    values = values[values.isfinite()]
    return float(values.mean()) if len(values) else None


def _sum(x: Tensor) -> Float[Tensor, " view"]:
    return x.float().sum(dim=(1, 2, 3))


def _psnr_where(
    images: Float[Tensor, "view 3 h w"], truth: Float[Tensor, "view 3 h w"], where: Bool[Tensor, "view 1 h w"]
) -> Float[Tensor, " view"]:
    """PSNR of the pixels `where`; NaN if they are too few."""
    pixels = _sum(where)
    error = _sum((images - truth).square() * where) / (3 * pixels)
    values = -10 * error.clamp(min=10 ** (-MAX_PSNR / 10)).log10()
    return torch.where(pixels >= FEWEST, values, torch.nan)
