"""Crops known views to their object: a crop is another camera, and all of its pixels are useful for lifting."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.cameras import Cameras
from mvgenvs.precision import without_autocast
from mvgenvs.views import UNKNOWN

BACKGROUND = 0.98  # in the white background, every channel of a pixel is at least this
MARGIN = 1.15  # side of the crop over side of the object's square
LARGEST = 3.0  # largest magnification of a view


@without_autocast
def zoom(
    images: Float[Tensor, "batch view c h w"], cameras: Cameras
) -> tuple[Float[Tensor, "batch view c h w"], Cameras]:
    """Crops each view, on white, to a square around its object, and enlarges the crop to the view's size.

    The object is all that is not white and, if there is a fourth channel, the matte, all that is in the matte.

    Views without an object stay as they are. No gradients flow to the images.
    """
    with torch.no_grad():
        height, width = images.shape[-2:]
        there = shows_object(images)
        left, right = _ends(there.any(dim=-2))
        top, bottom = _ends(there.any(dim=-1))
        side = MARGIN * torch.maximum(right - left, bottom - top)
        side = side.clamp(min=min(height, width) / LARGEST)
        none = ~there.flatten(2).any(dim=-1)
        side = torch.where(none, float(max(height, width)), side)
        x, y = (left + right - side) / 2, (top + bottom - side) / 2
        x, y = (torch.where(none, (size - side) / 2, start) for start, size in ((x, width), (y, height)))
        scale = max(height, width) / side  # of a pixel; the square fills the longer side
        start = torch.stack([x - (width / scale - side) / 2, y - (height / scale - side) / 2], dim=-1)
        K = cameras.K.clone()
        K[..., :2, 2] -= start
        K[..., :2, :] *= scale[..., None, None]
        return _cropped(images, start, scale), Cameras(cameras.c2w, K, cameras.hw)


def shows_object(images: Float[Tensor, "batch view c h w"]) -> Bool[Tensor, "batch view h w"]:
    """The pixels that show the object: all that are not white, and those in the matte, if it is the fourth channel."""
    there = images[:, :, :3].amin(dim=2) < BACKGROUND
    return there | (images[:, :, 3] > UNKNOWN) if images.shape[2] == 4 else there


def mean_colour(images: Float[Tensor, "batch view c h w"]) -> Float[Tensor, "batch 3"]:
    """The mean colour of the object over all views."""
    there = shows_object(images)[:, :, None]
    return (images[:, :, :3] * there).sum(dim=(1, 3, 4)) / there.sum(dim=(1, 3, 4)).clamp(min=1)


def _ends(there: Bool[Tensor, "batch view n"]) -> tuple[Float[Tensor, "batch view"], Float[Tensor, "batch view"]]:
    """Where the first True begins and the last one ends, in pixels; 0 and n if there is none."""
    n = there.shape[-1]
    first = there.float().argmax(dim=-1).float()
    return first, n - there.flip(-1).float().argmax(dim=-1).float()


def _cropped(
    images: Float[Tensor, "batch view c h w"], start: Float[Tensor, "batch view 2"], scale: Float[Tensor, "batch view"]
) -> Float[Tensor, "batch view c h w"]:
    """Pixel (x, y) of the crop shows `start + (x, y) / scale` of the image; outside the image everything is white.

    Whether the object continues there is unknown.
    """
    height, width = images.shape[-2:]
    theta = torch.zeros(*scale.shape, 2, 3, dtype=images.dtype, device=images.device)
    for axis, size in enumerate((width, height)):
        theta[..., axis, axis] = 1 / scale
        theta[..., axis, 2] = (2 * start[..., axis] + size / scale) / size - 1
    flat = images.flatten(0, 1)
    grid = F.affine_grid(theta.flatten(0, 1), list(flat.shape), align_corners=False)
    beyond = flat.new_tensor([1.0, 1.0, 1.0, UNKNOWN])[: flat.shape[1], None, None]
    difference = F.grid_sample(beyond - flat, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (beyond - difference).unflatten(0, images.shape[:2])
