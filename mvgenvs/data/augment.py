"""Augmentations that act alike on all views of a set, so that the set stays one consistent object."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.views import ViewSet


def augment(views: ViewSet, rng: np.random.Generator, recolour: float = 0.8, mirror: bool = True) -> ViewSet:
    """Mirrors half of the sets in x and, with probability `recolour`, turns their hue or permutes their channels."""
    if mirror and rng.random() < 0.5:
        views = views.mirrored()
    if rng.random() < recolour:
        if rng.random() < 0.5:
            order = torch.from_numpy(rng.permutation(3))
            views = views.with_images(views.images.index_select(-3, order))
        else:
            views = views.with_images(turned(views.images, hue_rotation(rng.uniform(0, 2 * math.pi))))
    return views


def turned(
    images: Float[Tensor, "*batch view 3 h w"], rotation: Float[Tensor, "3 3"]
) -> Float[Tensor, "*batch view 3 h w"]:
    """The images with their colours turned. Distances from white are what is turned, so that white stays exactly 1."""
    darkness = rotation @ (1 - images.flatten(-2))
    return darkness.neg_().add_(1).clamp_(0, 1).unflatten(-1, images.shape[-2:])


def hue_rotation(angle: float) -> Float[Tensor, "3 3"]:
    """Rotation of RGB space by `angle` radians about the grey axis; white, black and greys stay as they are.

    Rodrigues' formula for the axis (1, 1, 1)/sqrt(3).
    """
    axis = torch.full((3,), 1 / math.sqrt(3))
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return math.cos(angle) * torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * torch.outer(axis, axis)
