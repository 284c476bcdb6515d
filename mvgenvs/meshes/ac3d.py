"""Reader of AC3D files: plain `.ac` [AC3D], and TORCS's `.acc`, which adds triangle strips and texture layers.

[AC3D] "The AC3D file format", https://www.inivis.com/ac3d/man/ac3dfileformat.html
"""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from mvgenvs.errors import UserError
from mvgenvs.limits import check_bytes
from mvgenvs.meshes.mesh import Material, Mesh, MeshPart
from mvgenvs.meshes.textures import read_texture

POLYGON, STRIP = 0, 4  # the low four bits of SURF; 1 and 2 are lines, which have no surface to draw
Texture = UInt8[np.ndarray, "h w 4"]
Corner = tuple[int, float, float]  # vertex, u, v


def read_ac3d(path: str | Path, texture: Callable[[str], Texture] | None = None) -> Mesh:
    """Reads a model, with its nested objects in place; one part per object and material, in the file's axes (y up).

    `texture` finds a texture by its name in the file; by default an image beside the file. Each is requested once and
    shared by all parts. A textured part's material has the texture's name, others AC3D's material name.

    Warns if the file ends between two objects although it counts more of them, as some exporters write it. Raises
    `UserError` if the file is missing or damaged or holds no surface, and what `texture` raises.
    """
    path = Path(path)
    try:
        check_bytes(path)
        lines = path.read_text(encoding="latin-1").split("\n")  # not splitlines: latin-1 has others
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not lines[0].startswith("AC3D"):
        raise UserError(f"{path} is not an AC3D model: its first line does not begin with AC3D")
    reader = _Reader(lines, texture or _beside(path))
    try:
        parts = tuple(reader.parts())
    except UserError:
        raise
    except (ValueError, IndexError, RecursionError, OverflowError) as error:
        raise UserError(f"{path} is damaged at line {reader.line}: {error}") from error
    if not parts:
        raise UserError(f"{path} holds no surfaces: is it the right file?")
    if reader.missing:
        warnings.warn(f"{path} ends {reader.missing} objects before it says that it does", stacklevel=2)
    return Mesh(parts)


@dataclass
class _Faces:
    """The triangles of one material; they refer to corners by number, and equal corners share one."""

    corners: dict[Corner, int] = field(default_factory=dict)
    triangles: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass
class _Object:
    """The data of an object before its children."""

    name: str = ""
    texture: str | None = None
    repeat: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    placement: Float[np.ndarray, "4 4"] = field(default_factory=lambda: np.eye(4))  # to its parent
    vertices: Float[np.ndarray, "vertex 3"] = field(default_factory=lambda: np.zeros((0, 3)))
    faces: dict[int, _Faces] = field(default_factory=dict)  # by material
    kids: int = 0


class _Reader:
    """Reads through the lines once; `line` is the number of the last one read, for messages."""

    def __init__(self, lines: Sequence[str], texture: Callable[[str], Texture]) -> None:
        self._lines, self._find_texture = lines, texture
        self._textures: dict[str, Texture] = {}
        self._materials: list[Material] = []
        self.missing = 0  # children that objects claim to have but that are missing at the end of the file
        self.line = 1

    def parts(self) -> Iterator[MeshPart]:
        while self.line < len(self._lines):
            tokens = self._next()
            if tokens[:1] == ["MATERIAL"]:
                self._materials.append(_material(tokens))
            elif tokens[:1] == ["OBJECT"]:
                yield from self._object(np.eye(4))

    def _object(self, parent: Float[np.ndarray, "4 4"]) -> Iterator[MeshPart]:
        item = self._read_object()
        placement = parent @ item.placement
        for material, faces in item.faces.items():
            if faces.triangles:
                yield self._part(item, placement, material, faces)
        for born in range(item.kids):
            if not any(self._lines[i].strip() for i in range(self.line, len(self._lines))):
                self.missing += item.kids - born
                return
            if self._next()[:1] != ["OBJECT"]:
                raise ValueError(f"an object is missing: '{item.name}' has {item.kids} children")
            yield from self._object(placement)

    def _read_object(self) -> _Object:
        item = _Object()
        while True:
            match self._next():
                case ["name", name]:
                    item.name = name
                case ["texture", name] | ["texture", name, "base"]:
                    item.texture = name
                case ["texrep", u, v]:
                    item.repeat = float(u), float(v)
                case ["texoff", u, v]:
                    item.offset = float(u), float(v)
                case ["loc", *numbers]:
                    item.placement[:3, 3] = _floats(numbers, 3)
                case ["rot", *numbers]:  # written for row vectors: x' = x R
                    item.placement[:3, :3] = _floats(numbers, 9).reshape(3, 3).T
                case ["MATERIAL", *_] as tokens:  # belongs before the first object
                    self._materials.append(_material(tokens))
                case ["data", count]:
                    self._skip_text(int(count))
                case ["numvert", count]:
                    item.vertices = self._table(int(count), 3)
                case ["numsurf", count]:
                    for _ in range(int(count)):
                        self._surface(item)
                case ["kids", count]:
                    item.kids = int(count)
                    return item

    def _surface(self, item: _Object) -> None:
        kind, material = POLYGON, 0
        while True:
            match self._next():
                case ["SURF", flags]:
                    kind = int(flags, 16) & 0xF
                case ["mat", index]:
                    material = int(index)
                case ["refs", count]:
                    table = self._table(int(count), 3)  # .acc has more pairs of u, v, for its other layers
                    faces = item.faces.setdefault(material, _Faces())
                    corners = [(int(vertex), float(u), float(v)) for vertex, u, v in table]
                    numbers = [faces.corners.setdefault(corner, len(faces.corners)) for corner in corners]
                    for a, b, c in _triangles(kind, [vertex for vertex, _, _ in corners]):
                        faces.triangles.append((numbers[a], numbers[b], numbers[c]))
                    return
                case [_, *_] as tokens:
                    raise ValueError(f"'{' '.join(tokens)}' stands where a surface is expected")

    def _part(self, item: _Object, placement: Float[np.ndarray, "4 4"], material: int, faces: _Faces) -> MeshPart:
        corners = np.array(list(faces.corners))
        vertices = corners[:, 0].astype(int)
        if not 0 <= vertices.min() <= vertices.max() < len(item.vertices):
            raise ValueError(f"a surface of '{item.name}' uses a vertex that is none of its {len(item.vertices)}")
        if not 0 <= material < len(self._materials):
            raise ValueError(f"a surface of '{item.name}' uses material {material} of {len(self._materials)}")
        look, uvs = self._materials[material], None
        if item.texture:
            if item.texture not in self._textures:
                self._textures[item.texture] = self._find_texture(item.texture)
            look = Material(item.texture, look.color, look.opacity, self._textures[item.texture])
            uvs = corners[:, 1:] * item.repeat + item.offset
        positions = item.vertices[vertices] @ placement[:3, :3].T + placement[:3, 3]
        return MeshPart(item.name, positions, np.array(faces.triangles), uvs, look)

    def _next(self) -> list[str]:
        if self.line >= len(self._lines):
            raise IndexError("the file ends too early")
        self.line += 1
        return _tokens(self._lines[self.line - 1])

    def _table(self, rows: int, columns: int) -> Float[np.ndarray, "row column"]:
        """The first `columns` numbers of the next `rows` lines, not counting blank ones."""
        lines: list[str] = []
        while len(lines) < rows:
            more = self._lines[self.line : self.line + rows - len(lines)]
            if not more:
                raise IndexError("the file ends too early")
            self.line += len(more)
            lines += [line for line in more if line.strip()]
        return _floats([token for line in lines for token in line.split()[:columns]], rows * columns).reshape(
            -1, columns
        )

    def _skip_text(self, count: int) -> None:
        """Skips the lines that hold the `count` characters of an object's free text."""
        while count > 0:
            self._next()
            count -= len(self._lines[self.line - 1]) + 1  # a line's end counts, except for the last line


def _tokens(line: str) -> list[str]:
    return [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', line)]


def _floats(tokens: Sequence[str], count: int) -> Float[np.ndarray, " n"]:
    numbers = np.array([float(token) for token in tokens])
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"{count} finite numbers are expected")
    return numbers


def _material(tokens: list[str]) -> Material:
    red, green, blue = _floats(tokens[3:6], 3)  # after "MATERIAL", the name, and "rgb", which some files call otherwise
    opacity = min(max(1 - float(tokens[tokens.index("trans") + 1]), 0.0), 1.0)
    return Material(tokens[1], (float(red), float(green), float(blue)), opacity)


def _triangles(kind: int, vertices: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Indices in `vertices` of a surface's triangles, all with the same winding. Polygons are assumed to be convex."""
    for i in range(len(vertices) - 2):
        if kind == POLYGON:
            yield 0, i + 1, i + 2
        elif kind == STRIP and len(set(vertices[i : i + 3])) == 3:  # strips are joined by triangles without area
            yield (i, i + 1, i + 2) if i % 2 == 0 else (i + 1, i, i + 2)


def _beside(path: Path) -> Callable[[str], Texture]:
    """Textures in the model's folder; of a path from another machine, only the file name is used."""
    return lambda name: read_texture(path.parent / re.split(r"[/\\]", name)[-1])
