"""The volume in the world: voxels gather what cameras see at them, and nothing beyond their box is rendered."""

from dataclasses import replace

import pytest
import torch
from tiny import ring_cameras, stacked
from torch import nn

from mvgenvs.cameras import Cameras
from mvgenvs.nerf.field import Field, Scene
from mvgenvs.nerf.model import ViewNeRF
from mvgenvs.nerf.renderer import box_bounds
from mvgenvs.nerf.world import PIXEL_FEATURES, WorldVolume, gather
from mvgenvs.views import with_matte

NEAR, FAR = 0.8, 1.8
EXTENT, GRID = (0.2, 0.3, 0.4), (4, 8, 12)
SIZE, VIEWS = 32, 3
FEATURES = 8


@pytest.fixture
def volume() -> WorldVolume:
    """One that hands on what its voxels gather."""
    torch.manual_seed(0)
    out = WorldVolume(FEATURES, 4, (16, 16, 32), GRID, EXTENT)
    out.unet = nn.Identity()
    return out


@pytest.fixture
def cameras() -> Cameras:
    return stacked(ring_cameras(VIEWS, SIZE), 2)


def centres(grid: tuple[int, ...] = GRID) -> torch.Tensor:
    """Of the voxels, (d, h, w, 3), one after the other."""
    width, height, depth = grid
    out = torch.empty(depth, height, width, 3)
    for k in range(depth):
        for j in range(height):
            for i in range(width):
                places = ((i + 0.5) / width, (j + 0.5) / height, (k + 0.5) / depth)
                out[k, j, i] = torch.tensor([(2 * p - 1) * half for p, half in zip(places, EXTENT, strict=True)])
    return out


def ramps(size: int, channels: int) -> torch.Tensor:
    """Images whose first channels are x and y over the image's width and height."""
    axis = (torch.arange(size) + 0.5) / size
    out = torch.zeros(2, VIEWS, channels, size, size)
    out[:, :, 0], out[:, :, 1] = axis, axis[:, None]
    return out


def gathered(volume: WorldVolume, features: torch.Tensor, images: torch.Tensor, cameras: Cameras) -> torch.Tensor:
    """What the voxels gather of each view, (2, view, k, d, h, w)."""
    narrow = volume.project(features.flatten(0, 1)).unflatten(0, images.shape[:2])
    seen = gather(volume.centers.flatten(1).T, narrow, images, cameras, NEAR, FAR)
    return seen.unflatten(3, volume.centers.shape[1:])


def test_voxels_project_where_the_cameras_say(volume: WorldVolume, cameras: Cameras) -> None:
    """Images and features that say where a pixel lies; both are read at the projection of every voxel's centre."""
    nn.init.zeros_(volume.project.bias)
    nn.init.zeros_(volume.project.weight)
    volume.project.weight.data[:2, :2, 0, 0] = torch.eye(2)
    seen = gathered(volume, ramps(SIZE // 4, FEATURES), ramps(SIZE, 3), cameras).flatten(3).mT
    pixels, depth = cameras.project(centres().reshape(1, 1, -1, 3).expand(2, -1, -1, -1))
    places = pixels / SIZE
    for columns, size in ((slice(0, 2), SIZE // 4), (slice(PIXEL_FEATURES, PIXEL_FEATURES + 2), SIZE)):
        inside = ((places > 0.5 / size) & (places < 1 - 0.5 / size)).all(dim=-1)
        assert inside.float().mean() > 0.7
        found = seen[..., columns] if size < SIZE else (seen[..., columns] + 1) / 2  # colours lie in [-1, 1]
        torch.testing.assert_close(found[inside], places[inside], atol=1e-4, rtol=0)
    torch.testing.assert_close(seen[..., -1], (2 * depth - NEAR - FAR) / (FAR - NEAR), atol=1e-4, rtol=0)


def test_a_coloured_blob_is_gathered_at_the_voxels_on_its_ray(volume: WorldVolume, cameras: Cameras) -> None:
    images = torch.ones(2, VIEWS, 3, SIZE, SIZE)
    images[1, 2, 1:, 14:18, 14:18] = 0  # red, in one view of one set
    seen = gathered(volume, torch.zeros(2, VIEWS, FEATURES, 8, 8), images, cameras)
    blue = seen[:, :, PIXEL_FEATURES + 2].flatten(2)
    pixels, _ = cameras.project(centres().reshape(1, 1, -1, 3).expand(2, -1, -1, -1))
    away = (pixels[1, 2] - SIZE / 2).abs().amax(dim=-1)
    assert (away < 1.5).any(), "the optical axis passes through some voxels"
    assert (blue[1, 2][away < 1.5] < -0.999).all()
    assert (blue[1, 2][away > 2.5] > 0.999).all()
    assert (blue[0] > 0.999).all() and (blue[1, :2] > 0.999).all()


def test_mirrored_views_are_kept_apart(volume: WorldVolume, cameras: Cameras) -> None:
    torch.manual_seed(1)
    features, images = torch.rand(2, VIEWS, FEATURES, 8, 8), torch.rand(2, VIEWS, 3, SIZE, SIZE)
    group = PIXEL_FEATURES + 4

    def groups(order: list[int], num_mirrored: int) -> tuple[torch.Tensor, torch.Tensor]:
        given = (features[:, order], images[:, order], cameras.select(order))
        out = volume(*given, num_mirrored, NEAR, FAR)
        assert out.shape[1] == 2 * group + 6
        return out[:, :group], out[:, group : 2 * group]

    each = gathered(volume, features, images, cameras)
    true, mirrored = groups([0, 1, 2], 1)
    torch.testing.assert_close(true, each[:, :2].mean(dim=1))
    torch.testing.assert_close(mirrored, each[:, 2])
    again, same = groups([1, 0, 2], 1)
    torch.testing.assert_close(again, true)
    torch.testing.assert_close(same, mirrored)
    others, _ = groups([0, 2, 1], 1)
    assert (others - true).abs().max() > 0.1
    assert (groups([0, 1, 2], 0)[1] == 0).all()


def tiny_nerf(**options: object) -> ViewNeRF:
    torch.manual_seed(0)
    shape = {"encoder_widths": (16, 16, 16), "volume_depth": 4, "num_coarse": 8, "num_fine": 8}
    world = {"world_channels": 4, "world_widths": (16, 16, 32), "world_grid": GRID, "world_extent": EXTENT}
    return ViewNeRF(**(shape | world | options))


@pytest.mark.parametrize("options", [{}, {"matte": True, "visibility": True}])
def test_every_parameter_learns(options: dict[str, bool]) -> None:
    nerf = tiny_nerf(density="exp", world_detail=4, world_density=True, zoom_known=True, **options)
    nn.init.normal_(nerf.world.detail.leave.weight, std=0.1)  # which starts at zero
    cameras = stacked(ring_cameras(3, SIZE), 2)
    scene = nerf.encode(torch.rand(2, 1, 4, SIZE, SIZE), cameras.select([0]))
    assert scene.world.shape == (2, 4, 24, 16, 8), "twice the voxels of the grid, z first"
    rendering = nerf.render(scene, cameras.resized((12, 12)).select([1, 2]))
    target = torch.rand(rendering.features.shape)
    ((rendering.features - target).square().mean() + rendering.depth.mean() + rendering.opacity.mean()).backward()
    without = [name for name, p in nerf.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@torch.no_grad()
def test_detail_starts_as_nothing_and_gathers_at_the_fine_voxels() -> None:
    """A new detail changes nothing; once it speaks, what it says follows a change of colours finer than the U-Net's."""
    plain, nerf = tiny_nerf(), tiny_nerf(world_detail=4)
    nerf.load_state_dict(plain.state_dict(), strict=False)
    cameras, images = stacked(ring_cameras(1, SIZE), 1), torch.rand(1, 1, 3, SIZE, SIZE)
    torch.testing.assert_close(nerf.encode(images, cameras).world, plain.encode(images, cameras).world)
    expected = centres(tuple(2 * n for n in GRID)).movedim(-1, 0)
    torch.testing.assert_close(nerf.world.fine_centers, expected)
    nn.init.normal_(nerf.world.detail.leave.weight)
    assert (nerf.encode(images, cameras).world - plain.encode(images, cameras).world).abs().max() > 0.01


@torch.no_grad()
def test_a_matte_tells_what_colours_do_not() -> None:
    """White before white: with a matte the scene is another one. Models that do not see mattes do not mind them."""
    cameras, white = stacked(ring_cameras(1, SIZE), 1), torch.ones(1, 1, 3, SIZE, SIZE)
    matte = torch.zeros(1, 1, 1, SIZE, SIZE)
    matte[..., 4:12, 4:12] = 1
    for sees in (False, True):
        nerf = tiny_nerf(matte=sees)
        told, untold, plain = (
            nerf.encode(images, cameras) for images in (with_matte(white, matte), with_matte(white), white)
        )
        torch.testing.assert_close(untold.world, plain.world, rtol=0, atol=0)
        torch.testing.assert_close(untold.volumes, plain.volumes, rtol=0, atol=0)
        assert told.images.shape[2] == (4 if sees else 3)
        for name in ("world", "volumes"):
            assert torch.equal(getattr(told, name), getattr(plain, name)) is not sees
        points = torch.rand(1, 50, 3) * 0.2
        densities = [nerf.field(replace(plain, images=x.images), points)[0] for x in (told, plain)]
        assert torch.equal(*densities) is not sees, "the field sees the matte where a point projects to"


@torch.no_grad()
def test_the_world_is_heard_where_it_says_something() -> None:
    """A change of one voxel changes the field near it, and not where no interpolation reaches it."""
    nerf, cameras = tiny_nerf(), stacked(ring_cameras(1, SIZE), 1)
    scene = nerf.encode(torch.rand(1, 1, 3, SIZE, SIZE), cameras)
    width, height, depth = (2 * n for n in GRID)
    i, j, k = 5, 3, 17
    world = scene.world.clone()
    world[..., k, j, i] += 3
    changed = Scene(scene.volumes, scene.images, scene.cameras, scene.num_mirrored, world)
    size = 2 * torch.tensor(EXTENT) / torch.tensor([width, height, depth])
    centre = torch.tensor([i + 0.5, j + 0.5, k + 0.5]) * size - torch.tensor(EXTENT)
    offsets = torch.cat([torch.zeros(1, 3), 0.4 * torch.eye(3), 1.1 * torch.eye(3), -1.1 * torch.eye(3)]) * size
    points = (centre + offsets)[None]
    difference = (nerf.field(changed, points)[0] - nerf.field(scene, points)[0]).abs()[0]
    assert (difference[:4] > 1e-4).all()
    assert (difference[4:] == 0).all()


@torch.no_grad()
def test_beyond_the_box_nothing_is_rendered() -> None:
    nerf, cameras = tiny_nerf(), stacked(ring_cameras(3, SIZE), 1)
    scene = nerf.encode(torch.rand(1, 1, 3, SIZE, SIZE), cameras.select([0]))
    places = []
    inner = nerf.field.forward
    nerf.field.forward = lambda scene, points: (places.append(points), inner(scene, points))[1]
    rendering = nerf.render(scene, cameras)
    points = torch.cat([p.reshape(-1, 3) for p in places])
    assert (points.abs() <= torch.tensor(EXTENT) + 1e-5).all()
    assert (points.abs().amax(dim=0) > 0.95 * torch.tensor(EXTENT)).all(), "and all of it is"
    meets = slab_hits(*(x.reshape(-1, 3) for x in cameras.rays()), torch.tensor(EXTENT)).view(1, 3, 1, SIZE, SIZE)
    assert 0.1 < meets.float().mean() < 0.9
    assert (rendering.opacity[~meets] == 0).all()
    assert (rendering.rgb[~meets.expand(-1, -1, 3, -1, -1)] == 1).all()
    assert (rendering.opacity[meets] > 0).float().mean() > 0.98, "all but its corners, which the sphere leaves out"


def slab_hits(origins: torch.Tensor, directions: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    """Whether each line, cut by the three pairs of planes one after the other, has anything left."""
    low, high = torch.zeros(len(origins)), torch.full((len(origins),), torch.inf)
    for axis in range(3):
        ends = torch.stack([(s * half[axis] - origins[:, axis]) / directions[:, axis] for s in (-1, 1)])
        low, high = torch.maximum(low, ends.amin(dim=0)), torch.minimum(high, ends.amax(dim=0))
    return low < high


def test_bounds_are_those_of_points_inside_sphere_and_box(generator: torch.Generator) -> None:
    """Against marching: the first and the last point of each ray that lies in both."""
    radius, extent = 0.52, (0.2, 0.3, 0.5)
    origins = torch.randn(1, 600, 3, generator=generator)
    origins = origins / origins.norm(dim=-1, keepdim=True) * 1.3
    origins[:, :20] *= 0.1  # within
    aims = torch.randn(1, 600, 3, generator=generator) * 0.25
    directions = aims - origins
    directions[:, 20:60, 0] = 0  # along the planes of a slab
    directions[:, 40:60, 2] = 0
    directions[:, 60:80] *= -1  # away
    directions = directions / directions.norm(dim=-1, keepdim=True)
    bounds = box_bounds(origins, directions, radius, extent)
    step = 1e-3
    t = torch.arange(0, 3, step)
    points = origins[..., None, :] + t[:, None] * directions[..., None, :]
    inside = (points.norm(dim=-1) < radius) & (points.abs() < torch.tensor(extent)).all(dim=-1)
    length = inside.sum(dim=-1) * step
    first = torch.where(inside, t, torch.inf).amin(dim=-1)
    last = torch.where(inside, t, -torch.inf).amax(dim=-1)
    clear = (length == 0) & (bounds.far - bounds.near < 2 * step) | (length > 2 * step)
    hit = length > 2 * step
    assert 150 < hit.sum() < 550
    assert (bounds.hits[hit] == 1).all()
    assert (bounds.near - first)[hit].abs().max() < 2 * step
    assert (bounds.far - last)[hit].abs().max() < 2 * step
    grazing = (length == 0) & (bounds.hits > 0)  # what marching may step over
    assert ((bounds.far - bounds.near)[grazing] < 2 * step).all() and grazing.sum() < 10
    assert clear[hit].all() and (bounds.hits[(length == 0) & ~grazing] == 0).all()
    assert (bounds.hits[:, 60:80] == 0).all()


@pytest.mark.parametrize("logit", [-12.0, -1.0, 0.5, 3.0, 20.0])
@torch.no_grad()
def test_densities(logit: float) -> None:
    cameras = stacked(ring_cameras(1, SIZE), 1)
    scene = Scene(torch.zeros(1, 1, 17, 4, 8, 8), torch.zeros(1, 1, 3, SIZE, SIZE), cameras)
    for density, expected in (
        ("exp", torch.tensor(min(logit, 8.0)).exp()),
        ("softplus", 10 * torch.tensor(logit - 1).exp().log1p()),
    ):
        field = Field(density=density)
        field.mlp[-1].weight.zero_()
        field.mlp[-1].bias.fill_(logit)
        found, _ = field(scene, torch.zeros(1, 2, 3))
        torch.testing.assert_close(found, expected.expand(1, 2))
