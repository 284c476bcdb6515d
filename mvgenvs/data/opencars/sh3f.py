"""Libraries of Sweet Home 3D: zip archives of OBJ models with a catalogue of their names, their makers, and the
rotation that makes a model upright with its front to +z.
"""

import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from mvgenvs.data.opencars.catalogue import Entry
from mvgenvs.errors import UserError
from mvgenvs.limits import open_zip, read_member
from mvgenvs.meshes.mesh import Mesh
from mvgenvs.meshes.obj import read_obj_in_zip


@dataclass(frozen=True)
class Library:
    """An archive within a Debian package, and the licence of its content."""

    package: str
    file: str  # relative to the package's root
    licence: str
    attribution: str  # with places for {title}, {creator} and {page}
    catalogue: str = "PluginFurnitureCatalog.properties"


@dataclass(frozen=True)
class Model:
    """A model as its library's catalogue describes it."""

    library: Library
    archive: Path
    member: str
    title: str
    tags: str
    category: str  # "Living room", "Doors and windows", …
    rotation: tuple[float, ...]  # a 3 x 3 matrix by rows
    licence: str
    attribution: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.member).stem

    def entry(self, id: str, family: str, finish: Callable[[Mesh], Mesh], kind: str = "") -> Entry:
        """The builder's entry; `finish` makes the final mesh, and `kind` is the kind of object."""
        file = f"{self.library.file}!{self.member}"
        load = partial(self.load, finish)
        return Entry(id, family, self.library.package, file, self.licence, self.attribution, load, kind)

    def load(self, finish: Callable[[Mesh], Mesh]) -> Mesh:
        # Some textures (mostly bump maps) were never put into the libraries.
        mesh = read_obj_in_zip(self.archive, self.member, need_textures=False)
        rotation = np.eye(4)
        rotation[:3, :3] = np.reshape(self.rotation, (3, 3))
        return finish(mesh.transformed(rotation).oriented(front="+z", up="+y"))


def read_library(root: Path, library: Library) -> list[Model]:
    """Everything in a library's catalogue; `root` is the unpacked package. Raises `UserError` if it is damaged."""
    archive = root / library.file
    try:
        with open_zip(archive) as opened:
            licences = {str(PurePosixPath(n).parent): n for n in opened.namelist() if "license" in n.lower()}
            models = []
            for item in _catalogue(read_member(opened, library.catalogue).decode("latin-1")):
                member = item["model"].lstrip("/")
                own = licences.get(str(PurePosixPath(member).parent))
                text = read_member(opened, own).decode("utf-8", "replace") if own else ""
                rotation = [float(number) for number in item.get("modelRotation", "1 0 0 0 1 0 0 0 1").split()]
                if len(rotation) != 9:
                    raise ValueError(f"the rotation of {member} has {len(rotation)} numbers")
                models.append(
                    Model(
                        library,
                        archive,
                        member,
                        item["name"],
                        item.get("tags", ""),
                        item.get("category", ""),
                        tuple(rotation),
                        # A few models are in the CC0 library although their own page says CC-BY.
                        "CC-BY-3.0" if "Creative Commons Attribution 3.0" in text else library.licence,
                        library.attribution.format(title=item["name"], creator=item["creator"], page=_page(text)),
                    )
                )
    except (OSError, EOFError, KeyError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {archive}: is the package {library.package} whole?") from error
    return models


def _catalogue(text: str) -> list[dict[str, str]]:
    """The items of a catalogue: lines "key#number=value", with Java's escapes."""
    items: dict[str, dict[str, str]] = {}
    for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*?)\s*$", text, re.MULTILINE):
        items.setdefault(number, {})[key] = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), value)
    return list(items.values())


def _page(licence: str) -> str:
    """Where a model was published, according to its licence file."""
    page = re.search(r"https?://www\.blendswap\.com/blends/view/\d+", licence)
    return page[0] if page else "http://www.blendswap.com"
