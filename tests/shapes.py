"""Meshes for the tests whose shape, place and look are known exactly."""

import numpy as np

from mvgenvs.meshes.mesh import Material, Mesh, MeshPart

BOX_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
BOX_TRIANGLES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4],
     [1, 5, 7], [1, 7, 3]]
)  # fmt: skip


def box(
    center: tuple[float, float, float],
    half: tuple[float, float, float],
    color: tuple[float, float, float] = (0.8, 0.2, 0.2),
    opacity: float = 1.0,
    name: str = "box",
) -> MeshPart:
    """An axis-aligned box of half extents `half`, its outside turned outwards."""
    positions = BOX_CORNERS * np.array(half) + np.array(center)
    return MeshPart(name, positions, BOX_TRIANGLES, None, Material(name, color, opacity))


def toy_car() -> Mesh:
    """Longer than wide, with a cabin behind the middle: front to -z, up +y, and a lamp at the right of the front."""
    return Mesh(
        (
            box((0, -0.05, 0), (0.18, 0.08, 0.4)),
            box((0, 0.08, 0.08), (0.15, 0.06, 0.18), (0.2, 0.4, 0.8)),
            box((0.12, -0.02, -0.4), (0.04, 0.03, 0.02), (0.9, 0.8, 0.1)),
        )
    )


def quad(texture: np.ndarray | None = None, color: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Mesh:
    """A square of side 1 in the plane z = 0 that faces -z; upright and legible to who looks along +z."""
    positions = np.array([[0.5, -0.5, 0], [-0.5, -0.5, 0], [-0.5, 0.5, 0], [0.5, 0.5, 0]])
    uvs = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    part = MeshPart("quad", positions, np.array([[0, 1, 2], [0, 2, 3]]), uvs, Material("quad", color, 1.0, texture))
    return Mesh((part,))


def obj_text(mesh: Mesh) -> str:
    """The mesh as a Wavefront OBJ without materials."""
    lines, first = [], 1
    for part in mesh.parts:
        lines += [f"o {part.name}", *(f"v {x} {y} {z}" for x, y, z in part.positions)]
        lines += [f"f {a} {b} {c}" for a, b, c in part.triangles + first]
        first += len(part.positions)
    return "\n".join(lines) + "\n"
