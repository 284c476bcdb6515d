"""The volume that noisy views share: it starts silent, and what one view shows reaches the rays of the others."""

import copy
from dataclasses import replace

import pytest
import torch
from test_denoiser import CAMERAS, SIGMA, XT, make_conditions
from tiny import inputs, options, tiny_config, tiny_parts

from mvgenvs.config import TrainConfig
from mvgenvs.diffusion.denoiser import JointDenoiser
from mvgenvs.diffusion.shared_volume import RADIUS, SharedVolume, normalised_projections, ray_points
from mvgenvs.errors import UserError
from mvgenvs.parts import load_parts
from mvgenvs.pipeline import MultiViewPipeline


def config(side: int = 8) -> TrainConfig:
    """Views that know of one another by the volume alone."""
    plain = tiny_config()
    return replace(plain, denoiser=replace(plain.denoiser, shared_volume=side, attention="independent"))


def awake(denoiser: JointDenoiser) -> JointDenoiser:
    torch.manual_seed(2)
    for attention in denoiser.voxels.attention:
        torch.nn.init.normal_(attention.leave.weight, std=0.5)
    return denoiser


@torch.no_grad()
def test_a_new_volume_changes_nothing():
    """Zero, not merely small: the same denoiser with and without it."""
    with_volume = tiny_parts(config()).denoiser
    without = tiny_parts(config(0)).denoiser
    without.load_state_dict(with_volume.state_dict(), strict=False)
    given = make_conditions(with_volume)
    assert torch.equal(with_volume(XT, SIGMA, given), without(XT, SIGMA, given))
    assert (awake(with_volume)(XT, SIGMA, given) - without(XT, SIGMA, given)).abs().max() > 1e-3


@torch.no_grad()
def test_views_hear_of_one_another_through_it_within_their_set():
    denoiser = awake(tiny_parts(config()).denoiser)
    given, changed = make_conditions(denoiser), XT.clone()
    changed[0, 2] += 1
    difference = (denoiser(changed, SIGMA, given) - denoiser(XT, SIGMA, given)).abs().amax(dim=(2, 3, 4))
    assert (difference[0] > 1e-6).all()
    assert (difference[1] == 0).all()
    alone = [denoiser(x, SIGMA, given, joint=False) for x in (XT, changed)]
    assert ((alone[1] - alone[0]).abs().amax(dim=(2, 3, 4))[0, :2] == 0).all()


def test_points_along_rays_project_to_their_cells_and_fill_the_sphere():
    hw = (4, 6)
    cameras = CAMERAS.resized(hw)
    points = ray_points(normalised_projections(cameras).flatten(0, 1), hw)  # (n, depth, h, w, 3)
    flat = points.flatten(1, 3).unflatten(0, CAMERAS.c2w.shape[:2])
    pixels, depth = cameras.project(flat)
    u = torch.arange(6) + 0.5
    torch.testing.assert_close(pixels[..., 0].unflatten(-1, (-1, *hw)), u.expand(*pixels.shape[:2], 8, *hw))
    middle = depth.unflatten(-1, (-1, *hw)).mean(dim=2)
    torch.testing.assert_close(middle, torch.full_like(middle, 1.3))
    assert depth.min() > 1.3 - RADIUS and depth.max() < 1.3 + RADIUS


def test_a_point_that_all_views_show_lights_up_its_voxel():
    """What is lifted is what each view shows where the voxel projects to."""
    volume = SharedVolume(1, 8, tiny_parts(config(0)).denoiser.unet, (16, 32))
    heard: list[torch.Tensor] = []
    volume.enter = torch.nn.Identity()  # image and level, unchanged
    volume.fill = torch.nn.Module()
    volume.fill.forward = lambda x: heard.append(x) or x
    point = volume.centers[:, 5, 2, 4]
    cameras = CAMERAS.resized((64, 64))
    pixels, _ = cameras.project(point.expand(2, 3, 1, 3))
    v, u = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    image = torch.exp(-((u - pixels[..., :1, None][..., 0]) ** 2 + (v - pixels[..., 1:, None][..., 0]) ** 2) / 8)
    volume.lift(image[:, :, None], torch.zeros(2, 3), normalised_projections(cameras))
    mean = heard[0][:, 0]  # (set, z, y, x)
    for each in mean:
        assert tuple(int(i) for i in torch.unravel_index(each.argmax(), each.shape)) == (5, 2, 4)


def test_it_is_saved_copied_and_sampled(tmp_path):
    pipeline = MultiViewPipeline.from_parts(tiny_parts(config()))
    awake(pipeline.denoiser)
    pipeline.save_pretrained(tmp_path)
    loaded = load_parts(tmp_path).denoiser
    with torch.no_grad():
        given = make_conditions(loaded)
        assert torch.equal(loaded(XT, SIGMA, given), pipeline.denoiser(XT, SIGMA, given))
        images = pipeline(**inputs(3), **options(block=2)).images
        copied = copy.deepcopy(loaded)  # its hooks are its own
        torch.nn.init.zeros_(loaded.voxels.attention[0].leave.weight)
        assert torch.equal(copied(XT, SIGMA, given), pipeline.denoiser(XT, SIGMA, given))
    assert images.isfinite().all()


def test_what_mixes_all_views_is_not_causal():
    with pytest.raises(UserError, match="block-causal attention forbids"):
        tiny_parts(config()).denoiser.set_attention("block-causal")
