"""Views of which the depth is known: what surfaces, points and splats are made of."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError
from mvgenvs.nerf.model import Rendering
from mvgenvs.reconstruction.formats import FEWEST_VIEWS
from mvgenvs.trajectories import cameras_at, centers_at

RenderField = Callable[[Cameras], Rendering]  # cameras with a batch axis of 1, as of `partial(nerf.render, scene)`

SOLID = 0.5  # opacity from which a pixel shows the object
# Rings of cameras (number, elevation, first azimuth), in degrees: where a field is looked at to find its surface. The
# low ones see the underside, which no ordinary trajectory does.
RINGS = ((8, 10.0, 0.0), (8, 45.0, 22.5), (1, 89.0, 0.0), (4, -30.0, 45.0))


@dataclass(frozen=True, eq=False, slots=True)
class ObservedViews:
    """Unbatched views of one object, on the CPU."""

    images: Float[Tensor, "view 3 h w"]  # in [0, 1] on white
    cameras: Cameras
    depth: Float[Tensor, "view 1 h w"]  # z-depth in world units; meaningless where nothing is hit
    opacity: Float[Tensor, "view 1 h w"]  # in [0, 1]

    @property
    def solid(self) -> Bool[Tensor, "view 1 h w"]:
        """Pixels whose depth is that of the object."""
        return (self.opacity > SOLID) & (self.depth > 0) & self.depth.isfinite()

    def points(self, view: int) -> Float[Tensor, "n 3"]:
        """The points of the world that the solid pixels of a view show, in the order of the pixels."""
        return points_shown(self.depth[view, 0], self.solid[view, 0], self.cameras.select([view]))


def points_shown(depth: Float[Tensor, "h w"], where: Bool[Tensor, "h w"], camera: Cameras) -> Float[Tensor, "n 3"]:
    """The points that some pixels of a depth map show, row by row; `camera` is unbatched and one."""
    row, column = where.nonzero().unbind(-1)
    pixels = torch.stack([column, row], dim=-1) + 0.5
    return camera.unproject(pixels[None], depth[row, column][None])[0]


def surround_cameras(size: int = 128) -> Cameras:
    """Cameras all around the object, above and below, at the distance and field of view that models know."""
    angles = [(start + 360 * i / number, elevation) for number, elevation, start in RINGS for i in range(number)]
    azimuth, elevation = torch.tensor(angles, dtype=torch.float64).unbind(-1)
    return cameras_at(centers_at(azimuth, elevation).float(), (size, size))


@torch.no_grad()
def observe(render: RenderField, cameras: Cameras) -> ObservedViews:
    """The field as these unbatched cameras see it, one after the other: memory does not grow with their number."""
    seen = [render(cameras.select([view]).batched()) for view in range(cameras.num_views)]
    images, depth, opacity = (
        torch.cat([getattr(each, name)[0] for each in seen]).float().cpu() for name in ("rgb", "depth", "opacity")
    )
    return ObservedViews(images.clamp(0, 1), cameras.to("cpu"), depth, opacity)


def observed(
    images: Float[Tensor, "view 3 h w"],
    cameras: Cameras,
    depth: Float[Tensor, "_ 1 _ _"] | None,
    opacity: Float[Tensor, "_ 1 _ _"] | None,
) -> ObservedViews:
    """Views with the depth that is given. Raises `UserError` if there is none, or it does not belong to the views."""
    check_views(images, cameras)
    if depth is None or opacity is None:
        raise UserError("views alone have no shape: give their depth and opacity, or the field that they came from")
    for name, maps in (("depth", depth), ("opacity", opacity)):
        if len(maps) != len(images) or maps.shape[-2:] != images.shape[-2:]:
            raise UserError(f"{name} is {tuple(maps.shape)}, which does not fit images of {tuple(images.shape)}")
    pictures, z, solid = (x.detach().float().cpu() for x in (images, depth, opacity))
    return ObservedViews(pictures, cameras.to("cpu"), z, solid)


def check_views(images: Float[Tensor, "view 3 h w"], cameras: Cameras) -> None:
    """Raises `UserError` if images and cameras do not belong together, or are too few."""
    if len(images) != cameras.num_views or tuple(images.shape[-2:]) != cameras.hw:
        raise UserError(
            f"{len(images)} images of {tuple(images.shape[-2:])} pixels do not belong to {cameras.num_views} cameras "
            f"of {cameras.hw}"
        )
    if len(images) < FEWEST_VIEWS:
        raise UserError(f"a reconstruction needs at least {FEWEST_VIEWS} views, and has {len(images)}")


def sample_nearest(
    maps: Float[Tensor, "c h w"], pixels: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "c n"], Bool[Tensor, " n"]]:
    """The values of the pixels in which points (x, y) lie, and whether they lie in the image; outside, the border's."""
    height, width = maps.shape[-2:]
    x, y = pixels.nan_to_num(-1.0).clamp(-1.0, 1e6).unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    column, row = x.long().clamp(0, width - 1), y.long().clamp(0, height - 1)
    return maps.flatten(1)[:, row * width + column], inside


def sample_bilinear(maps: Float[Tensor, "c h w"], pixels: Float[Tensor, "n 2"]) -> Float[Tensor, "c n"]:
    """Values at points (x, y), pixel centres being at +0.5; beyond the border, the border's."""
    size = pixels.new_tensor([maps.shape[-1], maps.shape[-2]])
    grid = (pixels / size * 2 - 1)[None, None]
    return F.grid_sample(maps[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0]
