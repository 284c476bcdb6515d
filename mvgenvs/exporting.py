"""Finished views to files that other programs open: what `infer_multiview.py --export` does at its end."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from mvgenvs.cameras import Cameras
from mvgenvs.cli import explained_failures
from mvgenvs.nerf.model import Rendering
from mvgenvs.reconstruction.formats import FILES
from mvgenvs.reconstruction.observations import RenderField, observe, surround_cameras
from mvgenvs.reconstruction.points import PointCloud, point_cloud
from mvgenvs.reconstruction.reconstruct import textured_mesh
from mvgenvs.reconstruction.splats import gaussian_splats
from mvgenvs.reconstruction.writing import write_glb, write_points, write_splats
from mvgenvs.results import ResultsFolder
from mvgenvs.trajectories import evenly_spread

MOST_VIEWS = 48  # of a longer trajectory, so many are used, evenly spread
MOST_KNOWN = 3  # views that a field is lifted from


def export_views(
    formats: Sequence[str],
    pipe: Any,
    images: Float[Tensor, "1 known 4 h w"] | None,
    cameras: Cameras | None,
    targets: Cameras,
    results: ResultsFolder,
) -> None:
    """Exports the finished views of the folder to `formats`, the keys of `FILES`.

    `images` with their `cameras` are the known views, from which the field is lifted; `targets` are the unbatched
    cameras of the finished views. Raises `UserError` if nothing is opaque, or a file cannot be written.
    """
    started = time.perf_counter()
    kinds = list(dict.fromkeys(formats))
    with explained_failures(results.path):
        chosen = evenly_spread(targets.num_views, MOST_VIEWS)
        views, targets = results.frames(chosen), targets.to("cpu").select(chosen)
        field = lifted_field(pipe, images, cameras, views, targets)
        around = observe(field, surround_cameras())

        @cache
        def cloud() -> PointCloud:
            return point_cloud([replace(observe(field, targets), images=views), around])

        def writer(kind: str) -> Callable[[Path], None]:
            if kind == "glb":
                mesh = textured_mesh(around, [(views, targets), (around.images, around.cameras)])
                return partial(write_glb, mesh=mesh)
            if kind == "ply":
                return partial(write_points, cloud=cloud())
            return partial(write_splats, splats=gaussian_splats(cloud()))

        for kind in tqdm(kinds, "exporting", unit="file", leave=False):
            results.export(FILES[kind], writer(kind))
    names = ", ".join(FILES[kind] for kind in kinds)
    print(f"{names} in {time.perf_counter() - started:.0f} s: see {results.path}")


def lifted_field(
    pipe: Any,
    images: Float[Tensor, "1 known 4 h w"] | None,
    cameras: Cameras | None,
    views: Float[Tensor, "view 3 h w"],
    targets: Cameras,
) -> RenderField:
    """The field of the known views; without any, that of a few of the generated ones."""
    device = pipe.device
    if images is None or cameras is None:
        chosen = evenly_spread(len(views), MOST_KNOWN, closed=True)
        images, cameras = views[chosen][None], targets.select(chosen).batched()
    with torch.no_grad():
        scene = pipe.networks.lift(list(images.to(device).split(1, dim=1)), cameras.to(device))

    def render(asked: Cameras) -> Rendering:
        with pipe.networks.computing():
            return pipe.nerf.render(scene, asked.to(device))

    return render
