"""Textured triangle meshes: what every loader returns and the renderer draws.

A loader keeps a file's own axes and units; `Mesh.normalised` brings an object into the world of `mvgenvs.cameras`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, UInt8


@dataclass(frozen=True, eq=False)
class Material:
    """How a surface looks: colour times texture, with an `opacity`."""

    name: str = ""
    color: tuple[float, float, float] = (0.8, 0.8, 0.8)  # diffuse RGB in [0, 1], as displayed (sRGB)
    opacity: float = 1.0  # 1 opaque, 0 invisible; glass is in between
    texture: UInt8[np.ndarray, "h w 4"] | None = None  # RGBA, top row first; one array may serve many parts


@dataclass(frozen=True, eq=False)
class MeshPart:
    """Triangles of one material."""

    name: str
    positions: Float[np.ndarray, "vertex 3"]
    triangles: Int[np.ndarray, "face 3"]
    uvs: Float[np.ndarray, "vertex 2"] | None  # (0, 0) is the texture's lower left corner, as in OpenGL; may repeat
    material: Material
    colors: Float[np.ndarray, "vertex 3"] | None = None  # in [0, 1]; multiply the material's


@dataclass(frozen=True, eq=False)
class Mesh:
    """An object: its parts, and the terms under which it may be redistributed."""

    parts: tuple[MeshPart, ...]
    licence: str = ""
    attribution: str = ""

    @property
    def num_triangles(self) -> int:
        return sum(len(part.triangles) for part in self.parts)

    def bounds(self) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
        """Lowest and highest corner of the box around all vertices that a triangle uses."""
        used = [part.positions[np.unique(part.triangles)] for part in self.parts if len(part.triangles)]
        points = np.concatenate(used)
        return points.min(axis=0), points.max(axis=0)

    def transformed(self, matrix: Float[np.ndarray, "4 4"]) -> "Mesh":
        """The mesh under an affine map of its points; a reflection also flips the triangles, to keep their outsides."""
        linear, offset = matrix[:3, :3], matrix[:3, 3]
        mirrors = np.linalg.det(linear) < 0
        parts = [
            replace(
                part,
                positions=part.positions @ linear.T + offset,
                triangles=part.triangles[:, ::-1] if mirrors else part.triangles,
            )
            for part in self.parts
        ]
        return replace(self, parts=tuple(parts))

    def oriented(self, front: str, up: str) -> "Mesh":
        """Turns the mesh so that its `front` points to -z and its `up` to +y.

        Both are axes of the file: "+x", "-x", "+y", "-y", "+z" or "-z". It is a rotation, so that text stays legible.
        """
        ahead, upwards = _axis(front), _axis(up)
        rotation = np.eye(4)
        rotation[:3, :3] = np.stack([np.cross(ahead, upwards), upwards, -ahead])
        return self.transformed(rotation)

    def normalised(self) -> "Mesh":
        """Bounding box centred at the origin, its diagonal scaled to 1."""
        low, high = self.bounds()
        scale = 1 / max(float(np.linalg.norm(high - low)), 1e-12)
        matrix = np.diag([scale, scale, scale, 1.0])
        matrix[:3, 3] = -scale * (low + high) / 2
        return self.transformed(matrix)


def merged(meshes: Sequence[Mesh]) -> Mesh:
    """All parts of several meshes; licence and attribution are those of the first."""
    return replace(meshes[0], parts=tuple(part for mesh in meshes for part in mesh.parts))


def _axis(name: str) -> Float[np.ndarray, "3"]:
    return np.eye(3)["xyz".index(name[1])] * (1.0 if name[0] == "+" else -1.0)
