"""Views of shapes that are known exactly, reconstructed, written, read by others' code, and drawn again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from tiny import Solid, ray_cast

import mvgenvs
from eval.metrics.image import psnr
from eval.studies.mesh import distances
from mvgenvs.errors import UserError
from mvgenvs.meshes.files import load_mesh
from mvgenvs.meshes.mesh import Material, Mesh, MeshPart
from mvgenvs.meshes.renderer import Renderer
from mvgenvs.nerf.model import Rendering
from mvgenvs.reconstruction import formats
from mvgenvs.reconstruction.observations import ObservedViews, surround_cameras
from mvgenvs.reconstruction.points import PointCloud, point_cloud
from mvgenvs.reconstruction.raster import cover, depth_map
from mvgenvs.reconstruction.reconstruct import reconstruct
from mvgenvs.reconstruction.splats import gaussian_splats, quaternions_to
from mvgenvs.reconstruction.writing import write_glb, write_points, write_splats
from mvgenvs.trajectories import cameras_at, centers_at, orbit
from mvgenvs.transforms import read_cameras, write_cameras

trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
pytest.importorskip("xatlas", reason="xatlas is not installed")

RADIUS, SIZE = 0.3, 96
FACES = 30, 60  # of the sphere, along and around


def painted_sphere() -> Mesh:
    """A sphere in a texture of smooth colours that differ on all sides: right is not left, up is not down."""
    rows, columns = FACES
    theta, phi = np.meshgrid(np.linspace(0, np.pi, rows + 1), np.linspace(0, 2 * np.pi, columns + 1), indexing="ij")
    points = RADIUS * np.stack([np.sin(theta) * np.cos(phi), np.cos(theta), np.sin(theta) * np.sin(phi)], axis=-1)
    uv = np.stack([phi / (2 * np.pi), 1 - theta / np.pi], axis=-1).reshape(-1, 2)
    corner = np.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1)
    a, b, c, d = (x.ravel() for x in (corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]))
    triangles = np.concatenate([np.stack([a, b, c], axis=-1), np.stack([a, c, d], axis=-1)])
    v, u = np.meshgrid(np.linspace(0, np.pi, 128), np.linspace(0, 2 * np.pi, 256), indexing="ij")
    paint = np.stack([0.5 + 0.4 * np.sin(u), 0.5 + 0.4 * np.cos(v), 0.5 + 0.4 * np.cos(3 * u) * np.sin(v)], axis=-1)
    texture = np.concatenate([(paint * 255).astype(np.uint8), np.full((128, 256, 1), 255, np.uint8)], axis=-1)
    material = Material("paint", (1.0, 1.0, 1.0), texture=texture)
    return Mesh((MeshPart("sphere", points.reshape(-1, 3), triangles, uv, material),))


@pytest.fixture(scope="module")
def renderer():
    try:
        with Renderer(SIZE) as opened:
            yield opened
    except UserError as error:
        pytest.skip(str(error))


def observe(renderer, mesh, cameras) -> ObservedViews:
    drawn = renderer.render(mesh, cameras, lit=False)
    images = torch.from_numpy(drawn.images.copy()).movedim(-1, 1).float() / 255
    depth = torch.from_numpy(drawn.depth.copy())[:, None]
    return ObservedViews(images, cameras, depth, (depth > 0).float())


@pytest.fixture(scope="module")
def views(renderer) -> ObservedViews:
    return observe(renderer, painted_sphere(), orbit(12, elevation=25.0, hw=(SIZE, SIZE)))


@pytest.fixture(scope="module")
def field(renderer):
    """The sphere as a field renders it."""

    def render(cameras):
        seen = observe(renderer, painted_sphere(), replace(cameras, c2w=cameras.c2w[0], K=cameras.K[0]))
        return Rendering(seen.images[None], seen.depth[None], seen.opacity[None])

    return render


def reconstructed(views, **options):
    return reconstruct(views.images, views.cameras, resolution=64, texture_size=512, **options)


@pytest.fixture(scope="module")
def glb(views, field, tmp_path_factory) -> Path:
    at_size = surround_cameras(SIZE)
    path = tmp_path_factory.mktemp("glb") / "mesh.glb"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mvgenvs.reconstruction.reconstruct.surround_cameras", lambda: at_size)
        write_glb(path, reconstructed(views, field=field))
    return path


def test_a_glb_drawn_at_the_cameras_is_what_the_views_show(renderer, views, glb, tmp_path):
    """By the cameras of cameras.json, and by trimesh's reader: frames, axes, texture and colours all hold."""
    write_cameras(tmp_path / "cameras.json", views.cameras, [f"{i}.png" for i in range(12)])
    cameras = read_cameras(tmp_path / "cameras.json")
    drawn = observe(renderer, load_mesh(glb), cameras)
    assert psnr(drawn.images, views.images).min() > 30
    assert psnr(drawn.images, views.images.roll(1, dims=0)).max() < 25, "the bound tells views apart"


def test_its_shape_is_the_true_one(glb):
    points = trimesh.load_scene(glb).to_mesh().sample(20000, seed=0)
    directions = np.random.default_rng(0).standard_normal((20000, 3))
    truth = RADIUS * directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    figures = distances(points, truth)
    assert figures["chamfer"] < 0.01
    assert figures["f-score"] > 0.99
    assert distances(points + np.array([0.05, 0, 0]), truth)["f-score"] < 0.7


def test_a_glb_is_one_closed_unlit_mesh_with_outward_faces(glb):
    scene = trimesh.load_scene(glb)
    (geometry,) = scene.geometry.values()
    assert geometry.visual.material.baseColorTexture.size == (512, 512)
    welded = trimesh.Trimesh(geometry.vertices, geometry.faces, process=False)
    welded.merge_vertices(merge_tex=True, merge_norm=True)
    assert welded.is_watertight
    assert welded.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.05)
    outward = geometry.vertices / np.linalg.norm(geometry.vertices, axis=-1, keepdims=True)
    assert (geometry.vertex_normals * outward).sum(axis=-1).min() > 0.9
    assert b"KHR_materials_unlit" in glb.read_bytes()


def test_depth_and_opacity_do_without_a_field(renderer, views):
    mesh = reconstructed(views, depth=views.depth, opacity=views.opacity)
    drawn = observe(renderer, mesh.mesh(), views.cameras)
    assert psnr(drawn.images, views.images).min() > 30


def test_stray_pieces_are_left_out(views):
    depth, opacity = views.depth.clone(), views.opacity.clone()
    mesh = reconstructed(views, depth=depth, opacity=opacity)
    speck = ray_cast([Solid((0.4, 0.3, 0.0), 0.02, (1.0, 0.0, 0.0))], views.cameras)
    nearer = (speck.depth > 0) & ((depth == 0) | (speck.depth < depth))
    with_speck = reconstructed(
        views, depth=torch.where(nearer, speck.depth, depth), opacity=opacity.maximum(speck.mask)
    )
    for axis in range(3):
        assert np.ptp(with_speck.vertices[:, axis]) == pytest.approx(np.ptp(mesh.vertices[:, axis]), abs=0.03)


def test_it_is_there_by_its_name():
    assert mvgenvs.reconstruct is reconstruct


def read_ply(path: Path) -> dict[str, np.ndarray]:
    """A plain reader of the binary form, by the file's own header."""
    content = path.read_bytes()
    header, _, body = content.partition(b"end_header\n")
    lines = header.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    (count,) = (int(line.split()[2]) for line in lines if line.startswith("element"))
    kinds = {"float": "<f4", "uchar": "u1"}
    dtype = [(line.split()[2], kinds[line.split()[1]]) for line in lines if line.startswith("property")]
    table = np.frombuffer(body, dtype)
    assert len(table) == count
    return {name: table[name] for name, _ in dtype}


@pytest.fixture(scope="module")
def cloud(views) -> PointCloud:
    return point_cloud([views])


def test_points_lie_on_the_surface_with_its_normals_and_colours(renderer, cloud, tmp_path):
    write_points(tmp_path / "points.ply", cloud)
    loaded = trimesh.load(tmp_path / "points.ply")
    assert len(loaded.vertices) == len(cloud.points) > 5000
    radius = np.linalg.norm(loaded.vertices, axis=-1)
    assert np.abs(radius - RADIUS).max() < 0.01
    table = read_ply(tmp_path / "points.ply")
    normals = np.stack([table[name] for name in ("nx", "ny", "nz")], axis=-1)
    assert ((normals * loaded.vertices).sum(axis=-1) / radius).mean() > 0.98, "they point outwards"
    gaps = cKDTree(loaded.vertices).query(loaded.vertices, k=2)[0][:, 1]
    assert 0.3 * cloud.spacing < np.median(gaps) < 1.2 * cloud.spacing
    above = loaded.vertices[:, 1] > 0.1
    green = loaded.colors[:, 1].astype(float)
    assert green[above].mean() > green[loaded.vertices[:, 1] < -0.1].mean() + 50, "cos of the polar angle"


def test_points_in_the_air_are_left_out(views):
    depth = views.depth.clone()
    depth[0, :, 40:44, 40:60] -= 0.2  # one view claims a bar before the sphere
    cloud = point_cloud([replace(views, depth=depth)])
    assert np.abs(np.linalg.norm(cloud.points, axis=-1) - RADIUS).max() < 0.02


def test_further_views_give_points_only_where_the_first_have_none(renderer, views):
    beside = observe(renderer, painted_sphere(), surround_cameras(SIZE))
    beside = replace(beside, images=torch.zeros_like(beside.images))
    black = point_cloud([views, beside]).colours.max(axis=-1) < 0.02
    points = point_cloud([views, beside]).points
    assert 0.02 < black.mean() < 0.4
    assert points[black, 1].mean() < -0.15, "below"


def test_splats_are_discs_in_the_surface_in_the_usual_layout(cloud, tmp_path):
    write_splats(tmp_path / "splats.ply", gaussian_splats(cloud))
    table = read_ply(tmp_path / "splats.ply")
    names = [*"xyz", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), "opacity", *(f"scale_{i}" for i in range(3))]
    names += [f"rot_{i}" for i in range(4)]
    assert list(table) == names
    assert {values.dtype.str for values in table.values()} == {"<f4"}

    def columns(name, count):
        return np.stack([table[f"{name}_{i}"] for i in range(count)], axis=-1).astype(float)

    np.testing.assert_allclose(0.5 + 0.28209479177387814 * columns("f_dc", 3), cloud.colours, atol=1e-5)
    assert (1 / (1 + np.exp(-table["opacity"]))).min() > 0.9
    scales = np.exp(columns("scale", 3))
    assert (scales[:, 2] < 0.2 * scales[:, 0]).all() and (scales[:, 0] == scales[:, 1]).all()
    assert 0.3 * cloud.spacing < scales[0, 0] < cloud.spacing
    w, x, y, z = columns("rot", 4).T
    # Third column of the rotation of a unit quaternion (w, x, y, z): where the thin axis points.
    thin = np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], axis=-1)
    np.testing.assert_allclose(thin, cloud.normals, atol=1e-5)


def test_quaternions_turn_the_third_axis_to_every_direction():
    directions = np.array([[0, 0, 1], [0, 0, -1], [1, 0, 0], [0, -1, 0], [0.6, 0, -0.8], [0, 1e-7, -1]], float)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    for (w, x, y, z), direction in zip(quaternions_to(directions), directions, strict=True):
        turned = trimesh.transformations.quaternion_matrix([w, x, y, z])[:3, 2]
        np.testing.assert_allclose(turned, direction, atol=1e-6)


def test_triangles_cover_the_pixel_centres_within():
    covered = cover(np.array([[[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]]), (4, 4))
    rows, columns = np.divmod(covered.pixel, 4)
    expected = {(r, c) for r in range(4) for c in range(4) if r + c + 1 <= 4}
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == expected
    where = covered.weights @ np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    np.testing.assert_allclose(where, np.stack([columns, rows], axis=-1) + 0.5)


def test_depth_maps_are_the_renderers(renderer):
    cameras = cameras_at(centers_at(torch.tensor([30.0]), torch.tensor([40.0])), (SIZE, SIZE))
    (part,) = painted_sphere().parts
    ours, theirs = depth_map(part.positions, part.triangles, cameras), renderer.render(Mesh((part,)), cameras).depth[0]
    both = (ours > 0) & (theirs > 0)
    assert ((ours > 0) == (theirs > 0)).mean() > 0.999
    assert np.abs(ours - theirs)[both].max() < 1e-4


def test_views_without_a_shape_or_an_object_are_one_sentence(views):
    nothing = torch.zeros_like(views.opacity)
    wrong = [
        (views, {}, "views alone have no shape"),
        (views, {"depth": views.depth, "opacity": nothing}, "there is no object in these views"),
        (views, {"depth": views.depth[:, :, :8], "opacity": views.opacity}, "depth is .* does not fit"),
    ]
    for given, options, says in wrong:
        with pytest.raises(UserError, match=says):
            reconstructed(given, **options)
    with pytest.raises(UserError, match="at least 3 views, and has 2"):
        reconstruct(views.images[:2], views.cameras.select([0, 1]), views.depth[:2], views.opacity[:2])
    with pytest.raises(UserError, match=r"11 images of .* do not belong to 12 cameras"):
        reconstruct(views.images[1:], views.cameras, views.depth, views.opacity)
    with pytest.raises(UserError, match="there is no object"):
        point_cloud([replace(views, opacity=nothing)])


def test_a_file_that_cannot_be_written_is_one_sentence_and_leaves_nothing(cloud, tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_points(tmp_path / "taken/points.ply", cloud)
    broken = replace(cloud, points=np.full_like(cloud.points, np.nan))
    with pytest.raises(UserError, match="not finite"):
        write_points(tmp_path / "points.ply", broken)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_meshes_need_their_extra_and_other_formats_do_not(monkeypatch, views):
    find = formats.importlib.util.find_spec
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name == "xatlas" else find(name))
    with pytest.raises(UserError, match=r"--export glb needs xatlas: run `pip install 'mvgenvs\[mesh\]'`"):
        formats.check_export(["ply", "glb"], 24)
    formats.check_export(["ply", "splats"], 24)
    with pytest.raises(UserError, match="a textured mesh needs xatlas"):
        reconstructed(views, depth=views.depth, opacity=views.opacity)
