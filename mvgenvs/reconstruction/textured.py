"""A surface with a texture: what `reconstruct` returns."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from mvgenvs.meshes.mesh import Material, Mesh, MeshPart


@dataclass(frozen=True, eq=False, slots=True)
class TexturedMesh:
    """Triangles in the world of the cameras, painted with the colours that the views show: no light is to be added.

    Vertices at the seams of the texture occur once for each side of the seam.
    """

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]  # counterclockwise seen from outside
    normals: Float[np.ndarray, "vertex 3"]  # unit; smooth, across seams too
    uv: Float[np.ndarray, "vertex 2"]  # in [0, 1]; (0, 0) is the texture's lower left corner, as in OpenGL
    texture: UInt8[np.ndarray, "h w 3"]  # sRGB, top row first

    def mesh(self) -> Mesh:
        """The same in the form that `mvgenvs.meshes.renderer` draws."""
        opaque = np.full((*self.texture.shape[:2], 1), 255, np.uint8)
        material = Material("texture", (1.0, 1.0, 1.0), texture=np.concatenate([self.texture, opaque], axis=-1))
        return Mesh((MeshPart("object", self.vertices, self.faces, self.uv, material),))
