"""How consistency measures are fooled: they judge the same views as they are, blurred, out of order, or all the same.

The figures of the views as they are, and of the truth, are those of `eval.run`. The other rows are made of them and
have nothing that a user could want; where one of them scores better, the measure must not be read alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eval.methods import COPY, JOINT, TRUTH, SamplesViews, predictions, sample_seed
from eval.metrics.figures import Figures, mean_of_present
from eval.metrics.frechet import frechet_distance, moments
from eval.metrics.image import rounded_to_8_bits
from eval.metrics.suite import MetricSuite
from eval.protocols import choose_views
from eval.report.columns import COLUMNS
from eval.report.records import write_json
from eval.report.tables import format_table
from mvgenvs.data.stored import CachedScenes
from mvgenvs.files import write_text
from mvgenvs.media import contact_sheet, write_png

SIGMAS = {"blurred a little": 1.0, "blurred": 2.0}  # pixels
SHUFFLED = "shuffled"
ROWS = (TRUTH, JOINT, *SIGMAS, SHUFFLED, COPY)
METRICS = (
    "psnr", "ssim", "lpips-alex", "fd-effnet", "tsed", "tsed-matches", "warp-psnr", "warp-lpips", "flicker",
    "loop-lpips", "3d-psnr",
)  # fmt: skip
SHOWN = 8  # neighbouring views of the first object

Images = Float[Tensor, "view 3 h w"]


def study(
    output: Path,
    pipeline: SamplesViews,
    scenes: CachedScenes,
    num_objects: int,
    suite: MetricSuite,
    sampling: dict[str, Any],
    seed: int = 0,
    on_row: Callable[[], object] = lambda: None,
) -> str:
    """Writes fooling.json, .md and .png, and returns the text. Calls `on_row` after each row of each object."""
    found: dict[str, list[Figures]] = {row: [] for row in ROWS}
    features: dict[str, list[Tensor]] = {}
    for index in range(num_objects):
        item, views = scenes.objects[index], scenes.read(index).view_set()
        chosen = choose_views(item, views.cameras)
        known, targets = views.select(chosen.inputs), views.select(chosen.targets)
        seeds = [sample_seed(seed, item.name, 0)]
        made = dict(predictions(pipeline, known, targets.cameras, (COPY, JOINT), sampling, seeds))
        rows = variants(targets.images, made[JOINT][0], made[COPY][0], seed)
        if index == 0:
            write_png(output / "fooling.png", contact_sheet([(row, images[:SHOWN]) for row, images in rows.items()]))
        for row, images in rows.items():
            quality = {} if row == TRUTH else suite.quality(images[None], targets.images)
            found[row].append(quality | suite.consistency(images, targets, closed=True))
            for key, values in suite.features(row, images).items():
                features.setdefault(key, []).append(values)
            on_row()
    table = {row: averages(objects) for row, objects in found.items()}
    for extractor in suite.extractors:
        name = extractor.frechet_name
        for row in ROWS[1:]:
            distance = frechet_distance(moments(features[f"{name}/{row}"]), moments(features[f"{name}/{TRUTH}"]))
            table[row][name.lower()] = distance
    text = format_table(table, [COLUMNS[key] for key in METRICS])
    write_json(output / "fooling.json", {"table": table, "objects": found})
    write_text(output / "fooling.md", text + "\n")
    return text


def variants(truth: Images, joint: Images, copies: Images, seed: int = 0) -> dict[str, Images]:
    """The images of each row, rounded to 8 bits."""
    order = np.random.default_rng(seed).permutation(len(joint))
    rows = {TRUTH: truth, JOINT: joint}
    rows |= {row: blurred(joint, sigma) for row, sigma in SIGMAS.items()}
    rows |= {SHUFFLED: joint[torch.from_numpy(order)], COPY: copies}
    return {row: rounded_to_8_bits(images) for row, images in rows.items()}


def blurred(images: Images, sigma: float) -> Images:
    """Each image alone, with a Gaussian of `sigma` pixels."""
    pictures = images.movedim(1, -1).cpu().numpy()
    smooth = [cv2.GaussianBlur(p, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE) for p in pictures]
    return torch.from_numpy(np.stack(smooth)).movedim(-1, 1)


def averages(objects: list[Figures]) -> dict[str, float | None]:
    """Means within each object, then over objects."""
    keys = dict.fromkeys(key for figures in objects for key in figures)
    return {key: mean_of_present([mean_of_present(figures.get(key, [])) for figures in objects]) for key in keys}
