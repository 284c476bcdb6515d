"""Reader of Quake 2 models (`.md2`): one animated surface of triangles with one skin; only its first frame is read.

The file's axes are kept: z is up, and by convention the front faces +x. An MD2 only names its skins, as paths inside
some game's folders, so the caller must supply the image.
"""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from mvgenvs.errors import UserError
from mvgenvs.limits import check_bytes
from mvgenvs.meshes.mesh import Material, Mesh, MeshPart

MAGIC, VERSION = b"IDP2", 8
HEADER = struct.Struct("<4s16i")
SKIN = np.dtype("S64")
TEXCOORD = np.dtype([("s", "<i2"), ("t", "<i2")])  # in texels of the skin, from its upper left corner
TRIANGLE = np.dtype([("vertices", "<u2", 3), ("texcoords", "<u2", 3)])
FRAME = np.dtype([("scale", "<f4", 3), ("offset", "<f4", 3), ("name", "S16")])  # its vertices follow
VERTEX = np.dtype([("position", "u1", 3), ("normal", "u1")])  # a point is position * scale + offset


class _Header(NamedTuple):
    magic: bytes
    version: int
    skin_width: int
    skin_height: int
    frame_size: int
    num_skins: int
    num_vertices: int
    num_texcoords: int
    num_triangles: int
    num_commands: int
    num_frames: int
    skins_at: int  # this and the following offsets are in bytes from the start of the file
    texcoords_at: int
    triangles_at: int
    frames_at: int
    commands_at: int
    end_at: int


def read_md2(source: str | Path | bytes, name: str | None = None, material: Material | None = None) -> Mesh:
    """Reads the first frame of a model from a path, or from the bytes of a member of an archive.

    `name` is what errors and the part call the model; a path names itself. `material` is the skin; by default a plain
    one with the name of the file's first skin.

    Raises `UserError` if the file is missing, is not an MD2, or is truncated or inconsistent.
    """
    label = name or ("an MD2 model" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes):
        if not Path(source).is_file():
            raise UserError(f"there is no model {label}")
        check_bytes(Path(source))
        source = Path(source).read_bytes()
    header = _read_header(source, label)
    skins = _block(source, SKIN, header.skins_at, header.num_skins, label)
    texcoords = _block(source, TEXCOORD, header.texcoords_at, header.num_texcoords, label)
    triangles = _block(source, TRIANGLE, header.triangles_at, header.num_triangles, label)
    frame = _block(source, FRAME, header.frames_at, 1, label)[0]
    vertices = _block(source, VERTEX, header.frames_at + FRAME.itemsize, header.num_vertices, label)
    if triangles["vertices"].max() >= len(vertices) or triangles["texcoords"].max() >= len(texcoords):
        raise UserError(f"{label} is damaged: its triangles use vertices that it does not have")
    points = vertices["position"] * frame["scale"].astype(np.float64) + frame["offset"]
    if not np.isfinite(points).all():
        raise UserError(f"{label} is damaged: its vertices are not finite numbers")

    # Along a seam, a point has several places in the skin: make a vertex of each pair (point, place) in use.
    corners = np.stack([triangles["vertices"].ravel(), triangles["texcoords"].ravel()], axis=-1).astype(np.int64)
    pairs, numbers = np.unique(corners, axis=0, return_inverse=True)
    places = texcoords[pairs[:, 1]]
    part = MeshPart(
        name=Path(label).stem,
        positions=points[pairs[:, 0]],
        triangles=numbers.reshape(-1, 3)[:, ::-1],  # Quake's outsides turn clockwise
        uvs=np.stack(  # + 0.5: they count texels and mean their centres, which is how the games draw them
            [(places["s"] + 0.5) / header.skin_width, 1 - (places["t"] + 0.5) / header.skin_height], axis=-1
        ),
        material=material or Material(name=skins[0].decode("latin-1") if len(skins) else ""),
    )
    return Mesh(parts=(part,))


def _read_header(data: bytes, label: str) -> _Header:
    if not data.startswith(MAGIC) or len(data) < HEADER.size:
        raise UserError(f"{label} is not a Quake 2 model: an MD2 file starts with {MAGIC.decode()} and a header")
    header = _Header(*HEADER.unpack_from(data))
    if header.version != VERSION:
        raise UserError(f"{label} has version {header.version} of MD2; only version {VERSION} can be read")
    if header.end_at > len(data):
        raise UserError(f"{label} is cut short: it has {len(data)} of its {header.end_at} bytes; fetch it again")
    if min(header.skin_width, header.skin_height, header.num_triangles, header.num_frames) < 1:
        raise UserError(f"{label} is damaged or empty: it lacks triangles, frames, or the size of its skin")
    return header


def _block(data: bytes, kind: np.dtype, start: int, count: int, label: str) -> Shaped[np.ndarray, " count"]:
    """`count` records from byte `start` on; they must be within the file."""
    if start < 0 or count < 0 or start + count * kind.itemsize > len(data):
        raise UserError(f"{label} is damaged: {count} records at byte {start} do not lie in its {len(data)} bytes")
    return np.frombuffer(data, kind, count, start)
