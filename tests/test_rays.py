"""What the NeRF is made of: frustum volumes, rays, samples along them, and their composition."""

import math

import pytest
import torch
from tiny import ring_cameras
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.cameras import Cameras
from mvgenvs.nerf.mlp import BLOCK, blockwise_mlp
from mvgenvs.nerf.renderer import (
    box_bounds,
    composite_weights,
    importance_samples,
    merged_ranks,
    render_rays,
    sphere_bounds,
)
from mvgenvs.nerf.volume import frustum_coordinates, sample_images, sample_volumes

NEAR, FAR, RADIUS = 0.8, 1.8, 0.52
D, H, W = 20, 24, 28  # of a volume: three different sizes, so that no two axes can be confused


def voxel_centers(camera: Cameras) -> Tensor:
    """World points of the centres of all voxels of one camera's volume, (d h w, 3): voxel i is at (i + 1/2) / N."""
    height, width = camera.hw
    z, y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in (D, H, W)), indexing="ij")
    pixels = torch.stack([x / W * width, y / H * height], dim=-1).reshape(1, -1, 2)
    return camera.unproject(pixels, (NEAR + z / D * (FAR - NEAR)).reshape(1, -1))[0]


@pytest.fixture
def odd_camera(some_cameras) -> Cameras:
    """Not square, with an odd focal length and an off-centre principal point."""
    return some_cameras.select([1])


# The frustum volume


def test_voxel_centers_have_their_coordinates(odd_camera):
    coordinates = frustum_coordinates(odd_camera.batched(), voxel_centers(odd_camera)[None], NEAR, FAR)
    z, y, x = torch.meshgrid(*((torch.arange(n) + 0.5) / n * 2 - 1 for n in (D, H, W)), indexing="ij")
    expected = torch.stack([x, y, z], dim=-1).reshape(1, 1, -1, 3)
    torch.testing.assert_close(coordinates, expected, atol=1e-4, rtol=0)


def test_sampling_at_voxel_centers_reads_the_voxels(odd_camera, generator):
    volume = torch.randn(1, 1, 2, D, H, W, generator=generator)
    coordinates = frustum_coordinates(odd_camera.batched(), voxel_centers(odd_camera)[None], NEAR, FAR)
    sampled = sample_volumes(volume, coordinates)
    torch.testing.assert_close(sampled[0, 0], volume[0, 0].flatten(1).T, atol=2e-3, rtol=0)


def test_known_pixels_are_read_where_points_project(odd_camera, generator):
    height, width = odd_camera.hw
    image = torch.rand(1, 1, 3, height, width, generator=generator)
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    points = odd_camera.unproject(torch.stack([u, v], dim=-1).reshape(1, -1, 2), torch.full((1, height * width), 1.3))
    sampled = sample_images(image, frustum_coordinates(odd_camera.batched(), points, NEAR, FAR))
    torch.testing.assert_close(sampled[0, 0], image[0, 0].flatten(1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(D, H, W), (1, H, W), (2, 3, 1)])
def test_samples_and_their_gradients_are_those_of_grid_sample(shape, generator):
    """Far outside the frustum as well, and in volumes of a single voxel's thickness."""
    volumes = torch.randn(2, 3, 5, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
    coordinates = 3 * torch.rand(2, 3, 400, 3, generator=generator, dtype=torch.float64) - 1.5
    expected = F.grid_sample(
        volumes.flatten(0, 1), coordinates.flatten(0, 1)[:, None, None], padding_mode="border", align_corners=False
    )[:, :, 0, 0].movedim(1, -1).unflatten(0, (2, 3))  # fmt: skip
    sampled = sample_volumes(volumes, coordinates)
    torch.testing.assert_close(sampled, expected)
    weights = torch.randn(sampled.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((x * weights).sum(), volumes)[0] for x in (sampled, expected)]
    torch.testing.assert_close(*gradients)


def test_the_mlp_in_blocks_equals_the_mlp(generator):
    layers = torch.nn.Sequential(
        torch.nn.Linear(7, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)
    ).double()  # fmt: skip
    points = 2 * BLOCK + 17
    columns = torch.randn(points, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(2, points, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, points, generator=generator, dtype=torch.float64)
    blocks, whole = blockwise_mlp(layers, columns, rows), layers(torch.cat([columns, rows.T], dim=1)).T
    torch.testing.assert_close(blocks, whole)
    wanted = [columns, rows, *layers.parameters()]
    gradients = [torch.autograd.grad((x * weights).sum(), wanted) for x in (blocks, whole)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("blob", [(0.16, 0.09, -0.2), (-0.21, -0.12, 0.13)])
def test_a_blob_in_the_volume_renders_at_its_projection_in_other_cameras(odd_camera, blob):
    point, spread = torch.tensor(blob), 0.06
    centers = voxel_centers(odd_camera)
    volume = 2 * torch.exp(-(centers - point).square().sum(dim=-1) / (2 * spread**2)).reshape(1, 1, 1, D, H, W)
    known = odd_camera.batched()

    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        density = sample_volumes(volume, frustum_coordinates(known, points, NEAR, FAR))[:, 0, :, 0]
        return density, torch.zeros(*points.shape[:2], 3)

    cameras = ring_cameras(2, size=64)
    origins, directions = (x.reshape(1, -1, 3) for x in cameras.rays())
    out = render_rays(field, origins, directions, box_bounds(origins, directions, RADIUS), 16, 16)
    opacity = out.opacity.reshape(2, 64, 64)
    assert opacity.amax() < 0.5  # thin, so that its mean depth is that of its centre
    pixels, depth = cameras.project(point[None, None])
    v, u = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    mass = opacity.sum(dim=(1, 2))
    centroid = torch.stack([(opacity * u).sum(dim=(1, 2)), (opacity * v).sum(dim=(1, 2))], dim=-1) / mass[:, None]
    torch.testing.assert_close(centroid, pixels[:, 0], atol=1.0, rtol=0)

    blob_distance = (out.distance * out.opacity).reshape(2, 64, 64)
    cosine = (directions.reshape(2, 64, 64, 3) * cameras.c2w[:, None, None, :3, 2]).sum(dim=-1)
    torch.testing.assert_close((blob_distance * cosine).sum(dim=(1, 2)) / mass, depth[:, 0], atol=0.02, rtol=0)


# Rays


def ray_fan(count: int) -> tuple[Tensor, Tensor]:
    """Parallel rays along +z at growing distance from the axis."""
    offset = torch.linspace(0, 0.6, count)
    origins = torch.stack([offset, torch.zeros(count), torch.full((count,), -1.3)], dim=-1)
    return origins[None], torch.tensor([0.0, 0.0, 1.0]).expand(1, count, 3)


def test_sphere_bounds_lie_on_the_sphere():
    origins, directions = ray_fan(13)
    near, far, hits = sphere_bounds(origins, directions, RADIUS)
    inside = origins[..., 0] < RADIUS
    assert torch.equal(hits.bool(), inside)
    for t in (near, far):
        ends = (origins + t[..., None] * directions)[inside]
        torch.testing.assert_close(ends.norm(dim=-1), torch.full_like(ends[:, 0], RADIUS), atol=1e-3, rtol=0)
    assert (near <= far).all()


def test_composite_weights_equal_a_slow_loop(generator):
    density = 20 * torch.rand(2, 3, 7, generator=generator)
    t = torch.rand(2, 3, 7, generator=generator).sort(dim=-1).values
    far = torch.full((2, 3), 1.1)
    weights = composite_weights(density, t, far)
    for b in range(2):
        for ray in range(3):
            transmittance = 1.0
            for i in range(7):
                end = t[b, ray, i + 1].item() if i < 6 else 1.1
                alpha = 1 - math.exp(-density[b, ray, i].item() * (end - t[b, ray, i].item()))
                assert weights[b, ray, i].item() == pytest.approx(transmittance * alpha, abs=1e-5)
                transmittance *= 1 - alpha


def ball(radius: float, density: float, colour: float = 0.2):
    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        return density * (points.norm(dim=-1) < radius), torch.full((*points.shape[:2], 5), colour)

    return field


@pytest.mark.parametrize(("coarse", "fine", "tolerance"), [(200, 0, 0.006), (24, 48, 0.02)])
def test_an_opaque_ball_is_seen_at_its_surface(coarse, fine, tolerance):
    origins, directions = ray_fan(13)
    out = render_rays(ball(0.3, 1e4), origins, directions, box_bounds(origins, directions, RADIUS), coarse, fine)
    offset = origins[0, :, 0]
    for ray in range(13):
        if offset[ray] < 0.28:
            surface = 1.3 - math.sqrt(0.3**2 - offset[ray] ** 2)
            assert out.distance[0, ray].item() == pytest.approx(surface, abs=tolerance)
            assert out.opacity[0, ray].item() == pytest.approx(1, abs=1e-3)
            torch.testing.assert_close(out.features[0, ray], torch.full((5,), 0.2), atol=1e-3, rtol=0)
        elif offset[ray] > 0.3:
            assert out.opacity[0, ray] == 0
            torch.testing.assert_close(out.features[0, ray], torch.tensor([1.0, 1, 1, 0, 0]))


def test_a_thin_ball_absorbs_as_beer_and_lambert_say():
    origins, directions = ray_fan(1)
    out = render_rays(ball(0.4, 1.5, colour=0.0), origins, directions, box_bounds(origins, directions, RADIUS), 400, 0)
    assert out.opacity.item() == pytest.approx(1 - math.exp(-1.5 * 0.8), abs=0.01)
    assert out.features[0, 0, 0].item() == pytest.approx(math.exp(-1.5 * 0.8), abs=0.01)  # the white behind it


@pytest.mark.parametrize("density", [0.01, 0.5, 5.0])
def test_light_that_passes_does_not_move_what_is_hit(density):
    origins, directions = ray_fan(1)
    bounds = box_bounds(origins, directions, RADIUS)
    true = torch.full((1, 1), 1.15)  # in front of all of the ball
    out = render_rays(ball(0.1, density), origins, directions, bounds, 400, 0, true_distance=true)
    length = 0.2
    expected = 1.2 + 1 / density - length / (math.exp(density * length) - 1)  # of a truncated exponential law
    assert out.distance.item() == pytest.approx(expected, abs=0.004)
    assert out.distance_error is not None
    torch.testing.assert_close(out.distance_error, out.distance - true)
    assert out.opacity.item() < 0.7


def test_a_ray_that_hits_nothing_ends_at_its_far_bound():
    origins, directions = ray_fan(3)
    bounds = box_bounds(origins, directions, RADIUS)
    out = render_rays(ball(0.1, 0.0), origins, directions, bounds, 8, 8)
    torch.testing.assert_close(out.distance, bounds.far)


def test_rays_see_nothing_beside_or_behind():
    origins, directions = ray_fan(3)
    everywhere = ball(9.0, 1e3)
    sideways = torch.tensor([1.0, 0.0, 0.0]).expand(1, 3, 3)
    for away in (sideways, -directions):
        out = render_rays(everywhere, origins, away, box_bounds(origins, away, RADIUS), 8, 8)
        assert (out.opacity == 0).all()
        torch.testing.assert_close(out.features[..., :3], torch.ones(1, 3, 3))


def test_importance_samples_ascend_within_bounds_and_gather_where_the_weight_is(generator):
    near, far = torch.tensor([[0.8, 0.9]]), torch.tensor([[1.8, 1.3]])
    weights = torch.zeros(1, 2, 10)
    weights[..., 3] = 1
    for offset in (torch.full((1, 2), 0.5), torch.rand(1, 2, generator=generator)):
        t, _ = importance_samples(near, far, weights, 50, offset)
        assert (t.diff(dim=-1) >= 0).all()
        assert (t >= near[..., None]).all() and (t <= far[..., None]).all()
        fraction = (t - near[..., None]) / (far - near)[..., None]
        assert ((fraction > 0.3 - 1e-5) & (fraction < 0.4 + 1e-5)).float().mean() > 0.95
    even, _ = importance_samples(near, far, torch.ones(1, 2, 10), 50, torch.full((1, 2), 0.5))
    expected = near[..., None] + (far - near)[..., None] * (torch.arange(50) + 0.5) / 50
    torch.testing.assert_close(even, expected, atol=1e-4, rtol=0)
    weights = torch.tensor([[[1.0, 3.0]]]).expand(1, 2, 2)
    rays, _ = importance_samples(near, far, weights, 100, torch.full((1, 2), 0.5))
    assert ((rays - near[..., None]) / (far - near)[..., None] < 0.5).sum(dim=-1).tolist() == [[25, 25]]


def test_merged_ranks_are_those_of_sorting(generator):
    near, far = torch.full((1, 40), 0.8), torch.full((1, 40), 1.8)
    offset = torch.rand(1, 40, generator=generator)
    weights = torch.rand(1, 40, 12, generator=generator) ** 8
    first = near[..., None] + (torch.arange(12) + offset[..., None]) / 12
    second, below = importance_samples(near, far, weights, 20, offset)
    ranks = torch.cat(merged_ranks(below, 12), dim=-1)
    assert torch.equal(ranks.sort(dim=-1).values, torch.arange(32).expand(1, 40, 32))
    both = torch.cat([first, second], dim=-1)
    merged = torch.empty_like(both).scatter(-1, ranks, both)
    torch.testing.assert_close(merged, both.sort(dim=-1).values, atol=1e-6, rtol=0)
