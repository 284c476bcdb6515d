"""TORCS, a racing game: 17 cars, many of them in the paint of several drivers, with wheels that are separate models.

Authors and terms are taken from the package's usr/share/doc/torcs-data/copyright and from the readme.txt beside each
model; cars without a readme are named in their XML file or attributed to the authors of the game.
"""

import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from mvgenvs.data.opencars.catalogue import Entry
from mvgenvs.errors import UserError
from mvgenvs.meshes.ac3d import read_ac3d
from mvgenvs.meshes.mesh import Mesh, merged
from mvgenvs.meshes.textures import read_texture

PACKAGE = "torcs-data"
DATA = "usr/share/games/torcs"

# The text of Debian's copyright file is that of version 1.3; everything that it does not list separately is GPL-2+.
FREE_ART, GPL = "Free Art License 1.3", "GPL-2+"


@dataclass(frozen=True)
class _Car:
    authors: str
    licence: str = FREE_ART
    wheel_authors: str = "Bernhard Wymann (2010)"  # of the wheels called trb1-…


CARS = {
    "155-DTM": _Car("Andrea Alfieri (2000)", GPL),
    "acura-nsx-sz": _Car("ViPeR (model, 2000), Jean-Christophe Durieu (texture, 2002)"),
    "baja-bug": _Car("Jean-Christophe Durieu (2002)"),
    "buggy": _Car("Eric Espié, Bernhard Wymann (2000)", GPL),
    "car1-ow1": _Car("SpeedyChonChon (2004)", wheel_authors="Eric Espié (2008), Bernhard Wymann (2009)"),
    "car1-stock1": _Car("Bernhard Wymann (2012)", wheel_authors="Bernhard Wymann (2012)"),
    "car1-stock2": _Car("Bernhard Wymann (2013)", wheel_authors="Bernhard Wymann (2012)"),
    "car1-trb1": _Car("Eric Espié, Jean-Christophe Durieu (2002), Olaf Saßnick (2005), Bernhard Wymann (2005, 2006)"),
    "car1-trb3": _Car("Eric Espié, Jean-Christophe Durieu (2002), Olaf Saßnick (2005), Bernhard Wymann (2005, 2006)"),
    "car2-trb1": _Car("Eric Espié, Jean-Christophe Durieu (2002), Olaf Saßnick (2005), Bernhard Wymann (2005, 2007)"),
    "car3-trb1": _Car(
        "ViPeR (model, 2000), Jean-Christophe Durieu (texture, 2002), Olaf Saßnick, Andrew Sumner (parts, 2006), "
        "Bernhard Wymann (2006)"
    ),
    "car4-trb1": _Car(
        "ViPeR (model, 2000), Eric Espié (texture, 2002), Andrew Sumner (2005), Bernhard Wymann (2004 to 2006)"
    ),
    "car5-trb1": _Car("Christophe Guionneau (2002), Eliam Speedychonchon (2005), Bernhard Wymann (2005, 2007)"),
    "car6-trb1": _Car(
        "Wolf-Dieter Beelitz (2007), Bernhard Wymann (2005, 2007); parts by Eric Espié, Jean-Christophe Durieu (2002), "
        "Olaf Saßnick, Andrew Sumner (2005)"
    ),
    "car7-trb1": _Car(
        "Bernhard Wymann (2007); parts by Olaf Saßnick, Andrew Sumner (2005), Wolf-Dieter Beelitz (2007)"
    ),
    "car8-trb1": _Car("Bernhard Wymann (2009); parts by Olaf Saßnick, Andrew Sumner (2005)"),
    "p406": _Car("Eric Espié (2000)", GPL),
}
SAME_SHAPE = {"car1-trb1": "car1-trb", "car1-trb3": "car1-trb"}  # one body, for two classes of races

# According to each driver's XML file; all GPL-2+ by Debian's catch-all clause.
PAINTERS = {"damned": "Eric Espié", "olethros": "Christos Dimitrakakis"}
OTHER_PAINTER = "Bernhard Wymann"
# Test cars come in one paint, so that each counts once in an average over objects.
LEFT_OUT = {("baja-bug", "sparkle", "0"), ("p406", "inferno", "2")}

DEFAULT_WHEELS = "trb1-1"  # for cars whose XML names no 3D wheels; the game draws discs on them

MEMBERS = (
    *(f"{DATA}/cars/{car}/{car}.{suffix}" for car in CARS for suffix in ("acc", "xml")),
    f"{DATA}/cars/*/*.rgb",
    f"{DATA}/drivers/*/*/*.rgb",
    f"{DATA}/wheels/*/wheel0.acc",
    f"{DATA}/wheels/*/wheel3d.png",
)

SIDES = ("Right", "Left")
METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001, "in": 0.0254}


def cars(root: Path) -> list[Entry]:
    """The cars in the game's own paint and in that of its drivers. `root` is the unpacked package."""
    entries = [_entry(root, car, None) for car in CARS]
    for livery in (root / DATA / "drivers").glob("*/*/*.rgb"):
        car, number, driver = livery.stem, livery.parent.name, livery.parent.parent.name
        if car in CARS and (car, driver, number) not in LEFT_OUT:
            entries.append(_entry(root, car, livery))
    return sorted(entries, key=lambda entry: entry.id)


def _entry(root: Path, car: str, livery: Path | None) -> Entry:
    made = CARS[car]
    credits = f"{car} of TORCS by {made.authors}; wheels by {made.wheel_authors}"
    terms = [made.licence + (" (body)" if made.licence != FREE_ART else " (model)" if livery else "")]
    if made.licence != FREE_ART:
        terms.append(f"{FREE_ART} (wheels)")
    name = car
    if livery is not None:
        driver = livery.parent.parent.name
        name = f"{car}_{driver}{livery.parent.name}"
        credits += f"; paint of the driver {driver} by {PAINTERS.get(driver, OTHER_PAINTER)}"
        terms.append(f"{GPL} (paint)")
    return Entry(
        id=f"torcs_{name}",
        family=f"torcs_{SAME_SHAPE.get(car, car)}",
        package=PACKAGE,
        file=f"{DATA}/cars/{car}/{car}.acc",
        licence=", ".join(terms),
        attribution=credits,
        load=partial(_load, root / DATA, car, livery),
    )


def _load(data: Path, car: str, livery: Path | None) -> Mesh:
    folder = data / "cars" / car

    def texture(name: str) -> UInt8[np.ndarray, "h w 4"]:
        return read_texture(livery if livery is not None and name == livery.name else folder / name)

    params = read_params(folder / f"{car}.xml")
    model = params.find("section[@name='Graphic Objects']/attstr[@name='3d wheel directory']")
    wheel_folder = data / "wheels" / (DEFAULT_WHEELS if model is None else model.get("val", DEFAULT_WHEELS))
    wheel = read_ac3d(wheel_folder / "wheel0.acc")
    wheel = replace(wheel, parts=tuple(replace(part, name=f"wheel {part.name}") for part in wheel.parts))
    try:
        wheels = [wheel.transformed(wheel_placement(params, end, side)) for end in ("Front", "Rear") for side in SIDES]
    except (KeyError, ValueError) as error:
        raise UserError(f"{folder / car}.xml does not say where its wheels are: {error}") from error
    body = without_linings(read_ac3d(folder / f"{car}.acc", texture))
    return merged([body, *wheels]).oriented(front="+x", up="+y")


def read_params(path: Path) -> ET.Element:
    """A car's XML file. Raises `UserError` if it is missing or damaged."""
    try:
        return ET.parse(path).getroot()
    except (OSError, ET.ParseError) as error:
        raise UserError(f"cannot read {path} as XML: {error}") from error


def wheel_placement(params: ET.Element, end: str, side: str) -> Float[np.ndarray, "4 4"]:
    """Where a car's XML puts a wheel: from the unit wheel to the car, in metres, x forward, y up, z right.

    The unit wheel has diameter and width 1 and its face towards -z, which is left; right wheels are rotated, not
    mirrored, which keeps the lettering legible. The car's model is on y = 0.

    Raises `ValueError` if a number is missing, `KeyError` for an unknown unit.
    """

    def metres(section: str, name: str) -> float:
        number = params.find(f"section[@name='{section}']/attnum[@name='{name}']")
        if number is None:
            raise ValueError(f"'{section}' has no '{name}'")
        return float(number.get("val", "")) * METRES[number.get("unit", "m")]

    wheel = f"{end} {side} Wheel"
    width = metres(wheel, "tire width")
    diameter = metres(wheel, "rim diameter") + 2 * width * metres(wheel, "tire height-width ratio")
    turn = 1.0 if side == "Left" else -1.0  # by half a turn about y
    placement = np.diag([turn * diameter, diameter, turn * width, 1.0])
    placement[:3, 3] = metres(f"{end} Axle", "xpos"), diameter / 2, -metres(wheel, "ypos")  # there, y is to the left
    return placement


def without_linings(mesh: Mesh) -> Mesh:
    """Of faces that coincide, keeps the one whose normal points furthest away from the object's middle.

    The game draws only one side of a face, so a roof and its lining, which has another colour, may be in the same
    place; drawn from both sides they would flicker in every pixel.
    """
    corners = np.concatenate([part.positions[part.triangles] for part in mesh.parts])  # (face, 3, 3)
    low, high = mesh.bounds()
    cells = np.round((corners.reshape(-1, 3) - low) / np.linalg.norm(high - low) * 1e4).astype(int)
    points = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1, 3)
    places = np.unique(np.sort(points, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outward = np.einsum("ij,ij->i", normals, corners.mean(axis=1) - (low + high) / 2)
    best = np.full(places.max() + 1, -np.inf)
    np.maximum.at(best, places, outward)
    kept = np.split(outward >= best[places], np.cumsum([len(part.triangles) for part in mesh.parts])[:-1])
    parts = [replace(part, triangles=part.triangles[keep]) for part, keep in zip(mesh.parts, kept, strict=True)]
    return replace(mesh, parts=tuple(part for part in parts if len(part.triangles)))
