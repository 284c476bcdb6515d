import numpy as np
import pytest
import torch
from reprojection import agreement
from shapes import box, quad, toy_car
from tiny import Solid, ray_cast

from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError
from mvgenvs.meshes.mesh import Mesh
from mvgenvs.trajectories import cameras_at, centers_at, orbit, random_views

moderngl = pytest.importorskip("moderngl", reason="moderngl is not installed")

from mvgenvs.meshes import renderer as module  # noqa: E402
from mvgenvs.meshes.renderer import Renderer  # noqa: E402


@pytest.fixture(scope="module")
def renderer():
    try:
        with Renderer(64) as opened:
            yield opened
    except UserError as error:
        pytest.skip(str(error))


def front_camera(size: int = 64) -> Cameras:
    return cameras_at(centers_at(torch.tensor([0.0]), torch.tensor([0.0])), (size, size))


def test_depth_and_silhouette_are_those_of_ray_casting(renderer):
    """Two boxes: the renderer against rays through pixel centres, exact to the float."""
    cameras = random_views(5, np.random.default_rng(0), hw=(64, 64))
    parts = [((0.0, -0.05, 0.0), (0.18, 0.08, 0.4)), ((0.0, 0.08, 0.08), (0.15, 0.06, 0.18))]
    views = renderer.render(Mesh(tuple(box(center, half) for center, half in parts)), cameras)
    truth = ray_cast([Solid(center, half, (0.5, 0.5, 0.5)) for center, half in parts], cameras)
    expected = truth.depth[:, 0].numpy()
    agree = (views.depth > 0) == (expected > 0)
    assert agree.mean() > 0.999  # rays that graze an edge may fall on either side
    assert np.abs(views.depth - expected)[agree].max() < 1e-4
    inside = (expected > 0) & (views.mask == 255)
    assert inside.sum() > 0.8 * (expected > 0).sum()
    assert (views.mask[expected == 0] < 255).all()


def test_mattes_are_the_share_of_the_pixel_that_the_object_covers(renderer):
    """A square of side 1/2 before the camera: covered area in pixels is (f s / z)^2, whatever the pixel grid."""
    side = 0.337
    scaled = quad().transformed(np.diag([side, side, side, 1.0]))
    cameras = front_camera()
    mask = renderer.render(scaled, cameras).mask[0].astype(float) / 255
    expected = (cameras.K[0, 0, 0].item() * side / 1.3) ** 2
    assert mask.sum() == pytest.approx(expected, rel=0.02)
    assert ((mask > 0) & (mask < 1)).any()


def test_textures_are_upright_and_not_mirrored(renderer):
    texture = np.zeros((2, 2, 4), np.uint8)
    texture[..., 3] = 255
    texture[0, 0] = (250, 0, 0, 255)  # top left
    texture[1, 1] = (0, 0, 250, 255)  # bottom right
    image = renderer.render(quad(np.kron(texture, np.ones((8, 8, 1), np.uint8))), front_camera()).images[0]
    half, off = 32, 12
    assert image[half - off, half - off].argmax() == 0 and image[half - off, half - off].max() > 90
    assert image[half + off, half + off].argmax() == 2 and image[half + off, half + off].max() > 90
    assert image[half - off, half + off].max() == 0


def test_nothing_of_an_object_is_pure_white(renderer):
    views = renderer.render(quad(color=(1.0, 1.0, 1.0)).oriented("+y", "-z"), orbit(4, elevation=60.0, hw=(64, 64)))
    solid = views.mask == 255
    assert solid.sum() > 200
    assert views.images[solid].max() < 255
    assert (views.images[views.mask == 0] == 255).all()


def test_unlit_meshes_have_the_colours_of_their_texture(renderer):
    texture = np.full((4, 4, 4), (255, 200, 40, 255), np.uint8)
    views = renderer.render(quad(texture), front_camera(), lit=False)
    solid = views.mask[0] == 255
    assert solid.sum() > 200
    assert (views.images[0][solid] == (255, 200, 40)).all()
    lit = renderer.render(quad(texture), front_camera())
    assert (lit.images[0][solid][:, 0] < 255).all(), "as it was"


def test_glass_shows_what_is_behind_it_and_solid_things_do_not(renderer):
    behind = box((0, 0, 0.2), (0.1, 0.1, 0.01), (0.9, 0.0, 0.0))
    pane = {"center": (0, 0, -0.2), "half": (0.3, 0.3, 0.01), "color": (0.0, 0.0, 0.9)}
    glass = renderer.render(Mesh((box(**pane, opacity=0.3), behind)), front_camera())
    solid = renderer.render(Mesh((box(**pane), behind)), front_camera())
    red, _, blue = glass.images[0, 32, 32].astype(int)
    assert red > 60 and blue > 60
    assert solid.images[0, 32, 32, 0] == 0
    assert solid.depth[0, 32, 32] < 1.2
    assert glass.depth[0, 32, 32] == solid.depth[0, 32, 32]  # a window is the surface, what is behind it is not
    shadow = renderer.render(Mesh((box(**pane, opacity=0.1), behind)), front_camera())
    assert shadow.depth[0, 32, 32] > 1.4 and shadow.depth[0, 32, 22] == 0
    beside = glass.mask[0, 32, 22]  # two panes of 30% before the background: 1 - 0.7^2
    assert beside == pytest.approx(255 * (1 - 0.7**2), abs=6)


def test_depth_of_one_view_lands_on_the_surface_of_another(renderer):
    cameras = orbit(8, hw=(64, 64))
    views = renderer.render(toy_car().normalised(), cameras)
    share, pixels = agreement(torch.from_numpy(views.depth), cameras)
    assert pixels > 1000
    assert share > 0.97


def test_a_renderer_refuses_cameras_of_another_image_size(renderer):
    with pytest.raises(ValueError, match="64"):
        renderer.render(toy_car(), front_camera(32))


def test_without_egl_one_sentence_names_the_packages(monkeypatch):
    def fail(**_):
        raise Exception("libEGL.so.1 not loaded.")

    monkeypatch.setattr(moderngl, "create_context", fail)
    with pytest.raises(UserError, match="libegl1, libgl1 and libgl1-mesa-dri"):
        module.Renderer(8)
