"""How views of a set differ where they show the same surface, by the true depth.

A picture can look right by itself and yet show a detail that its neighbour lacks. The error of a denoised view,
denoised - true, is looked up at the same surface point in the other views; the loss is the difference of the two
errors, so that what the views show differently by right, as reflections or finer pixels, costs nothing.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.diffusion.reprojection import Sources, find_sources, moved
from mvgenvs.views import ViewSet

STEEPEST = 0.6  # square root of 1 - cos, 50 degrees: views farther around show a surface too differently


@dataclass(frozen=True, eq=False)
class SamePoints:
    """Pixels of one set that show a point which another of its views shows too."""

    pixels: Int[Tensor, " source"]  # numbered through all views
    sources: Sources  # where, see `find_sources`; each entry is one pixel

    def differences(self, errors: Float[Tensor, "draw view c h w"]) -> Float[Tensor, "draw view h w"]:
        """The mean square of the difference between a pixel's error and those at its point in other views.

        0 where no other view shows the point.
        """
        draws, views, _, height, width = errors.shape
        flat = errors.movedim(2, 1).flatten(2)  # (draw, c, view h w)
        there = moved(errors, self.sources)[..., 0].mT  # (draw, c, source)
        square = (flat[:, :, self.pixels] - there).square().mean(dim=1)
        total = square.new_zeros(draws, flat.shape[-1]).index_add(1, self.pixels, square)
        count = square.new_zeros(flat.shape[-1]).index_add(0, self.pixels, torch.ones_like(square[0]))
        return (total / count.clamp(min=1)).view(draws, views, height, width)


@torch.no_grad()
def same_points(views: ViewSet, side: int) -> list[SamePoints]:
    """Those of each set at this size, by its depth maps."""
    assert views.depth is not None
    cameras, depth = views.cameras.resized((side, side)), views.depth
    depth = F.interpolate(depth.flatten(0, 1), (side, side), mode="nearest").unflatten(0, depth.shape[:2])
    points = cameras.unproject_map(depth).mT.unflatten(-1, (side, side))
    found = []
    for each, solid, projections in zip(points, depth > 0, cameras.projections, strict=True):
        asked = solid.flatten().nonzero()
        sources = find_sources(each, solid, projections, asked)
        near = sources.turn < STEEPEST
        sources = Sources(*(getattr(sources, name)[near] for name in Sources.__slots__))
        found.append(SamePoints(asked[sources.token, 0], sources))
    return found


def differences(errors: Float[Tensor, "set view c h w"], views: ViewSet) -> Float[Tensor, "set view"]:
    """The mean of `SamePoints.differences` over each view; the errors are of several draws of each of the sets."""
    every = same_points(views, errors.shape[-1])
    of_sets = errors.unflatten(0, (len(every), -1))
    found = [same.differences(draws) for same, draws in zip(every, of_sets, strict=True)]
    return torch.cat(found).mean(dim=(-1, -2))
