"""What the views of a set tell of one another before any network looks: their pixels, moved over by the rendered depth.

Each pixel of a view shows a point of the rendered surface. Another view of the set sees that point too, unless its own
rendering has something in front of it; then its pixel there, noisy as it is, is a guess of the first one's. The guesses
of all views are Gaussians that differ in how much they know, and their product joins the rendering in the prior on
which the denoiser is centred. A clean neighbour tells much, one as noisy as the view itself a little.

Averaging warped noisy neighbours by depth is known from texture synthesis on meshes, e.g. SyncMVD (Liu et al. 2023,
arXiv 2311.12891); here it is a prior, which the network may overrule, and not an average that replaces the views.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.precision import without_autocast

SAME_DEPTH = 0.04  # world units: a source whose surface is farther than this from the point sees something else
MOVED_NEAR, MOVED_FAR = 0.03, 0.22  # variance of moved latents: from the same direction, and what 90 degrees add to it


@dataclass(frozen=True, eq=False, slots=True)
class Sources:
    """Where in the other views of one set the points of its pixels are seen."""

    place: Int[Tensor, "pixel view"]  # the nearest pixel there, among the pixels of all views
    variance: Float[Tensor, "pixel view"]  # of what a clean source tells; infinite where it does not see the point


@dataclass(frozen=True, eq=False, slots=True)
class Told:
    """What the noisy latents of other views say of clean ones, pixel by pixel; all 0 where they say nothing."""

    mean: Float[Tensor, "draw c pixel"]
    noise: Float[Tensor, "draw pixel"]  # variance of the mean by the sources' noise, which is white
    moved: Float[Tensor, "draw pixel"]  # and by the move, whose errors neighbouring pixels and sources share
    seen: Float[Tensor, "draw pixel"]  # 1 where there is a source


@without_autocast
def find_sources(
    points: Float[Tensor, "view 3 h w"],
    solid: Bool[Tensor, "view 1 h w"],
    projections: Float[Tensor, "view 3 4"],
    pixels: Int[Tensor, " pixel"],
) -> Sources:
    """The sources of some `pixels`, numbered through all views of a set.

    `points` is what each pixel shows, `solid` whether it shows anything; `projections` take world to pixels.
    """
    num_views, _, height, width = points.shape
    own, flat = pixels // (height * width), points.movedim(1, -1).flatten(0, 2)  # (view h w, 3)
    target = flat[pixels]
    seen = torch.einsum("vij,pj->pvi", projections[:, :, :3], target) + projections[:, :, 3]
    depth = seen[..., 2]
    column, row = (seen[..., :2] / depth.clamp(min=1e-3)[..., None]).floor().long().unbind(-1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (depth > 1e-3)
    views = torch.arange(num_views, device=points.device)
    place = views * (height * width) + row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    there = torch.einsum("vj,pvj->pv", projections[:, 2, :3], flat[place]) + projections[:, 2, 3]
    shown = solid.flatten()
    sees = inside & shown[place] & shown[pixels][:, None] & ((there - depth).abs() < SAME_DEPTH)
    sees = sees & (views != own[:, None])
    centers = -torch.linalg.solve(projections[:, :, :3], projections[:, :, 3:])[..., 0]
    rays = F.normalize(target[:, None] - centers, dim=-1)  # (pixel, view, 3)
    cosine = (rays * rays.gather(1, own[:, None, None].expand(-1, 1, 3))).sum(dim=-1)
    variance = MOVED_NEAR + MOVED_FAR * (1 - cosine).clamp(min=0).sqrt()
    return Sources(place, torch.where(sees, variance, torch.inf))


@without_autocast
def told_by_others(
    latents: Float[Tensor, "draw view c h w"], sigma: Float[Tensor, "draw view"], sources: Sources
) -> Told:
    """The mean over each pixel's sources, weighed by their noise and by how wrong the move may be."""
    flat = latents.movedim(2, 1).flatten(2)  # (draw, c, view h w)
    told = flat[:, :, sources.place.flatten()].unflatten(2, sources.place.shape)  # (draw, c, pixel, view)
    noise = sigma[:, None] ** 2  # (draw, 1, view)
    precision = 1 / (noise + sources.variance)  # (draw, pixel, view)
    total = precision.sum(dim=-1)
    weight = precision / total.clamp(min=1e-12)[..., None]
    moved = torch.where(sources.variance.isfinite(), sources.variance, 0.0)
    return Told(
        mean=(weight[:, None] * told).sum(dim=-1),
        noise=(weight**2 * noise).sum(dim=-1),
        moved=(weight * moved).sum(dim=-1),
        seen=(total > 0).to(total.dtype),
    )
