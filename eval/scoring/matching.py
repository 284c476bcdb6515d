"""Which views of the truth show what the given views show: those with the same cameras."""

from pathlib import Path

import torch

from eval.scoring.folders import PosedFolder
from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError

FEWEST_VIEWS = 3
SMALLEST = 32  # pixels of the shorter side, which the perceptual distances need
SAME_POSE = 5e-3  # distance in units of the cameras' own, and norm of the difference of the rotations
SAME_LENS = 5e-3  # of the longer side of the images


def matching_views(views: PosedFolder, truth: PosedFolder, where: Path) -> list[int]:
    """For each of the views, the position of the true one with the same camera; the truth may hold others, too.

    Raises `UserError` if there is none; `where` is the folder of the truth, for the message.
    """
    c2w, true = views.cameras.c2w.double(), truth.cameras.c2w.double()
    centers, true_centers = c2w[:, :3, 3], true[:, :3, 3]
    unit = (centers - centers.mean(dim=0)).norm(dim=-1).median().clamp(min=1e-9)
    apart = torch.cdist(centers, true_centers) / unit
    turned = torch.cdist(c2w[:, :3, :3].flatten(1), true[:, :3, :3].flatten(1))
    error, nearest = torch.maximum(apart, turned).min(dim=1)
    for name, value in zip(views.names, error.tolist(), strict=True):
        if value > SAME_POSE:
            raise UserError(
                f"the truth {where} has no view with the camera of {name}: it must show the same views in one world"
            )
    found = nearest.tolist()
    lenses = (truth.cameras.select(found).resized(views.cameras.hw).K - views.cameras.K).abs().amax(dim=(1, 2)) / max(
        views.cameras.hw
    )
    for name, value in zip(views.names, lenses.tolist(), strict=True):
        if value > SAME_LENS:
            raise UserError(f"the truth {where} shows {name} with another focal length or principal point")
    return found


def common_size(views: Cameras, truth: Cameras, where: Path) -> tuple[int, int]:
    """Height and width at which both are compared: the smaller one's. Raises `UserError` for other proportions."""
    (height, width), (true_height, true_width) = views.hw, truth.hw
    if abs(height * true_width - true_height * width) > max(height, true_height):  # half a pixel, from rounding
        raise UserError(
            f"the truth {where} has {true_width}x{true_height} pixels, and the views {width}x{height}: the proportions "
            "must be equal"
        )
    return min(views.hw, truth.hw)


def check_enough(views: PosedFolder, where: Path) -> None:
    """Raises `UserError` unless there are views enough, and pixels enough, to measure anything."""
    if len(views.names) < FEWEST_VIEWS:
        raise UserError(f"{where} has {len(views.names)} views, and at least {FEWEST_VIEWS} are needed")
    if min(views.cameras.hw) < SMALLEST:
        height, width = views.cameras.hw
        raise UserError(f"the images of {where} have {width}x{height} pixels: at least {SMALLEST} are needed each way")
