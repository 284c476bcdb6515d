"""Projection, rays, mirroring and resizing hold for random cameras."""

import pytest
import torch

from mvgenvs.cameras import Cameras, concatenate, look_at_origin


def points_in_cube(generator: torch.Generator, views: int, n: int = 50) -> torch.Tensor:
    return torch.rand(views, n, 3, generator=generator) - 0.5


def test_unproject_inverts_project(some_cameras, generator):
    points = points_in_cube(generator, 5)
    pixels, depth = some_cameras.project(points)
    torch.testing.assert_close(some_cameras.unproject(pixels, depth), points, atol=1e-5, rtol=0)


def test_one_cloud_projects_into_every_view(some_cameras, generator):
    points = points_in_cube(generator, 1)
    pixels, depth = some_cameras.project(points)
    alone = some_cameras.select([3]).project(points)
    torch.testing.assert_close(pixels[3:4], alone[0])
    torch.testing.assert_close(depth[3:4], alone[1])


def test_origin_projects_to_the_principal_point(some_cameras):
    pixels, depth = some_cameras.project(torch.zeros(1, 1, 3))
    torch.testing.assert_close(pixels[:, 0], some_cameras.K[:, :2, 2], atol=1e-4, rtol=0)
    torch.testing.assert_close(depth[:, 0], some_cameras.centers.norm(dim=-1))


def test_rays_pass_through_pixel_centers(some_cameras):
    origins, directions = some_cameras.rays()
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(5, 24, 32))
    pixels, depth = some_cameras.project((origins + 1.7 * directions).flatten(1, 2))
    v, u = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    expected = torch.stack([u, v], dim=-1).reshape(1, -1, 2).expand(5, -1, -1)
    torch.testing.assert_close(pixels, expected, atol=1e-3, rtol=0)
    assert (depth > 0).all()


def test_batched_cameras_agree_with_single_ones(some_cameras, generator):
    batched = Cameras(some_cameras.c2w.repeat(2, 1, 1, 1), some_cameras.K.repeat(2, 1, 1, 1), some_cameras.hw)
    points = points_in_cube(generator, 5)
    pixels, _ = batched.project(points.repeat(2, 1, 1, 1))
    torch.testing.assert_close(pixels[1], some_cameras.project(points)[0])
    torch.testing.assert_close(batched.rays()[1][0], some_cameras.rays()[1])


def test_mirrored_cameras_see_reflected_points_in_flipped_images(some_cameras, generator):
    points = points_in_cube(generator, 5)
    pixels, depth = some_cameras.project(points)
    mirrored, mirrored_depth = some_cameras.mirrored().project(points * torch.tensor([-1.0, 1.0, 1.0]))
    flipped = torch.stack([some_cameras.hw[1] - pixels[..., 0], pixels[..., 1]], dim=-1)
    torch.testing.assert_close(mirrored, flipped, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(mirrored_depth, depth)
    assert torch.linalg.det(some_cameras.mirrored().c2w[..., :3, :3]).allclose(torch.ones(5))


def test_resized_cameras_scale_pixels(some_cameras, generator):
    points = points_in_cube(generator, 5)
    pixels, _ = some_cameras.project(points)
    larger, _ = some_cameras.resized((48, 96)).project(points)
    torch.testing.assert_close(larger, pixels * torch.tensor([3.0, 2.0]), atol=1e-3, rtol=1e-5)


def test_plucker_moment_does_not_depend_on_the_point_of_the_ray(some_cameras):
    direction, moment = some_cameras.plucker().split(3, dim=-3)
    assert (direction * moment).sum(dim=-3).abs().max() < 1e-5
    origins, directions = some_cameras.rays()
    elsewhere = torch.linalg.cross(origins + 0.7 * directions, directions).movedim(-1, -3)
    torch.testing.assert_close(moment, elsewhere, atol=1e-5, rtol=0)


def test_look_at_origin_keeps_the_world_upright():
    c2w = look_at_origin(torch.tensor([[0.0, 0.4, -1.2], [1.0, 0.3, 0.5], [0.0, 1.3, 0.0]]))
    rotation = c2w[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).repeat(3, 1, 1), atol=1e-6, rtol=0)
    assert torch.linalg.det(rotation).allclose(torch.ones(3))
    assert (rotation[:2, 1, 1] < 0).all(), "the image's down is not the world's down"
    assert rotation[:2, 1, 0].abs().max() < 1e-6, "the horizon is tilted"


def test_concatenate_keeps_order(some_cameras):
    joined = concatenate([some_cameras.select([4]), some_cameras.select(slice(0, 2))])
    torch.testing.assert_close(joined.c2w, some_cameras.c2w[[4, 0, 1]])


def test_wrong_shapes_raise():
    """Shows that the checks of jaxtyping and beartype are on."""
    with pytest.raises(Exception, match="c2w"):
        Cameras(torch.eye(3)[None], torch.eye(3)[None], (4, 4))
    with pytest.raises(Exception, match="centers"):
        look_at_origin(torch.zeros(3))
