"""OpenCity, a town-building game: three cars of some tens of triangles, wheels and windows painted on."""

from functools import partial
from pathlib import Path

from mvgenvs.data.opencars.catalogue import Entry
from mvgenvs.meshes.ac3d import read_ac3d
from mvgenvs.meshes.mesh import Mesh

PACKAGE = "opencity-data"
DATA = "usr/share/games/opencity/graphism/vehicle"
NAMES = ("buickS", "clior", "renault8-sport")  # the fire engine, the police car and the lorry are boxes

MEMBERS = tuple(f"{DATA}/{name}/*.{suffix}" for name in NAMES for suffix in ("ac", "png"))


def cars(root: Path) -> list[Entry]:
    """The cars. `root` is the unpacked package."""
    return [
        Entry(
            id=f"ocity_{name}",
            family=f"ocity_{name}",
            package=PACKAGE,
            file=f"{DATA}/{name}/{name}.ac",
            licence="GPL-2+",
            attribution=f"{name} of OpenCity by Frédéric Rodrigo (2006)",  # as the XML file beside each model says
            load=partial(_load, root / DATA / name / f"{name}.ac"),
        )
        for name in NAMES
    ]


def _load(path: Path) -> Mesh:
    return read_ac3d(path).oriented(front="+z", up="+y")
