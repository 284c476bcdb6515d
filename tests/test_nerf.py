"""The whole NeRF: it renders as the plain formulation does, whatever the chunks, batches and views."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tiny import ring_cameras, stacked, tiny_parts
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.device import torch_threads
from mvgenvs.nerf import model as model_module
from mvgenvs.nerf.chunks import map_chunks
from mvgenvs.nerf.field import Scene
from mvgenvs.nerf.model import ViewNeRF
from mvgenvs.nerf.reference import render_plainly
from mvgenvs.nerf.renderer import (
    sphere_bounds,
)
from mvgenvs.nerf.volume import frustum_coordinates

NEAR, FAR, RADIUS = 0.8, 1.8, 0.52


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


@pytest.mark.parametrize(("visibility", "paint"), [(False, False), (True, False), (True, True)])
@torch.no_grad()
def test_the_rendering_with_a_volume_in_the_world_is_the_plain_one(visibility, paint):
    """As the bundled model has it: a density of its own, trust in mirror images, a box, and densities by exp."""
    torch.manual_seed(0)
    nerf = ViewNeRF(
        (16, 16, 16), volume_depth=4, density="exp", world_channels=9, world_widths=(16, 16, 32), world_grid=(8, 8, 8),
        world_density=True, world_detail=4, num_coarse=8, num_fine=8, visibility=visibility, matte=visibility,
        world_paint=paint,
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


def test_a_field_of_volumes_alone_renders_and_learns():
    """Neither position nor source colour: as in GeNVS."""
    nerf = ViewNeRF(
        encoder_widths=(16, 16, 16), volume_depth=4, num_coarse=4, num_fine=4,
        fusion="mean", world_coordinates=False, source_colour=False, mirror_known=False,
    )  # fmt: skip
    scene = known_scene(nerf, [0, 1])
    points = random_points()
    density, features = nerf.field(scene, points)
    moved, _ = nerf.field(replace(scene, volumes=scene.volumes + 1), points)
    assert density.isfinite().all() and (moved - density).abs().max() > 1e-4
    features.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in nerf.field.mlp.parameters())
