"""Space carving: what views say about points is true of the solids they show, and the world's density learns it."""

from dataclasses import replace

import pytest
import torch
from tiny import Solid, ray_cast, ring_cameras, tiny_config, tiny_parts, toy_car

from mvgenvs.config import TrainConfig
from mvgenvs.data.sampling import Batch
from mvgenvs.errors import UserError
from mvgenvs.nerf.field import LOGIT_SLOPE, Scene
from mvgenvs.training.losses.carving import Carved, carve, carving_loss, paint_loss
from mvgenvs.training.objective import Objective
from mvgenvs.training.trainer import check
from mvgenvs.views import ViewSet, stack

HALF, THICKNESS = (0.2, 0.1, 0.35), 0.06


@pytest.fixture
def views() -> ViewSet:
    return ray_cast([Solid((0.0, 0.0, 0.0), HALF, (0.2, 0.4, 0.6))], ring_cameras(8, 128))


@pytest.fixture
def points(generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(4000, 3, generator=generator) - 0.5) * torch.tensor([0.7, 0.5, 1.0])


def outside(points: torch.Tensor) -> torch.Tensor:
    """Distance from the box of half sides HALF; negative within."""
    return (points.abs() - torch.tensor(HALF)).amax(dim=-1)


def test_what_is_carved_is_true(views: ViewSet, points: torch.Tensor) -> None:
    found = carve(points, stack([views]), THICKNESS)
    distance, pixel = outside(points), 1.3 / 131.25
    assert not (found.empty & found.solid).any()
    assert (distance[found.empty[0]] > -pixel).all(), "nothing within is carved away, but for a pixel at edges"
    assert (distance[found.solid[0]].abs() < THICKNESS + pixel).all(), "what is solid lies near the surface"
    assert found.empty[0][distance > 0.1].float().mean() > 0.9, "most of what is around it is seen through"
    deep = distance < -0.08
    assert deep.sum() > 20
    assert not (found.empty | found.solid)[0][deep].any(), "of the inside, nobody knows"
    thin = (distance < -pixel) & (distance > -0.02) & (points[:, 1] < HALF[1] - 0.03)  # sides, which all see
    assert thin.sum() > 20
    assert found.solid[0][thin & (points[:, 1] > 0)].float().mean() > 0.7


def test_more_views_carve_more(views: ViewSet, points: torch.Tensor) -> None:
    one, all_ = (carve(points, stack([views.select(chosen)]), THICKNESS) for chosen in ([0], slice(None)))
    assert (all_.empty | ~one.empty).all()
    assert all_.empty.sum() > 1.2 * one.empty.sum()


def test_pixels_without_depth_on_the_object_say_nothing(views: ViewSet, points: torch.Tensor) -> None:
    unknown = replace(views, depth=torch.zeros_like(views.depth), mask=torch.ones_like(views.mask))
    found = carve(points, stack([unknown]), THICKNESS)
    assert not (found.empty | found.solid).any()
    nothing = replace(views, depth=torch.zeros_like(views.depth), mask=torch.zeros_like(views.mask))
    assert carve(points * 0.5, stack([nothing]), THICKNESS).empty.all(), "and the background says empty"


def test_points_beyond_the_picture_and_behind_the_camera_are_unseen(views: ViewSet) -> None:
    one = stack([views.select([0])])
    c2w = one.cameras.c2w[0, 0]
    behind, aside = c2w[:3, 3] - 0.5 * c2w[:3, 2], c2w[:3, 3] + c2w[:3, 2] + 3 * c2w[:3, 0]
    found = carve(torch.stack([behind, aside]), one, THICKNESS)
    assert not (found.empty | found.solid).any()


def test_views_without_depth_cannot_carve(views: ViewSet, points: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="depth"):
        carve(points, replace(views, depth=None), THICKNESS)


def test_the_loss_is_the_cross_entropy_for_each_solid_point() -> None:
    solid = torch.tensor([[False, False, True, False]])
    carved = Carved(torch.tensor([[True, True, False, False]]), solid, torch.rand(1, 4, 3))
    logits = torch.tensor([[-1.0, 2.0, 0.5, 100.0]], requires_grad=True)
    p = logits.detach().sigmoid()[0]
    expected = -((1 - p[0]).log() + (1 - p[1]).log() + p[2].log())
    loss = carving_loss(logits, carved)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert logits.grad[0, 3] == 0, "of what nobody knows, nothing is asked"
    assert (logits.grad[0, :2] > 0).all() and logits.grad[0, 2] < 0


def with_world(**loss: float) -> TrainConfig:
    config = tiny_config()
    world = {"world_channels": 4, "world_widths": (16, 16, 32), "world_grid": (4, 4, 8), "world_density": True}
    nerf = replace(config.nerf, density="exp", world_detail=4, **world)
    run = replace(config.run, train=("nerf",))
    return replace(config, nerf=nerf, loss=replace(config.loss, rays=8, **loss), run=run)


def batch(seed: int = 0) -> Batch:
    views = [ray_cast(toy_car(seed + index), ring_cameras(6)) for index in range(2)]
    return Batch(stack(views), 1, [1, 2])


def test_the_worlds_density_becomes_the_shape() -> None:
    """Some steps of the carving loss alone, from two cars."""
    config = with_world(carving=1.0)
    objective = Objective(tiny_parts(config), config)
    optimizer = torch.optim.Adam(objective.nerf.parameters(), 5e-3)
    losses = []
    for _ in range(30):
        loss = objective.total(objective(batch(), 0.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
    scene = objective.nerf.encode(batch().views.images[:, :1], batch().views.cameras.select([0]))
    logits = scene.world_logits.flatten(1)
    carved = carve(objective.nerf.world.fine_centers.flatten(1).T, batch().views, 0.1)
    assert logits[carved.solid].mean() > logits[carved.empty].mean() + 1


@torch.no_grad()
def test_the_field_adds_to_the_worlds_density(generator: torch.Generator) -> None:
    nerf = tiny_parts(with_world(carving=1.0)).nerf
    views = batch().views
    scene = nerf.encode(views.images[:, :1], views.cameras.select([0]))
    points = (torch.rand(2, 50, 3, generator=generator) - 0.5) * 0.4
    nerf.field.mlp[0].weight[:, nerf.field.channels + 4 - 2] = 0  # the MLP does not hear of the logits
    world = scene.world.clone()
    world[:, -2] += 0.5
    raised = Scene(scene.volumes, scene.images, scene.cameras, scene.num_mirrored, world)
    before, after = (nerf.field(which, points)[0] for which in (scene, raised))
    low = before < 500  # far from the largest density
    assert low.float().mean() > 0.9
    torch.testing.assert_close(after[low] / before[low], torch.full_like(before[low], 0.5 * LOGIT_SLOPE).exp())


def test_the_worlds_colours_become_those_of_the_surface_the_unseen_side_included() -> None:
    """Some steps of the losses of voxels alone; each car's sides differ in colour, and the input shows one of them."""
    config = with_world(carving=0.1, paint=1.0)
    paint = {"world_channels": 8, "world_paint": True, "visibility": True, "source_colour": True}
    config = replace(config, nerf=replace(config.nerf, **paint))
    objective = Objective(tiny_parts(config), config)
    optimizer = torch.optim.Adam(objective.nerf.parameters(), 5e-3)
    losses = []
    for _ in range(30):
        found = objective(batch(), 0.0)
        optimizer.zero_grad()
        objective.total(found).backward()
        optimizer.step()
        losses.append(found["paint"].item())
    assert losses[-1] < 0.6 * losses[0]


def test_solid_points_have_the_colour_of_their_surface(views: ViewSet) -> None:
    images = torch.rand(len(views.images), 3, 1, 1).expand_as(views.images)
    one = replace(views, images=images).select([0])
    on_object = (one.depth[0, 0] > 0).nonzero()[::7]
    pixels, depth = on_object.flip(-1) + 0.5, one.depth[0, 0][on_object[:, 0], on_object[:, 1]]
    points = one.cameras.unproject(pixels[None], depth[None] + THICKNESS / 2)[0]
    found = carve(points, stack([one]), THICKNESS)
    assert found.solid.any()
    torch.testing.assert_close(found.colour[found.solid], images[0, :, 0, 0].expand(int(found.solid.sum()), -1))
    wrong = paint_loss(found.colour + 0.25, found)
    assert wrong.item() == pytest.approx(0.25, rel=1e-4), "and points that are not solid count for nothing"


def test_settings_of_the_worlds_colours_that_do_not_go_together_are_refused() -> None:
    config = with_world(carving=1.0, paint=1.0)
    with pytest.raises(UserError, match="world_paint"):
        check(config)
    for missing in ({"visibility": False}, {"source_colour": False, "visibility": True}):
        nerf = replace(config.nerf, **{"world_paint": True, "source_colour": True} | missing)
        with pytest.raises(UserError, match="visibility, source_colour"):
            check(replace(config, nerf=nerf))
    narrow = replace(config.nerf, world_paint=True, source_colour=True, visibility=True, world_channels=5)
    with pytest.raises(UserError, match="world_channels"):
        check(replace(config, nerf=narrow))


def test_carving_without_a_density_of_the_world_is_refused() -> None:
    config = tiny_config()
    with pytest.raises(UserError, match="world_density"):
        check(replace(config, loss=replace(config.loss, carving=1.0)))
    check(with_world(carving=1.0))
