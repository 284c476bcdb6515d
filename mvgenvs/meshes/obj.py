"""Reader of Wavefront OBJ meshes with their MTL materials, from a folder or from inside a zip archive.

It reads `v`, `vt`, `f`, `o`, `g`, `usemtl` and `mtllib`, and the colours that some programs write after a vertex
("v x y z r g b"). Normals are left to the renderer. Polygons become triangle fans. A part holds the triangles of one
group in one material and takes its name from the group.
"""

import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float, Int

from mvgenvs.errors import UserError
from mvgenvs.limits import check_bytes, leads_out, open_zip, read_member
from mvgenvs.meshes.mesh import Material, Mesh, MeshPart
from mvgenvs.meshes.mtl import OpenSibling, read_materials


def read_obj(
    source: str | Path | bytes,
    open_sibling: OpenSibling | None = None,
    name: str | None = None,
    need_textures: bool = True,
) -> Mesh:
    """Reads an OBJ file, or its bytes; `open_sibling` finds its MTL and textures, by default beside a path.

    `name` is what errors call the file; a path names itself. A missing library or material leaves the parts grey,
    except that the only entry of a library serves for any name. Without `need_textures`, a missing texture leaves the
    material's colour. Texture coordinates that do not exist are (0, 0). A file cut off between two lines of faces
    cannot be told from a complete one.

    Raises `UserError` if the file is missing, has no faces, or is damaged, or a texture is missing.
    """
    label = name or ("an OBJ file" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes):
        path = Path(source)
        open_sibling = open_sibling or files_of_folder(path.parent)
        try:
            check_bytes(path)
            source = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path}: is it an OBJ file?") from error
    text = source.decode("latin-1").replace("\\\r\n", " ").replace("\\\n", " ").replace("\t", " ")
    statements = _Statements.of(text)
    find = open_sibling or (lambda _: None)
    used = {material: None for _, material in statements.faces}  # in the file's order
    materials = read_materials(used, statements.libraries, find, label, need_textures)
    try:
        vertices = _numbers(statements.positions, 6 if _are_coloured(statements.positions) else 3)
        texcoords = _numbers(statements.texcoords, 2)
        parts = [
            _part(group, materials[material], faces, vertices, texcoords)
            for (group, material), faces in statements.faces.items()
        ]
    except (ValueError, IndexError, OverflowError) as error:
        raise UserError(f"{label} is damaged: {error}") from error
    parts = [part for part in parts if len(part.triangles)]
    if not parts:
        raise UserError(f"{label} has no faces: is it a whole OBJ file?")
    return Mesh(tuple(parts))


def read_obj_in_zip(archive: Path, member: str, need_textures: bool = True) -> Mesh:
    """Reads an OBJ file from a zip archive that also holds its MTL and textures. Raises as `read_obj` does."""
    label = f"{archive}!{member}"
    try:
        with open_zip(archive) as opened:
            siblings = files_of_zip(opened, str(PurePosixPath(member).parent))
            return read_obj(read_member(opened, member), siblings, label, need_textures)
    except KeyError as error:
        raise UserError(f"there is no {member} in {archive}") from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {label}: is the archive whole?") from error


def files_of_folder(folder: Path) -> OpenSibling:
    """Opens files by their name in `folder`."""

    def open_sibling(name: str) -> bytes | None:
        if leads_out(name) or "\0" in name:  # what lies elsewhere is none of the model's business
            return None
        path = folder / name
        try:
            return path.read_bytes() if path.is_file() else None
        except OSError:  # a name that is too long
            return None

    return open_sibling


def files_of_zip(archive: zipfile.ZipFile, folder: str) -> OpenSibling:
    """Opens the members of an archive by their name in `folder`."""

    def open_sibling(name: str) -> bytes | None:
        member = str(PurePosixPath(folder) / name)
        return read_member(archive, member) if member in archive.NameToInfo else None

    return open_sibling


@dataclass
class _Statements:
    """An OBJ file sorted by kind of statement."""

    positions: list[str] = field(default_factory=list)
    texcoords: list[str] = field(default_factory=list)
    libraries: list[str] = field(default_factory=list)
    # By group and material: a face's corners, and how many v and vt came before it, for negative indices.
    faces: dict[tuple[str, str], list[tuple[list[str], int, int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> "_Statements":
        found = cls()
        group = material = ""
        for line in text.splitlines():
            word, _, rest = line.strip().partition(" ")
            if word == "v":
                found.positions.append(rest)
            elif word == "vt":
                found.texcoords.append(rest)
            elif word == "f":
                corners = rest.partition("#")[0].split()
                seen = len(found.positions), len(found.texcoords)
                found.faces.setdefault((group, material), []).append((corners, *seen))
            elif word in ("o", "g"):
                group = rest.strip()
            elif word == "usemtl":
                material = rest.strip()
            elif word == "mtllib":
                found.libraries.append(rest.strip())
        return found


def _are_coloured(positions: list[str]) -> bool:
    return bool(positions) and len(positions[0].split()) == 6


def _numbers(lines: list[str], columns: int) -> Float[np.ndarray, "line columns"]:
    """The leading numbers of every line; the rest (a weight, a third texture coordinate) is dropped."""
    if not lines:
        return np.zeros((0, columns))
    if not all(lines):  # loadtxt would skip them, and shift the numbers of the others
        raise ValueError("a coordinate is missing")
    numbers = np.loadtxt(lines, usecols=range(columns), ndmin=2)
    if not np.isfinite(numbers).all():
        raise ValueError("a coordinate is not a finite number")
    return numbers


def _part(
    name: str,
    material: Material,
    faces: list[tuple[list[str], int, int]],
    vertices: Float[np.ndarray, "v xyz_rgb"],
    texcoords: Float[np.ndarray, "vt 2"],
) -> MeshPart:
    """Triangles of one group in one material, with one vertex for each pair of position and texture coordinate."""
    counts = np.array([len(corners) for corners, _, _ in faces])
    corners = [corner.split("/") for face, _, _ in faces for corner in face]
    v = np.array([int(corner[0]) for corner in corners], dtype=np.int64)
    vt = np.array([int(corner[1]) if len(corner) > 1 and corner[1] else 0 for corner in corners], dtype=np.int64)
    has_uvs = bool(vt.any())
    v = np.where(v < 0, v + np.repeat([seen for _, seen, _ in faces], counts), v - 1)
    vt = np.where(vt < 0, vt + np.repeat([seen for _, _, seen in faces], counts), vt - 1)
    wrong = (v < 0) | (v >= len(vertices))
    if wrong.any():
        raise IndexError(f"a face names vertex {v[wrong][0] + 1} of {len(vertices)}")
    vt = np.where((vt < 0) | (vt >= len(texcoords)), len(texcoords), vt)  # one past the last stands for (0, 0)
    pairs, corner_to_pair = np.unique(v * (len(texcoords) + 1) + vt, return_inverse=True)
    v_of_pair, vt_of_pair = np.divmod(pairs, len(texcoords) + 1)
    uvs = np.concatenate([texcoords, np.zeros((1, 2))])[vt_of_pair] if has_uvs else None
    triangles = corner_to_pair.reshape(-1)[_fans(counts)]
    positions, colors = vertices[v_of_pair, :3], None
    if vertices.shape[1] == 6:  # they replace the material's colour; they would tint a texture
        colors, material = np.clip(vertices[v_of_pair, 3:], 0, 1), replace(material, color=(1.0, 1.0, 1.0))
    return MeshPart(name, positions, triangles, uvs, material, colors)


def _fans(counts: Int[np.ndarray, " face"]) -> Int[np.ndarray, "triangle 3"]:
    """Corner numbers of triangle fans over polygons whose corners are numbered consecutively."""
    starts = np.cumsum(counts) - counts
    triangles = np.maximum(counts - 2, 0)
    first = np.repeat(starts, triangles)
    step = np.arange(triangles.sum()) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    return np.stack([first, first + step + 1, first + step + 2], axis=-1)
