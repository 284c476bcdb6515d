"""Augmentations that treat all views of a set alike, so that the set still shows one consistent object."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import turn_about_vertical
from mvgenvs.views import ViewSet

LONGEST = 2.0  # stops of exposure


@dataclass(frozen=True, eq=False, slots=True)
class Augmentation:
    """The changes to one set: a mirror image, a rotation of the object or of the colours, overexposure, or none."""

    mirrored: bool = False
    colours: Float[Tensor, "3 3"] | None = None  # a rotation or permutation of RGB space, see `turned`
    exposure: float = 1.0  # factor of the colours
    azimuth: float = 0.0  # radians about the vertical axis by which object and cameras turn, after mirroring

    def __call__(self, views: ViewSet) -> ViewSet:
        views = views.mirrored() if self.mirrored else views
        views = views.moved(turn_about_vertical(torch.tensor(self.azimuth))) if self.azimuth else views
        views = views if self.colours is None else views.with_images(turned(views.images, self.colours))
        return views if self.exposure == 1 else views.with_images((views.images * self.exposure).clamp(max=1))


def draw_augmentation(
    rng: np.random.Generator, recolour: float = 0.8, mirror: bool = True, expose: float = 0.0, front: bool = True
) -> Augmentation:
    """Mirrors half of the sets in x and, with probability `recolour`, rotates their hue or permutes their channels.

    With probability `expose` the set is overexposed: bright paint turns as white as the background. An object without
    a known `front` is turned to a random heading, since the heading in its file means nothing.
    """
    mirrored = mirror and bool(rng.random() < 0.5)
    colours = None
    if rng.random() < recolour:
        if rng.random() < 0.5:
            colours = torch.eye(3)[torch.from_numpy(rng.permutation(3))]
        else:
            colours = hue_rotation(rng.uniform(0, 2 * math.pi))
    exposure = 2.0 ** rng.uniform(0, LONGEST) if expose and rng.random() < expose else 1.0
    return Augmentation(mirrored, colours, exposure, 0.0 if front else rng.uniform(0, 2 * math.pi))


def turned(
    images: Float[Tensor, "*batch view 3 h w"], rotation: Float[Tensor, "3 3"]
) -> Float[Tensor, "*batch view 3 h w"]:
    """The images with rotated colours. The difference from white is rotated, so that white stays exactly 1."""
    darkness = rotation @ (1 - images.flatten(-2))
    return darkness.neg_().add_(1).clamp_(0, 1).unflatten(-1, images.shape[-2:])


def hue_rotation(angle: float) -> Float[Tensor, "3 3"]:
    """Rotation of RGB space by `angle` radians about the grey axis; white, black and greys stay as they are.

    Rodrigues' formula for the axis (1, 1, 1)/sqrt(3).
    """
    axis = torch.full((3,), 1 / math.sqrt(3))
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return math.cos(angle) * torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * torch.outer(axis, axis)
