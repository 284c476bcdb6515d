"""Data sets of toy cars on disk, with exact depth: as OpenCars writes them, and as captures."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from tiny import SIZE, ray_cast, ring_cameras, toy_car, write_srn

from mvgenvs.cameras import Cameras
from mvgenvs.data.srn import DEPTH_SCALE
from mvgenvs.transforms import write_cameras
from mvgenvs.views import ViewSet


def toy_views(number: int, views: int = 5, size: int = SIZE) -> ViewSet:
    """The truth of the `number`-th object, from 1, that `write_srn` and `write_opencars` write."""
    return ray_cast(toy_car(number), ring_cameras(views, size))


def write_opencars(root: Path, objects: dict[str, int], views: int = 5, size: int = SIZE) -> Path:
    """`write_srn`, and beside the images of object n: depth/, mask/, and a metadata.json of family "family n"."""
    write_srn(root, objects, views, size)
    names = [(split, f"{split}-{index}") for split, count in objects.items() for index in range(count)]
    for number, (split, name) in enumerate(names, start=1):
        folder = root / f"cars_{split}" / name
        write_maps(folder, toy_views(number, views, size))
        about = {"id": name, "family": f"family {number}", "licence": "CC0-1.0", "attribution": "nobody"}
        (folder / "metadata.json").write_text(json.dumps(about))
    return root


def write_maps(folder: Path, views: ViewSet) -> None:
    for kind, pixels in (("depth", steps(views, DEPTH_SCALE)), ("mask", (views.mask * 255).byte().numpy()[:, 0])):
        (folder / kind).mkdir()
        for number, image in enumerate(pixels):
            cv2.imwrite(str(folder / kind / f"{number:06d}.png"), image)


def write_capture(folder: Path, views: ViewSet, cameras: Cameras | None = None, depth_scale: float = 1.0) -> Path:
    """Images with alpha and depths in thousandths; other `cameras` than the views' see depths `depth_scale` longer."""
    folder.mkdir(parents=True)
    paths = [f"images/{number:03d}.png" for number in range(views.num_views)]
    (folder / "images").mkdir()
    (folder / "depth").mkdir()
    pixels = torch.cat([views.images, views.mask], dim=1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    depths = steps(views, 1000 * depth_scale)
    for number, path in enumerate(paths):
        cv2.imwrite(str(folder / path), np.ascontiguousarray(pixels[number][..., [2, 1, 0, 3]]))
        cv2.imwrite(str(folder / f"depth/{number:03d}.png"), depths[number])
    write_cameras(folder / "transforms.json", views.cameras if cameras is None else cameras, paths)
    content = json.loads((folder / "transforms.json").read_text())
    for number, frame in enumerate(content["frames"]):
        frame["depth_file_path"] = f"depth/{number:03d}.png"
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def steps(views: ViewSet, scale: float) -> np.ndarray:
    """Depths times `scale`, as 16-bit maps."""
    return (views.depth * scale).round().numpy().astype(np.uint16)[:, 0]


def share_in_free_space(views: ViewSet, tolerance: float = 0.02) -> float:
    """Share of the points of each view's depth map that another view sees hanging in the air.

    A point on a surface may be hidden in another view, but never lie before what is seen there, nor on the background.
    "There" is a pixel and its neighbours, of which any may see the point: silhouettes fall between pixels.
    """
    height, width = views.cameras.hw
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    grid = torch.stack([u, v], dim=-1).reshape(1, -1, 2).expand(views.num_views, -1, -1)
    points = views.cameras.unproject(grid, views.depth.flatten(1))
    occupied = torch.where(views.depth > 0, views.depth, torch.inf)
    nearest = -F.max_pool2d(-occupied, 3, stride=1, padding=1)
    counts = torch.zeros(2)
    for view in range(views.num_views):
        on_object = views.depth[view].flatten() > 0
        pixels, z = views.cameras.project(points[view][on_object].expand(views.num_views, -1, -1))
        x, y = pixels.floor().long().unbind(dim=-1)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        seen = nearest[torch.arange(views.num_views)[:, None], 0, y.clamp(0, height - 1), x.clamp(0, width - 1)]
        hanging = inside & (z < seen - tolerance)
        counts += torch.tensor([hanging.sum(), inside.sum()])
    return (counts[0] / counts[1]).item()
