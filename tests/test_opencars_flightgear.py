"""The source FlightGear, on a package of a few triangles made on the spot."""

import fnmatch
from pathlib import Path

import numpy as np
import pytest
from debs import write_deb
from PIL import Image

from mvgenvs.data.opencars import flightgear
from mvgenvs.data.opencars.catalogue import Entry
from mvgenvs.data.opencars.categories import CATEGORIES
from mvgenvs.data.opencars.packages import unpack
from mvgenvs.errors import UserError
from mvgenvs.meshes.mesh import Mesh

VEHICLES = CATEGORIES["vehicles"]
MATERIAL = 'MATERIAL "m" rgb 1 1 1 amb 1 1 1 emis 0 0 0 spec 0 0 0 shi 1 trans 0'
# Triangles, in the file's metres: one at the front (-z), a wheel's that reaches the ground, a shadow, a square's half.
NOSE = ["0 1 -2", "0.5 1 -1", "-0.5 1 -1"]
WHEEL = ["1 0 0", "1 0.2 0.1", "1 0.2 -0.1"]
SHADOW = ["1 0 2", "-1 0 2", "0 0 -2"]
SQUARE = ["1 0 -1", "1 1 -1", "1 0 0"]


def model(*triangles: list[str], texture: str = "paint.png", kids: int = 1) -> bytes:
    vertices = [vertex for triangle in triangles for vertex in triangle]
    lines = ["AC3Db", MATERIAL, "OBJECT world", f"kids {kids}", "OBJECT poly", f'texture "{texture}"']
    lines += [f"numvert {len(vertices)}", *vertices, f"numsurf {len(triangles)}"]
    for start in range(0, len(vertices), 3):
        lines += ["SURF 0x20", "mat 0", "refs 3", *(f"{start + corner} 0 0" for corner in range(3))]
    return "\n".join([*lines, "kids 0", ""]).encode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The package, unpacked by the source's own patterns, with four models and one paint for all."""
    Image.new("RGB", (2, 2), (0, 0, 255)).save(tmp_path / "paint.png")
    files = {
        "Transport/camarored.ac": model(NOSE, WHEEL, SHADOW, SQUARE),
        "Transport/vanwhite1.ac": model(NOSE, WHEEL, SHADOW, SQUARE),
        "Transport/paint.png": (tmp_path / "paint.png").read_bytes(),
        "Airport/Vehicle/paint.png": (tmp_path / "paint.png").read_bytes(),
        "Airport/Vehicle/FireTruck_7.30m.ac": model(["2 1 0", "1 1 0.5", "1 1 -0.5"]),
        "Airport/Vehicle/rover-aegean.ac": model(NOSE)[:-40],
        "Airport/Vehicle/fourgon-ba.ac": model(NOSE, texture="lost.png"),
        "Aircraft/c172.ac": b"",
    }
    deb = write_deb(tmp_path / "fg_1_all.deb", {f"{flightgear.DATA}/{name}": data for name, data in files.items()})
    return unpack(deb, flightgear.MEMBERS, tmp_path / "unpacked")


def entry(root: Path, name: str) -> Entry:
    return next(entry for entry in flightgear.vehicles(root) if entry.id == f"fgfs_{name}")


def points(mesh: Mesh) -> np.ndarray:
    return np.concatenate([part.positions[part.triangles].reshape(-1, 3) for part in mesh.parts])


def test_only_the_two_folders_are_unpacked(root: Path) -> None:
    folders = {path.parent.relative_to(root / flightgear.DATA).as_posix() for path in root.rglob("*.ac")}
    assert folders == {flightgear.STREET, flightgear.AIRPORT}


def test_every_vehicle_has_a_name_of_its_own_and_a_file_that_is_unpacked() -> None:
    entries = flightgear.vehicles(Path("root"))
    assert len({entry.id for entry in entries}) == len({entry.file for entry in entries}) == len(entries)
    assert [entry.id for entry in entries] == sorted(entry.id for entry in entries)
    for item in entries:
        assert any(fnmatch.fnmatchcase(item.file, pattern) for pattern in flightgear.MEMBERS)
        assert item.licence == "GPL-2+"
        assert Path(item.file).stem in item.attribution


def test_what_is_kept_for_comparisons_elsewhere_is_in_no_split() -> None:
    words = " ".join(f"{entry.id} {entry.family} {entry.file}".lower() for entry in flightgear.vehicles(Path("root")))
    for name in ("oshkosh", "hoskosh", "humvee", "fire-truck-muc.ac"):
        assert name not in words


def test_the_second_val_and_test_hold_eight_families_each_one_object_of_each() -> None:
    split_of = {entry.id: VEHICLES.split_of(entry.family) for entry in flightgear.vehicles(Path("root"))}
    splits = list(split_of.values())
    assert (splits.count("val2"), splits.count("test2")) == (8, 8)
    assert set(splits) == {"train", "val2", "test2"}
    assert len(flightgear.VAL2) == len(flightgear.TEST2) == 8
    assert not flightgear.VAL2 & flightgear.TEST2
    assert CATEGORIES["cars"].split_of("torcs_p406") == "test"  # the first pair stays what it was
    assert CATEGORIES["cars"].split_of("torcs_buggy") == "val"


@pytest.mark.parametrize("name", ["camarored", "FireTruck_7.30m"])
def test_the_front_looks_to_minus_z(root: Path, name: str) -> None:
    mesh = entry(root, name).load()
    front = points(mesh)[points(mesh)[:, 2].argmin()]
    np.testing.assert_allclose(front, [0, 1, -2], atol=1e-12)
    assert mesh.parts[0].material.texture is not None
    assert mesh.parts[0].material.texture[0, 0].tolist() == [0, 0, 255, 255]


def test_shadows_and_squares_for_wheels_are_taken_off_the_transits_alone(root: Path) -> None:
    assert entry(root, "camarored").load().num_triangles == 4
    mesh = entry(root, "vanwhite1").load()
    assert mesh.num_triangles == 2
    assert points(mesh)[:, 1].min() == 0  # the wheel stands on the ground


@pytest.mark.parametrize(("name", "word"), [("rover-aegean", r"rover-aegean\.ac"), ("fourgon-ba", r"lost\.png")])
def test_damage_is_told_in_one_sentence(root: Path, name: str, word: str) -> None:
    with pytest.raises(UserError, match=word):
        entry(root, name).load()


def test_a_missing_model_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"tourbus1\.ac"):
        entry(root, "tourbus1").load()
