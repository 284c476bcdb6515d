import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_md2 import one_triangle

from mvgenvs.data.opencars import ufoai
from mvgenvs.data.opencars.catalogue import Entry
from mvgenvs.errors import UserError

RED, BLACK = (200, 0, 0), (10, 10, 10)
GOLF = {
    "golf/car1.md2": one_triangle(points=[(0, 0, 5), (10, 0, 5), (0, 90, 9)]),  # longest along y
    "golf/car1t.md2": one_triangle(points=[(2, 10, 0), (4, 10, 0), (2, 20, 0)], skins=(b".cars_tires",)),
}


def png(color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(file, "PNG")
    return file.getvalue()


def package(root: Path, members: dict[str, bytes]) -> Path:
    archive = root / ufoai.ARCHIVE
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, data in members.items():
            pack.writestr(f"models/objects/cars/{name}", data)
    return root


def golf_package(root: Path) -> Path:
    return package(root, GOLF | {"golf/car1_red.jpg": png(RED), "golf/cars_tires.png": png(BLACK)})


def entry(root: Path, name: str) -> Entry:
    return next(entry for entry in ufoai.cars(root) if entry.id == name)


def test_the_catalogue_lists_17_objects_of_13_families_by_id_without_the_package(tmp_path: Path) -> None:
    entries = ufoai.cars(tmp_path)
    assert [entry.id for entry in entries] == sorted({entry.id for entry in entries})
    assert len(entries) == 17 and len({entry.family for entry in entries}) == 13
    assert all(entry.id.startswith(entry.family) and entry.attribution for entry in entries)
    families_of_gpl_2_alone = {entry.family for entry in entries if entry.licence == "GPL-2"}
    assert families_of_gpl_2_alone == {"ufo_golf", "ufo_puma", "ufo_van"}


def test_tyres_join_the_body_each_under_its_own_skin(tmp_path: Path) -> None:
    mesh = entry(golf_package(tmp_path), "ufo_golf_car1_red").load()
    body, wheels = mesh.parts
    assert wheels.name.startswith("wheel") and not body.name.startswith("wheel")
    assert (body.material.name, wheels.material.name) == ("car1_red", "cars_tires")
    for part, color in ((body, RED), (wheels, BLACK)):
        assert part.material.texture is not None
        np.testing.assert_array_equal(part.material.texture[0, 0, :3], color)
    assert mesh.licence == "GPL-2" and "Beyeler" in mesh.attribution


def test_the_golf_is_turned_from_minus_y_ahead_and_z_up_to_minus_z_ahead_and_y_up(tmp_path: Path) -> None:
    mesh = entry(golf_package(tmp_path), "ufo_golf_car1_red").load()
    body, wheels = (part.positions for part in mesh.parts)
    assert wheels[:, 1].max() < body[:, 1].min()  # tyres below
    low, high = mesh.bounds()
    np.testing.assert_allclose((low[2], high[2]), (0, 90))  # file's y = 0, its front, is the smallest z
    np.testing.assert_allclose((low[0], high[0]), (-10, 0))  # and its +x, on the driver's left, is -x


def test_entries_can_be_sent_to_worker_processes(tmp_path: Path) -> None:
    sent = pickle.loads(pickle.dumps(entry(golf_package(tmp_path), "ufo_golf_car1_red")))
    assert sent.load().num_triangles == 2


@pytest.mark.parametrize("missing", ["golf/car1.md2", "golf/car1_red.jpg", "golf/car1t.md2", "golf/cars_tires.png"])
def test_a_file_that_the_archive_lacks_is_named(tmp_path: Path, missing: str) -> None:
    members = GOLF | {"golf/car1_red.jpg": png(RED), "golf/cars_tires.png": png(BLACK)}
    del members[missing]
    with pytest.raises(UserError, match=missing):
        entry(package(tmp_path, members), "ufo_golf_car1_red").load()


def test_an_archive_missing_or_cut_short_is_named(tmp_path: Path) -> None:
    golf = entry(tmp_path, "ufo_golf_car1_red")
    with pytest.raises(UserError, match=r"there is no archive .*0models\.pk3"):
        golf.load()
    archive = golf_package(tmp_path) / ufoai.ARCHIVE
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"0models\.pk3 is not a whole zip archive"):
        golf.load()


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    root = golf_package(tmp_path)
    archive = root / ufoai.ARCHIVE
    with zipfile.ZipFile(archive) as pack:
        start = pack.getinfo("models/objects/cars/golf/car1.md2").header_offset
    data = bytearray(archive.read_bytes())
    data[start + 75 : start + 95] = bytes(20)  # within the compressed model
    archive.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"0models\.pk3"):
        entry(root, "ufo_golf_car1_red").load()
