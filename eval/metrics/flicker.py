"""Flicker: how much more neighbouring generated frames differ than the true frames do.

True frames have 0. Above it, frames jump. Below it, they change less than the camera's motion implies, like blurred or
repeated frames.
"""

from typing import TypedDict

from jaxtyping import Float
from torch import Tensor

from eval.metrics.image import rounded_to_8_bits
from eval.metrics.pairs import Distance, adjacent_pairs


class FlickerFigures(TypedDict):
    """Perceptual distances between neighbours, one per pair."""

    generated: list[float]
    truth: list[float] | None  # None without true images
    difference: float | None  # mean of generated - truth; None for a single frame, or without true images


def adjacent_distances(images: Float[Tensor, "view 3 h w"], distance: Distance, closed: bool = False) -> list[float]:
    """The distance between the neighbours of a sequence, one value per pair."""
    pairs = adjacent_pairs(len(images), closed)
    if not pairs:
        return []
    images = rounded_to_8_bits(images)
    first, second = (list(side) for side in zip(*pairs, strict=True))
    return distance(images[first], images[second]).tolist()


def flicker(
    images: Float[Tensor, "view 3 h w"],
    truth: Float[Tensor, "view 3 h w"] | None,
    distance: Distance,
    closed: bool = False,
) -> FlickerFigures:
    """Flicker of generated images relative to the true images of the same views, all in [0, 1]."""
    generated = adjacent_distances(images, distance, closed)
    if truth is None:
        return {"generated": generated, "truth": None, "difference": None}
    true = adjacent_distances(truth, distance, closed)
    difference = (sum(generated) - sum(true)) / len(generated) if generated else None
    return {"generated": generated, "truth": true, "difference": difference}
