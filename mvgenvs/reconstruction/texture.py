"""A texture for a surface: an atlas, painted from views by how directly each of them sees a place.

A view is used where the surface is the nearest in it, away from silhouettes and edges, whose pixels also show what is
behind them. The sharper the weights favour the most direct view, the less views that disagree blur each other, and the
more their seams show.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.cameras import Cameras
from mvgenvs.reconstruction.charts import Atlas, unwrap
from mvgenvs.reconstruction.observations import sample_bilinear, sample_nearest
from mvgenvs.reconstruction.raster import cover, depth_map
from mvgenvs.reconstruction.surface import Surface
from mvgenvs.reconstruction.textured import TexturedMesh

SHARPNESS = 6  # power of the cosine between view and normal
FINER = 2  # depth maps of the surface have so many pixels per pixel of a view and axis
TOLERANCE = 0.012  # world units by which a place may lie behind the depth map and still be seen
FEATHER = 3.0  # pixels from an edge at which a view gets its full weight
LEAST = 0.01  # of that weight, at an edge
GRAZING = 0.08  # cosine below which a view does not count
PADDING = 2  # texels between charts


@dataclass(frozen=True, eq=False, slots=True)
class Texels:
    """The texels that lie on a chart."""

    place: Int[np.ndarray, " n"]  # row * size + column
    positions: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]


def paint(
    surface: Surface, sources: Sequence[tuple[Float[Tensor, "_ 3 _ _"], Cameras]], size: int = 1024
) -> TexturedMesh:
    """A texture of `size` texels a side from the views of the first source; the next is used where that saw nothing.

    What no view sees gets the colour of the nearest place that is seen.
    """
    atlas = unwrap(surface, size, PADDING)
    texels = locate(atlas, size)
    colours = torch.zeros(len(texels.place), 3)
    missing = torch.ones(len(texels.place), dtype=torch.bool)
    for images, cameras in sources:
        where = missing.nonzero()[:, 0]
        if len(where):
            found, weights = blend(surface, texels.positions[where], texels.normals[where], images, cameras)
            colours[where] = found
            missing[where] = weights <= 0
    colours = _fill(colours, missing, texels.positions)
    texture = _spread(colours, texels.place, size)
    upright = np.stack([atlas.uv[:, 0], 1 - atlas.uv[:, 1]], axis=-1)
    return TexturedMesh(atlas.vertices, atlas.faces, atlas.normals, upright, texture)


def locate(atlas: Atlas, size: int) -> Texels:
    """Where on the surface the centre of each texel lies."""
    covered = cover(atlas.uv[atlas.faces] * size, (size, size))
    place, first = np.unique(covered.pixel, return_index=True)  # neighbours in a chart share the texels of their edge
    corners, weights = atlas.faces[covered.triangle[first]], covered.weights[first]

    def interpolated(values: Float[np.ndarray, "vertex 3"]) -> Float[Tensor, "n 3"]:
        return torch.from_numpy(np.einsum("nk,nkc->nc", weights, values[corners])).float()

    return Texels(place, interpolated(atlas.vertices), F.normalize(interpolated(atlas.normals), dim=-1))


def blend(
    surface: Surface,
    positions: Float[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    images: Float[Tensor, "view 3 h w"],
    cameras: Cameras,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    """Weighted mean of what the views show at places of the surface, and the sum of the weights: 0 if none sees it."""
    colours, total = torch.zeros(len(positions), 3), torch.zeros(len(positions))
    for view, image in enumerate(images):
        camera = cameras.select([view])
        towards = camera.centers[0] - positions
        cosine = (towards * normals).sum(dim=-1) / towards.norm(dim=-1)
        facing = (cosine > GRAZING).nonzero()[:, 0]
        (pixels,), (z,) = camera.project(positions[facing][None])
        fine = (camera.hw[0] * FINER, camera.hw[1] * FINER)
        depth = torch.from_numpy(depth_map(surface.vertices, surface.faces, camera.resized(fine))).float()
        (nearest,), inside = sample_nearest(depth[None], pixels * FINER)
        (trust,) = sample_bilinear(_trust(depth)[None], pixels * FINER)
        weight = cosine[facing] ** SHARPNESS * trust * (inside & (nearest > 0) & (z < nearest + TOLERANCE))
        colours.index_add_(0, facing, weight[:, None] * sample_bilinear(image.float(), pixels).T)
        total.index_add_(0, facing, weight)
    return colours / total.clamp(min=1e-12)[:, None], total


def _trust(depth: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """1 at pixels far from edges of the depth map, falling to `LEAST` at them."""
    values = depth.numpy()
    window = np.ones((3, 3), np.uint8)
    jump = cv2.dilate(values, window) - cv2.erode(values, window) > 3 * TOLERANCE
    away = cv2.distanceTransform(((values > 0) & ~jump).astype(np.uint8), cv2.DIST_L2, 3)
    return torch.from_numpy(away / (FEATHER * FINER)).clamp(LEAST, 1)


def _fill(
    colours: Float[Tensor, "n 3"], missing: Bool[Tensor, " n"], positions: Float[Tensor, "n 3"]
) -> Float[Tensor, "n 3"]:
    """Gives the missing texels the colour of the texel that is nearest in space."""
    from scipy.spatial import cKDTree

    if not missing.any() or missing.all():
        return colours
    nearest = cKDTree(positions[~missing].numpy()).query(positions[missing].numpy(), workers=1)[1]
    filled = colours.clone()
    filled[missing] = colours[~missing][torch.from_numpy(nearest)]
    return filled


def _spread(colours: Float[Tensor, "n 3"], place: Int[np.ndarray, " n"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The texture's image, in which texels off the charts have the colour of the nearest texel on one."""
    flat = np.zeros((size * size, 3), np.uint8)
    flat[place] = (colours.clamp(0, 1) * 255).round().byte().numpy()
    empty = np.ones(size * size, np.uint8)
    empty[place] = 0
    _, labels = cv2.distanceTransformWithLabels(
        empty.reshape(size, size), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    labels = labels.ravel()
    of_label = np.zeros((labels.max() + 1, 3), np.uint8)
    of_label[labels[place]] = flat[place]
    return of_label[labels].reshape(size, size, 3)
