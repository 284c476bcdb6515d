import struct
from pathlib import Path

import numpy as np
import pytest

from mvgenvs.errors import UserError
from mvgenvs.meshes.md2 import read_md2
from mvgenvs.meshes.mesh import Material

SKIN_SIZE = (64, 32)
HEADER_FIELDS = 17


def tiny_md2(
    points: list[tuple[int, int, int]],
    triangles: list[tuple[tuple[int, int, int], tuple[int, int, int]]],
    texcoords: list[tuple[int, int]],
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
    skins: tuple[bytes, ...] = (b".red",),
    frames: int = 1,
) -> bytes:
    """An MD2 file: of each triangle the numbers of its points and of its places on a skin of `SKIN_SIZE` texels.

    Further frames than the first are far away from it.
    """
    blocks = {
        "skins": b"".join(skin.ljust(64, b"\0") for skin in skins),
        "texcoords": b"".join(struct.pack("<2h", *place) for place in texcoords),
        "triangles": b"".join(struct.pack("<6H", *vertices, *places) for vertices, places in triangles),
        "frames": b"".join(
            struct.pack("<6f16s", *scale, *(value + 1000 * frame for value in offset), b"stand")
            + b"".join(struct.pack("<4B", *point, 0) for point in points)
            for frame in range(frames)
        ),
    }
    starts = np.cumsum([4 * HEADER_FIELDS, *(len(block) for block in blocks.values())]).tolist()
    counts = [len(skins), len(points), len(texcoords), len(triangles), 0, frames]
    frame_size = len(blocks["frames"]) // frames
    header = struct.pack("<4s16i", b"IDP2", 8, *SKIN_SIZE, frame_size, *counts, *starts[:4], starts[4], starts[4])
    return header + b"".join(blocks.values())


def one_triangle(**changes: object) -> bytes:
    kept = {
        "points": [(0, 0, 0), (10, 0, 0), (0, 20, 0)],
        "triangles": [((0, 1, 2), (0, 1, 2))],
        "texcoords": [(0, 0), (63, 0), (0, 31)],
    }
    return tiny_md2(**(kept | changes))  # type: ignore[arg-type]


def with_field(data: bytes, index: int, value: int) -> bytes:
    """The file with one of the 17 fields of its header overwritten."""
    return data[: 4 * index] + struct.pack("<i", value) + data[4 * index + 4 :]


def test_points_are_scaled_bytes_plus_an_offset_in_the_axes_of_the_file() -> None:
    mesh = read_md2(one_triangle(scale=(0.5, 2.0, 1.0), offset=(-1.0, 3.0, 7.0)))
    points = mesh.parts[0].positions[mesh.parts[0].triangles[0]]
    assert {tuple(point) for point in points.tolist()} == {(-1.0, 3.0, 7.0), (4.0, 3.0, 7.0), (-1.0, 43.0, 7.0)}


def test_only_the_first_frame_is_read() -> None:
    low, high = read_md2(one_triangle(frames=3)).bounds()
    np.testing.assert_allclose(high - low, (10, 20, 0))


def test_texel_rows_count_from_the_top_but_v_from_the_bottom() -> None:
    part = read_md2(one_triangle()).parts[0]
    assert part.uvs is not None
    place_of = {tuple(point): uv for point, uv in zip(part.positions.tolist(), part.uvs, strict=True)}
    np.testing.assert_allclose(place_of[0, 0, 0], (0.5 / 64, 1 - 0.5 / 32))  # centre of the upper left texel
    np.testing.assert_allclose(place_of[10, 0, 0], (63.5 / 64, 1 - 0.5 / 32))
    np.testing.assert_allclose(place_of[0, 20, 0], (0.5 / 64, 0.5 / 32))


def test_clockwise_triangles_of_the_file_come_back_counterclockwise() -> None:
    part = read_md2(one_triangle(triangles=[((0, 2, 1), (0, 2, 1))])).parts[0]  # clockwise, seen from +z
    first, second, third = part.positions[part.triangles[0]]
    assert np.cross(second - first, third - first)[2] > 0


def test_a_point_on_a_seam_becomes_one_vertex_for_each_place_on_the_skin() -> None:
    part = read_md2(
        one_triangle(
            points=[(0, 0, 0), (10, 0, 0), (0, 10, 0), (10, 10, 0)],
            triangles=[((0, 1, 2), (0, 1, 2)), ((1, 3, 2), (3, 4, 2))],  # 1 lies at two places, 2 at one
            texcoords=[(0, 0), (8, 0), (0, 8), (40, 0), (40, 8)],
        )
    ).parts[0]
    assert part.uvs is not None and len(part.positions) == 5
    at_one = part.uvs[(part.positions == (10, 0, 0)).all(axis=1)]
    assert sorted(at_one[:, 0] * 64) == [8.5, 40.5]


def test_the_skin_is_the_one_handed_in_or_a_plain_one_of_the_first_name() -> None:
    data = one_triangle(skins=(b".red", b".blue"))
    material = Material(name="mine", texture=np.zeros((2, 2, 4), np.uint8))
    assert read_md2(data, "car", material).parts[0].material is material
    assert read_md2(data).parts[0].material.name == ".red"
    assert read_md2(one_triangle(skins=())).parts[0].material.name == ""


def test_a_path_names_itself_and_its_part(tmp_path: Path) -> None:
    path = tmp_path / "golf.md2"
    path.write_bytes(one_triangle())
    assert read_md2(path).parts[0].name == "golf"
    with pytest.raises(UserError, match=r"there is no model .*missing\.md2"):
        read_md2(tmp_path / "missing.md2")


def test_a_file_cut_anywhere_is_refused_by_name() -> None:
    data = one_triangle()
    for length in range(len(data)):
        with pytest.raises(UserError, match=r"golf\.md2"):
            read_md2(data[:length], "golf.md2")
    assert read_md2(data, "golf.md2").num_triangles == 1


@pytest.mark.parametrize(
    ("index", "value", "complaint"),
    [
        (1, 15, "version 15"),
        (2, 0, "damaged or empty"),  # width of the skin
        (5, -1, "damaged"),  # number of skins
        (6, 2, "vertices that it does not have"),
        (7, 2, "vertices that it does not have"),  # places on the skin
        (8, 0, "damaged or empty"),  # triangles
        (10, 0, "damaged or empty"),  # frames
        (12, 10**6, "do not lie in its"),  # where the places start
        (13, -4, "do not lie in its"),  # where the triangles start
        (14, 2**31 - 1, "do not lie in its"),  # where the frames start
        (16, 10**6, "cut short"),
    ],
)
def test_a_header_that_contradicts_the_file_is_refused(index: int, value: int, complaint: str) -> None:
    with pytest.raises(UserError, match=rf"golf\.md2 .*{complaint}"):
        read_md2(with_field(one_triangle(), index, value), "golf.md2")


def test_points_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        read_md2(one_triangle(scale=(float("nan"), 1.0, 1.0)))
