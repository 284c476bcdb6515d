"""Loads a mesh from any supported file format, by the file's suffix."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mvgenvs.errors import UserError
from mvgenvs.meshes.ac3d import read_ac3d
from mvgenvs.meshes.mesh import Material, Mesh, MeshPart
from mvgenvs.meshes.obj import read_obj

OWN: dict[str, Callable[[Path], Mesh]] = {".obj": read_obj, ".ac": read_ac3d, ".acc": read_ac3d}
BY_TRIMESH = (".glb", ".gltf", ".ply", ".stl", ".off")
SUFFIXES = (*OWN, *BY_TRIMESH)


def load_mesh(path: Path) -> Mesh:
    """The mesh in `path`, in the file's own axes. Raises `UserError` if it can't be read or holds no triangles."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path} is not in a mesh format that can be read here: use one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"there is no mesh {path}")
    mesh = OWN[suffix](path) if suffix in OWN else _read_by_trimesh(path)
    if not mesh.num_triangles:
        raise UserError(f"{path} holds no triangles")
    if not all(is_sound(part) for part in mesh.parts):
        raise UserError(f"{path} is damaged: it has vertices that are not finite, or triangles of vertices it lacks")
    return mesh


def is_sound(part: MeshPart) -> bool:
    """Whether all vertices are finite, and triangles and texture coordinates fit them."""
    count, corners = len(part.positions), part.triangles
    if len(corners) and not 0 <= corners.min() <= corners.max() < count:
        return False
    return bool(np.isfinite(part.positions).all()) and (part.uvs is None or part.uvs.shape == (count, 2))


def _read_by_trimesh(path: Path) -> Mesh:
    try:
        import trimesh
    except ImportError as error:
        raise UserError(f"reading {path} needs trimesh: run `pip install 'mvgenvs[render]'`") from error
    try:
        scene = trimesh.load_scene(path)
        parts = [_part(name, geometry) for name, geometry in _placed(scene)]
    except Exception as error:  # the exception depends on which byte of a damaged file is wrong
        raise UserError(f"{path} is damaged or not what its name says ({error})") from error
    return Mesh(tuple(parts))


def _placed(scene: Any) -> Iterator[tuple[str, Any]]:
    """Every mesh of a scene, moved to where its node puts it."""
    import trimesh

    for node in scene.graph.nodes_geometry:
        matrix, name = scene.graph[node]
        geometry = scene.geometry[name]
        if isinstance(geometry, trimesh.Trimesh):
            yield str(node), geometry.copy().apply_transform(matrix)


def _part(name: str, geometry: Any) -> MeshPart:
    visual = geometry.visual
    positions, triangles = np.asarray(geometry.vertices, np.float64), np.asarray(geometry.faces)
    if visual.kind == "texture":
        uvs = None if visual.uv is None else np.asarray(visual.uv, dtype=np.float64)
        return MeshPart(name, positions, triangles, uvs, _material(name, visual.material))
    if visual.kind == "vertex":
        colors = np.asarray(visual.vertex_colors)
    elif visual.kind == "face":  # each face gets vertices of its own
        colors = np.repeat(np.asarray(visual.face_colors), 3, axis=0)
        positions, triangles = positions[triangles].reshape(-1, 3), np.arange(3 * len(triangles)).reshape(-1, 3)
    else:
        return MeshPart(name, positions, triangles, None, Material(name))
    return MeshPart(name, positions, triangles, None, Material(name, (1.0, 1.0, 1.0)), colors[:, :3] / 255)


def _material(name: str, source: Any) -> Material:
    """GlTF's metal and roughness are ignored: the renderer's surfaces are matt."""
    image = getattr(source, "baseColorTexture", None) or getattr(source, "image", None)
    factor = getattr(source, "baseColorFactor", None)
    if factor is None:
        factor = getattr(source, "diffuse", None) if image is None else None
    rgba = np.ones(4) if factor is None else np.asarray(factor, np.float64)[:4] / 255
    texture = np.asarray(image.convert("RGBA"), np.uint8) if isinstance(image, Image.Image) else None
    if texture is not None and getattr(source, "alphaMode", "OPAQUE") in (None, "OPAQUE"):
        texture = np.concatenate([texture[..., :3], np.full_like(texture[..., 3:], 255)], axis=-1)
    return Material(name, (float(rgba[0]), float(rgba[1]), float(rgba[2])), float(rgba[3]), texture)
