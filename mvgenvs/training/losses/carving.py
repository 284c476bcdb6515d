"""Space carving: what the depth maps of a few views tell about points in the world (Kutulakos & Seitz 2000).

A view sees through the points in front of its surface, and finds matter just behind it, of the colour that it shows
there [voxel colouring, Seitz & Dyer 1999]; deeper points are unknown.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.precision import without_autocast
from mvgenvs.views import ViewSet


@dataclass(frozen=True, eq=False, slots=True)
class Carved:
    """Points that are known to be empty or solid; all others are unknown."""

    empty: Bool[Tensor, "batch n"]
    solid: Bool[Tensor, "batch n"]
    colour: Float[Tensor, "batch n 3"]  # of the solid points: the mean over the views whose surface they are


@without_autocast
def carve(points: Float[Tensor, "n 3"], views: ViewSet, thickness: float) -> Carved:
    """Empty is what any view sees through; solid is what lies at most `thickness` behind a surface and is not empty.

    Pixels with a mask but no depth, such as edges, tell nothing. Raises `ValueError` for views without depth.
    """
    if views.depth is None or views.mask is None:
        raise ValueError("carving needs views with depth and masks")
    height, width = views.cameras.hw
    pixels, z = views.cameras.project(points.expand(*views.cameras.c2w.shape[:-3], 1, -1, -1))  # (batch, view, n, 2)
    x, y = pixels.floor().unbind(dim=-1)
    seen = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (z > 0)
    place = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long()
    depth = views.depth.flatten(-3).gather(-1, place)
    background = (depth <= 0) & (views.mask.flatten(-3).gather(-1, place) <= 0)
    behind = z - depth  # the surface
    empty = (seen & (background | ((depth > 0) & (behind < 0)))).any(dim=-2)
    surface = seen & (depth > 0) & (behind >= 0) & (behind <= thickness)  # (batch, view, n)
    pixel = views.images.flatten(-2).gather(-1, place[..., None, :].expand(*place.shape[:-1], 3, -1))
    colour = (pixel * surface[..., None, :]).sum(dim=-3) / surface.sum(dim=-2).clamp(min=1)[..., None, :]
    return Carved(empty, surface.any(dim=-2) & ~empty, colour.mT)


def carving_loss(logits: Float[Tensor, "batch n"], carved: Carved) -> Float[Tensor, ""]:
    """Cross-entropy of matter over the known points, divided by the number of solid points."""
    error = F.softplus(logits) * carved.empty + F.softplus(-logits) * carved.solid
    return error.sum() / carved.solid.sum().clamp(min=1)


def paint_loss(colours: Float[Tensor, "batch n 3"], carved: Carved) -> Float[Tensor, ""]:
    """Mean absolute error of the colours of the solid points."""
    error = (colours - carved.colour).abs().mean(dim=-1) * carved.solid
    return error.sum() / carved.solid.sum().clamp(min=1)
