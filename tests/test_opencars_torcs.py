"""The sources TORCS and OpenCity, on packages of a few triangles made on the spot."""

import fnmatch
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvgenvs.data.opencars import opencity, torcs
from mvgenvs.data.opencars.catalogue import Entry
from mvgenvs.errors import UserError
from mvgenvs.meshes.mesh import Mesh, MeshPart

MATERIAL = 'MATERIAL "m" rgb 1 1 1 amb 1 1 1 emis 0 0 0 spec 0 0 0 shi 1 trans 0'
BLUE, RED, GREY = (0, 0, 255, 255), (255, 0, 0, 255), (90, 90, 90, 255)
# A car from x = -2 to 2, 1.2 high and 1.6 wide: a floor, and a roof with its lining underneath, in the same place.
ROOF = ["1 1.2 -0.8", "1 1.2 0.8", "-1 1.2 0.8", "-1 1.2 -0.8"]
FLOOR = ["2 0.3 -0.8", "2 0.3 0.8", "-2 0.3 0.8", "-2 0.3 -0.8"]
UPWARDS, DOWNWARDS = [0, 3, 2, 1], [0, 1, 2, 3]
XML = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE params SYSTEM "../../../../src/libs/tgf/params.dtd">
<params name="car" type="template">
  <section name="Graphic Objects">{wheels}</section>
  <section name="Front Axle"><attnum name="xpos" val="1.25"/></section>
  <section name="Rear Axle"><attnum name="xpos" unit="m" val="-1.5"/></section>
  {sections}
</params>
"""
WHEEL = """<section name="{name} Wheel"><attnum name="ypos" unit="m" val="{y}"/>
<attnum name="rim diameter" unit="in" val="{rim}"/><attnum name="tire width" unit="mm" val="{width}"/>
<attnum name="tire height-width ratio" val="0.5"/></section>"""


def flat(name: str, texture: str, vertices: list[str], order: list[int]) -> str:
    refs = [f"{vertex} 0 0" for vertex in order]
    head = ["OBJECT poly", f'name "{name}"', f'texture "{texture}" base', f"numvert {len(vertices)}", *vertices]
    return "\n".join([*head, "numsurf 1", "SURF 0x10", "mat 0", f"refs {len(refs)}", *refs, "kids 0"])


def write_model(path: Path, *objects: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["AC3Db", MATERIAL, "OBJECT world", f"kids {len(objects)}", *objects]))


def write_image(path: Path, colour: tuple[int, int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", (2, 2), colour).save(path, format="SGI" if path.suffix == ".rgb" else None)


def write_car(data: Path, car: str, wheels: str = "") -> None:
    folder = data / "cars" / car
    roof = flat("ROOF", f"{car}.rgb", ROOF, UPWARDS)
    lining = flat("ROOFINSIDE", "lining.rgb", ROOF, DOWNWARDS)
    floor = flat("FLOOR", "lining.rgb", FLOOR, DOWNWARDS)
    write_model(folder / f"{car}.acc", lining, roof, floor)
    write_image(folder / f"{car}.rgb", BLUE)
    write_image(folder / "lining.rgb", GREY)
    sides = [("Front Right", -0.7), ("Front Left", 0.7), ("Rear Right", -0.75), ("Rear Left", 0.75)]
    sections = [
        WHEEL.format(name=name, y=y, rim=20 if "Front" in name else 10, width=200 if "Front" in name else 400)
        for name, y in sides
    ]
    (folder / f"{car}.xml").write_text(XML.format(wheels=wheels, sections="\n".join(sections)))


def write_wheel(data: Path, name: str, colour: tuple[int, int, int, int] = GREY) -> None:
    folder = data / "wheels" / name
    square = ["-0.5 -0.5", "0.5 -0.5", "0.5 0.5", "-0.5 0.5"]
    face = flat("FACE", "wheel3d.png", [f"{xy} -0.5" for xy in square], UPWARDS)
    back = flat("BACK", "wheel3d.png", [f"{xy} 0.5" for xy in square], DOWNWARDS)
    write_model(folder / "wheel0.acc", face, back)
    write_image(folder / "wheel3d.png", colour)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with the model of one car, two liveries of it, and a few files that are not wanted."""
    data = tmp_path / torcs.DATA
    write_car(data, "car4-trb1")
    write_wheel(data, torcs.DEFAULT_WHEELS)
    write_wheel(data, "stock1-2", RED)
    for livery in (
        "berniw2/8/car4-trb1", "olethros/5/car4-trb1", "bt/2/car1-trb1", "inferno/2/p406", "tita/1/lorry"
    ):  # fmt: skip
        write_image(data / "drivers" / f"{livery}.rgb", RED)
    write_image(data / "drivers" / "bt" / "logo.rgb", RED)
    return tmp_path


def named(package: Path, name: str) -> Entry:
    (entry,) = [entry for entry in torcs.cars(package) if entry.id == name]
    return entry


def part_of(mesh: Mesh, name: str) -> list[MeshPart]:
    return [part for part in mesh.parts if part.name == name]


def box(part: MeshPart) -> np.ndarray:
    points = part.positions[part.triangles].reshape(-1, 3)
    return np.stack([points.min(axis=0), points.max(axis=0)])


def test_every_car_and_every_livery_of_one_is_an_object(package: Path) -> None:
    entries = torcs.cars(package)
    ids = [entry.id for entry in entries]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids) == 17 + 3
    assert {"torcs_car4-trb1_berniw28", "torcs_car4-trb1_olethros5", "torcs_car1-trb1_bt2"} < set(ids)
    assert "torcs_p406_inferno2" not in ids  # test cars come in one paint
    assert all((package / entry.file).name.endswith(".acc") for entry in entries)


def test_liveries_share_the_family_of_their_shape(package: Path) -> None:
    families = {entry.id: entry.family for entry in torcs.cars(package)}
    assert families["torcs_car4-trb1_berniw28"] == families["torcs_car4-trb1"] == "torcs_car4-trb1"
    assert families["torcs_car1-trb1_bt2"] == families["torcs_car1-trb3"] == "torcs_car1-trb"
    assert len(set(families.values())) == 16


def test_terms_name_the_body_the_wheels_and_the_paint(package: Path) -> None:
    assert named(package, "torcs_car4-trb1").licence == "Free Art License 1.3"
    assert named(package, "torcs_155-DTM").licence == "GPL-2+ (body), Free Art License 1.3 (wheels)"
    livery = named(package, "torcs_car4-trb1_olethros5")
    assert livery.licence == "Free Art License 1.3 (model), GPL-2+ (paint)"
    assert "ViPeR" in livery.attribution
    assert "Christos Dimitrakakis" in livery.attribution


def test_the_car_looks_to_minus_z_and_stands_upright(package: Path) -> None:
    mesh = named(package, "torcs_car4-trb1").load()
    (floor,) = part_of(mesh, "FLOOR")
    assert np.allclose(box(floor), [[-0.8, 0.3, -2], [0.8, 0.3, 2]])


def test_wheels_stand_at_their_axles_in_their_sizes(package: Path) -> None:
    mesh = named(package, "torcs_car4-trb1").load()
    faces = sorted((box(part) for part in part_of(mesh, "wheel FACE")), key=lambda b: (b[0, 2], b[0, 0]))
    front_diameter, rear_diameter = 20 * 0.0254 + 2 * 0.5 * 0.2, 10 * 0.0254 + 2 * 0.5 * 0.4
    for face, x, z, diameter in [
        (
            faces[0],
            -0.7 - 0.1,
            -1.25,
            front_diameter,
        ),  # the face looks outwards, half a width beyond the wheel's middle
        (faces[1], 0.7 + 0.1, -1.25, front_diameter),
        (faces[2], -0.75 - 0.2, 1.5, rear_diameter),
        (faces[3], 0.75 + 0.2, 1.5, rear_diameter),
    ]:
        assert np.allclose(face, [[x, 0, z - diameter / 2], [x, diameter, z + diameter / 2]])
    assert all(part.name.startswith("wheel") == ("FACE" in part.name or "BACK" in part.name) for part in mesh.parts)


def test_right_wheels_are_turned_and_not_mirrored(package: Path) -> None:
    """Both sides show their own face outwards, and a text on it reads the same way."""
    params = torcs.read_params(package / torcs.DATA / "cars/car4-trb1/car4-trb1.xml")
    for end in ("Front", "Rear"):
        left, right = torcs.wheel_placement(params, end, "Left"), torcs.wheel_placement(params, end, "Right")
        assert np.linalg.det(left[:3, :3]) == pytest.approx(np.linalg.det(right[:3, :3]))
        assert np.linalg.det(left[:3, :3]) > 0
        assert (left @ [0, 0, -0.5, 1])[2] < left[2, 3]
        assert (right @ [0, 0, -0.5, 1])[2] > right[2, 3]
        assert (left @ [0, 0.5, 0, 1])[1] == (right @ [0, 0.5, 0, 1])[1] > 0


def test_the_xml_names_the_wheels(package: Path) -> None:
    data = package / torcs.DATA
    write_car(data, "car4-trb1", '<attstr name="3d wheel directory" in="a,b" val="stock1-2"/>')
    face = part_of(named(package, "torcs_car4-trb1").load(), "wheel FACE")[0]
    assert face.material.texture is not None
    assert tuple(face.material.texture[0, 0]) == RED


def test_a_livery_replaces_the_cars_own_texture_only(package: Path) -> None:
    def colours(name: str) -> dict[str, tuple[int, ...]]:
        parts = named(package, name).load().parts
        return {part.name: tuple(part.material.texture[0, 0]) for part in parts if part.material.texture is not None}

    plain, painted = colours("torcs_car4-trb1"), colours("torcs_car4-trb1_berniw28")
    assert plain["ROOF"] == BLUE
    assert painted == plain | {"ROOF": RED}


def test_wheels_share_one_texture(package: Path) -> None:
    parts = [part for part in named(package, "torcs_car4-trb1").load().parts if part.name.startswith("wheel")]
    assert len(parts) == 8
    assert len({id(part.material.texture) for part in parts}) == 1


def test_a_roof_hides_the_lining_in_the_same_place(package: Path) -> None:
    mesh = named(package, "torcs_car4-trb1").load()
    assert not part_of(mesh, "ROOFINSIDE")
    (roof,) = part_of(mesh, "ROOF")
    assert np.allclose(box(roof)[:, 1], 1.2)
    corners = roof.positions[roof.triangles]
    assert (np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 1] > 0).all()


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("cars/car4-trb1/car4-trb1.xml", ("</params>", "")),
        ("cars/car4-trb1/car4-trb1.xml", ('val="1.25"', 'val="far"')),
        ("cars/car4-trb1/car4-trb1.xml", ('unit="in"', 'unit="elbows"')),
        ("cars/car4-trb1/car4-trb1.xml", ('name="tire width"', 'name="width"')),
        ("cars/car4-trb1/car4-trb1.xml", None),
        ("cars/car4-trb1/car4-trb1.acc", ("numvert 4", "numvert 40")),
        ("cars/car4-trb1/car4-trb1.acc", None),
        ("cars/car4-trb1/car4-trb1.rgb", None),
        ("wheels/trb1-1/wheel0.acc", None),
    ],
)
def test_damaged_and_missing_files_are_named(package: Path, file: str, damage: tuple[str, str] | None) -> None:
    entry = named(package, "torcs_car4-trb1")
    path = package / torcs.DATA / file
    if damage is None:
        path.unlink()
    else:
        assert damage[0] in path.read_text()
        path.write_text(path.read_text().replace(damage[0], damage[1], 1))
    with pytest.raises(UserError, match=path.name):
        entry.load()


def test_members_cover_what_is_read_and_leave_the_rest_packed(package: Path) -> None:
    def wanted(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in torcs.MEMBERS)

    files = [path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()]
    assert [file for file in files if not wanted(file)] == [f"{torcs.DATA}/drivers/bt/logo.rgb"]
    assert not wanted(f"{torcs.DATA}/cars/p406/p406-lod1.acc")
    assert not wanted(f"{torcs.DATA}/wheels/trb1-1/wheel1.acc")


def test_opencity_has_three_cars_that_look_to_minus_z(tmp_path: Path) -> None:
    folder = tmp_path / opencity.DATA / "clior"
    bonnet = flat("bonnet", "photo.png", ["0 0 2", "1 0 2", "1 1 2"], [0, 1, 2])
    boot = flat("boot", "photo.png", ["0 0 0", "1 0 0", "1 1 0"], [0, 1, 2])
    write_model(folder / "clior.ac", bonnet, boot)
    write_image(folder / "photo.png", BLUE)
    entries = opencity.cars(tmp_path)
    assert [entry.id for entry in entries] == ["ocity_buickS", "ocity_clior", "ocity_renault8-sport"]
    assert all(entry.licence == "GPL-2+" and "Rodrigo" in entry.attribution for entry in entries)
    mesh = entries[1].load()
    assert np.allclose(box(part_of(mesh, "bonnet")[0]), [[-1, 0, -2], [0, 1, -2]])
    assert all(
        any(fnmatch.fnmatchcase(f"{opencity.DATA}/clior/{name}", pattern) for pattern in opencity.MEMBERS)
        for name in ("clior.ac", "photo.png")
    )
    with pytest.raises(UserError, match=r"buickS\.ac"):
        entries[0].load()
