import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from mvgenvs.errors import UserError
from mvgenvs.meshes.obj import read_obj, read_obj_in_zip

SQUARE = """
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
"""
FACE = "f 1/1 2/2 3/3 4/4\n"


def png(color=(10, 20, 30), size=(2, 2)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def read(text, **files):
    """Reads OBJ text whose siblings are given by name, dots written as double underscores."""
    siblings = {name.replace("__", "."): data for name, data in files.items()}
    siblings = {name: data.encode() if isinstance(data, str) else data for name, data in siblings.items()}
    return read_obj(text.encode(), siblings.get, "made.obj")


def corners(mesh):
    """Every triangle's three points, part after part."""
    return np.concatenate([part.positions[part.triangles] for part in mesh.parts])


def material(library, **files):
    return read(f"mtllib a.mtl\n{SQUARE}usemtl paint\n{FACE}", a__mtl=library, **files).parts[0].material


def test_polygons_become_fans_around_their_first_corner():
    angles = np.arange(5) * 2 * np.pi / 5
    text = "".join(f"v {np.cos(a)} {np.sin(a)} 2\n" for a in angles) + "f 1 2 3\nf 1 2 3 4 5\nf 5 4 3 2\n"
    found = corners(read(text))
    ring = np.stack([np.cos(angles), np.sin(angles), np.full(5, 2)], axis=-1)
    expected = [(0, 1, 2), (0, 1, 2), (0, 2, 3), (0, 3, 4), (4, 3, 2), (4, 2, 1)]
    np.testing.assert_allclose(found, ring[np.array(expected)])


def test_faces_with_fewer_than_three_corners_are_dropped():
    assert read(SQUARE + "f 1 2\n" + FACE + "f 3\n").num_triangles == 2


@pytest.mark.parametrize("face", ["f 1 2 3", "f 1/1 2/2 3/3", "f 1//1 2//1 3//1", "f 1/1/1 2/2/1 3/3/1"])
def test_all_forms_of_corners_give_the_same_triangle(face):
    mesh = read(SQUARE + "vn 0 0 1\n" + face + "\n")
    np.testing.assert_array_equal(corners(mesh), [[[0, 0, 0], [1, 0, 0], [1, 1, 0]]])
    part = mesh.parts[0]
    if "/" in face and "//" not in face:
        np.testing.assert_array_equal(part.uvs[part.triangles[0]], [[0, 0], [1, 0], [1, 1]])
    else:
        assert part.uvs is None


def test_negative_indices_count_back_from_where_they_stand():
    text = "v 9 9 9\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt .5 .5\nf -3/-1 -2/-1 -1/-1\nv 7 7 7\nvt .25 .25\nf -1/-1 -2/-2 1/1\n"
    mesh = read(text)
    part = mesh.parts[0]
    np.testing.assert_array_equal(corners(mesh), [[[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[7, 7, 7], [0, 1, 0], [9, 9, 9]]])
    np.testing.assert_array_equal(part.uvs[part.triangles], [[[0.5, 0.5]] * 3, [[0.25, 0.25], [0.5, 0.5], [0.5, 0.5]]])


@pytest.mark.parametrize("index", [5, 99, -5])
def test_texture_coordinates_that_do_not_exist_are_the_origin(index):
    part = read(SQUARE + f"f 3/3 4/4 2/{index}\n").parts[0]
    np.testing.assert_array_equal(part.uvs[part.triangles[0]], [[1, 1], [0, 1], [0, 0]])


def test_a_point_with_two_texture_coordinates_becomes_two_vertices():
    part = read(SQUARE + "f 1/1 2/2 3/3\nf 1/4 3/3 4/4\n").parts[0]
    assert len(part.positions) == 5
    assert set(part.triangles.ravel()) == set(range(5))


def test_parts_are_the_groups_in_each_material_and_only_hold_their_own_vertices():
    text = (
        SQUARE
        + "o body\nusemtl red\nf 1 2 3\nusemtl blue\nf 1 3 4\ng wheel left\nf 2 3 4\no body\nusemtl red\nf 4 3 2\n"
    )
    parts = read(text).parts
    assert [(p.name, p.material.name, len(p.triangles)) for p in parts] == [
        ("body", "red", 2),
        ("body", "blue", 1),
        ("wheel left", "blue", 1),
    ]
    assert [len(p.positions) for p in parts] == [4, 3, 3]


def test_colours_behind_the_vertices_stand_for_the_material():
    part = read("v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 1.5\nf 3 2 1\n").parts[0]
    np.testing.assert_array_equal(part.colors[part.triangles[0]], [[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    assert part.material.color == (1.0, 1.0, 1.0)


def test_blanks_tabs_comments_continued_lines_and_foreign_statements_do_no_harm():
    text = "# v 5 5 5\r\n\r\nv\t0 0  0 # corner\r\n  v 1 0 0\r\nv 1 1 0\r\ns off\r\nl 1 2\r\nf 1 \\\r\n 2 3 # 4\r\n"
    np.testing.assert_array_equal(corners(read(text)), [[[0, 0, 0], [1, 0, 0], [1, 1, 0]]])


def test_colour_and_opacity_come_from_the_library():
    found = material("newmtl other\nKd 1 1 1\nnewmtl paint\nKd .1 .2 .3\nd 0.25\n")
    assert (found.name, found.color, found.opacity, found.texture) == ("paint", (0.1, 0.2, 0.3), 0.25, None)


@pytest.mark.parametrize(
    ("lines", "opacity"),
    [("", 1.0), ("Tr 0.75", 0.25), ("d -halo 0.5", 0.5), ("Tr 1\nd 1", 1.0), ("d 1\nTr 1", 1.0), ("d 3", 1.0)],
)
def test_d_is_opacity_and_tr_its_complement_where_d_is_missing(lines, opacity):
    assert material(f"newmtl paint\n{lines}\n").opacity == opacity


def test_one_number_is_a_grey():
    assert material("newmtl paint\nKd .5\n").color == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "line",
    [
        "map_Kd my skin.png",
        "map_Kd -clamp on my skin.png",
        "map_Kd -s 1 1 1 -o 0.5 -2e-1 my skin.png",
        "map_Kd -mm 0 1 -bm 2 my skin.png",
        "map_Kd C:\\Users\\me\\my skin.png",
        "map_Kd /home/me/my skin.png",
        "map_Kd textures/my skin.png",
    ],
)
def test_textures_are_found_by_name_behind_options_and_foreign_folders(line):
    found = material(f"newmtl paint\nKd .1 .1 .1\n{line}\n", **{"my skin.png": png((10, 20, 30))})
    assert found.texture[0, 0].tolist() == [10, 20, 30, 255]
    assert found.color == (1.0, 1.0, 1.0)


def test_parts_share_one_texture():
    library = "newmtl a\nmap_Kd skin.png\nnewmtl b\nmap_Kd skin.png\n"
    mesh = read(f"mtllib a.mtl\n{SQUARE}usemtl a\n{FACE}usemtl b\n{FACE}", a__mtl=library, skin__png=png())
    assert mesh.parts[0].material.texture is mesh.parts[1].material.texture


def test_without_its_library_a_mesh_is_grey():
    mesh = read("mtllib gone.mtl\n" + SQUARE + "usemtl paint\n" + FACE)
    assert mesh.parts[0].material.name == "paint"
    assert mesh.parts[0].material.color == (0.8, 0.8, 0.8)


def test_a_name_that_the_library_lacks_gets_its_only_entry_but_grey_where_there_are_two():
    text = f"mtllib a.mtl\n{SQUARE}usemtl missing\n{FACE}"
    one, two = "newmtl only\nKd 1 0 0\n", "newmtl only\nKd 1 0 0\nnewmtl other\nKd 0 1 0\n"
    assert read(text, a__mtl=one).parts[0].material.color == (1.0, 0.0, 0.0)
    assert read(text, a__mtl=two).parts[0].material.color == (0.8, 0.8, 0.8)


@pytest.mark.parametrize("line", ["mtllib my paints.mtl", "mtllib a.mtl b.mtl", "mtllib a.mtl\nmtllib b.mtl"])
def test_libraries_may_be_several_and_hold_blanks(line):
    paint = "newmtl paint\nKd 1 0 0\n"
    files = {"my paints.mtl": paint} if "my" in line else {"a.mtl": "newmtl x\n", "b.mtl": paint}
    assert read(f"{line}\n{SQUARE}usemtl paint\n{FACE}", **files).parts[0].material.color == (1.0, 0.0, 0.0)


def test_a_missing_texture_is_an_error_unless_it_is_not_needed_or_not_used():
    text, library = f"mtllib a.mtl\n{SQUARE}usemtl paint\n{FACE}", b"newmtl paint\nKd 0 0 1\nmap_Kd gone.png\n"
    with pytest.raises(UserError, match=r"no texture gone\.png.*paint.*made\.obj"):
        read(text, a__mtl=library)
    found = read_obj(text.encode(), {"a.mtl": library}.get, need_textures=False).parts[0].material
    assert found.color == (0.0, 0.0, 1.0)
    assert found.texture is None
    assert read(text, a__mtl=b"newmtl paint\n" + library.replace(b"paint", b"unused")).num_triangles == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v 0 0 0\nv 1 0 0\n", "has no faces"),
        ("", "has no faces"),
        ("\x89PNG\x00\x01", "has no faces"),
        (SQUARE + "f 1 2 5\n", "names vertex 5 of 4"),
        (SQUARE + "f 1 2 0\n", "names vertex 0 of 4"),
        (SQUARE + "f 1 2 -5\n", "names vertex 0 of 4"),
        (SQUARE + "f 1 2 x\n", "is damaged"),
        (SQUARE + "v 1 2\nf 1 2 3\n", "is damaged"),
        (SQUARE + "v\nf 1 2 3\n", "is damaged"),
        (SQUARE + "v 1 2 nan\nf 1 2 3\n", "not a finite number"),
        (SQUARE + "v 1 2 what\nf 1 2 3\n", "is damaged"),
    ],
)
def test_damaged_files_are_named(text, message):
    with pytest.raises(UserError, match=rf"made\.obj.*{message}"):
        read(text)


@pytest.mark.parametrize("line", ["Kd red", "d", "Tr much"])
def test_damaged_materials_are_named(line):
    with pytest.raises(UserError, match=r"paint.*made\.obj"):
        material(f"newmtl paint\n{line}\n")


def test_damaged_textures_are_named():
    with pytest.raises(UserError, match=r"skin\.png"):
        material("newmtl paint\nmap_Kd skin.png\n", skin__png=png()[:30])


def test_a_folder_and_a_zip_archive_give_the_same_mesh(tmp_path):
    files = {
        "car.obj": f"mtllib car.mtl\n{SQUARE}usemtl paint\n{FACE}".encode(),
        "car.mtl": b"newmtl paint\nmap_Kd skin.png\n",
        "skin.png": png((1, 2, 3)),
    }
    with zipfile.ZipFile(tmp_path / "cars.zip", "w") as archive:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
            archive.writestr(f"deep/car/{name}", data)
    for mesh in (read_obj(tmp_path / "car.obj"), read_obj_in_zip(tmp_path / "cars.zip", "deep/car/car.obj")):
        assert mesh.num_triangles == 2
        assert mesh.parts[0].material.texture[0, 0].tolist() == [1, 2, 3, 255]


def test_missing_files_archives_and_members_are_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.obj"):
        read_obj(tmp_path / "gone.obj")
    with pytest.raises(UserError, match=r"gone\.zip"):
        read_obj_in_zip(tmp_path / "gone.zip", "a.obj")
    (tmp_path / "no.zip").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"no\.zip"):
        read_obj_in_zip(tmp_path / "no.zip", "a.obj")
    with zipfile.ZipFile(tmp_path / "cars.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.obj", SQUARE * 50 + FACE)
    with pytest.raises(UserError, match=r"no b\.obj in .*cars\.zip"):
        read_obj_in_zip(tmp_path / "cars.zip", "b.obj")
    whole = bytearray((tmp_path / "cars.zip").read_bytes())
    whole[60:80] = bytes(20)
    (tmp_path / "cars.zip").write_bytes(whole)
    with pytest.raises(UserError, match=r"cars\.zip!a\.obj"):
        read_obj_in_zip(tmp_path / "cars.zip", "a.obj")
