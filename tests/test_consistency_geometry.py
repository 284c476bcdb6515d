"""TSED and warp error against exact geometry: ray-cast scenes painted with a colour that depends on the place alone."""

import json
import math

import numpy as np
import pytest
import torch
from tiny import Solid, ray_cast, ring_cameras
from torch import Tensor

from eval.metrics.tsed import MATCH_SIZE, find_features, fundamental_matrix, symmetric_epipolar_distance, tsed
from eval.metrics.warp import warp, warp_error
from mvgenvs.cameras import Cameras, look_at_origin
from mvgenvs.views import ViewSet

SIZE = 128
BOXES = [
    Solid((0.0, -0.05, 0.0), (0.18, 0.12, 0.4), (0.5, 0.5, 0.5)),
    Solid((0.0, 0.12, 0.08), (0.1, 0.06, 0.15), (0.5, 0.5, 0.5)),
]


def orbit_cameras(count: int, degrees: float, size: int = SIZE) -> Cameras:
    azimuth = 0.3 + torch.arange(count) * math.radians(degrees)
    centers = torch.stack([azimuth.sin(), torch.full_like(azimuth, 0.45), azimuth.cos()], dim=-1)
    like = ring_cameras(count, size)
    return Cameras(look_at_origin(1.3 * centers / centers.norm(dim=-1, keepdim=True)), like.K, like.hw)


def painted(cameras: Cameras, frequency: float) -> ViewSet:
    """Boxes whose colours are waves in space, at most `frequency` radians per world unit."""
    views = ray_cast(BOXES, cameras)
    height, width = cameras.hw
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([u, v], dim=-1).reshape(1, -1, 2).expand(cameras.num_views, -1, -1)
    points = cameras.unproject(pixels, views.depth.flatten(1))
    generator = torch.Generator().manual_seed(0)
    waves = (torch.rand(3, 12, generator=generator) - 0.5) * 2 * frequency
    phases = torch.rand(12, generator=generator) * 2 * math.pi
    colours = 0.5 + (points @ waves + phases).sin().unflatten(-1, (3, 4)).mean(dim=-1) * 0.9
    colours = colours.clamp(0, 1).movedim(-1, 1).unflatten(-1, (height, width))
    return views.with_images(torch.where(views.mask > 0, colours, 1.0))


def shifted(images: Tensor, rows: list[int]) -> Tensor:
    return torch.stack([image.roll(amount, dims=-2) for image, amount in zip(images, rows, strict=True)])


def in_double(cameras: Cameras) -> Cameras:
    return Cameras(cameras.c2w.double(), cameras.K.double(), cameras.hw)


def test_projections_of_one_point_lie_on_each_others_epipolar_lines(some_cameras: Cameras) -> None:
    cameras = in_double(some_cameras)
    points = torch.rand(1, 30, 3, generator=torch.Generator().manual_seed(1)).double() - 0.5
    pixels = cameras.project(points)[0].numpy()
    for i, j in ((0, 1), (1, 0), (2, 4)):
        F = fundamental_matrix(cameras, i, j)
        assert symmetric_epipolar_distance(pixels[i], pixels[j], F) == pytest.approx(np.zeros(30), abs=1e-5)
        assert np.median(symmetric_epipolar_distance(pixels[i], pixels[j] + 5, F)) > 0.5
        assert np.median(symmetric_epipolar_distance(pixels[j], pixels[i], F)) > 0.5  # roles exchanged


def test_distance_is_the_mean_of_both_distances_to_a_line() -> None:
    side_by_side = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # epipolar lines are rows: y2 = y1
    twice_as_large = side_by_side @ np.diag([1, 2, 1])  # the second view is twice as large: y2 = 2 y1
    p1, p2 = np.array([[3.0, 4.0], [5.0, 1.0]]), np.array([[10.0, 6.5], [0.0, 1.0]])
    assert symmetric_epipolar_distance(p1, p2, side_by_side) == pytest.approx([2.5, 0])
    assert symmetric_epipolar_distance(p1, p2, twice_as_large) == pytest.approx([(1.5 + 0.75) / 2, (1 + 0.5) / 2])


def test_features_lie_where_they_are_seen_with_pixel_centres_at_one_half() -> None:
    rng = np.random.default_rng(0)
    for x, y in rng.uniform(50, 78, (8, 2)):
        v, u = np.mgrid[:SIZE, :SIZE] + 0.5
        blob = 255 - 200 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 2.5**2))
        image = np.repeat(blob.round().astype(np.uint8)[..., None], 3, axis=-1)
        points = find_features(image, (MATCH_SIZE, MATCH_SIZE)).points
        nearest = points[np.linalg.norm(points - 2 * np.array([x, y]), axis=1).argmin()]
        assert nearest == pytest.approx(2 * np.array([x, y]), abs=0.1)


def test_tsed_passes_a_rigid_scene_and_fails_one_whose_frames_jump() -> None:
    views = painted(orbit_cameras(4, 8), 90)
    still = tsed(views.images, views.cameras)
    assert still["score"] == 1 and still["num_pairs"] == 3
    assert min(still["matches"]) >= 30 and max(still["medians"]) < 0.5
    jumping = tsed(shifted(views.images, [0, 4, 0, 4]), views.cameras)
    assert jumping["score"] == 0
    assert min(jumping["medians"]) == pytest.approx(8, abs=1.5)  # 4 rows at 128 px
    mixed = tsed(shifted(views.images, [0, 0, 0, 4]), views.cameras, closed=True)
    assert mixed["passes"][:3] == [True, True, False] and mixed["num_pairs"] == 4


def test_tsed_without_matches_fails_and_without_a_baseline_is_undefined() -> None:
    cameras = orbit_cameras(3, 8)
    blank = tsed(torch.ones(3, 3, SIZE, SIZE), cameras)
    assert blank == {
        "score": 0, "num_pairs": 2, "matches": [0, 0], "medians": [None, None], "passes": [False, False]
    }  # fmt: skip
    one_place = tsed(torch.ones(2, 3, SIZE, SIZE), cameras.select([1, 1]))
    assert one_place["score"] is None and one_place["num_pairs"] == 0 and one_place["passes"] == [None]


def test_a_warped_ramp_of_coordinates_says_where_each_point_projects() -> None:
    views = painted(orbit_cameras(2, 20, 64), 5)
    u = ((torch.arange(64) + 0.5) / 64).expand(64, 64)
    ramp = torch.stack([u, u.T, torch.zeros(64, 64)])[None]
    warped = warp(ramp, views, [0], [1])
    rows, columns = warped.visible[0, 0].nonzero().T.tolist()
    assert len(rows) > 300
    c2w, K = views.cameras.c2w.double().numpy(), views.cameras.K.double().numpy()
    for row, column in list(zip(rows, columns, strict=True))[::7]:
        ray = np.linalg.inv(K[0]) @ np.array([column + 0.5, row + 0.5, 1.0])
        world = c2w[0] @ np.append(ray * views.depth[0, 0, row, column].item(), 1.0)
        pixel = K[1] @ (np.linalg.inv(c2w[1]) @ world)[:3]
        assert warped.images[0, :2, row, column].numpy() * 64 == pytest.approx(pixel[:2] / pixel[2], abs=1e-3)


def test_points_that_something_hides_from_the_other_view_are_left_out() -> None:
    cameras = orbit_cameras(2, 100, 64)
    views = ray_cast(BOXES, cameras)
    visible = warp(views.images[[1]], views, [0], [1]).visible[0, 0]
    v, u = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    pixels = torch.stack([u, v], dim=-1).reshape(1, -1, 2)
    points = cameras.select([0]).unproject(pixels, views.depth[:1].flatten(1))[0]
    towards = points - cameras.centers[1]
    distance = towards.norm(dim=-1)
    first_hit = torch.stack([box.hit(cameras.centers[1], towards / distance[:, None]) for box in BOXES]).amin(dim=0)
    seen = (views.mask[0, 0] > 0) & ((first_hit / distance - 1).abs() < 0.01).unflatten(0, (64, 64))
    assert not (visible & ~((first_hit / distance - 1).abs() < 0.02).unflatten(0, (64, 64))).any()
    hidden = (views.mask[0, 0] > 0) & ~seen
    assert hidden.sum() > 100  # the scene does put the rule to the test
    assert (visible & seen).sum() > 0.75 * seen.sum()  # edges are lost to interpolation


def test_warp_error_is_small_for_the_truth_and_large_for_frames_that_jump_or_change_colour() -> None:
    views = painted(orbit_cameras(5, 15, 64), 12)
    true = warp_error(views.images, views, closed=True)
    assert true["num_pairs"] == 5 and len(true["psnr"]) == 5
    assert min(true["psnr"][:4]) > 35
    assert min(true["coverage"][:4]) > 0.6 and max(true["coverage"]) <= 1
    assert true["rmse"] == pytest.approx([10 ** (-value / 20) for value in true["psnr"]], rel=1e-4)
    moved = warp_error(shifted(views.images, [0, 3, 0, 3, 0]), views)
    assert max(moved["psnr"]) < 25
    darker = views.images * torch.tensor([1, 0.9, 1, 0.9, 1])[:, None, None, None]
    assert max(warp_error(darker, views)["psnr"]) < 30
    assert max(moved["coverage"]) <= 1 and moved["coverage"] == true["coverage"][:4]


def test_warp_error_ignores_what_is_not_visible_in_both() -> None:
    views = painted(orbit_cameras(3, 15, 64), 12)
    seen_by_distance = []

    def distance(a: Tensor, b: Tensor) -> Tensor:
        seen_by_distance.append((a, b))
        return (a - b).abs().amax(dim=(1, 2, 3))

    before = warp_error(views.images, views, distance)
    after = warp_error(torch.where(views.mask > 0, views.images, 0.0), views, distance)
    assert after == before
    a, b = seen_by_distance[0]
    visible = warp(views.images[[1, 2]], views, [0, 1], [1, 2]).visible.expand_as(a)
    assert a[~visible].eq(1).all() and b[~visible].eq(1).all()
    assert before["mean_lpips"] == pytest.approx(sum(before["lpips"]) / 2) and before["mean_lpips"] > 0


def test_warp_error_is_undefined_without_depth_or_common_points() -> None:
    views = painted(orbit_cameras(3, 15, 64), 12)
    assert warp_error(views.images, ViewSet(views.images, views.cameras, views.mask)) is None
    empty = ViewSet(views.images, views.cameras, views.mask, torch.zeros_like(views.depth))
    figures = warp_error(views.images, empty, lambda a, b: (a - b).abs().mean(dim=(1, 2, 3)))
    assert figures["psnr"] == figures["rmse"] == figures["lpips"] == [None, None]
    assert figures["mean_psnr"] is None and figures["num_pairs"] == 0 and figures["coverage"] == [0, 0]
    json.dumps(figures, allow_nan=False)
