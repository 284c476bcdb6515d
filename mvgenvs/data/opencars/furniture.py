"""Everything in Sweet Home 3D's homes and gardens: its furniture libraries, without cars, and the program's own
catalogue (Debian packages sweethome3d-furniture and sweethome3d).

Left out, after a look at every one: the models in `LEFT_OUT`; doors and windows, which are panels in a wall; and socket
and switch plates.
"""

import re
from dataclasses import replace
from pathlib import Path

from mvgenvs.data.opencars import sweethome3d
from mvgenvs.data.opencars.catalogue import Entry
from mvgenvs.data.opencars.sh3f import Library, Model, read_library
from mvgenvs.meshes.mesh import Mesh

PROGRAM = "sweethome3d"
LIBRARIES = {
    **sweethome3d.LIBRARIES,
    "reallusion": Library(
        sweethome3d.PACKAGE,
        f"{sweethome3d.FOLDER}/Reallusion.sh3f",
        "CC-BY-3.0-US",
        '"{title}" by Reallusion (http://www.reallusion.com)',
    ),
}
MEMBERS = tuple(library.file for library in LIBRARIES.values())
DEFAULTS = Library(
    PROGRAM,
    "usr/share/sweethome3d/sweethome3d.jar",
    "GPL-2+",
    '"{title}" of Sweet Home 3D by Emmanuel Puybaret / eTeks <info@eteks.com>',
    "com/eteks/sweethome3d/io/DefaultFurnitureCatalog.properties",
)

LEFT_OUT = {
    "a cloth, a picture or a marking without thickness": (
        "oriental-rug concrete-sidewalk bathmat doormat round-carpet tatami newspaper towel2 window-blinds blind "
        "curtain curtains showerCurtain short-shadows pantalon-shadows blouson jupe jupe-doeskin chaussette robe "
        "passage-pieton rails fleche-tout-droit fleche-tourner-a-droite-et-direct fleche-tourner-a-droite "
        "stationnement-creneau stationnement-en-bataille stationnement-epi-45 stationnement-epi-60 "
        "stationnement-epi-75 billet-10-euros billet-20-euros billet-50-euros"
    ),
    "a panel in a wall": "showerDoor slidingDoors wallSocket wallDoubleSocket",
    "several things that stand apart": "shower showerHeadAndFaucet cardGame",
    "a plain solid, to be painted by users": "texturableBox texturableCylinder texturableTriangle",
    "glass through and through, which has no depth": (
        "beerGlass cocktailGlass glass 12-oz-glass highball-glass ashtray ruler"
    ),
    "no surface": "lightSource",
    "a car, which is in another category, or its double": "concept-sedan-01v2",
}
PLATES = re.compile(r"(rounded|square)-(antenna|dimmer|double|plug|RJ|switch).*|.*-whites")
PANELS = "Doors and windows"  # in the catalogues
ANIMALS = {"bulldog", "cat", "chicken", "dog", "horse", "horse2", "rabbit", "siameseCat"}

# The program's own models name materials that no file describes: these are our colours for them.
PAINTS = {
    "amber": (0.85, 0.55, 0.2), "black": (0.1, 0.1, 0.1), "blonde": (0.85, 0.74, 0.55), "bluteal": (0.1, 0.4, 0.5),
    "bone": (0.87, 0.83, 0.72), "brown": (0.45, 0.3, 0.18), "brzskin": (0.7, 0.5, 0.35), "dkblue": (0.12, 0.16, 0.45),
    "dkdkgrey": (0.2, 0.2, 0.2), "dkgrey": (0.35, 0.35, 0.35), "flesh": (0.88, 0.68, 0.56), "grey": (0.55, 0.55, 0.55),
    "iris": (0.35, 0.3, 0.7), "lighttan": (0.85, 0.75, 0.6), "ltbrown": (0.62, 0.46, 0.3), "ltgrey": (0.75, 0.75, 0.75),
    "red": (0.75, 0.12, 0.1), "redwood": (0.55, 0.25, 0.18), "sand_stone": (0.8, 0.7, 0.52), "ship": (0.3, 0.35, 0.4),
    "silver": (0.77, 0.78, 0.8), "sky_blue": (0.5, 0.7, 0.9), "tan": (0.78, 0.65, 0.48), "teeth": (0.93, 0.92, 0.86),
    "white": (0.93, 0.93, 0.93), "yellow": (0.92, 0.8, 0.2), "yellow_green": (0.55, 0.7, 0.25),
}  # fmt: skip


def objects(root: Path) -> list[Entry]:
    """The objects of the libraries except cars; chairs have the same names as in their own category."""
    cars = {(library, name) for library, names in sweethome3d.CARS.items() for name in names}
    entries = []
    for key, library in LIBRARIES.items():
        models = [model for model in read_library(root, library) if (key, model.name) not in cars]
        entries += [_entry(key, model) for model in models if not is_left_out(model.name, model.category)]
    return sorted(entries, key=lambda entry: entry.id)


def defaults(root: Path) -> list[Entry]:
    """The objects of the program's own catalogue. `root` is the unpacked program."""
    models = [model for model in read_library(root, DEFAULTS) if not is_left_out(model.name, model.category)]
    return sorted((_entry("eteks", model) for model in models), key=lambda entry: entry.id)


def is_left_out(name: str, category: str) -> bool:
    """Whether a model is not an object, judging by its name and its category in the catalogue."""
    listed = any(name in names.split() for names in LEFT_OUT.values())
    return listed or category == PANELS or PLATES.fullmatch(name) is not None


def painted(mesh: Mesh) -> Mesh:
    """The mesh in our colours for materials that are known only by their names ("flltgrey", "bone2")."""

    def paint(name: str) -> tuple[float, float, float] | None:
        plain = re.sub(r"^(fl|arch)|brt$|[.\d]+$", "", name)
        return PAINTS.get(name) or PAINTS.get(plain)

    parts = []
    for part in mesh.parts:
        color = paint(part.material.name)
        unknown = part.material.texture is None and part.material.color == (0.8, 0.8, 0.8)  # `Material`'s own
        parts.append(replace(part, material=replace(part.material, color=color)) if color and unknown else part)
    return replace(mesh, parts=tuple(parts))


def _entry(library: str, model: Model) -> Entry:
    name = f"{library}_{model.name}"
    family = f"sh3d_{sweethome3d.CHAIR_FAMILIES.get(name, name)}"
    finish = painted if library == "eteks" else sweethome3d.as_it_is
    return model.entry(f"sh3d_{name}", family, finish, _kind(model))


def _kind(model: Model) -> str:
    if model.category == "Characters":
        return "animal" if model.name in ANIMALS else "person"
    return "vehicle" if model.category == "Vehicles" else "furniture"
