"""Cars of UFO: Alien Invasion: Quake 2 models inside `0models.pk3`, which is a zip archive.

Debian's copyright file gives the terms of each file, but only a joint list of authors; who made which car is taken from
the file LICENSES of the game's own repository (github.com/ufoaiorg/ufoai, commit 0005d99f).

Left out: pickup without wheels (van2), wrecks (car2, carcrashed, rubbish), trailers, lorries, tractors.
"""

import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from mvgenvs.data.opencars.catalogue import Entry
from mvgenvs.errors import UserError
from mvgenvs.limits import open_zip, read_member
from mvgenvs.meshes.md2 import read_md2
from mvgenvs.meshes.mesh import Material, Mesh, merged
from mvgenvs.meshes.textures import read_texture

PACKAGE = "ufoai-data"
ARCHIVE = "usr/share/games/ufoai/base/0models.pk3"
MEMBERS: tuple[str, ...] = (ARCHIVE,)
FOLDER = "models/objects/cars"  # inside the archive
TYRE_SKIN = "cars_tires.png"  # beside each model of tyres

SITTERS = "Willem Sitters"
KRACKEN = 'Olivier "Kracken" Alloschery'
RASTAMAN = 'Lukas "Rastaman" Beyeler'
TEAM = "the UFO:AI Team"


@dataclass(frozen=True)
class _Car:
    """One object: paths are relative to `FOLDER`, `tyres` and `skin` to the folder of `model`."""

    id: str
    family: str
    model: str
    skin: str
    front: str  # the axis of the file along which the car drives; +z is up in all of them
    author: str
    tyres: str = ""  # a separate model in three families; the others include their tyres
    licence: str = "GPL-2+"


_CARS = (
    _Car("ufo_4x4", "ufo_4x4", "4x4/4x4.md2", "4x4.jpg", "-y", KRACKEN, tyres="4x4_t.md2"),
    _Car("ufo_buggy", "ufo_buggy", "buggy/buggy.md2", "buggy.png", "-y", SITTERS),
    _Car("ufo_car3", "ufo_car3", "car3/car3.md2", "car3.jpg", "+x", SITTERS),
    _Car("ufo_car4", "ufo_car4", "car4/car.md2", "car.png", "+x", SITTERS),
    # Red of three colours: test families show one each.
    _Car("ufo_golf_car1_red", "ufo_golf", "golf/car1.md2", "car1_red.jpg", "-y", RASTAMAN, "car1t.md2", "GPL-2"),
    _Car("ufo_hummer_hummer", "ufo_hummer", "hummer/hummer.md2", "hummer.png", "+y", SITTERS),
    _Car("ufo_hummer_hummer_bright", "ufo_hummer", "hummer/hummer.md2", "hummer_bright.png", "+y", SITTERS),
    _Car("ufo_jeep_jeep_civ", "ufo_jeep", "jeep/jeep.md2", "jeep_civ.jpg", "-y", SITTERS),
    _Car("ufo_jeep_jeep_mil", "ufo_jeep", "jeep/jeep.md2", "jeep_mil.jpg", "-y", SITTERS),
    _Car("ufo_landy", "ufo_landy", "landy/landy.md2", "landy.png", "-y", SITTERS),
    _Car("ufo_policecar", "ufo_policecar", "policecar/policecar.md2", "policecar.png", "+y", SITTERS),
    # The model is GPL-2+, its skin GPL-2, so a picture of both is GPL-2; LICENSES names only the skin's author.
    _Car("ufo_puma", "ufo_puma", "puma/puma.md2", "puma.png", "-y", f"{TEAM} and {SITTERS} (skin)", licence="GPL-2"),
    _Car("ufo_transporter", "ufo_transporter", "transporter/transporter.md2", "transporter.png", "+y", SITTERS),
    _Car("ufo_van3", "ufo_van3", "van3/van.md2", "van.png", "+y", SITTERS),
    _Car("ufo_van_van1_blue", "ufo_van", "van/van1.md2", "van1_blue.jpg", "+y", TEAM, "van1t.md2", "GPL-2"),
    _Car("ufo_van_van1_brown", "ufo_van", "van/van1.md2", "van1_brown.jpg", "+y", TEAM, "van1t.md2", "GPL-2"),
    _Car("ufo_van_van1_green", "ufo_van", "van/van1.md2", "van1_green.jpg", "+y", TEAM, "van1t.md2", "GPL-2"),
)


def cars(root: Path) -> list[Entry]:
    """The cars of the package that is unpacked at `root`, by id."""
    return [
        Entry(
            id=car.id,
            family=car.family,
            package=PACKAGE,
            file=f"{ARCHIVE}!{FOLDER}/{car.model}",
            licence=car.licence,
            attribution=_attribution(car),
            load=partial(_load, root / ARCHIVE, car),
        )
        for car in _CARS
    ]


def _attribution(car: _Car) -> str:
    return f"{PurePosixPath(car.model).parent} of UFO: Alien Invasion by {car.author}"


def _load(archive: Path, car: _Car) -> Mesh:
    """Body and tyres of one car. Opens the archive each time, so that processes may load at the same time."""
    folder = PurePosixPath(FOLDER, car.model).parent
    try:
        with open_zip(archive) as pack:
            mesh = _skinned(pack, PurePosixPath(FOLDER, car.model), folder / car.skin)
            if car.tyres:
                tyres = _skinned(pack, folder / car.tyres, folder / TYRE_SKIN)
                mesh = merged([mesh, replace(tyres, parts=tuple(replace(part, name="wheels") for part in tyres.parts))])
    except FileNotFoundError as error:
        raise UserError(f"there is no archive {archive}: unpack {PACKAGE} there") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{archive} is not a whole zip archive: unpack {PACKAGE} again") from error
    return replace(mesh.oriented(car.front, "+z"), licence=car.licence, attribution=_attribution(car))


def _skinned(pack: zipfile.ZipFile, model: PurePosixPath, skin: PurePosixPath) -> Mesh:
    """A model of the archive with one of its skins."""
    texture = read_texture(_member(pack, skin), f"{pack.filename}!{skin}")
    material = Material(name=skin.stem, color=(1.0, 1.0, 1.0), texture=texture)
    return read_md2(_member(pack, model), f"{pack.filename}!{model}", material)


def _member(pack: zipfile.ZipFile, path: PurePosixPath) -> bytes:
    try:
        return read_member(pack, str(path))
    except KeyError as error:
        raise UserError(f"{pack.filename} has no file {path}: unpack {PACKAGE} again") from error
