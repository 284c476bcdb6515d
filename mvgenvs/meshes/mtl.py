"""Reader of MTL files, the materials of OBJ meshes. Only `Kd`, `d`, `Tr` and `map_Kd` are used."""

import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import UInt8

from mvgenvs.errors import UserError
from mvgenvs.meshes.mesh import Material
from mvgenvs.meshes.textures import read_texture

OpenSibling = Callable[[str], bytes | None]
"""The bytes of a file that the OBJ or its MTL names, relative to the OBJ's folder; None if there is no such file."""

# Options that may precede the file name of a map, which itself may contain blanks. They are ignored.
_MAP_OPTIONS = re.compile(r"(?:-[ost](?:\s+[-+.\deE]+){1,3}\s+|-mm\s+\S+\s+\S+\s+|-[a-zA-Z]+\s+\S+\s+)*")


def read_materials(
    names: Iterable[str], libraries: list[str], open_sibling: OpenSibling, label: str, need_textures: bool
) -> dict[str, Material]:
    """The materials of those names, from the MTL files that an OBJ's `mtllib` lines name.

    A name that the files lack gets their only entry, or grey if they have several or none. `label` is what errors call
    the OBJ file. Without `need_textures`, a missing texture leaves the material's colour.

    Raises `UserError` if an entry or a texture is damaged, or a texture missing.
    """
    entries: dict[str, dict[str, str]] = {}
    for line in libraries:
        for library in [line] if open_sibling(line) is not None else line.split():  # a name may hold blanks
            entries |= _entries(open_sibling(library) or b"")
    textures: dict[str, UInt8[np.ndarray, "h w 4"] | None] = {"": None}
    materials = {}
    for name in names:
        known = name if name in entries or len(entries) != 1 else next(iter(entries))
        entry, owner = entries.get(known, {}), f"material {known} of {label}"
        image = _MAP_OPTIONS.sub("", entry.get("map_Kd", ""), count=1)
        if image not in textures:
            textures[image] = _texture(image, open_sibling, owner, need_textures)
        texture = textures[image]
        # The image replaces Kd: besides an image, Blender writes a Kd that its own pictures do not use.
        color = (1.0, 1.0, 1.0) if texture is not None else _color(entry, owner)
        materials[name] = Material(known, color, _opacity(entry, owner), texture)
    return materials


def _entries(library: bytes) -> dict[str, dict[str, str]]:
    """The statements of an MTL library that are used, by material."""
    entries: dict[str, dict[str, str]] = {}
    entry: dict[str, str] = {}
    for line in library.decode("latin-1").replace("\t", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "newmtl":
            entry = entries[rest.strip()] = {}
        elif word in ("Kd", "d", "Tr", "map_Kd"):
            entry[word] = rest.strip()
    return entries


def _texture(name: str, open_sibling: OpenSibling, owner: str, needed: bool) -> UInt8[np.ndarray, "h w 4"] | None:
    path = name.replace("\\", "/")
    for candidate in (path, PurePosixPath(path).name):  # exporters write paths on their own disk
        if (data := open_sibling(candidate)) is not None:
            return read_texture(data, f"{candidate} ({owner})")
    if needed:
        raise UserError(f"there is no texture {name}, which {owner} names: put it beside the OBJ file")
    return None


def _color(entry: dict[str, str], owner: str) -> tuple[float, float, float]:
    """`Kd` is red, green and blue, or one number for all three; spectra and CIE colours are not supported."""
    if entry.get("Kd", "spectral").startswith(("spectral", "xyz")):
        return Material().color
    numbers = _floats(entry["Kd"], owner)
    red, green, blue = np.clip(numbers[:3] if len(numbers) >= 3 else numbers[:1] * 3, 0, 1).tolist()
    return red, green, blue


def _opacity(entry: dict[str, str], owner: str) -> float:
    """`d` is opacity, `Tr` its complement; exporters that write both disagree on `Tr`, so `d` takes precedence."""
    if "d" in entry:
        opacity = _floats(entry["d"].removeprefix("-halo"), owner)[0]
    elif "Tr" in entry:
        opacity = 1 - _floats(entry["Tr"], owner)[0]
    else:
        return 1.0
    return min(max(opacity, 0.0), 1.0)


def _floats(text: str, owner: str) -> list[float]:
    try:
        numbers = [float(word) for word in text.partition("#")[0].split()]
    except ValueError:
        numbers = []
    if not numbers:
        raise UserError(f"{owner} is damaged: '{text}' are not numbers")
    return numbers
