"""Files that other programs open: GLB by trimesh, point clouds and Gaussian splats as PLY. Written whole or not at all.

All are in the world of `cameras.json`: y up, one unit the diagonal of the object's box, a car's front to -z.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from mvgenvs.errors import UserError
from mvgenvs.files import atomically
from mvgenvs.reconstruction.points import PointCloud
from mvgenvs.reconstruction.splats import GaussianSplats
from mvgenvs.reconstruction.textured import TexturedMesh

UNLIT = "KHR_materials_unlit"  # the views' light is in the texture already


def write_glb(path: Path, mesh: TexturedMesh) -> None:
    """Writes a binary glTF with its texture inside. Raises `UserError` if it cannot be written."""
    import trimesh

    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.fromarray(mesh.texture), metallicFactor=0.0, roughnessFactor=1.0
    )
    visual = trimesh.visual.TextureVisuals(uv=mesh.uv, material=material)
    geometry = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=mesh.normals, visual=visual, process=False)
    content = trimesh.exchange.gltf.export_glb(trimesh.Scene(geometry), include_normals=True, tree_postprocessor=_unlit)
    atomically(path, lambda partial: partial.write_bytes(content))


def _unlit(tree: dict[str, Any]) -> None:
    """Asks viewers to show the texture as it is."""
    for material in tree.get("materials", []):
        material["extensions"] = {UNLIT: {}}
    tree["extensionsUsed"] = sorted({*tree.get("extensionsUsed", []), UNLIT})


def write_points(path: Path, cloud: PointCloud) -> None:
    """Writes a point cloud with normals and 8-bit colours. Raises `UserError` if it cannot be written."""
    x, y, z = cloud.points.T
    nx, ny, nz = cloud.normals.T
    red, green, blue = (np.clip(cloud.colours, 0, 1) * 255).round().astype(np.uint8).T
    columns = {"x": x, "y": y, "z": z, "nx": nx, "ny": ny, "nz": nz, "red": red, "green": green, "blue": blue}
    _write_ply(path, columns)


def write_splats(path: Path, splats: GaussianSplats) -> None:
    """Writes Gaussians in the layout of 3-D Gaussian splatting [Kerbl et al. 2023], spherical harmonics of degree 0.

    Raises `UserError` if the file cannot be written.
    """
    groups: dict[str, Float[np.ndarray, "n k"]] = {
        "f_dc": splats.harmonics, "scale": splats.log_scales, "rot": splats.rotations
    }  # fmt: skip
    x, y, z = splats.centers.T
    nothing = np.zeros(len(x), np.float32)
    columns = {"x": x, "y": y, "z": z, "nx": nothing, "ny": nothing, "nz": nothing}
    columns |= {f"f_dc_{i}": values for i, values in enumerate(groups["f_dc"].T)}
    columns["opacity"] = splats.opacity_logits
    columns |= {f"{name}_{i}": values for name in ("scale", "rot") for i, values in enumerate(groups[name].T)}
    _write_ply(path, columns)


def _write_ply(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Binary little-endian; 8-bit columns as uchar, all others as float."""
    kinds = {name: "u1" if values.dtype == np.uint8 else "<f4" for name, values in columns.items()}
    table = np.empty(len(next(iter(columns.values()))), dtype=list(kinds.items()))
    for name, values in columns.items():
        table[name] = values
    if not all(np.isfinite(table[name]).all() for name in columns):
        raise UserError(f"{path.name} would hold numbers that are not finite: are the depths of the views?")
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    lines += [f"property {'uchar' if kind == 'u1' else 'float'} {name}" for name, kind in kinds.items()]
    header = "\n".join([*lines, "end_header", ""]).encode("ascii")
    atomically(path, lambda partial: partial.write_bytes(header + table.tobytes()))
