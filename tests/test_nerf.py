"""The frustum volume lies where the cameras say, and rays are rendered as the integral says."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tiny import ring_cameras, stacked, tiny_parts
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.cameras import Cameras
from mvgenvs.device import torch_threads
from mvgenvs.nerf import model as model_module
from mvgenvs.nerf.chunks import map_chunks
from mvgenvs.nerf.field import Scene
from mvgenvs.nerf.mlp import BLOCK, blockwise_mlp
from mvgenvs.nerf.model import ViewNeRF
from mvgenvs.nerf.reference import render_plainly
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

    far = sphere_bounds(origins, directions, RADIUS)[1]
    blob_distance = (out.distance - (1 - out.opacity) * far).reshape(2, 64, 64)  # sum of weight x distance
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


# The whole NeRF


@pytest.fixture(scope="module")
def nerf() -> ViewNeRF:
    return tiny_parts().nerf


def known_scene(nerf: ViewNeRF, views: list[int], batch: int = 1) -> Scene:
    """The chosen ones of three known views."""
    images = torch.rand(batch, 3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    cameras = stacked(ring_cameras(3, start=0.7), batch)
    return nerf.encode(images[:, views], cameras.select(views))


def random_points(count: int = 200) -> Tensor:
    return torch.rand(1, count, 3, generator=torch.Generator().manual_seed(3)) * 0.6 - 0.3


@torch.no_grad()
def test_rendered_images_equal_their_rays(nerf):
    """Neither chunks nor skipped rays may show."""
    scene, cameras = known_scene(nerf, [0, 1]), ring_cameras(2, size=8)
    rendering = nerf.render(scene, cameras.batched(), chunk=100)
    origins, directions = (x.reshape(1, -1, 3) for x in cameras.rays())
    rays = nerf.render_rays(scene, origins, directions)
    hit = sphere_bounds(origins, directions, RADIUS)[2].reshape(2, 8, 8) > 0
    assert 0 < hit.float().mean() < 1  # some rays were skipped
    features = rays.features.reshape(2, 8, 8, 16).movedim(-1, 1)
    torch.testing.assert_close(rendering.features[0], features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rendering.opacity[0, :, 0], rays.opacity.reshape(2, 8, 8), atol=1e-5, rtol=1e-5)
    _, depth = cameras.project((origins + rays.distance[..., None] * directions).reshape(2, 64, 3))
    torch.testing.assert_close(rendering.depth[0, :, 0][hit], depth.reshape(2, 8, 8)[hit], atol=1e-5, rtol=1e-5)
    white = rendering.rgb[0].movedim(1, -1)[~hit]
    torch.testing.assert_close(white, torch.ones_like(white))
    assert rendering.opacity[0, :, 0][hit].min() > 0


@pytest.mark.parametrize(("known", "matte"), [([1], True), ([0, 1, 2], False)])
@torch.no_grad()
def test_the_rendering_is_the_plain_one(known, matte):
    """1 and 3 known views, four views of 64 x 64, 64 + 64 samples: eight rows of two of them by the plain way."""
    nerf = ViewNeRF(**{**tiny_parts().nerf.config, "matte": matte})
    nerf.register_to_config(num_coarse=64, num_fine=64)
    scene, cameras = known_scene(nerf, known), ring_cameras(4, size=64)
    rendering = nerf.render(scene, cameras.batched())
    ours = torch.cat([rendering.features, rendering.opacity], dim=2)[0]
    for view, top in ((0, 8), (3, 28)):
        K = cameras.K[[view]].clone()
        K[:, 1, 2] -= top
        plain = render_plainly(nerf, scene, Cameras(cameras.c2w[[view]], K, (8, 64)), 64, 64)
        torch.testing.assert_close(ours[[view], :, top : top + 8], plain, atol=1e-4, rtol=0)


@pytest.mark.parametrize("visibility", [False, True])
@torch.no_grad()
def test_the_rendering_with_a_volume_in_the_world_is_the_plain_one(visibility):
    """As the bundled model has it: a density of its own, trust in mirror images, a box, and densities by exp."""
    torch.manual_seed(0)
    nerf = ViewNeRF(
        (16, 16, 16), volume_depth=4, density="exp", world_channels=9, world_widths=(16, 16, 32), world_grid=(8, 8, 8),
        world_density=True, world_detail=4, num_coarse=8, num_fine=8, visibility=visibility, matte=visibility,
    )  # fmt: skip
    scene, cameras = known_scene(nerf, [0, 1]), ring_cameras(2, size=16)
    scene = replace(scene, world=torch.randn(scene.world.shape))
    if visibility:
        scene.volumes[:, :, -2] = torch.rand(scene.volumes[:, :, -2].shape)
    rendering = nerf.render(scene, cameras.batched())
    ours = torch.cat([rendering.features, rendering.opacity], dim=2)[0]
    torch.testing.assert_close(ours, render_plainly(nerf, scene, cameras, 8, 8), atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_mean_of_the_outputs_of_one_view_is_the_output_of_the_mean():
    """The MLP of each view, as in genvs_unofficial, is ours where there is one view and no mirror image."""
    torch.manual_seed(0)
    nerf = ViewNeRF((16, 16, 16), volume_depth=4, mirror_known=False)
    scene, camera = known_scene(nerf, [1]), ring_cameras(1, size=16)
    plain = render_plainly(nerf, scene, camera, 16, 16, fuse="outputs")
    torch.testing.assert_close(nerf.render(scene, camera.batched()).features[0], plain[:, :16], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kept", [0, 10**9])
def test_the_gradients_are_the_plain_ones(kept, monkeypatch):
    """In double precision; whether the chunks are kept for the backward pass or rendered again."""
    monkeypatch.setattr(model_module, "KEPT_SAMPLES", kept)
    nerf = tiny_parts().nerf
    views = known_scene(nerf, [0, 2])
    nerf.double()
    known, target = (Cameras(c.c2w.double(), c.K.double(), c.hw) for c in (views.cameras, ring_cameras(1, size=16)))
    scene = Scene(views.volumes.detach().double().requires_grad_(), views.images.double(), known)
    rendering = nerf.render(scene, target.batched(), chunk=300)
    ours, plain = rendering.features[0], render_plainly(nerf, scene, target, 4, 4)[:, :16]
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = [scene.volumes, *nerf.field.parameters()]
    gradients = [torch.autograd.grad((x * weights).sum(), wanted) for x in (ours, plain)]
    for one, other in zip(*gradients, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_scene_renders_alike_alone_and_in_a_batch(nerf):
    """One camera comes nearer, so that more of its rays hit: the other's rendering must not notice."""
    near, usual = ring_cameras(1, size=8), ring_cameras(2, size=8).select([1])
    closer = near.c2w.clone()
    closer[:, :3, 3] *= 0.7
    cameras = [Cameras(closer, near.K, near.hw), usual]
    batch = Cameras(torch.stack([c.c2w for c in cameras]), torch.stack([c.K for c in cameras]), near.hw)
    together = nerf.render(known_scene(nerf, [0], batch=2), batch)
    scene = known_scene(nerf, [0], batch=2)
    for index, camera in enumerate(cameras):
        part = slice(index, index + 1)
        of_scene = Scene(
            scene.volumes[part],
            scene.images[part],
            Cameras(scene.cameras.c2w[part], scene.cameras.K[part], scene.cameras.hw),
        )
        alone = nerf.render(of_scene, camera.batched())
        for name in ("features", "opacity", "depth"):
            torch.testing.assert_close(getattr(together, name)[part], getattr(alone, name), msg=name)


@torch.no_grad()
def test_a_camera_that_looks_away_sees_white(nerf):
    camera = ring_cameras(1, size=8)
    turned = camera.c2w.clone()
    turned[:, :3, [0, 2]] *= -1
    rendering = nerf.render(known_scene(nerf, [0]), Cameras(turned, camera.K, camera.hw).batched())
    torch.testing.assert_close(rendering.rgb, torch.ones(1, 1, 3, 8, 8))
    assert (rendering.opacity == 0).all()


@torch.no_grad()
def test_the_order_of_known_views_does_not_matter(nerf):
    points = random_points()
    density, features = nerf.field(known_scene(nerf, [0, 1, 2]), points)
    density_again, features_again = nerf.field(known_scene(nerf, [2, 0, 1]), points)
    torch.testing.assert_close(density, density_again, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features, features_again, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(features, nerf.field(known_scene(nerf, [0]), points)[1], atol=1e-3)


@pytest.mark.parametrize("fusion", ["mean", "softmax"])
@torch.no_grad()
def test_a_known_view_given_twice_changes_nothing(nerf, fusion, monkeypatch):
    monkeypatch.setattr(nerf.field, "fusion", fusion)
    points = random_points()
    once, twice = (nerf.field(known_scene(nerf, views), points) for views in ([1], [1, 1]))
    for one, two in zip(once, twice, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_known_views_come_with_their_mirror_images(nerf):
    """A point lies in a view's volume where its reflection lies in that of the mirrored view, flipped."""
    scene = known_scene(nerf, [1])
    assert scene.volumes.shape[1] == 2
    points = random_points()
    flip = torch.tensor([-1.0, 1.0, 1.0])
    here, there = (frustum_coordinates(scene.cameras, p, NEAR, FAR) for p in (points, points * flip))
    torch.testing.assert_close(here[:, 0] * flip, there[:, 1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scene.images[:, 0].flip(-1), scene.images[:, 1])


def test_gradients_reach_the_encoder(nerf):
    scene = known_scene(nerf, [0, 1])
    nerf.zero_grad()
    rendering = nerf.render(scene, ring_cameras(1, size=8).batched())
    (rendering.features.sum() + rendering.depth.sum()).backward()
    for name, parameter in nerf.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    nerf.zero_grad()


# Chunks


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """PyTorch may use so many."""
    with torch_threads(request.param):
        yield request.param


@pytest.mark.parametrize("num_kept", [0, 2, 5])
def test_chunks_and_their_gradients_are_those_of_the_whole(threads, num_kept, generator):
    weight, unused = torch.randn(4, 3, generator=generator, requires_grad=True), torch.ones(2, requires_grad=True)
    x = torch.randn(17, 4, generator=generator)
    chunks = [(part,) for part in x.split(4)]
    outs = map_chunks(lambda part: (part @ weight, (part @ weight.detach()).sin()), chunks, [weight, unused], num_kept)
    product, sine = (torch.cat(parts) for parts in zip(*outs, strict=True))
    torch.testing.assert_close(product, x @ weight)
    torch.testing.assert_close(sine, (x @ weight).sin())
    gradient, of_unused = torch.autograd.grad(product.square().sum(), [weight, unused], allow_unused=True)
    torch.testing.assert_close(gradient, torch.autograd.grad((x @ weight).square().sum(), weight)[0])
    assert of_unused is None
    assert torch.get_num_threads() == threads


def test_each_thread_runs_its_operators_alone(threads):
    chunks = [(torch.zeros(1),)] * 4
    inside = [int(n) for (n,) in map_chunks(lambda _: (torch.tensor(torch.get_num_threads()),), chunks, [], 0)]
    assert inside == [1] * 4


def test_a_chunk_that_fails_is_heard_of():
    def fail(part: Tensor) -> tuple[Tensor]:
        raise MemoryError("no room for this chunk")

    with pytest.raises(MemoryError, match="no room"):
        map_chunks(fail, [(torch.zeros(1),), (torch.ones(1),)], [], 0)
