"""Cars of the rally game Trigger Rally (Debian package trigger-rally-data): three shapes, each in several liveries.

A car is an XML description, an OBJ body and an OBJ wheel, all in one zip archive. Files have z up and the front
towards +y.
"""

import zipfile
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float

from mvgenvs.data.opencars.catalogue import Entry
from mvgenvs.errors import UserError
from mvgenvs.limits import open_zip, read_member
from mvgenvs.meshes.mesh import Mesh, merged
from mvgenvs.meshes.obj import read_obj_in_zip

PACKAGE = "trigger-rally-data"
ARCHIVE = "usr/share/games/trigger-rally/data.zip"
MEMBERS = (ARCHIVE,)

# The evo is a test car, and one livery of a test car suffices: the others would repeat its shape.
CARS = ("cordo_kitcar", "cordo_super500", "cordo_wrc", "evo_kitcar", "fox_kitcar", "fox_super500", "fox_wrc")

LICENCE = "GPL-2.0-or-later"
ATTRIBUTION = (  # of the archive as a whole: the copyright file does not say who made which car
    "Trigger Rally (https://sourceforge.net/projects/trigger-rally): Jasmine Langridge, Richard Langridge, Matthias "
    "Keysermann, Agnius Vasiliauskas, David Pagnier, Jared Buckner, Laxminarayan G Kamath A, Marcio Bremm, Viktor "
    "Radnai, Tim Wintle, Andreas Rosdal, Ishmael Turner, Iwan 'qubodup' Gabovitch, Onsemeliot, URW++, Liviu Andronic, "
    "Mysteryem, Farrer, moijin001"
)


def cars(root: Path) -> list[Entry]:
    """The cars in the unpacked package at `root`."""
    return [
        Entry(
            id=f"trigger_{car}",
            family=f"trigger_{car.split('_')[0]}",
            package=PACKAGE,
            file=f"{ARCHIVE}!vehicles/{car}/{car}.obj",
            licence=LICENCE,
            attribution=ATTRIBUTION,
            load=partial(_load, root / ARCHIVE, f"vehicles/{car}", car),
        )
        for car in CARS
    ]


def _load(archive: Path, folder: str, car: str) -> Mesh:
    """Body and wheels as the car's XML scales and places them."""
    general, body = _description(archive, f"{folder}/{car}.vehicle")
    try:
        body_file, wheel_file = body.attrib["model"], general.attrib["wheelmodel"]
        body_place = _scaled_and_moved(float(body.attrib["scale"]), "0, 0, 0")
        scale = float(general.attrib["wheelscale"])
        wheel_places = [
            _scaled_and_moved(scale * float(wheel.attrib["radius"]), wheel.attrib["pos"])
            for wheel in body.findall("wheel")
        ]
    except (KeyError, ValueError) as error:
        raise UserError(f"{archive}!{folder}/{car}.vehicle is damaged: {error}") from error
    body_mesh = read_obj_in_zip(archive, f"{folder}/{body_file}").transformed(body_place)
    wheel_mesh = _as_wheel(read_obj_in_zip(archive, f"{folder}/{wheel_file}"))
    # A wheel is the same inside and out, so the left ones need no mirroring.
    wheels = [wheel_mesh.transformed(place) for place in wheel_places]
    return merged([body_mesh, *wheels]).oriented(front="+y", up="+z")


def _description(archive: Path, member: str) -> tuple[ElementTree.Element, ElementTree.Element]:
    """The parts of a car's XML about the car in general, and about its body."""
    try:
        with open_zip(archive) as opened:
            description = ElementTree.fromstring(read_member(opened, member))
    except (OSError, EOFError, KeyError, zlib.error, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise UserError(f"cannot read {archive}!{member}: is the package {PACKAGE} whole?") from error
    general, body = description.find("genparams"), description.find("part")
    if general is None or body is None:
        raise UserError(f"{archive}!{member} lacks <genparams> or <part>")
    return general, body


def _scaled_and_moved(scale: float, position: str) -> Float[np.ndarray, "4 4"]:
    """`position` as the XML writes it: "x, y, z"."""
    matrix = np.diag([scale, scale, scale, 1.0])
    matrix[:3, 3] = [float(number) for number in position.split(",")]
    return matrix


def _as_wheel(mesh: Mesh) -> Mesh:
    return replace(mesh, parts=tuple(replace(part, name="wheel") for part in mesh.parts))
