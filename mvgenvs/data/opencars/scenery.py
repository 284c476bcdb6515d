"""General objects of FlightGear's scenery: aircraft, ships, buildings, street furniture, people, animals.

`scenery.txt` beside this file lists them by family, and says what is left out of the folders and why. Which way each of
them faces is unknown.
"""

from functools import partial
from importlib.resources import files
from pathlib import Path

from mvgenvs.data.opencars.catalogue import Entry
from mvgenvs.data.opencars.flightgear import AUTHORS, DATA, LICENCE, PACKAGE
from mvgenvs.meshes.ac3d import read_ac3d

FOLDERS = ("Aircraft", "Fauna", "Maritime/Civilian", "Misc", "Residential", "Sport", "StreetFurniture")
MEMBERS = tuple(f"{DATA}/{folder}/*" for folder in FOLDERS)

# One object of each kind, of a shape that nothing else in the list has.
VAL = frozenset(
    f"fgfs_{family}"
    for family in (
        "typhoon-RAF", "dhc2-baroudeur", "superfrelon", "velocity", "Catamaran", "RNLI_Hovercraft", "castle60x60m",
        "french_house_c", "Red_Phone_Box", "strandkorb", "horse", "StuntBike",
    )
)  # fmt: skip
TEST = frozenset(
    f"fgfs_{family}"
    for family in (
        "su27_lowpoly", "atlantique2", "dauphin", "falcon7xstrip1", "Dutch_Master", "fireboat-massport", "SteAnneDij",
        "maldivianhouse", "Pillar_Box", "MerryGoRound", "elephant", "QuadBike",
    )
)  # fmt: skip


def objects(root: Path) -> list[Entry]:
    """The objects, by id. `root` is the unpacked package."""
    entries = []
    for line in files(__package__).joinpath("scenery.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            kind, folder, *names = line.split()
            entries += [_entry(root, kind, names[0], f"{folder}/{name}.ac", name) for name in names]
    return sorted(entries, key=lambda entry: entry.id)


def aircraft(root: Path) -> list[Entry]:
    """Only aeroplanes, gliders and helicopters."""
    return [entry for entry in objects(root) if entry.kind == "aircraft"]


def _entry(root: Path, kind: str, family: str, file: str, name: str) -> Entry:
    return Entry(
        id=f"fgfs_{name}",
        family=f"fgfs_{family}",
        package=PACKAGE,
        file=f"{DATA}/{file}",
        licence=LICENCE,
        attribution=f"{name} of FlightGear's scenery by {AUTHORS}",
        load=partial(read_ac3d, root / DATA / file),
        kind=kind,
        front=False,
    )
