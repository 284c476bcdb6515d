"""The AC3D reader: placement, surfaces, materials, textures, and what it says of damaged files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvgenvs.errors import UserError
from mvgenvs.meshes.ac3d import read_ac3d
from mvgenvs.meshes.mesh import MeshPart
from mvgenvs.meshes.textures import read_texture

WHITE = 'MATERIAL "white" rgb 1 1 1 amb 1 1 1 emis 0 0 0 spec 0 0 0 shi 1 trans 0'
GLASS = 'MATERIAL "dark glass" rgb 0.1 0.2 0.3 amb 1 1 1 emis 0 0 0 spec 0 0 0 shi 1 trans 0.75'
SQUARE = ["0 0 0", "1 0 0", "1 1 0", "0 1 0"]


def surface(vertices: list[int], kind: str = "0x10", material: int = 0, rest: str = "") -> str:
    refs = [f"{vertex} {0.1 * place} {0.2 * place}{rest}" for place, vertex in enumerate(vertices)]
    return "\n".join([f"SURF {kind}", f"mat {material}", f"refs {len(refs)}", *refs])


def poly(*surfaces: str, vertices: list[str] = SQUARE, extra: str = "", kids: int = 0) -> str:
    lines = ["OBJECT poly", extra, f"numvert {len(vertices)}", *vertices, f"numsurf {len(surfaces)}", *surfaces]
    return "\n".join([line for line in lines if line] + [f"kids {kids}"])


def model(path: Path, *objects: str, materials: tuple[str, ...] = (WHITE,)) -> Path:
    text = "\n".join(["AC3Db", *materials, "OBJECT world", f"kids {len(objects)}", *objects])
    path.write_text(text + "\n", encoding="latin-1")
    return path


def corner_points(part: MeshPart) -> np.ndarray:
    return part.positions[part.triangles]


def normals(part: MeshPart) -> np.ndarray:
    corners = corner_points(part)
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2


def test_polygon_becomes_triangles_that_cover_it_and_turn_one_way(tmp_path: Path) -> None:
    hexagon = [f"{np.cos(a)} {np.sin(a)} 0" for a in np.arange(6) * np.pi / 3]
    (part,) = read_ac3d(model(tmp_path / "a.ac", poly(surface(list(range(6))), vertices=hexagon))).parts
    assert len(part.triangles) == 4
    assert np.allclose(normals(part).sum(axis=0), [0, 0, 1.5 * np.sqrt(3)])
    assert (normals(part)[:, 2] > 0).all()


def test_strip_turns_every_second_triangle_and_drops_the_joins(tmp_path: Path) -> None:
    ladder = ["0 0 0", "1 0 0", "0 1 0", "1 1 0", "0 2 0", "1 2 0"]
    strip = surface([0, 1, 2, 3, 3, 2, 2, 3, 4, 5], kind="0x14")  # two strips, joined through 3 3 2 2
    (part,) = read_ac3d(model(tmp_path / "a.acc", poly(strip, vertices=ladder))).parts
    assert len(part.triangles) == 4
    assert np.allclose(normals(part), [0, 0, 0.5])


def test_lines_have_no_surface(tmp_path: Path) -> None:
    outlines = [surface([0, 1, 2, 3], kind="0x1"), surface([0, 1, 2], kind="0x2")]
    mesh = read_ac3d(model(tmp_path / "a.ac", poly(*outlines, surface([0, 1, 2])), poly(*outlines)))
    assert mesh.num_triangles == 1
    assert len(mesh.parts) == 1


def test_children_move_and_turn_with_their_parents(tmp_path: Path) -> None:
    turn = "rot 0 0 -1 0 1 0 1 0 0"  # rows are the images of x, y and z: x goes to -z
    child = poly(surface([0, 1, 2]), extra="loc 10 0 0")
    parent = poly(surface([0, 1, 2]), extra=f"{turn}\nloc 0 5 0", kids=1) + "\n" + child
    group = "OBJECT group\nloc 0 0 100\nkids 1\n" + parent
    first, second = read_ac3d(model(tmp_path / "a.ac", group)).parts
    assert np.allclose(corner_points(first)[0], [[0, 5, 100], [0, 5, 99], [0, 6, 99]])
    assert np.allclose(corner_points(second)[0], [[0, 5, 90], [0, 5, 89], [0, 6, 89]])


def test_siblings_after_a_nested_object_do_not_inherit_its_place(tmp_path: Path) -> None:
    nested = poly(surface([0, 1, 2]), extra="loc 1 0 0", kids=1) + "\n" + poly(surface([0, 1, 2]), extra="loc 2 0 0")
    mesh = read_ac3d(model(tmp_path / "a.ac", nested, poly(surface([0, 1, 2]))))
    assert [part.positions[:, 0].min() for part in mesh.parts] == [1, 3, 0]


def test_one_part_for_each_object_and_material(tmp_path: Path) -> None:
    car = poly(surface([0, 1, 2], material=1), surface([0, 2, 3]), surface([3, 0, 1]), extra='name "my body"')
    glass, body = read_ac3d(model(tmp_path / "a.ac", car, materials=(WHITE, GLASS))).parts
    assert (len(glass.triangles), len(body.triangles)) == (1, 2)
    assert glass.name == body.name == "my body"
    assert glass.material.name == "dark glass"
    assert glass.material.color == (0.1, 0.2, 0.3)
    assert glass.material.opacity == 0.25
    assert body.material.opacity == 1
    assert glass.material.texture is None
    assert glass.uvs is None


def test_texture_coordinates_stay_with_their_corners_and_repeat(tmp_path: Path) -> None:
    car = poly(surface([2, 1, 0]), surface([0, 1, 2]), extra='texture "t"\ntexrep 2 3\ntexoff 0.5 0.25')
    (part,) = read_ac3d(model(tmp_path / "a.ac", car), lambda _: np.zeros((1, 1, 4), np.uint8)).parts
    assert part.uvs is not None
    assert np.allclose(part.uvs[part.triangles][0], [[0.5, 0.25], [0.7, 0.85], [0.9, 1.45]])
    assert np.allclose(corner_points(part)[0], [[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert np.allclose(corner_points(part)[1], [[0, 0, 0], [1, 0, 0], [1, 1, 0]])
    assert len(part.positions) == 5  # vertex 1 has the same coordinates in both surfaces, 0 and 2 have two


def test_acc_layers_and_normals_are_left_out_and_a_texture_is_read_once(tmp_path: Path) -> None:
    layers = 'texture "car.rgb" base\ntexture "car.rgb" tiled\ntexture "skids.rgb" skids\ntexture "shadow.rgb" shad'
    with_normals = [f"{vertex} 0 0 1" for vertex in SQUARE]
    car = poly(surface([0, 1, 2], rest=" 7 7 8 8 9 9"), extra=layers, vertices=with_normals)
    asked: list[str] = []

    def find(name: str) -> np.ndarray:
        asked.append(name)
        return np.zeros((1, 1, 4), np.uint8)

    first, second = read_ac3d(model(tmp_path / "a.acc", car, car), find).parts
    assert asked == ["car.rgb"]
    assert first.material.texture is second.material.texture
    assert first.material.name == "car.rgb"
    assert first.uvs is not None
    assert first.uvs.max() == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["skin.png", "skin.rgb", r"C:\art\skin.png", "../elsewhere/skin.png"])
def test_textures_lie_beside_the_file_by_default(tmp_path: Path, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 3, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "skin.png")
    image.save(tmp_path / "skin.rgb", format="SGI")
    (part,) = read_ac3d(model(tmp_path / "a.ac", poly(surface([0, 1, 2]), extra=f'texture "{name}"'))).parts
    assert part.material.texture is not None
    assert (part.material.texture == pixels).all()


def test_free_text_and_names_may_hold_anything(tmp_path: Path) -> None:
    notes = "kids 7\nnumvert x"
    extra = f'name "Türe \x85 links"\ndata {len(notes)}\n{notes}\ncrease 45.0\nurl "http://x"\nhidden'
    (part,) = read_ac3d(model(tmp_path / "a.ac", poly(surface([0, 1, 2]), extra=extra))).parts
    assert part.name == "Türe \x85 links"


def test_windows_line_ends_make_no_difference(tmp_path: Path) -> None:
    path = model(tmp_path / "a.ac", poly(surface([0, 1, 2]), extra='name "door"'))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_ac3d(path).parts[0].name == "door"


def test_every_truncation_is_told_in_one_sentence(tmp_path: Path) -> None:
    whole = model(tmp_path / "a.ac", poly(surface([0, 1, 2]), surface([0, 2, 3])), poly(surface([1, 2, 3])))
    lines = whole.read_text().splitlines()
    for count in set(range(len(lines))) - {lines.index("kids 0") + 1}:
        (tmp_path / "cut.ac").write_text("\n".join(lines[:count]))
        with pytest.raises(UserError, match=r"cut\.ac"):
            read_ac3d(tmp_path / "cut.ac")


@pytest.mark.parametrize("end", ["", "\n\n \r\n"])
def test_a_file_may_end_before_all_the_children_that_it_counts(tmp_path: Path, end: str) -> None:
    group = "OBJECT group\nloc 0 0 100\nkids 3\n" + poly(surface([0, 1, 2]))
    path = model(tmp_path / "a.ac", group)
    path.write_text(path.read_text().replace("kids 1", "kids 2").rstrip() + end)
    with pytest.warns(UserWarning, match=r"a\.ac ends 3 objects") as told:
        (part,) = read_ac3d(path).parts
    assert len(told) == 1
    assert (part.positions[:, 2] == 100).all()


def test_blank_lines_in_tables_and_misplaced_or_misnamed_materials_do_no_harm(tmp_path: Path) -> None:
    path = model(tmp_path / "a.ac", poly(surface([0, 1, 2], material=1)), materials=(WHITE, GLASS))
    expected = read_ac3d(path).parts[0]
    text = path.read_text().replace("1 1 0\n", "\n1 1 0\n \n").replace("refs 3\n", "refs 3\n\n")
    text = text.replace(f"{GLASS}\nOBJECT world", f"OBJECT world\n{GLASS.replace('rgb', 'png')}")
    path.write_text(text)
    (part,) = read_ac3d(path).parts
    assert (corner_points(part) == corner_points(expected)).all()
    assert (part.material.name, part.material.color) == (expected.material.name, expected.material.color)


def test_a_whole_file_gives_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    read_ac3d(model(tmp_path / "a.ac", poly(surface([0, 1, 2]))))
    assert not recwarn


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("AC3Db", "solid cube"),
        ("rgb 1 1 1", "rgb 1 1"),
        ("mat 0", "mat 1"),
        ("refs 3\n0 ", "refs 3\n4 "),
        ("refs 3\n0 ", "refs 3\n-1 "),
        ("refs 3", "refs three"),
        ("refs 3", "refs -3"),
        ("SURF 0x10", "SURF 0xzz"),
        ("SURF 0x10", "kids 0"),
        ("1 1 0\n", "1 nan 0\n"),
        ("1 1 0\n", "1 1\n"),
        ("numvert 4", "numvert 5"),
        ("numvert 4", "numvert 999999999999"),
        ("SURF 0x10", "SURF 0x12"),  # nothing but lines
        ("kids 0", "kids 1\nend"),
    ],
)
def test_damage_is_told_in_one_sentence(tmp_path: Path, old: str, new: str) -> None:
    path = model(tmp_path / "broken.ac", poly(surface([0, 1, 2])))
    read_ac3d(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=r"broken\.ac"):
        read_ac3d(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.ac"):
        read_ac3d(tmp_path / "none.ac")
    path = model(tmp_path / "a.ac", poly(surface([0, 1, 2]), extra='texture "lost.png"'))
    with pytest.raises(UserError, match=r"lost\.png"):
        read_ac3d(path)


def test_texture_is_rgba_with_the_top_row_first(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0], [255, 255]], np.uint8)).save(tmp_path / "grey.rgb", format="SGI")
    texture = read_texture(tmp_path / "grey.rgb")
    assert texture.tolist() == [[[0, 0, 0, 255]] * 2, [[255, 255, 255, 255]] * 2]
    assert (read_texture((tmp_path / "grey.rgb").read_bytes()) == texture).all()


def test_large_textures_are_averaged_down_in_proportion(tmp_path: Path) -> None:
    stripes = np.zeros((4, 8, 3), np.uint8)
    stripes[:, ::2] = 200
    Image.fromarray(stripes).save(tmp_path / "t.png")
    small = read_texture(tmp_path / "t.png", max_size=4)
    assert small.shape == (2, 4, 4)
    assert (small[..., :3] == 100).all()
    assert read_texture(tmp_path / "t.png", max_size=8).shape == (4, 8, 4)


@pytest.mark.parametrize("suffix", ["png", "jpg", "rgb", "tga"])
def test_damaged_textures_are_named(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"t.{suffix}"
    Image.fromarray(noise).save(path, format="SGI" if suffix == "rgb" else None)
    whole = path.read_bytes()
    for size in (0, 3, 20, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=rf"t\.{suffix}"):
            read_texture(path)
        with pytest.raises(UserError, match="archive!skin"):
            read_texture(whole[:size], "archive!skin")
