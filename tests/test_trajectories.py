"""Trajectories stand where their angles say, and the spiral is that of SRN's test sets."""

import pytest
import torch

from mvgenvs.trajectories import (
    TRAJECTORIES,
    angles_of,
    cameras_at,
    canonical_camera,
    centers_at,
    circle,
    orbit,
    srn_spiral,
)

# The first three rows of pose/NNNNNN.txt of OpenCars' test cars, as rendered.
SPIRAL_POSES = {
    0: [
        [-0.91294525, 0.0, -0.40808206, 0.53050668],
        [0.0, -1.0, 0.0, 0.0],
        [-0.40808206, 0.0, 0.91294525, -1.18682883],
    ],
    3: [
        [-0.98360860, 0.00338515, -0.18028493, 0.23437040],
        [0.0, -0.99982377, -0.01877336, 0.02440536],
        [-0.18031670, -0.01846563, 0.98343526, -1.27846584],
    ],
    27: [
        [0.15956091, -0.16601268, 0.97312903, -1.26506774],
        [0.0, -0.98575848, -0.16816723, 0.21861740],
        [0.98718809, 0.02683292, -0.15728852, 0.20447507],
    ],
}


def test_azimuth_grows_from_the_front_towards_plus_x():
    centers = centers_at(torch.tensor([0.0, 90.0, 180.0, 0.0]), torch.tensor([0.0, 0.0, 0.0, 90.0]), 1.0)
    expected = torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(centers, expected, atol=1e-6, rtol=0)


def test_angles_invert_centers(generator):
    azimuth = torch.rand(50, generator=generator) * 358 - 179
    elevation = torch.rand(50, generator=generator) * 170 - 85
    found = angles_of(centers_at(azimuth, elevation))
    torch.testing.assert_close(found[0], azimuth, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[1], elevation, atol=1e-3, rtol=0)


@pytest.mark.parametrize("index", SPIRAL_POSES)
def test_spiral_reproduces_rendered_poses(index):
    torch.testing.assert_close(srn_spiral().c2w[index, :3], torch.tensor(SPIRAL_POSES[index]), atol=1e-6, rtol=0)


def test_spiral_climbs_from_the_equator_to_the_pole():
    _, elevation = angles_of(srn_spiral().centers)
    assert elevation[0].abs() < 1e-4
    assert 89 < elevation[-1] < 90
    assert (elevation.diff() > 0).all()


def test_orbit_is_an_even_turn_at_one_elevation():
    azimuth, elevation = angles_of(orbit(8, elevation=30.0, azimuth=10.0).centers)
    torch.testing.assert_close(elevation, torch.full((8,), 30.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(azimuth % 360, 10.0 + 45.0 * torch.arange(8), atol=1e-3, rtol=0)


def test_circle_stays_at_its_angle_around_the_middle():
    middle = canonical_camera().centers[0]
    around = circle(12, angle=9.0).centers
    cosine = torch.nn.functional.cosine_similarity(around, middle[None])
    torch.testing.assert_close(torch.rad2deg(cosine.acos()), torch.full((12,), 9.0), atol=1e-2, rtol=0)
    torch.testing.assert_close(around.mean(0) / around.mean(0).norm(), middle / middle.norm(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_named_trajectories_look_at_the_origin_with_srn_intrinsics(name):
    cameras = TRAJECTORIES[name](7, 20.0, 0.0, (64, 64))
    assert cameras.num_views == 7
    assert cameras.c2w.dtype == cameras.K.dtype == torch.float32
    pixels, depth = cameras.project(torch.zeros(1, 1, 3))
    torch.testing.assert_close(pixels, torch.full((7, 1, 2), 32.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(depth, torch.full((7, 1), 1.3), atol=1e-5, rtol=0)
    torch.testing.assert_close(cameras.K[:, 0, 0], torch.full((7,), 131.25 / 2))


def test_canonical_camera_shows_the_front_on_the_right():
    """From azimuth 45 the car's front (-z) is nearer than its tail and lies to the right of it in the image."""
    ends = torch.tensor([[[0.0, 0.0, -0.45], [0.0, 0.0, 0.45]]])
    pixels, depth = canonical_camera().project(ends)
    assert pixels[0, 0, 0] > pixels[0, 1, 0]
    assert depth[0, 0] < depth[0, 1]


def test_no_gimbal_at_the_pole():
    cameras = cameras_at(centers_at(torch.tensor([30.0]), torch.tensor([90.0])))
    rotation = cameras.c2w[0, :3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-5, rtol=0)
    pixels, depth = cameras.project(torch.zeros(1, 1, 3))
    torch.testing.assert_close(pixels[0, 0], cameras.K[0, :2, 2], atol=1e-3, rtol=0)
    assert depth.item() == pytest.approx(cameras.centers[0].norm().item(), abs=1e-5), "it looks at the origin"
