"""Cars and seats of the furniture libraries of Sweet Home 3D (Debian package sweethome3d-furniture)."""

import re
from dataclasses import replace
from pathlib import Path

from mvgenvs.data.opencars.catalogue import Entry
from mvgenvs.data.opencars.sh3f import Library, read_library
from mvgenvs.errors import UserError
from mvgenvs.meshes.mesh import Mesh

PACKAGE = "sweethome3d-furniture"
FOLDER = "usr/share/sweethome3d/furniture"

KATOR_LEGAZ = '"{title}" by Andrew Kator & Jennifer Legaz'
SCOPIA = (
    '"{title}" by Emmanuel Puybaret / eTeks <info@eteks.com> and Scopia Visual Interfaces Systems, s.l. '
    "(http://www.scopia.es)"
)
BLEND_SWAP = '"{title}" by {creator} ({page}), converted to OBJ by Emmanuel Puybaret / eTeks'


LIBRARIES = {
    "cc0": Library(PACKAGE, f"{FOLDER}/BlendSwap-CC-0.sh3f", "CC0-1.0", BLEND_SWAP),
    "ccby": Library(PACKAGE, f"{FOLDER}/BlendSwap-CC-BY.sh3f", "CC-BY-3.0", BLEND_SWAP),
    "katorlegaz": Library(PACKAGE, f"{FOLDER}/KatorLegaz.sh3f", "CC-BY-3.0-US", KATOR_LEGAZ),
    "scopia": Library(PACKAGE, f"{FOLDER}/Scopia.sh3f", "CC-BY-3.0", SCOPIA),
}
MEMBERS = tuple(library.file for library in LIBRARIES.values())

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
        models = {model.name: model for model in read_library(root, LIBRARIES[library])}
        for name in names:
            if name not in models:
                raise UserError(f"{Path(LIBRARIES[library].file).name} lacks the car {name}: is it of another release?")
            family = f"sh3d_{CAR_FAMILIES.get(name, name)}"
            entries.append(models[name].entry(f"sh3d_{name}", family, _with_wheels_named))
    return sorted(entries, key=lambda entry: entry.id)


def chairs(root: Path) -> list[Entry]:
    """The seats in the unpacked package at `root`: chairs, stools, loungers, sofas and benches."""
    entries = []
    for library in LIBRARIES:
        for model in read_library(root, LIBRARIES[library]):
            if SEATS.search(f"{model.title} {model.tags}") and model.name not in NO_SEATS:
                name = f"{library}_{model.name}"
                entries.append(model.entry(f"sh3d_{name}", f"sh3d_{CHAIR_FAMILIES.get(name, name)}", as_it_is))
    return sorted(entries, key=lambda entry: entry.id)


def as_it_is(mesh: Mesh) -> Mesh:
    return mesh


def _with_wheels_named(mesh: Mesh) -> Mesh:
    """Renames the parts of wheels to names that begin with "wheel"; their makers name them in several languages."""
    parts = [
        replace(part, name=f"wheel_{part.name}") if WHEELS.search(f"{part.name} {part.material.name}") else part
        for part in mesh.parts
    ]
    return replace(mesh, parts=tuple(parts))
