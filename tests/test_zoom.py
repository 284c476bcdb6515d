"""Known views cropped to their object: the crop's camera sees each point where the crop shows it."""

import pytest
import torch
from tiny import ring_cameras, stacked

from mvgenvs.cameras import Cameras
from mvgenvs.nerf.model import ViewNeRF
from mvgenvs.nerf.zoom import LARGEST, MARGIN, zoom
from mvgenvs.views import UNKNOWN, with_matte

SIZE = 64


def dot(cameras: Cameras, point: torch.Tensor) -> torch.Tensor:
    """White views with a dark blob of some pixels where a point of the world lies, (1, views, 3, h, w)."""
    pixels, _ = cameras.project(point.expand(cameras.num_views, 1, 3))
    axis = torch.arange(SIZE) + 0.5
    distance = (axis - pixels[:, :, :1]).square()[:, None] + (axis - pixels[:, :, 1:]).square()[..., None]
    return 1 - torch.exp(-distance / 4)[None].expand(-1, -1, 3, -1, -1).movedim(1, 1) * torch.ones(3, 1, 1)


def middle(images: torch.Tensor) -> torch.Tensor:
    """Centre of what is dark in each view, in pixels."""
    dark = (1 - images).mean(dim=2)[0]
    axis = torch.arange(images.shape[-1]) + 0.5
    total = dark.sum(dim=(-1, -2))
    return torch.stack([(dark.sum(dim=-2) * axis).sum(-1), (dark.sum(dim=-1) * axis).sum(-1)], dim=-1) / total[:, None]


@pytest.mark.parametrize("point", [(0.0, 0.0, 0.0), (0.2, -0.1, 0.15), (-0.25, 0.12, -0.2)])
def test_a_point_is_shown_where_the_crops_camera_sees_it(point: tuple[float, float, float]) -> None:
    cameras, place = ring_cameras(3, SIZE), torch.tensor(point)
    crops, of_crops = zoom(dot(cameras, place), stacked(cameras, 1))
    expected, _ = of_crops.project(place.expand(1, 3, 1, 3))
    assert (of_crops.K[..., 0, 0] > 1.5 * cameras.K[..., 0, 0]).all(), "it should be enlarged"
    assert torch.allclose(middle(crops), expected[0, :, 0], atol=0.1)


def test_the_crop_is_the_objects_square_and_a_margin() -> None:
    images = torch.ones(1, 1, 3, SIZE, SIZE)
    images[..., 20:30, 8:48] = 0.5
    cameras = stacked(ring_cameras(1, SIZE), 1)
    crops, of_crops = zoom(images, cameras)
    scale = SIZE / (MARGIN * 40)
    assert of_crops.K[0, 0, 0, 0] == pytest.approx(float(cameras.K[0, 0, 0, 0]) * scale)
    dark = (crops[0, 0, 0] < 0.75).nonzero()
    assert (dark.amax(dim=0) - dark.amin(dim=0) + 1).tolist() == pytest.approx([10 * scale, 40 * scale], abs=1)
    assert (crops[0, 0, :, 0] == 1).all() and (crops[0, 0, :, :, 0] == 1).all(), "beyond it, all is white"


def test_small_objects_are_not_enlarged_without_end_and_empty_views_not_at_all() -> None:
    images = torch.ones(1, 2, 3, SIZE, SIZE)
    images[:, 0, :, 30:32, 30:32] = 0
    cameras = stacked(ring_cameras(2, SIZE), 1)
    crops, of_crops = zoom(images, cameras)
    assert of_crops.K[0, 0, 1, 1] == pytest.approx(float(cameras.K[0, 0, 1, 1]) * LARGEST)
    assert torch.equal(crops[:, 1], images[:, 1]) and torch.allclose(of_crops.K[:, 1], cameras.K[:, 1])


def test_a_scene_does_not_depend_on_where_the_object_lies_in_the_frame() -> None:
    """The known camera turned away, so that the object lies elsewhere in its frame, lifts to the same scene."""
    torch.manual_seed(0)
    nerf = ViewNeRF((16, 16, 16), volume_depth=4, zoom_known=True).eval()
    images = torch.ones(1, 1, 3, SIZE, SIZE)
    images[..., 24:40, 16:48] = torch.rand(3, 16, 32)
    cameras = stacked(ring_cameras(1, SIZE), 1)
    moved = cameras.K.clone()
    moved[..., 0, 2] += 5
    with torch.no_grad():
        here = nerf.encode(images, cameras)
        there = nerf.encode(images.roll(5, dims=-1), Cameras(cameras.c2w, moved, cameras.hw))
        plain = nerf.encode(images, cameras, noise=torch.full_like(images, 0.1))
    assert torch.allclose(here.volumes, there.volumes, atol=1e-5)
    assert torch.allclose(here.cameras.K, there.cameras.K, atol=1e-3)
    assert torch.allclose(plain.images, here.images + 0.1, atol=1e-5), "noise is added to the crop"


def test_white_parts_of_an_object_are_in_the_square_that_its_matte_fills() -> None:
    """A dark square with a white part beside it, which only the matte knows of."""
    images = torch.ones(1, 1, 3, SIZE, SIZE)
    images[..., 20:30, 20:30] = 0.2
    matte = torch.zeros(1, 1, 1, SIZE, SIZE)
    matte[..., 20:30, 20:50] = 1
    cameras = stacked(ring_cameras(1, SIZE), 1)
    crops, of_crops = zoom(with_matte(images, matte), cameras)
    assert of_crops.K[0, 0, 0, 0] == pytest.approx(float(cameras.K[0, 0, 0, 0]) * SIZE / (MARGIN * 30))
    shown = (crops[0, 0, 3] > 0.5).nonzero()
    assert (shown.amax(dim=0) - shown.amin(dim=0) + 1).tolist() == pytest.approx([10 * 1.855, 30 * 1.855], abs=1)
    plain, _ = zoom(images, cameras)
    unknown, _ = zoom(with_matte(images), cameras)
    assert torch.equal(unknown[:, :, :3], plain), "an unknown matte changes nothing"
    assert (unknown[:, :, 3] == UNKNOWN).all()


def test_beyond_a_views_border_nobody_knows_whether_the_object_goes_on() -> None:
    images = torch.ones(1, 1, 3, SIZE, SIZE)
    images[..., 20:40, :4] = 0.2
    matte = torch.zeros(1, 1, 1, SIZE, SIZE)
    matte[..., 20:40, :4] = 1
    crops, _ = zoom(with_matte(images, matte), stacked(ring_cameras(1, SIZE), 1))
    assert (crops[0, 0, 3, :, 0] == UNKNOWN).all() and (crops[0, 0, :3, :, 0] == 1).all()
    assert crops[0, 0, 3].max() == 1 and crops[0, 0, 3].min() == 0
