"""Cars and seats of the furniture libraries of Sweet Home 3D (Debian package sweethome3d-furniture).

Each library is a zip archive of OBJ models with a catalogue of their names, their makers, and the rotation that
brings a model upright with its front to +z.
"""

import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from mvgenvs.data.opencars.catalogue import Entry
from mvgenvs.errors import UserError
from mvgenvs.meshes.mesh import Mesh
from mvgenvs.meshes.obj import read_obj_in_zip

PACKAGE = "sweethome3d-furniture"
FOLDER = "usr/share/sweethome3d/furniture"

KATOR_LEGAZ = '"{title}" by Andrew Kator & Jennifer Legaz'
SCOPIA = (
    '"{title}" by Emmanuel Puybaret / eTeks <info@eteks.com> and Scopia Visual Interfaces Systems, s.l. '
    "(http://www.scopia.es)"
)
BLEND_SWAP = '"{title}" by {creator} ({page}), converted to OBJ by Emmanuel Puybaret / eTeks'


@dataclass(frozen=True)
class _Library:
    file: str
    licence: str
    attribution: str


LIBRARIES = {
    "cc0": _Library("BlendSwap-CC-0.sh3f", "CC0-1.0", BLEND_SWAP),
    "ccby": _Library("BlendSwap-CC-BY.sh3f", "CC-BY-3.0", BLEND_SWAP),
    "katorlegaz": _Library("KatorLegaz.sh3f", "CC-BY-3.0-US", KATOR_LEGAZ),
    "scopia": _Library("Scopia.sh3f", "CC-BY-3.0", SCOPIA),
}
MEMBERS = tuple(f"{FOLDER}/{library.file}" for library in LIBRARIES.values())

# concept-sedan-01v2 is left out: it repeats concept-sedan-01v1.
CARS = {
    "katorlegaz": ("VW-new-beetle", "concept-sedan-01v1", "concept-sedan-02", "concept-sedan-02-sport"),
    "ccby": ("fordFocus",),
    "scopia": ("chevrolet", "peugeot-308", "renault-scenic", "seat_leon", "smart-car", "suv", "truck", "van"),
}
CAR_FAMILIES = {"concept-sedan-01v1": "concept-sedan-01", "concept-sedan-02-sport": "concept-sedan-02"}
WHEELS = re.compile(r"(?<!steering[ _-])(wheel|tire|tyre)|neumatico|llanta", re.IGNORECASE)

SEATS = re.compile(r"chair|seat|stool|sofa|couch|bench|bank|puff", re.IGNORECASE)  # in a name or a tag
NO_SEATS = {"abdominalBench", "convertible-sofa-BZ-opened", "motorbike", "potty", "seat_leon", "workbench"}
CHAIR_FAMILIES = {  # seats of one set, which share their design
    "cc0_winchesterSofa": "cc0_winchesterArmchair",
    "katorlegaz_mid-century-bench-sofa": "katorlegaz_mid-century-chair",
    "katorlegaz_mid-century-sofa": "katorlegaz_mid-century-chair",
    "scopia_beige_sofa_2seats": "scopia_beige_sofa",
    "scopia_rattanSofa": "scopia_rattanArmchair",
}
# The split of the chairs, by family; all other families are for training. Both hold single seats of many kinds (wooden,
# upholstered, swivelling, folding, bar stools) and one sofa.
CHAIR_VAL = frozenset(
    f"sh3d_{name}"
    for name in (
        "cc0_chair2",
        "cc0_silla2",
        "ccby_chair3",
        "katorlegaz_cafe-chair",
        "scopia_armchair3",
        "scopia_clear_sofa",
    )
)
CHAIR_TEST = frozenset(
    f"sh3d_{name}"
    for name in (
        "cc0_deckChair",
        "cc0_plasticChair",
        "cc0_stool2",
        "ccby_armchair1",
        "ccby_ella_chair_f",
        "katorlegaz_office-chair",
        "scopia_chair3",
        "scopia_modern_armchair",
        "scopia_silla_teca",
        "scopia_simple_sofa",
    )
)


def cars(root: Path) -> list[Entry]:
    """The cars in the unpacked package at `root`."""
    entries = []
    for library, names in CARS.items():
        models = {model.name: model for model in _models(root, library)}
        for name in names:
            if name not in models:
                raise UserError(f"{LIBRARIES[library].file} lacks the car {name}: is it of another release?")
            family = f"sh3d_{CAR_FAMILIES.get(name, name)}"
            entries.append(models[name].entry(f"sh3d_{name}", family, _with_wheels_named))
    return sorted(entries, key=lambda entry: entry.id)


def chairs(root: Path) -> list[Entry]:
    """The seats in the unpacked package at `root`: chairs, stools, loungers, sofas and benches."""
    entries = []
    for library in LIBRARIES:
        for model in _models(root, library):
            if SEATS.search(f"{model.title} {model.tags}") and model.name not in NO_SEATS:
                name = f"{library}_{model.name}"
                entries.append(model.entry(f"sh3d_{name}", f"sh3d_{CHAIR_FAMILIES.get(name, name)}", _as_it_is))
    return sorted(entries, key=lambda entry: entry.id)


@dataclass(frozen=True)
class _Model:
    """A model as its library's catalogue describes it."""

    archive: Path
    member: str
    title: str
    tags: str
    rotation: tuple[float, ...]  # a 3 x 3 matrix by rows
    licence: str
    attribution: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.member).stem

    def entry(self, id: str, family: str, finish: Callable[[Mesh], Mesh]) -> Entry:
        file = f"{FOLDER}/{self.archive.name}!{self.member}"
        return Entry(id, family, PACKAGE, file, self.licence, self.attribution, partial(self.load, finish))

    def load(self, finish: Callable[[Mesh], Mesh]) -> Mesh:
        # Some textures (mostly for bumps) were never put into the libraries.
        mesh = read_obj_in_zip(self.archive, self.member, need_textures=False)
        rotation = np.eye(4)
        rotation[:3, :3] = np.reshape(self.rotation, (3, 3))
        return finish(mesh.transformed(rotation).oriented(front="+z", up="+y"))


def _models(root: Path, library: str) -> list[_Model]:
    """Everything in the catalogue of one library, cars, seats and all else."""
    terms = LIBRARIES[library]
    archive = root / FOLDER / terms.file
    try:
        with zipfile.ZipFile(archive) as opened:
            licences = {str(PurePosixPath(n).parent): n for n in opened.namelist() if "license" in n.lower()}
            models = []
            for item in _catalogue(opened.read("PluginFurnitureCatalog.properties").decode("latin-1")):
                member = item["model"].lstrip("/")
                own = licences.get(str(PurePosixPath(member).parent))
                text = opened.read(own).decode("utf-8", "replace") if own else ""
                models.append(
                    _Model(
                        archive,
                        member,
                        item["name"],
                        item.get("tags", ""),
                        tuple(float(number) for number in item.get("modelRotation", "1 0 0 0 1 0 0 0 1").split()),
                        # A few models lie in the CC0 library though their own page says CC-BY.
                        "CC-BY-3.0" if "Creative Commons Attribution 3.0" in text else terms.licence,
                        terms.attribution.format(title=item["name"], creator=item["creator"], page=_page(text)),
                    )
                )
    except (OSError, EOFError, KeyError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {archive}: is the package sweethome3d-furniture whole?") from error
    return models


def _catalogue(text: str) -> list[dict[str, str]]:
    """The items of a catalogue: lines "key#number=value", with Java's escapes."""
    items: dict[str, dict[str, str]] = {}
    for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*?)\s*$", text, re.MULTILINE):
        items.setdefault(number, {})[key] = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), value)
    return list(items.values())


def _page(licence: str) -> str:
    """Where a model was published, as its licence file says."""
    page = re.search(r"https?://www\.blendswap\.com/blends/view/\d+", licence)
    return page[0] if page else "http://www.blendswap.com"


def _as_it_is(mesh: Mesh) -> Mesh:
    return mesh


def _with_wheels_named(mesh: Mesh) -> Mesh:
    """The parts of wheels under names that begin with "wheel"; their makers name them in several languages."""
    parts = [
        replace(part, name=f"wheel_{part.name}") if WHEELS.search(f"{part.name} {part.material.name}") else part
        for part in mesh.parts
    ]
    return replace(mesh, parts=tuple(parts))
