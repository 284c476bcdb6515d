"""Volume rendering: stratified samples along each ray, importance samples where they found something, one composite."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

NOTHING = 1e-3  # an opacity
RadianceField = Callable[[Tensor], tuple[Tensor, Tensor]]  # (batch, n, 3) -> density (batch, n), features (batch, n, f)


@dataclass(frozen=True, eq=False, slots=True)
class RayRendering:
    """The rendering of a batch of rays."""

    features: Float[Tensor, "batch ray f"]  # the first three are RGB composited on white
    distance: Float[Tensor, "batch ray"]  # expected distance at which the ray hits, if it does; else its far bound
    opacity: Float[Tensor, "batch ray"]
    distance_error: Float[Tensor, "batch ray"] | None = None  # expected |distance - true distance| in the same sense


def sphere_bounds(
    origins: Float[Tensor, "batch ray 3"], directions: Float[Tensor, "batch ray 3"], radius: float
) -> tuple[Float[Tensor, "batch ray"], Float[Tensor, "batch ray"], Float[Tensor, "batch ray"]]:
    """Where unit rays enter and leave the sphere around the object, and 1 for rays that hit it, 0 for the others."""
    towards = -(origins * directions).sum(dim=-1)
    half_squared = radius**2 - (origins.square().sum(dim=-1) - towards.square())
    half = half_squared.clamp(min=1e-6).sqrt()
    hits = (half_squared > 0) & (towards + half > 0)  # a sphere behind the origin is not hit
    return (towards - half).clamp(min=1e-3), towards + half, hits.to(origins.dtype)


@dataclass(frozen=True, eq=False, slots=True)
class Bounds:
    """The part of each ray that is rendered."""

    near: Float[Tensor, "batch ray"]  # distances along the ray
    far: Float[Tensor, "batch ray"]
    hits: Float[Tensor, "batch ray"]  # 1 if there is such a part, 0 if the ray sees only the background

    def pick(self, order: Int64[Tensor, "batch some"]) -> "Bounds":
        """The bounds of some of the rays."""
        return Bounds(*(x.gather(1, order) for x in (self.near, self.far, self.hits)))


def pick_rays(x: Float[Tensor, "batch ray k"], order: Int64[Tensor, "batch some"]) -> Float[Tensor, "batch some k"]:
    """What belongs to some of the rays."""
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))


def box_bounds(
    origins: Float[Tensor, "batch ray 3"],
    directions: Float[Tensor, "batch ray 3"],
    radius: float,
    extent: Sequence[float] | None = None,
) -> Bounds:
    """`sphere_bounds`, clipped to the box of half sides `extent` if there is one."""
    near, far, hits = sphere_bounds(origins, directions, radius)
    if extent is None:
        return Bounds(near, far, hits)
    half = origins.new_tensor(tuple(extent))
    safe = torch.where(directions.abs() < 1e-6, torch.full_like(directions, 1e-6), directions)
    first, second = (-half - origins) / safe, (half - origins) / safe
    enter = torch.minimum(first, second).amax(dim=-1).maximum(near)
    leave = torch.maximum(first, second).amin(dim=-1).minimum(far)
    hits = hits * (enter < leave)
    return Bounds(torch.where(hits > 0, enter, near), torch.where(hits > 0, leave, far), hits)


def render_rays(
    field: RadianceField,
    origins: Float[Tensor, "batch ray 3"],
    directions: Float[Tensor, "batch ray 3"],
    bounds: Bounds,
    num_coarse: int,
    num_fine: int,
    jitter: Float[Tensor, "batch ray"] | None = None,
    true_distance: Float[Tensor, "batch ray"] | None = None,
) -> RayRendering:
    """Renders the part of each ray within its bounds, on a white background.

    Every sample is evaluated once: coarse samples place the fine ones, and then enter the composite with them. `jitter`
    in [0, 1) shifts all strata of a ray, for training; without it samples are at the middle of their strata.
    """
    near, far, hits = bounds.near, bounds.far, bounds.hits
    offset = torch.full_like(near, 0.5) if jitter is None else jitter
    span = (far - near)[..., None]

    def evaluate(t: Float[Tensor, "batch ray s"]) -> tuple[Tensor, Tensor]:
        points = origins.mT[..., None] + t[:, None] * directions.mT[..., None]  # x of all samples, then y, then z
        density, features = field(points.flatten(2).mT)
        return density.unflatten(1, t.shape[1:]) * hits[..., None], features.unflatten(1, t.shape[1:])

    strata = torch.arange(num_coarse, device=near.device, dtype=near.dtype)
    t = near[..., None] + span * (strata + offset[..., None]) / num_coarse
    density, features = evaluate(t)
    samples = [(composite_weights(density, t, far), t, features)]
    if num_fine:
        with torch.no_grad():
            t_fine, below = importance_samples(near, far, samples[0][0], num_fine, offset)
        density_fine, features_fine = evaluate(t_fine)
        rank, rank_fine = merged_ranks(below, num_coarse)
        ranks = torch.cat([rank, rank_fine], dim=-1)
        merged_t = torch.empty_like(ranks, dtype=t.dtype).scatter(-1, ranks, torch.cat([t, t_fine], dim=-1))
        merged = torch.empty_like(merged_t).scatter(-1, ranks, torch.cat([density, density_fine], dim=-1))
        weights = composite_weights(merged, merged_t, far)
        samples = [(weights.gather(-1, rank), t, features), (weights.gather(-1, rank_fine), t_fine, features_fine)]
    opacity = torch.stack([weights.sum(dim=-1) for weights, _, _ in samples]).sum(dim=0)

    # Light that passes does not count: with an opacity of .8, it would draw the surface a fifth of the way to `far`.
    def where_hit(values: Callable[[Tensor], Tensor]) -> Float[Tensor, "batch ray"]:
        weighted = torch.stack([(weights * values(t)).sum(dim=-1) for weights, t, _ in samples]).sum(dim=0)
        return weighted / opacity.clamp(min=NOTHING)

    distance = torch.where(opacity > NOTHING, where_hit(lambda t: t), far)
    rendered = torch.stack([torch.einsum("brs,brsf->brf", w, features) for w, _, features in samples]).sum(dim=0)
    background = background_features(rendered.shape[-1], near)
    rendered = rendered + (1 - opacity)[..., None] * background
    error = None
    if true_distance is not None:
        error = where_hit(lambda t: (t - true_distance[..., None]).abs())
    return RayRendering(rendered, distance, opacity, error)


def background_features(num_features: int, like: Tensor) -> Float[Tensor, " f"]:
    """White in the first three channels, zero in the others."""
    background = torch.zeros(num_features, device=like.device, dtype=like.dtype)
    background[:3] = 1
    return background


def composite_weights(
    density: Float[Tensor, "batch ray s"], t: Float[Tensor, "batch ray s"], far: Float[Tensor, "batch ray"]
) -> Float[Tensor, "batch ray s"]:
    """w_i = T_i (1 - exp(-density_i delta_i)), T_i = exp(-sum_{j<i} density_j delta_j) (Mildenhall et al. 2020)."""
    delta = torch.diff(t, dim=-1, append=far[..., None]).clamp(min=0)
    optical = density * delta
    transmittance = torch.exp(-(optical.cumsum(dim=-1) - optical))
    return transmittance * (1 - torch.exp(-optical))


def importance_samples(
    near: Float[Tensor, "batch ray"],
    far: Float[Tensor, "batch ray"],
    weights: Float[Tensor, "batch ray s"],
    num_samples: int,
    offset: Float[Tensor, "batch ray"],
) -> tuple[Float[Tensor, "batch ray m"], Int64[Tensor, "batch ray m"]]:
    """Ascending samples of the piecewise-constant density that the weights define over equal bins of [near, far].

    Also returns how many of the points at `offset` of their bins lie before each sample.
    """
    bins = weights.shape[-1]
    pdf = weights + 1e-3 / bins
    cdf = torch.cat([torch.zeros_like(pdf[..., :1]), (pdf / pdf.sum(dim=-1, keepdim=True)).cumsum(dim=-1)], dim=-1)
    steps = torch.arange(num_samples, device=near.device, dtype=near.dtype)
    u = (steps + offset[..., None]) / num_samples  # stratified, strictly inside (0, 1)
    upper = torch.searchsorted(cdf, u.contiguous(), right=True).clamp(1, bins)
    low, high = cdf.gather(-1, upper - 1), cdf.gather(-1, upper)
    within = ((u - low) / (high - low).clamp(min=1e-8)).clamp(0, 1)
    t = near[..., None] + (far - near)[..., None] * ((upper - 1 + within) / bins)
    return t, upper - 1 + (within > offset[..., None]).long()


def merged_ranks(
    below: Int64[Tensor, "batch ray m"], num_first: int
) -> tuple[Int64[Tensor, "batch ray s"], Int64[Tensor, "batch ray m"]]:
    """Positions of the elements of two ascending sequences in the merged sequence: those of the first, which has
    `num_first` elements, and those of the second; `below` says how many of the first lie before each of the second.
    """
    m = below.shape[-1]
    histogram = torch.zeros(*below.shape[:-1], num_first + 1, dtype=below.dtype, device=below.device)
    before = histogram.scatter_add_(-1, below, torch.ones_like(below)).cumsum(dim=-1)[..., :-1]
    positions = torch.arange(max(m, num_first), device=below.device)
    return before + positions[:num_first], below + positions[:m]
