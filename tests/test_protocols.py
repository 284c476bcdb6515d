"""The choice of views: all around the object, in order, and the same each time."""

import math

import pytest
import torch

from eval.directions import viewing_angles
from eval.protocols import orbit_views, srn_views
from mvgenvs.cameras import Cameras, look_at_origin
from mvgenvs.errors import UserError


def spiral(num_views: int) -> Cameras:
    """Views winding nine times from the horizon to the top, about as SRN's test views do."""
    turns = torch.linspace(0, 1, num_views, dtype=torch.float64)
    el, az = turns * math.pi / 2 * 0.99, turns * 2 * math.pi * 9
    centers = 1.3 * torch.stack([el.cos() * az.sin(), el.sin(), -el.cos() * az.cos()], dim=-1)
    c2w = look_at_origin(centers.float())
    return Cameras(c2w, torch.eye(3).repeat(num_views, 1, 1), (8, 8))


def test_viewing_angles_follow_the_convention() -> None:
    centers = torch.tensor([[0.0, 0.0, -1.3], [1.3, 0.0, 0.0], [0.0, 1.0, 1.0]])
    azimuth, elevation = viewing_angles(Cameras(look_at_origin(centers), torch.eye(3).repeat(3, 1, 1), (8, 8)))
    assert azimuth.tolist() == pytest.approx([0, 90, 180], abs=1e-4)
    assert elevation.tolist() == pytest.approx([0, 0, 45], abs=1e-4)


@pytest.mark.parametrize("num_views", [85, 251])
def test_orbit_goes_once_round_at_low_elevation(num_views: int) -> None:
    cameras = spiral(num_views)
    choice = orbit_views(range(num_views), cameras)
    azimuth, elevation = viewing_angles(cameras.select([*choice.inputs, *choice.targets]))
    assert len(choice.targets) == len(set(choice.targets) - set(choice.inputs)) == 23
    assert abs(azimuth[0] - 45) < 15
    assert abs(elevation[0] - 20) < 15
    steps = azimuth.diff(append=azimuth[:1]) % 360
    assert steps.sum().item() == pytest.approx(360, abs=1e-2)  # one turn, never backwards
    assert steps.max() < 31
    assert elevation.min() >= 5
    assert elevation.max() <= 45
    assert (elevation - 20).abs().mean() < 12
    assert orbit_views(range(num_views), cameras) == choice


def test_orbit_needs_24_views_in_its_band() -> None:
    with pytest.raises(UserError, match="needs 24 views"):
        orbit_views(range(30), spiral(30))


@pytest.mark.parametrize(("num_inputs", "azimuths"), [(2, [225]), (3, [225, 135])])
def test_further_inputs_of_the_orbit_lie_at_corners_and_change_no_target(num_inputs: int, azimuths: list[int]) -> None:
    cameras = spiral(251)
    one, more = orbit_views(range(251), cameras), orbit_views(range(251), cameras, num_inputs)
    assert more.targets == one.targets
    assert more.inputs[0] == one.inputs[0]
    assert len({*more.inputs, *one.targets}) == num_inputs + len(one.targets)
    azimuth, elevation = (angle[list(more.inputs[1:])] for angle in viewing_angles(cameras))
    assert ((azimuth - torch.tensor(azimuths)).abs() < 20).all()
    assert ((elevation - 20).abs() < 20).all()


@pytest.mark.parametrize("num_inputs", [0, 4])
def test_orbit_takes_one_to_three_inputs(num_inputs: int) -> None:
    with pytest.raises(UserError, match=f"1 to 3 input views, not {num_inputs}"):
        orbit_views(range(85), spiral(85), num_inputs=num_inputs)


def test_srn_takes_view_64_and_predicts_all_others() -> None:
    view_ids = [0, 3, 64, 66]
    choice = srn_views(view_ids, spiral(4))
    assert (choice.inputs, choice.targets) == ((2,), (0, 1, 3))
    with pytest.raises(UserError, match="000064"):
        srn_views([0, 3], spiral(2))


def test_srn_with_two_inputs_takes_views_64_and_104() -> None:
    choice = srn_views([0, 64, 66, 104, 105], spiral(5), num_inputs=2)
    assert (choice.inputs, choice.targets) == ((1, 3), (0, 2, 4))
    with pytest.raises(UserError, match="000104"):
        srn_views([0, 64, 66], spiral(3), num_inputs=2)
    with pytest.raises(UserError, match="1 or 2 input views, not 3"):
        srn_views([0, 64, 104], spiral(3), num_inputs=3)
