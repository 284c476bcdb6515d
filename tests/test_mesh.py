import numpy as np
import pytest
from shapes import BOX_CORNERS, BOX_TRIANGLES, box, toy_car

from mvgenvs.meshes.mesh import Mesh, merged
from mvgenvs.meshes.normals import crease_normals


def outward_volume(mesh: Mesh) -> float:
    """Signed volume: positive where the triangles' normals point outwards."""
    return sum(
        float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)
        for part in mesh.parts
        for a, b, c in [np.moveaxis(part.positions[part.triangles], 1, 0)]
    )


def test_normalised_meshes_are_centred_with_a_diagonal_of_one():
    low, high = Mesh((box((3, -7, 2), (0.5, 4, 1)),)).normalised().bounds()
    np.testing.assert_allclose(low, -high, atol=1e-12)
    assert np.linalg.norm(high - low) == pytest.approx(1)
    np.testing.assert_allclose((high - low) / (high - low)[0], [1, 8, 2])


def test_bounds_ignore_vertices_that_no_triangle_uses():
    part = box((0, 0, 0), (1, 1, 1))
    stray = type(part)("stray", np.vstack([part.positions, [[99, 99, 99]]]), part.triangles, None, part.material)
    np.testing.assert_allclose(Mesh((stray,)).bounds()[1], [1, 1, 1])


@pytest.mark.parametrize(("front", "up"), [("+x", "+z"), ("+y", "+z"), ("-z", "+y"), ("+z", "-y"), ("-x", "+y")])
def test_oriented_brings_the_front_to_minus_z_and_up_to_plus_y_without_mirroring(front, up):
    axis = {name: np.eye(3)["xyz".index(name[1])] * (1 if name[0] == "+" else -1) for name in (front, up)}
    nose, roof = (Mesh((box(tuple(5 * axis[name]), (0.1, 0.2, 0.3)),)) for name in (front, up))
    np.testing.assert_allclose(np.mean(nose.oriented(front, up).bounds(), axis=0), [0, 0, -5], atol=1e-12)
    np.testing.assert_allclose(np.mean(roof.oriented(front, up).bounds(), axis=0), [0, 5, 0], atol=1e-12)
    assert outward_volume(nose.oriented(front, up)) == pytest.approx(outward_volume(nose))


def test_reflections_keep_the_outside_outside():
    mesh = toy_car()
    mirrored = mesh.transformed(np.diag([-1.0, 1, 1, 1]))
    assert outward_volume(mirrored) == pytest.approx(outward_volume(mesh))
    assert outward_volume(mesh) > 0


def test_merged_keeps_all_parts_and_the_first_licence():
    both = merged([Mesh(toy_car().parts, "CC-BY-3.0", "A"), Mesh(toy_car().parts, "GPL", "B")])
    assert len(both.parts) == 6
    assert (both.licence, both.attribution) == ("CC-BY-3.0", "A")


def test_normals_break_at_the_edges_of_a_box():
    normals = crease_normals(BOX_CORNERS, BOX_TRIANGLES, crease=40.0)
    flat = np.cross(*(BOX_CORNERS[BOX_TRIANGLES][:, k] - BOX_CORNERS[BOX_TRIANGLES][:, 0] for k in (1, 2)))
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(normals, np.repeat(flat[:, None], 3, axis=1), atol=1e-12)


def cylinder(sides: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """The mantle of a cylinder, with its own vertices for every face, as files with texture seams have them."""
    turn = np.arange(sides + 1) * 2 * np.pi / sides
    ring = np.stack([np.cos(turn), np.zeros(sides + 1), np.sin(turn)], axis=-1)
    low, high = ring, ring + np.array([0, 1, 0])
    triangles = [[low[i], high[i], low[i + 1]] for i in range(sides)]
    triangles += [[high[i], high[i + 1], low[i + 1]] for i in range(sides)]
    return np.array(triangles).reshape(-1, 3), np.arange(6 * sides).reshape(-1, 3)


def test_normals_are_smooth_across_gentle_edges_though_vertices_are_repeated():
    positions, triangles = cylinder()
    normals = crease_normals(positions, triangles, crease=40.0).reshape(-1, 3)
    radial = positions * [1, 0, 1]
    assert (np.abs((normals * radial).sum(axis=1)) > 0.999).all()
    facets = crease_normals(positions, triangles, crease=5.0).reshape(-1, 3)
    assert np.abs((facets * radial).sum(axis=1)).min() < 0.995  # 15 degrees between faces: each flat


def test_normals_do_not_depend_on_scale_and_place():
    positions, triangles = cylinder()
    np.testing.assert_allclose(
        crease_normals(positions, triangles), crease_normals(1e-3 * positions + 7, triangles), atol=1e-6
    )


def test_triangles_without_area_get_some_normal():
    normals = crease_normals(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    assert np.isfinite(normals).all()
    assert crease_normals(np.zeros((0, 3)), np.zeros((0, 3), dtype=int)).shape == (0, 3, 3)
