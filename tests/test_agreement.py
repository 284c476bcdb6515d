"""The loss of views that differ in what they show of the same surface."""

import torch
from tiny import Solid, ray_cast, ring_cameras, toy_car
from torch.nn import functional as F

from mvgenvs.training.losses.agreement import STEEPEST, same_points
from mvgenvs.views import ViewSet, stack

BALL = [Solid((0.0, 0.0, 0.0), 0.3, (0.9, 0.2, 0.1))]


def sets_of(solids, count=12, size=64) -> ViewSet:
    return stack([ray_cast(solids, ring_cameras(count, size=size))])


def painted(views: ViewSet) -> torch.Tensor:
    """An error that belongs to the surface: a smooth function of the point that a pixel shows."""
    points = views.cameras.unproject_map(views.depth)
    return (4 * points).sin().mT.unflatten(-1, views.cameras.hw)  # (1, view, 3, h, w)


def test_errors_that_belong_to_the_surface_cost_nothing(generator):
    views = sets_of(BALL)
    (same,) = same_points(views, 64)
    error = painted(views)
    covered = same.differences(torch.randn(error.shape, generator=generator)) > 0
    assert covered[(views.mask[0, :, 0] > 0)[None]].float().mean() > 0.9
    assert not covered[(views.mask[0, :, 0] == 0)[None]].any()
    alike = same.differences(error)[covered].mean()
    shifted = same.differences(error.roll(1, dims=1))[covered].mean()  # each view with its neighbour's
    assert alike < 2e-3 and alike < shifted / 30


def test_independent_errors_cost_the_sum_of_their_variances(generator):
    """Looked up between pixels, white noise is averaged: its variance lies between a quarter and all of it."""
    views = sets_of(BALL)
    (same,) = same_points(views, 64)
    difference = same.differences(torch.randn(2, 12, 3, 64, 64, generator=generator))
    covered = difference > 0
    assert 1.25 < difference[covered].mean() < 2
    constant = same.differences(torch.ones(1, 12, 3, 64, 64))
    torch.testing.assert_close(constant, torch.zeros_like(constant), atol=1e-9, rtol=0)


def test_only_views_that_see_the_point_from_near_are_compared(generator):
    """Views on opposite sides of a ball show different points; hidden ones are found by depth on a car."""
    opposite = same_points(sets_of(BALL, count=2), 64)[0]
    assert not len(opposite.pixels)
    assert not opposite.differences(torch.randn(1, 2, 3, 64, 64, generator=generator)).any()
    car = same_points(sets_of(toy_car(0)), 64)[0]
    assert len(car.pixels) and car.sources.turn.max() < STEEPEST


def test_gradients_pull_two_views_together():
    views = sets_of(BALL)
    same = same_points(views, 64)[0]
    error = torch.zeros(1, 12, 3, 64, 64)
    error[:, 3] = 1.0
    error.requires_grad_()
    same.differences(error).sum().backward()
    on_object = views.mask[0, :, 0] > 0
    assert error.grad[0, 3].mean(dim=0)[on_object[3]].mean() > 0 > error.grad[0, 4].mean(dim=0)[on_object[4]].mean()


def test_depth_is_read_at_the_size_of_the_errors():
    views = sets_of(BALL)
    (same,) = same_points(views, 32)
    difference = same.differences(F.avg_pool2d(painted(views)[0], 2)[None])
    assert difference.shape == (1, 12, 32, 32)
    covered = difference > 0
    assert covered.any() and difference[covered].median() < 5e-3
