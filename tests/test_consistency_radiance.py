"""The 3-D consistency score: what one scene explains scores well, what none can explain does not."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import Solid, ray_cast, ring_cameras, toy_car

from eval.metrics.radiance import FitSettings, VoxelField, consistency_3d, held_out_views
from mvgenvs.cameras import Cameras
from mvgenvs.views import ViewSet

QUICK = FitSettings(image_size=32, resolutions=(16, 32), steps=(80, 80), rays=(256, 256))


def sequence(*cars: int) -> ViewSet:
    """Twelve views round an object; of several objects, each frame shows the next."""
    cameras = ring_cameras(12, 32)
    sets = [ray_cast(toy_car(car), cameras) for car in cars]
    return sets[0].with_images(torch.stack([sets[i % len(sets)].images[i] for i in range(12)]))


def test_frames_of_one_object_score_higher_than_frames_of_several() -> None:
    one, several = sequence(1), sequence(1, 2, 3)
    consistent = consistency_3d(one.images, one.cameras, lambda a, b: (a - b).abs().mean(dim=(1, 2, 3)), QUICK)
    mixed = consistency_3d(several.images, several.cameras, settings=QUICK)
    assert consistent["mean_psnr"] > 22
    assert consistent["mean_psnr"] > mixed["mean_psnr"] + 4
    assert consistent["ssim"][0] > mixed["ssim"][0] + 0.05
    assert consistent["held_out"] == [6] and len(consistent["lpips"]) == 1 and mixed["lpips"] is None
    json.dumps(consistent, allow_nan=False)


def test_the_score_is_reproducible_and_leaves_the_global_random_state_alone() -> None:
    views = sequence(2)
    few = replace(QUICK, steps=(20, 10))
    state = torch.get_rng_state()
    with torch.no_grad():
        first = consistency_3d(views.images, views.cameras, settings=few)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert consistency_3d(views.images, views.cameras, settings=few) == first
    other = consistency_3d(views.images, views.cameras, settings=replace(few, seed=1))
    assert other["psnr"] != first["psnr"]


@pytest.mark.parametrize(("count", "expected"), [(23, [5, 17]), (12, [6]), (3, [1]), (40, [5, 15, 25, 35])])
def test_a_tenth_of_the_views_is_held_out_evenly_spread(count: int, expected: list[int]) -> None:
    assert held_out_views(count) == expected


def test_too_few_views_have_no_score() -> None:
    cameras = ring_cameras(2, 32)
    assert consistency_3d(torch.ones(2, 3, 32, 32), cameras) is None


def filled_box() -> tuple[VoxelField, Solid]:
    """A field that is opaque and of one colour inside an off-centre box, and the box."""
    box = Solid((0.2, -0.1, 0.05), (0.1, 0.2, 0.3), (0.8, 0.3, 0.1))
    field = VoxelField(40)
    centres = (torch.arange(40) + 0.5) / 40 - 0.5
    z, y, x = torch.meshgrid(centres, centres, centres, indexing="ij")
    inside = ((x - 0.2).abs() < 0.1) & ((y + 0.1).abs() < 0.2) & ((z - 0.05).abs() < 0.3)
    with torch.no_grad():
        field.grid[0, 0] = torch.where(inside, 10.0, -20.0)
        field.grid[0, 1:] = torch.tensor(box.colour).logit()[:, None, None, None]
    return field, box


def test_the_grid_lies_in_the_world_as_the_cameras_do(some_cameras: Cameras) -> None:
    field, box = filled_box()
    cameras = ring_cameras(3, 48)
    expected, rendered = ray_cast([box], cameras).images, field.render(cameras)
    assert (rendered - expected).abs().mean() < 0.02
    assert (rendered.flip(-1) - expected).abs().mean() > 0.05  # a mirrored world would show


def test_skipping_empty_voxels_does_not_change_the_picture() -> None:
    field, _ = filled_box()
    cameras = ring_cameras(2, 32)
    before = field.render(cameras)
    field.prune()
    assert field.occupied is not None and field.occupied.float().mean() < 0.2
    assert field.render(cameras) == pytest.approx(before, abs=5e-3)


def test_refining_keeps_the_picture() -> None:
    field, _ = filled_box()
    cameras = ring_cameras(2, 32)
    before = field.render(cameras)
    field.refine(80)
    assert field.grid.shape[-1] == 80 and field.grid.requires_grad
    assert (field.render(cameras) - before).abs().mean() < 0.01
