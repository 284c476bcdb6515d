"""How well photos are cut out: overlap with the true mattes before twenty backgrounds, and what a cut does on white.

Every object is seen from a random direction near the ground before each background. On white, where the data set's
pictures are already, the NeRF is lifted from the orbit's input with its true matte, with the one that was cut, and
without any; its renderings are compared with the true views.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from eval.metrics.figures import mean_of_present
from eval.metrics.image import psnr
from eval.protocols import choose_views, evenly_chosen, views_between
from eval.report.columns import Column
from eval.report.records import write_json
from eval.report.tables import Table, format_table
from eval.studies.backgrounds import KINDS, background, names, photographed
from eval.studies.geometry import rendered
from mvgenvs.data.stored import CachedScenes
from mvgenvs.errors import UserError
from mvgenvs.files import write_text
from mvgenvs.mattes.cut import cut_out
from mvgenvs.media import contact_sheet, to_uint8, write_png
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.views import ViewSet

ELEVATIONS = (3.0, 35.0)  # degrees: from where people photograph cars
GOOD = 0.9  # IoU
PICTURED = 6  # objects
SHOWN = 3  # every how many-th view of the orbit is rendered
CUTS = (
    Column("iou", "median IoU", "run", "high", 3, "of the cut and the true matte"),
    Column("good", "IoU ≥ .9", "run", "high", 2, "share of the pictures"),
    Column("worst", "worst", "run", "high", 2, "the lowest IoU"),
)
ON_WHITE = (
    Column("psnr", "PSNR of the NeRF", "view", "high", 2, "of 8 views around, in dB"),
    Column("iou", "IoU of the matte", "view", "high", 3, "of the cut and the true matte"),
)


def study(
    output: Path,
    pipeline: MultiViewPipeline,
    scenes: CachedScenes,
    num_objects: int,
    seed: int = 0,
    on_object: Callable[[], object] = lambda: None,
) -> str:
    """Writes mattes.json, .md and .png, and returns the text. Raises `UserError` if the data have no masks."""
    overlaps: dict[str, list[float]] = {kind: [] for kind in KINDS}
    white: list[Table] = []
    rows: list[tuple[str, Float[Tensor, "object 3 h w"]]] = []
    pictures: dict[tuple[str, int], list[UInt8[np.ndarray, "h w 3"]]] = {name: [] for name in names()}
    for index in evenly_chosen(scenes, num_objects):
        views = scenes.read(index).view_set()
        if views.mask is None:
            raise UserError(f"{scenes.objects[index].folder} has no masks, which this study compares with")
        for name in names():
            shown, overlap = _before(views, name, np.random.default_rng((seed, index, names().index(name))))
            overlaps[name[0]].append(overlap)
            pictures[name].append(shown)
        chosen = choose_views(scenes.objects[index], views.cameras)
        white.append(_on_white(pipeline, views.select(chosen.inputs), views.select(chosen.targets[::SHOWN])))
        on_object()
    for (kind, number), made in pictures.items():
        rows.append((f"{kind} {number}", torch.from_numpy(np.stack(made[:PICTURED])).movedim(-1, 1).float() / 255))
    cuts = {kind: _summary(values) for kind, values in overlaps.items()}
    cuts["all"] = _summary([value for values in overlaps.values() for value in values])
    matted: Table = {
        row: {key: mean_of_present([table[row][key] for table in white]) for key in figures}
        for row, figures in white[0].items()
    }
    text = f"{format_table(cuts, CUTS)}\n\n{format_table(matted, ON_WHITE)}"
    write_json(output / "mattes.json", {"cuts": cuts, "overlaps": overlaps, "on white": matted})
    write_text(output / "mattes.md", text + "\n")
    write_png(output / "mattes.png", contact_sheet(rows, columns=PICTURED))
    return text


def overlap(found: Float[np.ndarray, "h w"], truth: Float[np.ndarray, "h w"]) -> float:
    """Intersection over union of what is more than half there; 1 if neither shows anything."""
    a, b = found > 0.5, truth > 0.5
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0


def cut_matte(rgb: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """The automatic cut's matte; empty where it ends in an error."""
    try:
        cut = cut_out(Image.fromarray(rgb).convert("RGBA"))
    except UserError:
        return np.zeros(rgb.shape[:2], np.float32)
    return np.asarray(cut.image.getchannel("A"), dtype=np.float32) / 255


def _before(
    views: ViewSet, name: tuple[str, int], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
    """A random view before a background, with what was not cut out tinted; and the overlap with the true matte."""
    assert views.mask is not None
    view = int(rng.choice(views_between(views.cameras, *ELEVATIONS)))
    scene = background(*name, rng)
    rgb, truth = photographed(views.images[view], views.mask[view], scene, shadow=name[1] % 2 == 0, rng=rng)
    found = cut_matte(rgb)
    shown = rgb.copy()
    shown[found <= 0.5] = shown[found <= 0.5] // 3 + np.array([0, 120, 120], np.uint8)
    return shown, overlap(found, truth)


def _on_white(pipeline: MultiViewPipeline, known: ViewSet, truth: ViewSet) -> Table:
    """The NeRF's PSNR with each matte of its one known view."""
    assert known.mask is not None
    found = torch.from_numpy(cut_matte(to_uint8(known.images[0])))[None, None]
    mattes = {"true matte": known.mask, "auto": found, "none": None}
    return {
        row: {
            "psnr": psnr(rendered(pipeline.nerf, replace(known, mask=matte), truth).rgb, truth.images).mean().item(),
            "iou": None if matte is None else overlap(matte[0, 0].numpy(), known.mask[0, 0].numpy()),
        }
        for row, matte in mattes.items()
    }


def _summary(values: list[float]) -> dict[str, float | None]:
    found = np.array(values)
    return {"iou": float(np.median(found)), "good": float((found >= GOOD).mean()), "worst": float(found.min())}
