import hashlib

import pytest
import torch
from reprojection import agreement
from shapes import obj_text, toy_car

from mvgenvs.data.render import main
from mvgenvs.data.srn import SRNScenes
from mvgenvs.errors import UserError
from mvgenvs.meshes.renderer import Renderer
from mvgenvs.trajectories import orbit

trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")


@pytest.fixture(autouse=True)
def opengl():
    try:
        Renderer(8)
    except UserError as error:
        pytest.skip(str(error))


def as_trimesh():
    parts = []
    for part in toy_car().parts:
        mesh = trimesh.Trimesh(part.positions, part.triangles, process=False)
        mesh.visual = trimesh.visual.ColorVisuals(mesh, face_colors=[*(int(255 * c) for c in part.material.color), 255])
        parts.append(mesh)
    return trimesh.util.concatenate(parts)


def test_one_mesh_in_three_formats_gives_the_same_depth_and_is_a_data_set(tmp_path):
    (tmp_path / "a.obj").write_text(obj_text(toy_car()))
    as_trimesh().export(tmp_path / "b.ply")
    as_trimesh().export(tmp_path / "c.glb")
    names = [str(tmp_path / name) for name in ("a.obj", "b.ply", "c.glb")]
    main([*names, "--output", str(tmp_path / "out"), "--trajectory", "orbit", "--num-views", "6", "--size", "48"])
    scenes = SRNScenes(tmp_path / "out", "test", 48)
    grey, ply, glb = (scenes.load(index) for index in range(3))
    assert [item.name for item in scenes.objects] == ["a", "b", "c"]
    torch.testing.assert_close(grey.depth, ply.depth, atol=1e-4, rtol=0)
    torch.testing.assert_close(grey.depth, glb.depth, atol=1e-4, rtol=0)
    torch.testing.assert_close(ply.images, glb.images, atol=0.02, rtol=0)
    torch.testing.assert_close(ply.cameras.c2w, orbit(6).c2w, atol=1e-6, rtol=0)
    assert (ply.images[:, 0] - ply.images[:, 2]).abs().max() > 0.3  # painted, not grey
    assert (grey.images[:, 0] - grey.images[:, 2]).abs().max() == 0
    assert agreement(grey.depth[:, 0], grey.cameras)[0] > 0.9


def test_axes_turn_the_object(tmp_path):
    """A car lying on its side, nose along +x and roof along -z, comes out as the upright one."""
    upright, lying = tmp_path / "a.obj", tmp_path / "b.obj"
    mesh = toy_car()
    upright.write_text(obj_text(mesh))
    # x' = -z (front -z goes to +x), z' = -y (up +y goes to -z), y' = -x keeps the handedness
    turn = torch.tensor([[0.0, 0, -1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]).double().numpy()
    lying.write_text(obj_text(mesh.transformed(turn)))
    options = ["--trajectory", "orbit", "--num-views", "3", "--size", "32"]
    main([str(upright), "--output", str(tmp_path / "one"), *options])
    main([str(lying), "--output", str(tmp_path / "two"), "--front", "+x", "--up=-z", *options])
    first, second = (SRNScenes(tmp_path / name, "test", 32).load(0) for name in ("one", "two"))
    assert (first.images - second.images).abs().mean() < 1e-3  # edges may fall on the other side of a sample


def test_rendering_twice_gives_the_same_bytes(tmp_path):
    (tmp_path / "a.obj").write_text(obj_text(toy_car()))
    hashes = []
    for _ in range(2):
        main([str(tmp_path / "a.obj"), "--output", str(tmp_path / "out"), "--num-views", "3", "--trajectory", "random"])
        files = sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file())
        hashes.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in files])
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 2 + 4 * 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.fbx", b"", r"a\.fbx is not in a mesh format that can be read here"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 9\n", r"a\.ply is damaged"),
        ("a.glb", b"glTF\x02\x00", r"a\.glb is damaged"),
        ("a.obj", b"v 0 0 0\n", r"a\.obj"),
        ("a.obj", None, r"there is no mesh .*a\.obj"),
    ],
)
def test_bad_meshes_are_one_sentence(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        main([str(tmp_path / name), "--output", str(tmp_path / "out")])
    assert not list((tmp_path / "out").rglob("rgb"))


def test_up_and_front_on_one_axis_are_refused(tmp_path):
    with pytest.raises(UserError, match="perpendicular"):
        main(["a.obj", "--output", str(tmp_path), "--up", "+y", "--front=-y"])
