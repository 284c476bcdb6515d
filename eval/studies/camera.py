"""How well the camera of a picture is estimated, and whether orbits gain by it.

The camera of every view of every object is estimated, except from high above. For some views per object, seen from
random directions, the NeRF is lifted with the true camera, the estimated and the canonical one, and its renderings of
views all around are compared with the true ones.

Could the NeRF tell a wrong azimuth from the right one? It is lifted with the input's camera turned by some angle, and
rendered at that camera and at its mirror image, whose picture of a symmetric object would be the input's mirror image.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eval.metrics.image import psnr
from eval.protocols import choose_views, evenly_chosen, views_between
from eval.report.columns import Column
from eval.report.records import write_json
from eval.report.tables import Table, format_table
from eval.studies.geometry import rendered
from mvgenvs.cameras import Cameras, concatenate, turn_about_vertical
from mvgenvs.data.stored import CachedScenes
from mvgenvs.errors import UserError
from mvgenvs.files import write_text
from mvgenvs.photos import frame_photo
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.pose.estimate import estimate_camera, framed, load_network
from mvgenvs.pose.network import CameraNet
from mvgenvs.trajectories import angles_of, canonical_camera
from mvgenvs.views import ViewSet

ELEVATIONS = (3.0, 60.0)  # degrees
NEAR, REVERSED = 30.0, 150.0  # degrees of azimuth error: nearly right, and front taken for back
LIFTED = 2  # views per object from which the NeRF is lifted
SHOWN = 4  # every how many-th view of the orbit is rendered
ESTIMATES = (
    Column("azimuth", "azimuth error", "view", "low", 1, "median, in degrees"),
    Column("near", "≤ 30°", "view", "high", 3, "share of the views"),
    Column("reversed", "> 150°", "view", "low", 3, "share of the views: front and back confused"),
    Column("sure", "≤ 30° if sure", "view", "high", 3, "of the views whose main peak has a probability of .8 or more"),
    Column("share", "sure", "view", "high", 2, "share of these views"),
    Column("elevation", "elevation error", "view", "low", 1, "median, in degrees"),
    Column("distance", "distance error", "view", "low", 2, "median, in object lengths"),
    Column("views", "views", "run", "neither", 0, "their number"),
)
ORBITS = (
    Column("psnr", "PSNR of the NeRF", "view", "high", 2, "of views all around, in dB"),
    Column("median", "median", "view", "high", 2, "over the input views"),
)
CAMERAS = ("true", "estimated", "canonical")
TURNS = (0.0, 20.0, 180.0)  # degrees
HYPOTHESES = (
    Column("input", "PSNR at the input", "view", "high", 2, "of the rendering at the camera it was lifted with"),
    Column("mirror", "PSNR at its mirror image", "view", "high", 2, "of the rendering at the mirrored camera"),
    Column("best", "best", "view", "neither", 2, "share of the input views for which this angle has the highest sum"),
)


def study(
    output: Path,
    pipeline: MultiViewPipeline,
    scenes: CachedScenes,
    num_objects: int,
    network: Path | None = None,
    seed: int = 0,
    on_object: Callable[[], object] = lambda: None,
) -> str:
    """Writes camera.json and .md, and returns the text. `network` is a folder; by default the bundled one.

    Raises `UserError` if the data have no masks.
    """
    net = load_network() if network is None else load_network(network)
    errors: list[dict[str, float]] = []
    orbits: dict[str, list[float]] = {name: [] for name in CAMERAS}
    turned: list[Float[Tensor, "turn 2"]] = []
    for index in evenly_chosen(scenes, num_objects):
        item, views = scenes.objects[index], scenes.read(index).view_set()
        if views.mask is None:
            raise UserError(f"{item.folder} has no masks, which this study compares with")
        rng = np.random.default_rng((seed, index))
        usable = views_between(views.cameras, *ELEVATIONS)
        errors += [errors_of(views, int(view), net) for view in usable]
        around = views.select(choose_views(item, views.cameras).targets[::SHOWN])
        for view in rng.choice(usable, LIFTED, replace=False):
            for name, known in seen_by(views.select([int(view)]), net).items():
                found = rendered(pipeline.nerf, known, around).rgb
                orbits[name].append(psnr(found, around.images).mean().item())
            turned.append(torch.stack([fits(pipeline, views.select([int(view)]), turn) for turn in TURNS]))
        on_object()
    tables: dict[str, tuple[Table, tuple[Column, ...]]] = {
        "cameras": ({"all views": summary(errors)}, ESTIMATES),
        "orbits": (orbit_table(orbits), ORBITS),
        "hypotheses": (hypothesis_table(torch.stack(turned)), HYPOTHESES),
    }
    text = "\n\n".join(format_table(*table) for table in tables.values())
    written = {name: table for name, (table, _) in tables.items()}
    write_json(output / "camera.json", {**written, "errors": errors, "psnr": orbits})
    write_text(output / "camera.md", text + "\n")
    return text


def errors_of(views: ViewSet, view: int, network: CameraNet) -> dict[str, float]:
    """The errors of one view's estimate, in degrees and object lengths."""
    found = estimate_camera(picture(views.select([view])), network)
    azimuth, elevation = (float(x) for x in angles_of(views.cameras.centers[view]))
    return {
        "azimuth": abs((found.azimuth - azimuth + 180) % 360 - 180),
        "elevation": abs(found.elevation - elevation),
        "distance": abs(found.distance - float(views.cameras.centers[view].norm())),
        "probability": found.probability,
    }


def seen_by(known: ViewSet, network: CameraNet) -> dict[str, ViewSet]:
    """The known view as it is given to the NeRF: with its true camera, with the estimated and the canonical one."""
    image, size = picture(known), known.cameras.hw[0]
    found = estimate_camera(image, network)
    return {
        "true": known,
        "estimated": photo_view(framed(image, found.window), found.camera, size, reframe=False),
        "canonical": photo_view(image, canonical_camera(), size, reframe=True),
    }


def fits(pipeline: MultiViewPipeline, known: ViewSet, turn: float) -> Float[Tensor, "2"]:
    """PSNR of the NeRF at the camera it was lifted with, turned by some degrees, and at this one's mirror image."""
    wrong = known.moved(turn_about_vertical(torch.tensor(turn).deg2rad()))
    mirror = wrong.mirrored()
    cameras = concatenate([wrong.cameras, mirror.cameras])
    truth = ViewSet(torch.cat([wrong.images, mirror.images]), cameras)
    return psnr(rendered(pipeline.nerf, wrong, truth).rgb, truth.images)


def photo_view(image: Image.Image, camera: Cameras, size: int, reframe: bool) -> ViewSet:
    """A photo as `infer_multiview.py` gives it to the model."""
    photo = frame_photo(image, size, reframe)
    matte = None if photo.matte is None else photo.matte[None]
    return ViewSet(photo.image[None], camera.resized((size, size)), matte)


def picture(view: ViewSet) -> Image.Image:
    """A view as an RGBA image."""
    assert view.mask is not None
    pixels: Float[Tensor, "h w 4"] = rearrange(torch.cat([view.images, view.mask], dim=1), "1 c h w -> h w c")
    return Image.fromarray((pixels * 255).round().byte().numpy())


def summary(errors: list[dict[str, float]]) -> dict[str, float | None]:
    """The columns of `ESTIMATES`."""
    azimuth, elevation, distance, probability = (
        np.array([error[key] for error in errors]) for key in ("azimuth", "elevation", "distance", "probability")
    )
    sure = probability >= 0.8
    return {
        "azimuth": float(np.median(azimuth)),
        "near": float((azimuth <= NEAR).mean()),
        "reversed": float((azimuth > REVERSED).mean()),
        "sure": float((azimuth[sure] <= NEAR).mean()) if sure.any() else None,
        "share": float(sure.mean()),
        "elevation": float(np.median(elevation)),
        "distance": float(np.median(distance)),
        "views": float(len(errors)),
    }


def hypothesis_table(found: Float[Tensor, "view turn 2"]) -> Table:
    """Means over the input views of each turn's fit, and how often it fits best."""
    best = found.sum(dim=-1).argmax(dim=1)
    return {
        f"turned by {turn:.0f}°": {
            "input": found[:, place, 0].mean().item(),
            "mirror": found[:, place, 1].mean().item(),
            "best": (best == place).float().mean().item(),
        }
        for place, turn in enumerate(TURNS)
    }


def orbit_table(orbits: dict[str, list[float]]) -> Table:
    """Means and medians over the input views."""
    return {name: {"psnr": float(np.mean(each)), "median": float(np.median(each))} for name, each in orbits.items()}
