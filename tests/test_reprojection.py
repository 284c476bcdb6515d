"""Patches of other views, moved over by depth: found, refused where something is in front, measured and weighed."""

import math

import pytest
import torch
from tiny import Solid, ray_cast, ring_cameras, toy_car

from mvgenvs.diffusion.reprojection import DOUBT, FEWEST, NOTHING, TURNS, MovedErrors, Sources, find_sources, moved

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


def tokens_of(pixels, side=8):
    """Every token of `side` pixels in a row, of whole rows of pixels."""
    return pixels.view(-1, side)


def everywhere(cameras):
    return tokens_of(torch.arange(cameras.num_views * SIZE * SIZE))


def test_sources_show_what_the_pixel_shows():
    cameras = ring_cameras(6, SIZE)
    views, points, solid, projections = true_geometry(toy_car(3), cameras)
    pixels = everywhere(cameras)
    sources = find_sources(points, solid, projections, pixels)
    asked = solid.flatten()[pixels].sum()
    assert 0.2 < sources.seen.sum() / (5 * asked) < 0.8  # one of five other views sees some side
    there = moved(views.images[None], sources)[0].movedim(1, -1)  # (source, pixel, c)
    own = views.images.movedim(1, -1).flatten(0, 2)[pixels[sources.token]]
    difference = (there - own).abs().amax(dim=-1)[sources.seen > 0]
    assert (difference < 0.01).float().mean() > 0.93  # the rest lies within a pixel of an edge
    nearest = views.images.movedim(1, -1).flatten(0, 2)[sources.place[..., 0]]
    rounded = (nearest - own).abs().mean(dim=-1)[sources.seen > 0]
    assert (there - own).abs().mean(dim=-1)[sources.seen > 0].mean() < rounded.mean()


def test_moves_are_exact_to_a_part_of_a_pixel():
    """A ball painted by a smooth function of the place shows it between pixels as well."""
    cameras = ring_cameras(10, SIZE, elevation=0.0)
    _, points, solid, projections = true_geometry([Solid((0.0, 0.0, 0.0), 0.3, (1.0, 0.0, 0.0))], cameras)
    painted = torch.where(solid, (20 * points[:, 1:2]).sin(), 0.0)[None]
    pixels = everywhere(cameras)
    sources = find_sources(points, solid, projections, pixels)
    inner = (sources.seen > 0) & (sources.weight.amin(dim=-1) > 0)
    error = (moved(painted, sources)[0, :, 0] - painted.flatten()[pixels[sources.token]]).abs()[inner]
    assert error.mean() < 0.02


def test_weights_are_bilinear_and_sum_to_one_or_nothing():
    cameras = ring_cameras(4, SIZE)
    _, points, solid, projections = true_geometry(toy_car(1), cameras)
    sources = find_sources(points, solid, projections, everywhere(cameras))
    total = sources.weight.sum(dim=-1)
    assert ((total - 1).abs().lt(1e-5) | total.eq(0)).all() and (sources.weight >= 0).all()
    assert (sources.share > 0).all() and sources.share.max() == 1
    assert ((sources.averaging > 0.2) & (sources.averaging < 1.0001)).all()


def test_a_view_never_tells_itself_anything():
    cameras = ring_cameras(3, SIZE)
    _, points, solid, projections = true_geometry(toy_car(1), cameras)
    pixels = everywhere(cameras)
    sources = find_sources(points, solid, projections, pixels)
    assert (sources.view != pixels[sources.token, 0] // SIZE**2).all()
    assert (sources.place // SIZE**2 == sources.view[:, None, None])[sources.weight > 0].all()


def test_what_stands_behind_something_else_is_not_seen():
    """Another view sees the point in the middle of the first, until a small ball stands halfway to its camera."""
    cameras = ring_cameras(12, SIZE, elevation=0.0).select([0, 1])
    body, pixel = Solid((0.0, 0.0, 0.0), 0.3, (1.0, 0.0, 0.0)), torch.tensor([[SIZE * SIZE // 2 + SIZE // 2]])
    _, points, *_ = true_geometry([body], cameras)
    point = points[0].flatten(1)[:, pixel[0, 0]]
    halfway = (point + cameras.centers[1]) / 2
    ball = Solid(tuple(halfway.tolist()), 0.06, (0.0, 0.0, 1.0))
    for solids, hidden in (([body], False), ([body, ball], True)):
        _, points, solid, projections = true_geometry(solids, cameras)
        torch.testing.assert_close(points[0].flatten(1)[:, pixel[0, 0]], point)  # the first view sees past the ball
        assert (len(find_sources(points, solid, projections, pixel).token) == 0) == hidden


def test_turns_are_those_between_the_views():
    cameras = ring_cameras(12, SIZE, elevation=0.0)
    _, points, solid, projections = true_geometry([Solid((0.0, 0.0, 0.0), 0.05, (1.0, 0.0, 0.0))], cameras)
    sources = find_sources(points, solid, projections, torch.tensor([[SIZE * SIZE // 2 + SIZE // 2]]))
    assert {1, 11} <= set(sources.view.tolist()) <= {1, 2, 3, 9, 10, 11}  # not from behind
    apart = torch.minimum(sources.view, 12 - sources.view) * math.radians(30)
    torch.testing.assert_close(sources.turn, (1 - apart.cos()).sqrt(), rtol=0.05, atol=0)


def one_token(*views, share=1.0):
    """Sources of one token of two pixels, none of them between pixels."""
    weight = torch.zeros(len(views), 2, 4)
    weight[:, :1, 0] = 1
    weight[:, 1:, 0] = float(share == 1)
    count = torch.zeros(len(views), dtype=torch.long)
    return Sources(count, torch.tensor(views), torch.zeros(len(views)), torch.zeros(len(views), 2, 4).long(), weight)


def errors_of(gain, variance):
    made = MovedErrors(2)
    made.gain.fill_(gain)
    made.variance.fill_(variance)
    return made


def test_one_source_is_believed_by_its_gain_its_error_and_its_noise():
    errors, shown = errors_of(0.5, 0.09), torch.tensor([[[2.0, -1.0]]])
    mean, precision = errors.told(shown, torch.tensor([[0.4]]), one_token(1), 1)
    torch.testing.assert_close(mean, 2 * shown)  # a gain of a half shows half of the truth
    torch.testing.assert_close(precision, torch.full((1, 1, 2), 0.25 / (DOUBT * 0.09 + 0.16)))


def test_views_that_do_not_see_a_token_tell_nothing_of_it():
    """As when there is an entry for every view."""
    body, errors = [Solid((0.0, 0.0, 0.0), 0.3, (1.0, 0.0, 0.0))], errors_of(0.5, 0.09)
    _, points, solid, projections = true_geometry(body, ring_cameras(12, SIZE, elevation=0.0))
    pixels = torch.tensor([[SIZE * SIZE // 2 + SIZE // 2] * 2])
    told = []
    for only_seen in (True, False):
        sources = find_sources(points, solid, projections, pixels, only_seen)
        shown = sources.seen[None] * torch.tensor([2.0, -1.0])
        told.append(errors.told(shown, torch.full((1, len(sources.view)), 0.4), sources, 1))
    assert len(sources.view) == 12
    torch.testing.assert_close(told[1], told[0])


def test_half_a_token_counts_half():
    errors, shown = errors_of(1.0, 0.09), torch.tensor([[[2.0, -1.0]]])
    whole = errors.told(shown, torch.tensor([[0.4]]), one_token(1), 1)
    half = errors.told(shown / 2, torch.tensor([[0.4]]), one_token(1, share=0.5), 1)
    torch.testing.assert_close(half[0], whole[0])
    torch.testing.assert_close(half[1], whole[1] / 2)


def test_more_sources_average_their_noise_and_not_their_errors():
    errors, shown = errors_of(1.0, 0.09), torch.ones(1, 4, 2)
    _, clean = errors.told(shown, torch.full((1, 4), 1e-6), one_token(1, 2, 3, 4), 1)
    torch.testing.assert_close(clean, torch.full((1, 1, 2), 1 / (DOUBT * 0.09)))
    _, noisy = errors.told(shown, torch.full((1, 4), 2.0), one_token(1, 2, 3, 4), 1)
    torch.testing.assert_close(noisy, torch.full((1, 1, 2), 1 / (DOUBT * 0.09 + 1.0)))  # 4 / 4 of the noise


def test_a_clean_source_outweighs_a_noisy_one():
    errors, shown = errors_of(1.0, 0.01), torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    mean, _ = errors.told(shown, torch.tensor([[1e-6, 3.0]]), one_token(1, 2), 1)
    assert (mean > 0.99).all()


def test_without_a_source_nothing_is_told():
    mean, precision = errors_of(1.0, 0.1).told(torch.ones(2, 1, 2), torch.ones(2, 1), one_token(1), 3)
    assert mean.shape == precision.shape == (2, 3, 2)
    assert (mean[:, 1:] == 0).all() and (precision[:, 1:] == 0).all() and (precision[:, 0] > 0).all()


@pytest.mark.parametrize("turn", [0.0, 0.3, 0.6])
def test_fitting_recovers_gain_and_variance_around_a_turn(turn):
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(40_000, 2, generator=generator) * torch.tensor([1.0, 0.3])
    told = torch.tensor([0.8, 0.4]) * true + torch.tensor([0.2, 0.1]) * torch.randn(true.shape, generator=generator)
    made = MovedErrors(2)
    made.fit(torch.full((len(true),), turn), true, told, least=0.01)
    gain, variance = made.at(torch.tensor([turn]))
    torch.testing.assert_close(gain[0], torch.tensor([0.8, 0.4]), rtol=0.03, atol=0)
    torch.testing.assert_close(variance[0].sqrt(), torch.tensor([0.2, 0.1]), rtol=0.03, atol=0)
    assert (made.variance[TURNS.index(1.2)] == NOTHING).all()  # where nothing was measured


def test_a_turn_with_few_patches_tells_nothing():
    true = torch.ones(FEWEST - 1, 2)
    made = MovedErrors(2)
    made.fit(torch.zeros(len(true)), true, true, least=0.01)
    assert (made.variance == NOTHING).all()


def test_patches_that_show_the_opposite_are_not_believed():
    true = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0))
    made = MovedErrors(2)
    made.fit(torch.zeros(len(true)), true, -true, least=0.01)
    _, precision = made.told(torch.ones(1, 1, 2), torch.full((1, 1), 1e-6), one_token(1), 1)
    assert (precision <= 1 / NOTHING).all()
