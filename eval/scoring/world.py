"""The world in which views are measured, and what can be measured there."""

import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.data.captures import fitted
from mvgenvs.errors import UserError
from mvgenvs.trajectories import FOCAL_PER_WIDTH, RADIUS

HALF_VIEW = RADIUS / 2 / FOCAL_PER_WIDTH  # what the model's cameras see to each side of the object's middle
FITS = 1e-3  # cameras that fit that well are left as they are
WHITE = 0.9  # of 1, the least channel of a white pixel
WHITE_BORDER = 0.5  # share of the border's pixels
CLOSED_GAP = 2.5  # the last step of a closed sequence, in median steps, is at most as long
CLOSED_TURN = 1.9  # and the way round at least so many times as long as it


def in_model_world(cameras: Cameras) -> tuple[Cameras, float] | None:
    """The cameras moved so that the object is at the origin and fills their view as in the model's training data.

    Also returns the scale, which applies to depths, too. None if the cameras do not look at one object.
    """
    try:
        moved, scale = fitted(cameras)
    except UserError:
        return None
    near = (moved.c2w - cameras.c2w).abs().max() < FITS
    side = min(cameras.hw)
    half_view = (moved.centers.norm(dim=-1).median() * side / 2 / moved.K[:, 0, 0].median()).item()
    zoom = HALF_VIEW / half_view
    if near and abs(zoom - 1) < FITS:
        return cameras, 1.0
    c2w = moved.c2w.clone()
    c2w[:, :3, 3] *= zoom
    return Cameras(c2w, moved.K, moved.hw), scale * zoom


def has_white_borders(images: Float[Tensor, "view 3 h w"]) -> bool:
    """Whether most of the pixels at the images' borders are white: the 3-D score knows no other background."""
    white = images.amin(dim=1) >= WHITE
    border = torch.cat([white[:, 0], white[:, -1], white[:, :, 0], white[:, :, -1]], dim=1)
    return border.float().mean().item() >= WHITE_BORDER


def ends_where_it_began(cameras: Cameras) -> bool:
    """Whether a sequence of cameras goes around something and comes back: the last step is one like the others."""
    steps = (cameras.centers - cameras.centers.roll(1, dims=0)).norm(dim=-1)  # the first is from the last view
    closing, others = steps[0].item(), steps[1:]
    return closing <= CLOSED_GAP * others.median().item() and others.sum().item() >= CLOSED_TURN * closing
