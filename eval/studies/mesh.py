"""What exported meshes are worth: the GLB of a generated orbit, drawn at its cameras, and its shape.

The file is read again and drawn, unlit, where the views were generated. Its shape is compared with the true one over
what the object's true cameras see: points from the true depth maps, and from the mesh's depth maps at the same cameras,
so that seats and other things inside count in neither.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from eval.metrics.figures import mean_of_present
from eval.metrics.image import psnr
from eval.metrics.suite import MetricSuite
from eval.protocols import choose_views
from eval.report.columns import Column
from eval.report.records import write_json
from eval.report.tables import Table, format_table
from mvgenvs.cameras import Cameras
from mvgenvs.data.stored import CachedScenes
from mvgenvs.errors import UserError
from mvgenvs.files import write_text
from mvgenvs.media import contact_sheet, write_png
from mvgenvs.meshes.files import load_mesh
from mvgenvs.meshes.mesh import Mesh
from mvgenvs.meshes.renderer import RenderedViews, Renderer
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.reconstruction.observations import points_shown
from mvgenvs.reconstruction.reconstruct import reconstruct
from mvgenvs.reconstruction.writing import write_glb
from mvgenvs.trajectories import orbit
from mvgenvs.views import ViewSet

NEAR = 0.02  # of the diagonal of the object's box, which is the unit of the world
CELL = 0.005  # points are thinned to one for each cube of this size
SHAPE_VIEWS = 50  # of an object's true views, evenly spread, whose depth maps give the points
COLUMNS = (
    Column("psnr-views", "PSNR to views", "view", "high", 2, "of the drawn GLB and the generated views"),
    Column("lpips-views", "LPIPS to views", "view", "low", 3, "of the same, AlexNet"),
    Column("psnr", "PSNR", "view", "high", 2, "of the drawn GLB and the true views"),
    Column("lpips", "LPIPS", "view", "low", 3, "of the same, AlexNet"),
    Column("psnr-generated", "views' PSNR", "view", "high", 2, "of the generated views themselves and the true ones"),
    Column("lpips-generated", "views' LPIPS", "view", "low", 3, "of the same, AlexNet"),
    Column("chamfer", "Chamfer", "object", "low", 4, "mean distance of points to the other set, mean of both ways"),
    Column("f-score", "F-score", "object", "high", 3, f"of points within {NEAR} of the other set"),
    Column("seconds", "CPU seconds", "object", "low", 1, "from the generated views to the GLB"),
)
SHOWN = 8  # views around each object in the picture

Points = Float[np.ndarray, "_ 3"]
Figures = dict[str, float | None]


@dataclass(frozen=True, eq=False)
class Exported:
    """A generated orbit and the mesh that its GLB holds."""

    views: Float[Tensor, "view 3 h w"]
    mesh: Mesh
    seconds: float  # of the CPU, for the mesh


def study(
    output: Path,
    pipeline: MultiViewPipeline,
    scenes: CachedScenes,
    num_objects: int,
    suite: MetricSuite,
    seed: int = 0,
    on_object: Callable[[], object] = lambda: None,
) -> str:
    """Writes mesh.json, .md and .png, and returns the text. Raises `UserError` if the data have no depth or masks."""
    table: Table = {}
    rows: list[tuple[str, Float[Tensor, "view 3 h w"]]] = []
    around = orbit(SHOWN, hw=(pipeline.size, pipeline.size))
    with Renderer(pipeline.size) as renderer:
        for index in range(num_objects):
            item, views = scenes.objects[index], scenes.read(index).view_set()
            if views.depth is None or views.mask is None:
                raise UserError(f"{item.folder} has no depth or masks, which this study compares with")
            chosen = choose_views(item, views.cameras)
            known, truth = views.select(chosen.inputs), views.select(chosen.targets)
            made = exported(pipeline, known, truth.cameras, seed)
            table[item.name] = {
                **looks(renderer.render(made.mesh, truth.cameras, lit=False), made.views, truth, suite),
                **shape(renderer, made.mesh, views),
                "seconds": made.seconds,
            }
            rows.append((item.name, pictures(renderer.render(made.mesh, around, lit=False))))
            on_object()
    table["mean"] = {column.key: mean_of_present([row.get(column.key) for row in table.values()]) for column in COLUMNS}
    text = format_table(table, COLUMNS)
    write_json(output / "mesh.json", {"table": table})
    write_text(output / "mesh.md", text + "\n")
    write_png(output / "mesh.png", np.concatenate([contact_sheet([row]) for row in rows]))
    return text


@torch.no_grad()
def exported(pipeline: MultiViewPipeline, known: ViewSet, targets: Cameras, seed: int) -> Exported:
    """Generates the views, makes a GLB of them as `infer_multiview.py` does, and reads it."""
    images, cameras = known.rgba[None], known.cameras.batched()
    generator = torch.Generator().manual_seed(seed)
    views = pipeline(images, cameras, targets.batched(), generator=generator).images[0].cpu()
    started = time.process_time()
    device = pipeline.device
    scene = pipeline.nerf.encode(images.to(device), cameras.to(device), find_empty=True)
    mesh = reconstruct(views, targets, field=lambda asked: pipeline.nerf.render(scene, asked.to(device)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mesh.glb")
        write_glb(path, mesh)
        seconds = time.process_time() - started
        return Exported(views, load_mesh(path), seconds)


def looks(drawn: RenderedViews, views: Float[Tensor, "view 3 h w"], truth: ViewSet, suite: MetricSuite) -> Figures:
    """PSNR and LPIPS of the drawn mesh and of the generated views."""
    images = pictures(drawn)
    figures: Figures = {}
    compared = {"-views": (images, views), "": (images, truth.images), "-generated": (views, truth.images)}
    for name, pair in compared.items():
        figures[f"psnr{name}"] = psnr(*pair).mean().item()
        figures[f"lpips{name}"] = suite.distances[0](*pair).mean().item() if suite.distances else None
    return figures


def shape(renderer: Renderer, mesh: Mesh, views: ViewSet) -> Figures:
    """Chamfer distance and F-score of the mesh against the true depth maps of an object."""
    assert views.depth is not None
    some = views.select(range(0, views.num_views, max(1, views.num_views // SHAPE_VIEWS)))
    assert some.depth is not None
    drawn = renderer.render(mesh, some.cameras)
    return distances(*(seen_points(depth, some.cameras) for depth in (torch.from_numpy(drawn.depth), some.depth[:, 0])))


def seen_points(depth: Float[Tensor, "view h w"], cameras: Cameras) -> Points:
    """The points that depth maps show, thinned evenly."""
    points = torch.cat([points_shown(z, z > 0, cameras.select([view])) for view, z in enumerate(depth)]).numpy()
    first = np.unique(np.floor(points / CELL).astype(np.int64), axis=0, return_index=True)[1]
    return points[first]


def distances(points: Points, truth: Points) -> Figures:
    """The Chamfer distance of two sets of points, and the harmonic mean of the shares of either near the other."""
    if not len(points):
        return {"chamfer": None, "f-score": 0.0}
    there, back = (cKDTree(b).query(a)[0] for a, b in ((points, truth), (truth, points)))
    precision, recall = (there < NEAR).mean(), (back < NEAR).mean()
    score = 2 * precision * recall / max(precision + recall, 1e-12)
    return {"chamfer": float(there.mean() + back.mean()) / 2, "f-score": float(score)}


def pictures(drawn: RenderedViews) -> Float[Tensor, "view 3 h w"]:
    return torch.from_numpy(drawn.images.copy()).movedim(-1, 1).float() / 255
