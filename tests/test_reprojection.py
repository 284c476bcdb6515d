"""Pixels of other views, moved over by depth: found, refused where something is in front, and weighed."""

import math

import torch
from tiny import Solid, ray_cast, ring_cameras, toy_car

from mvgenvs.diffusion.reprojection import MOVED_FAR, MOVED_NEAR, Sources, find_sources, told_by_others

SIZE = 64


def true_geometry(solids, cameras):
    """Points, where they are solid, and projections, as the denoiser has them, and the views."""
    views = ray_cast(solids, cameras)
    origins, directions = cameras.rays()
    forward = cameras.c2w[:, None, None, :3, 2]
    distance = views.depth[:, 0] / (directions * forward).sum(dim=-1)
    points = (origins + distance[..., None] * directions).movedim(-1, 1)
    projections = cameras.K @ torch.linalg.inv(cameras.c2w)[:, :3]
    return views, points, views.mask > 0.5, projections


def test_sources_show_what_the_pixel_shows():
    cameras = ring_cameras(6, SIZE)
    views, points, solid, projections = true_geometry(toy_car(3), cameras)
    pixels = torch.arange(6 * SIZE * SIZE)[solid.flatten()]
    sources = find_sources(points, solid, projections, pixels)
    sees = sources.variance.isfinite()
    assert 0.2 < sees.float().mean() < 0.8  # five other views, of which one sees itself never, some see each side
    colours = views.images.movedim(1, -1).flatten(0, 2)
    difference = (colours[sources.place] - colours[pixels][:, None]).abs().amax(dim=-1)[sees]
    assert (difference < 0.01).float().mean() > 0.95  # the rest lies within a pixel of an edge


def test_a_view_never_tells_itself_anything():
    cameras = ring_cameras(3, SIZE)
    _, points, solid, projections = true_geometry(toy_car(1), cameras)
    pixels = torch.arange(3 * SIZE * SIZE)[solid.flatten()]
    sources = find_sources(points, solid, projections, pixels)
    own = pixels // SIZE**2
    assert sources.variance.gather(1, own[:, None]).isinf().all()


def test_what_stands_behind_something_else_is_not_seen():
    """Another view sees the point in the middle of the first, until a small ball stands halfway to its camera."""
    cameras = ring_cameras(12, SIZE, elevation=0.0).select([0, 1])
    body, pixel = Solid((0.0, 0.0, 0.0), 0.3, (1.0, 0.0, 0.0)), torch.tensor([SIZE * SIZE // 2 + SIZE // 2])
    _, points, *_ = true_geometry([body], cameras)
    point = points[0].flatten(1)[:, pixel[0]]
    halfway = (point + cameras.centers[1]) / 2
    ball = Solid(tuple(halfway.tolist()), 0.06, (0.0, 0.0, 1.0))
    for solids, hidden in (([body], False), ([body, ball], True)):
        _, points, solid, projections = true_geometry(solids, cameras)
        torch.testing.assert_close(points[0].flatten(1)[:, pixel[0]], point)  # the first view sees past the ball
        variance = find_sources(points, solid, projections, pixel).variance[0, 1]
        assert variance.isinf() == hidden


def test_variance_grows_with_the_angle_between_the_views():
    cameras = ring_cameras(12, SIZE, elevation=0.0)
    _, points, solid, projections = true_geometry([Solid((0.0, 0.0, 0.0), 0.3, (1.0, 0.0, 0.0))], cameras)
    pixel = torch.tensor([SIZE * SIZE // 2 + SIZE // 2])  # the middle of view 0
    variance = find_sources(points, solid, projections, pixel).variance[0]
    assert MOVED_NEAR < variance[1] < variance[2] < MOVED_NEAR + MOVED_FAR
    assert variance[6].isinf()  # the other side
    torch.testing.assert_close(variance[1], variance[11], rtol=0.02, atol=0)


def test_what_is_told_is_the_weighted_mean_of_the_sources():
    """Two pixels of four views: two sources for the first, none for the second."""
    latents = torch.tensor([0.0, 2.0, -1.0, 7.0]).view(1, 4, 1, 1, 1)
    sigma = torch.tensor([[0.3, 0.4, 0.1, 0.2]])
    sources = Sources(
        torch.tensor([[0, 1, 2, 3]] * 2), torch.tensor([[math.inf, 0.09, 0.03, math.inf], [math.inf] * 4])
    )
    told = told_by_others(latents, sigma, sources)
    first, second = 1 / (0.4**2 + 0.09), 1 / (0.1**2 + 0.03)
    a, b = first / (first + second), second / (first + second)
    torch.testing.assert_close(told.mean, torch.tensor([[[2 * a - b, 0.0]]]))
    torch.testing.assert_close(told.noise, torch.tensor([[(0.4 * a) ** 2 + (0.1 * b) ** 2, 0.0]]))
    torch.testing.assert_close(told.moved, torch.tensor([[0.09 * a + 0.03 * b, 0.0]]))
    assert told.seen.tolist() == [[1.0, 0.0]]
