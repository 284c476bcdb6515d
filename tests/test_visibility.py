"""What known views see: everything before the first surface, nothing behind it, in true and mirrored views."""

from dataclasses import replace

import pytest
import torch
from tiny import ring_cameras, stacked
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.nerf.model import ViewNeRF
from mvgenvs.nerf.visibility import visibility
from mvgenvs.nerf.volume import sample_volumes
from mvgenvs.nerf.world import centers_of

EXTENT, GRID = (0.3, 0.3, 0.5), (24, 24, 40)
NEAR, FAR, DEPTH = 0.8, 1.8, 32
BALL, RADIUS = torch.tensor([0.1, -0.05, 0.15]), 0.12


def ball_logits() -> Tensor:
    centers = centers_of(GRID) * torch.tensor(EXTENT).view(3, 1, 1, 1)
    inside = (centers - BALL.view(3, 1, 1, 1)).norm(dim=0) < RADIUS
    return torch.where(inside, 8.0, -12.0)[None]


def seen_at(points: Tensor, cameras: Cameras) -> Tensor:
    """What each view sees of world points (n, 3), read as the field reads it: (view, n)."""
    volume = visibility(ball_logits(), EXTENT, cameras, NEAR, FAR, (DEPTH, 32, 32))
    pixels, depth = cameras.project(points.expand(1, cameras.num_views, -1, -1))
    x, y = (2 * pixels[..., axis] / cameras.hw[1 - axis] - 1 for axis in (0, 1))
    z = (2 * depth - NEAR - FAR) / (FAR - NEAR)
    return sample_volumes(volume[:, :, None], torch.stack([x, y, z], dim=-1))[0, ..., 0]


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_ball_hides_what_is_behind_it_and_nothing_else(mirrored: bool) -> None:
    cameras = stacked(ring_cameras(3, 64), 1)
    cameras = cameras.mirrored() if mirrored else cameras
    for view in range(3):
        towards = cameras.centers[0, view] - BALL
        towards = towards / towards.norm()
        aside = torch.linalg.cross(towards, torch.tensor([0.0, 1.0, 0.0]))
        behind_it = BALL - 0.2 * towards
        points = torch.stack(
            [BALL + 0.25 * towards, BALL + RADIUS * towards, behind_it, behind_it + 0.25 * aside / aside.norm()]
        )
        before, surface, behind, beside = seen_at(points, cameras.select([view]))[0].tolist()
        assert before > 0.98 and beside > 0.95 and behind < 0.01
        assert surface > 0.5, "the surface itself is seen"


def test_beyond_the_box_there_is_nothing() -> None:
    everything = torch.full((1, *GRID[::-1]), 8.0)
    cameras = stacked(ring_cameras(1, 64), 1)
    seen = visibility(everything, EXTENT, cameras, NEAR, FAR, (DEPTH, 16, 16))
    assert seen.shape == (1, 1, DEPTH, 16, 16)
    assert (seen[:, :, 0] == 1).all() and seen[0, 0, -1, 8, 8] < 1e-6
    assert (seen.diff(dim=2) <= 0).all()
    apart = cameras.moved(torch.eye(4)[None] + torch.tensor([0.0, 3.0, 0.0, 0.0]).diag_embed().roll(2, -1))
    assert (visibility(everything, EXTENT, apart, NEAR, FAR, (DEPTH, 16, 16)) == 1).all(), "rays that pass the box by"


@torch.no_grad()
def test_the_field_hears_what_is_hidden() -> None:
    torch.manual_seed(0)
    world = {"world_channels": 4, "world_widths": (16, 16, 32), "world_grid": (4, 4, 8), "world_density": True}
    cameras, points = stacked(ring_cameras(1, 32), 1), (torch.rand(1, 50, 3) - 0.5) * 0.2
    nerf = ViewNeRF((16, 16, 16), volume_depth=16, visibility=True, mirror_known=False, **world).eval()
    scene = nerf.encode(torch.rand(1, 1, 3, 32, 32), cameras)
    channel = scene.volumes[:, :, -2]
    expected = visibility(scene.world_logits, nerf.config.world_extent, cameras, 0.8, 1.8, (16, 8, 8))
    torch.testing.assert_close(channel, expected)
    hidden = scene.volumes.clone()
    hidden[:, :, -2] = 1 - hidden[:, :, -2]
    blind = replace(scene, volumes=hidden)
    assert not torch.equal(nerf.field(scene, points)[0], nerf.field(blind, points)[0])


@torch.no_grad()
def test_what_no_view_sees_gets_the_objects_mean_colour() -> None:
    """A field that copies alone: the pixel where it is seen, and the mean of the object's pixels where it is not."""
    torch.manual_seed(0)
    world = {"world_channels": 4, "world_widths": (16, 16, 32), "world_grid": (4, 4, 8), "world_density": True}
    nerf = ViewNeRF((16, 16, 16), volume_depth=16, visibility=True, mirror_known=False, **world).eval()
    nerf.field.mlp[-1].weight[-1] = 0
    nerf.field.mlp[-1].bias[-1] = 99  # copy
    images = torch.ones(1, 1, 3, 32, 32)
    images[..., 8:24, 8:16], images[..., 8:24, 16:24] = torch.tensor([0.1, 0.3]).view(2, 1, 1, 1, 1, 1)
    points = (torch.rand(1, 50, 3) - 0.5) * 0.1
    scene = nerf.encode(images, stacked(ring_cameras(1, 32), 1))
    torch.testing.assert_close(scene.paint, torch.full((1, 3), 0.2))
    volumes = scene.volumes.clone()
    for seen in (0.0, 1.0):
        volumes[:, :, -2] = seen
        colours = nerf.field(replace(scene, volumes=volumes), points)[1][..., :3]
        if seen:
            assert colours.min() < 0.15 and colours.max() > 0.25
        else:
            torch.testing.assert_close(colours, torch.full_like(colours, 0.2))


@torch.no_grad()
def test_what_no_view_sees_gets_the_worlds_colour() -> None:
    torch.manual_seed(0)
    world = {"world_channels": 8, "world_widths": (16, 16, 32), "world_grid": (4, 4, 8), "world_density": True}
    nerf = ViewNeRF(
        (16, 16, 16), volume_depth=16, visibility=True, world_paint=True, mirror_known=False, **world
    ).eval()
    scene = nerf.encode(torch.full((1, 1, 3, 32, 32), 0.2), stacked(ring_cameras(1, 32), 1))
    points = (torch.rand(1, 50, 3) - 0.5) * 0.1
    told, volumes = scene.world.clone(), scene.volumes.clone()
    told[:, :3] = torch.tensor([0.9, 0.5, 0.1]).logit().view(1, 3, 1, 1, 1)
    for trust, expected in ((-99.0, [0.9, 0.5, 0.1]), (99.0, [0.2, 0.2, 0.2])):
        told[:, 3] = trust  # in the mean colour
        volumes[:, :, -2] = 0  # hidden
        colours = nerf.field(replace(scene, volumes=volumes, world=told), points)[1][..., :3]
        torch.testing.assert_close(colours, torch.tensor(expected).expand_as(colours))
    volumes[:, :, -2] = 1  # seen: the world's colour counts for nothing, nor does the MLP hear of it
    other = told.clone()
    other[:, :4] = -other[:, :4]
    seen = [nerf.field(replace(scene, volumes=volumes, world=x), points)[1] for x in (told, other)]
    assert torch.equal(*seen)
