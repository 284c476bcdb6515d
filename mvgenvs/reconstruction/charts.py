"""A surface cut into flat charts: pieces that face one of the six sides of a box, seen from that side.

xatlas could cut it too, in charts of less distortion, but takes half a minute of a core for the tens of thousands of
small triangles of marching cubes, where this takes a tenth of a second. It lays the charts out.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mvgenvs.reconstruction.surface import Surface

ROUNDS = 3  # of majority votes among neighbours, which smooth the borders of charts
OWN_VOTE = 1.5  # against 1 of each of three neighbours
STEEPEST = 0.4  # cosine between a face and its side: the texture is stretched by no more than 2.5 there


@dataclass(frozen=True, eq=False, slots=True)
class Atlas:
    """A surface cut into charts that lie in a square without overlap."""

    vertices: Float[np.ndarray, "vertex 3"]  # those at a seam occur once for each chart
    normals: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]
    uv: Float[np.ndarray, "vertex 2"]  # in [0, 1], (0, 0) is the image's upper left corner


def unwrap(surface: Surface, size: int, padding: int) -> Atlas:
    """The atlas of a surface for a texture of `size` texels a side, with `padding` texels between charts."""
    import xatlas

    origin, faces, flat = _charts(surface)
    atlas = xatlas.Atlas()
    points, normals = surface.vertices[origin], surface.normals[origin]
    atlas.add_mesh(*(x.astype(kind) for x, kind in ((points, "f4"), (faces, "u4"), (normals, "f4"), (flat, "f4"))))
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.use_input_mesh_uvs = True
    packing.resolution, packing.padding, packing.bilinear = size, padding, True
    atlas.generate(charts, packing)
    again, faces, uv = atlas[0]
    # Its square may be a little larger than was asked for, and oblong; uv are relative to its sides.
    uv = uv * np.array([atlas.width, atlas.height], np.float64) / max(atlas.width, atlas.height)
    return Atlas(points[again], normals[again], faces.astype(np.int64), uv)


def _charts(
    surface: Surface,
) -> tuple[Int[np.ndarray, " corner"], Int[np.ndarray, "face 3"], Float[np.ndarray, "corner 2"]]:
    """The vertices of charts by their numbers in the surface, the faces between them, and where they lie in a plane."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    faces, (first, second) = surface.faces, _neighbours(surface.faces)
    side = _sides(surface, first, second)
    joined = side[first] == side[second]
    pairs = (np.ones(joined.sum()), (first[joined], second[joined]))
    number, chart = connected_components(coo_matrix(pairs, shape=(len(faces), len(faces))), directed=False)
    corners, split = np.unique(faces.ravel() * number + np.repeat(chart, 3), return_inverse=True)
    origin = corners // number
    side_of_chart = np.zeros(number, np.int64)
    side_of_chart[chart] = side
    axis, sign = side_of_chart[corners % number] % 3, np.where(side_of_chart[corners % number] < 3, 1.0, -1.0)
    points, rows = surface.vertices[origin], np.arange(len(origin))
    flat = np.stack([sign * points[rows, (axis + 1) % 3], points[rows, (axis + 2) % 3]], axis=-1)
    return origin, split.reshape(-1, 3), flat


def _neighbours(faces: Int[np.ndarray, "face 3"]) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """The two faces at each inner edge."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    key = edges[:, 0] * (faces.max() + 1) + edges[:, 1]
    order = np.argsort(key, kind="stable")
    same = key[order][1:] == key[order][:-1]
    return order[:-1][same] % len(faces), order[1:][same] % len(faces)


def _sides(
    surface: Surface, first: Int[np.ndarray, " pair"], second: Int[np.ndarray, " pair"]
) -> Int[np.ndarray, " face"]:
    """The side of a box that each face faces: +x, +y, +z, -x, -y or -z; about the same for neighbours."""
    normals = surface.normals[surface.faces].sum(axis=1)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    cosines = np.concatenate([normals, -normals], axis=1)
    side = cosines.argmax(axis=1)
    for _ in range(ROUNDS):
        votes = np.zeros((len(side), 6))
        np.add.at(votes, (np.arange(len(side)), side), OWN_VOTE)
        np.add.at(votes, (first, side[second]), 1.0)
        np.add.at(votes, (second, side[first]), 1.0)
        side = np.where(cosines >= STEEPEST, votes, -1.0).argmax(axis=1)
    return side
