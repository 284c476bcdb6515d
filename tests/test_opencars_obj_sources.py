import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from mvgenvs.data.opencars import sweethome3d, trigger
from mvgenvs.errors import UserError

# A body of 4 x 2 x 1 (length, width, height) with its nose at the front's end of the length: the mark of orientation.
BODY = [(-1, -2, 0), (1, -2, 0), (1, 2, 0), (-1, 2, 0), (0, 1.9, 1)]
VEHICLE = """<?xml version="1.0" ?>
<vehicle name="Cordo">
  <genparams wheelmodel="{car}_wheel.obj" wheelscale="0.5" />
  <part name="body" pos="9, 9, 9" model="{car}.obj" scale="10">
    <wheel pos="-12, 15, 1" radius="4" />
    <wheel pos="12, -15, 1" radius="4" />
  </part>
</vehicle>"""


def obj(points, faces, head=""):
    return head + "".join(f"v {x} {y} {z}\n" for x, y, z in points) + "".join(f"f {face}\n" for face in faces)


def archive(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)


def png():
    file = io.BytesIO()
    Image.new("RGB", (1, 1), (9, 8, 7)).save(file, "PNG")
    return file.getvalue()


def points(part):
    return part.positions[np.unique(part.triangles)]


@pytest.fixture
def rally(tmp_path):
    files = {}
    for car in trigger.CARS:
        folder = f"vehicles/{car}"
        head = f"mtllib {car}.mtl\nusemtl of_another_car\n"
        files[f"{folder}/{car}.obj"] = obj(BODY, ["1 2 3 4", "3 4 5"], head)
        files[f"{folder}/{car}_wheel.obj"] = obj([(0, 1, 0), (0, 0, 1), (1, 0, 0)], ["1 2 3"], head)
        files[f"{folder}/{car}.mtl"] = f"newmtl _{car}.png\nmap_Kd {car}.png\n"
        files[f"{folder}/{car}.png"] = png()
        files[f"{folder}/{car}.vehicle"] = VEHICLE.format(car=car)
    archive(tmp_path / trigger.ARCHIVE, files)
    return tmp_path, files


def test_rally_cars_are_seven_of_three_families(rally):
    entries = trigger.cars(rally[0])
    assert [entry.id for entry in entries] == sorted(f"trigger_{car}" for car in trigger.CARS)
    assert {entry.family for entry in entries} == {"trigger_cordo", "trigger_evo", "trigger_fox"}
    assert all(entry.licence == "GPL-2.0-or-later" and "Langridge" in entry.attribution for entry in entries)


def test_rally_cars_stand_on_their_wheels_with_the_front_to_minus_z(rally):
    mesh = trigger.cars(rally[0])[0].load()
    body, *wheels = mesh.parts
    # File (x, y, z), scaled by 10, becomes (x, z, -y): the nose was at y = 1.9, z = 1. The body's `pos` moves nothing.
    np.testing.assert_allclose(points(body)[-1], [0, 10, -19], atol=1e-9)
    assert [part.name for part in wheels] == ["wheel", "wheel"]
    # Wheels are scaled by wheelscale * radius = 2: the corner (1, 0, 0) of the wheel at (12, -15, 1).
    np.testing.assert_allclose(points(wheels[1])[2], [14, 1, 15], atol=1e-9)


def test_a_rally_car_wears_the_only_texture_of_its_library(rally):
    mesh = trigger.cars(rally[0])[3].load()
    assert all(part.material.texture[0, 0].tolist() == [9, 8, 7, 255] for part in mesh.parts)


@pytest.mark.parametrize(
    "vehicle", ["<vehicle>", "<vehicle/>", VEHICLE.replace('scale="10"', 'scale="big"'), VEHICLE.replace("-12, ", "")]
)
def test_a_damaged_rally_car_is_named(rally, vehicle):
    root, files = rally
    archive(
        root / trigger.ARCHIVE,
        {**files, "vehicles/evo_kitcar/evo_kitcar.vehicle": vehicle.replace("{car}", "evo_kitcar")},
    )
    with pytest.raises(UserError, match=r"evo_kitcar\.vehicle"):
        trigger.cars(root)[3].load()


def test_a_rally_car_without_its_body_is_named(rally):
    root, files = rally
    archive(root / trigger.ARCHIVE, {name: data for name, data in files.items() if not name.endswith("evo_kitcar.obj")})
    with pytest.raises(UserError, match=r"^there is no vehicles/evo_kitcar/evo_kitcar\.obj in "):
        trigger.cars(root)[3].load()


MODELS = [  # library, path, what its catalogue says beyond the name
    *[(library, f"{name}/{name}", "Car", "") for library, names in sweethome3d.CARS.items() for name in names],
    ("katorlegaz", "concept-sedan-01v2/concept-sedan-01v2", "Car", ""),
    ("scopia", "table/table", "Table", ""),
    ("scopia", "turned/turned", "Ch\\u00e2ir", "tags#{n}=Seat\nmodelRotation#{n}=0 0 1 0 1 0 -1 0 0\n"),
    ("scopia", "rattanSofa/rattanSofa", "Sofa", ""),
    ("ccby", "workbench/workbench", "Workbench", ""),
    ("cc0", "winchesterSofa/winchesterSofa", "Winchester sofa", ""),
    ("cc0", "stool2/stool2", "Stool", ""),
]


@pytest.fixture
def furniture(tmp_path):
    files = {library: {} for library in sweethome3d.LIBRARIES}
    catalogues = dict.fromkeys(files, "# comment\nid=Library\n")
    for n, (library, path, title, more) in enumerate(MODELS):
        points = [(x, z, y) for x, y, z in BODY]  # y up, nose to +z
        head = "mtllib a.mtl\no body\nusemtl paint\n"
        text = obj(points, ["1 2 3 4", "3 4 5"], head) + "o Wheel_rim\nf 1 2 3\no steering_wheel\nf 1 2 4\n"
        files[library][f"{path}.obj"] = text + "usemtl neumaticos\nf 1 2 3\n"
        files[library][str(path).rsplit("/")[0] + "/a.mtl"] = "newmtl paint\nKd 1 0 0\nmap_Kd lost.jpg\nnewmtl x\n"
        catalogues[library] += f"name#{n}={title}\nmodel#{n}=/{path}.obj\ncreator#{n}=Somebody\n" + more.format(n=n)
    files["cc0"]["winchesterSofa/1 - LICENSE.html"] = (
        "<a href='http://www.blendswap.com/blends/view/89509'>Creative Commons Attribution 3.0</a>"
    )
    for library, members in files.items():
        catalogue = catalogues[library].encode("latin-1")
        path = tmp_path / sweethome3d.LIBRARIES[library].file
        archive(path, {**members, "PluginFurnitureCatalog.properties": catalogue})
    return tmp_path


def test_furniture_cars_are_the_thirteen_without_the_duplicate(furniture):
    entries = sweethome3d.cars(furniture)
    assert len(entries) == 13
    assert [entry.id for entry in entries] == sorted(entry.id for entry in entries)
    families = {entry.id: entry.family for entry in entries}
    assert families["sh3d_concept-sedan-02-sport"] == families["sh3d_concept-sedan-02"] == "sh3d_concept-sedan-02"
    assert "sh3d_concept-sedan-01v2" not in families
    beetle = next(entry for entry in entries if entry.id == "sh3d_VW-new-beetle")
    assert beetle.licence == "CC-BY-3.0-US"
    assert beetle.attribution == '"Car" by Andrew Kator & Jennifer Legaz'


def test_furniture_cars_turn_their_front_to_minus_z_and_name_their_wheels(furniture):
    mesh = sweethome3d.cars(furniture)[0].load()
    body, rim, steering, tyre = mesh.parts
    np.testing.assert_allclose(points(body)[-1], [0, 1, -1.9], atol=1e-9)
    assert [part.name for part in (body, rim, steering, tyre)] == [
        "body",
        "wheel_Wheel_rim",
        "steering_wheel",
        "wheel_steering_wheel",  # by its material: rubber stays rubber
    ]
    assert body.material.color == (1.0, 0.0, 0.0)  # its texture was never in the library


def test_seats_are_chosen_by_name_and_tag(furniture):
    chairs = {entry.id: entry for entry in sweethome3d.chairs(furniture)}
    assert list(chairs) == [
        "sh3d_cc0_stool2",
        "sh3d_cc0_winchesterSofa",
        "sh3d_scopia_rattanSofa",
        "sh3d_scopia_turned",
    ]
    assert chairs["sh3d_scopia_rattanSofa"].family == "sh3d_scopia_rattanArmchair"
    assert chairs["sh3d_scopia_turned"].attribution.startswith('"Châir" by Emmanuel Puybaret')


def test_a_models_own_licence_file_overrules_its_library(furniture):
    chairs = {entry.id: entry for entry in sweethome3d.chairs(furniture)}
    assert chairs["sh3d_cc0_stool2"].licence == "CC0-1.0"
    sofa = chairs["sh3d_cc0_winchesterSofa"]
    assert sofa.licence == "CC-BY-3.0"
    assert "Somebody (http://www.blendswap.com/blends/view/89509)" in sofa.attribution


def test_seats_follow_the_rotation_of_their_catalogue(furniture):
    mesh = sweethome3d.chairs(furniture)[-1].load()
    # (x, y, z) -> (z, y, -x) by the catalogue, then the front from +z to -z: (-z, y, x).
    np.testing.assert_allclose(points(mesh.parts[0])[-1], [-1.9, 1, 0], atol=1e-9)


def test_the_splits_of_the_chairs_do_not_meet():
    assert not sweethome3d.CHAIR_VAL & sweethome3d.CHAIR_TEST
    split = sweethome3d.CHAIR_VAL | sweethome3d.CHAIR_TEST
    members = {f"sh3d_{name}" for name in sweethome3d.CHAIR_FAMILIES}
    assert not split & members  # families, not members of them


def test_a_missing_library_or_car_is_named(furniture, tmp_path):
    folder = furniture / sweethome3d.FOLDER
    archive(
        folder / "Scopia.sh3f", {"PluginFurnitureCatalog.properties": "name#1=Chair\nmodel#1=/a/a.obj\ncreator#1=x"}
    )
    with pytest.raises(UserError, match=r"Scopia\.sh3f lacks the car chevrolet"):
        sweethome3d.cars(furniture)
    (folder / "BlendSwap-CC-0.sh3f").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"BlendSwap-CC-0\.sh3f"):
        sweethome3d.chairs(furniture)
