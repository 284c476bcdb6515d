"""What the views of a set tell of one another before any network looks: their patches, moved over by rendered depth.

Each pixel of a view shows a point of the rendered surface. Another view of the set sees that point too, unless its own
rendering has something in front of it; then its pixel there, noisy as it is, is a guess of the first one's. Patches of
such guesses join the rendering in the prior on which the denoiser is centred. A clean neighbour tells much, one as
noisy as the view itself a little, and one from far around nearly nothing.

Averaging warped noisy neighbours by depth is known from texture synthesis on meshes, e.g. SyncMVD (Liu et al. 2023,
arXiv 2311.12891); here it is a prior, which the network may overrule, and not an average that replaces the views.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from mvgenvs.precision import without_autocast

SAME_DEPTH = 0.04  # world units: a pixel whose surface is farther than this from the point shows something else
HARDLY = 1e-12  # the part of a token that is seen where it is not
SEEN = 0.4  # the weight of the four pixels around a place which must show the point
TURNS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)  # square roots of 1 - cos: 0, 16, 33, 50, 69, 90 and 116 degrees
FEWEST = 100  # patches that must be measured around a turn
NOTHING = 100.0  # the variance of what tells nothing
LEAST_GAIN = 0.05  # with less of the truth in them, patches tell nothing
DOUBT = 1.5  # factor of measured variances, whose errors have longer tails than Gaussians; chosen on val


@dataclass(frozen=True, eq=False, slots=True)
class Sources:
    """Where some tokens of a set are seen in its other views: an entry for each token and each view that sees it."""

    token: Int[Tensor, " source"]  # its place among the given tokens
    view: Int[Tensor, " source"]
    turn: Float[Tensor, " source"]  # square root of 1 - cos of the angle between the two views' rays
    place: Int[Tensor, "source pixel 4"]  # the four pixels there around each of the token's, among those of all views
    weight: Float[Tensor, "source pixel 4"]  # their bilinear weights, of sum 1, or 0 where the view does not see it

    @property
    def seen(self) -> Float[Tensor, "source pixel"]:
        """1 where the view sees the point of a pixel, else 0."""
        return (self.weight.sum(dim=-1) > 0).to(self.weight.dtype)

    @property
    def averaging(self) -> Float[Tensor, " source"]:
        """The variance of white noise after the move, for a variance of 1 before."""
        return self.weight.square().sum(dim=(-1, -2)) / self.seen.sum(dim=-1).clamp(min=1)

    @property
    def share(self) -> Float[Tensor, " source"]:
        """The part of the token that is seen, in (0, 1]; next to nothing, where entries are made for all views."""
        return self.seen.mean(dim=-1).clamp(min=HARDLY)


@without_autocast
def find_sources(
    points: Float[Tensor, "view 3 h w"],
    solid: Bool[Tensor, "view 1 h w"],
    projections: Float[Tensor, "view 3 4"],
    pixels: Int[Tensor, "token pixel"],
    only_seen: bool = True,
) -> Sources:
    """The sources of tokens, whose `pixels` are numbered through all views of a set.

    `points` is what each pixel shows, `solid` whether it shows anything; `projections` take world to pixels. Unless
    `only_seen`, there is an entry for every token and view: as many as there may be, when memory is to be estimated.
    """
    num_views, _, height, width = points.shape
    views, own = torch.arange(num_views, device=points.device), pixels[:, :1] // (height * width)
    flat, shown = points.movedim(1, -1).flatten(0, 2), solid.flatten()  # (view h w, ...)
    target = flat[pixels]  # (token, pixel, 3)
    at = torch.einsum("vij,npj->nvpi", projections[:, :, :3], target) + projections[:, None, :, 3]
    depth = at[..., 2]
    asked = (depth > 1e-3) & shown[pixels][:, None] & (views != own)[..., None]  # (token, view, pixel)
    column, row = (at[..., :2] / depth.clamp(min=1e-3)[..., None] - 0.5).unbind(-1)
    places, weights = [], []
    for right in (0, 1):
        for below in (0, 1):
            x, y = column.floor().long() + right, row.floor().long() + below
            place = (views[:, None] * height + y.clamp(0, height - 1)) * width + x.clamp(0, width - 1)
            there = (projections[:, None, 2, :3] * flat[place]).sum(dim=-1) + projections[:, 2, 3:]
            same = shown[place] & ((there - depth).abs() < SAME_DEPTH)
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            weight = (1 - (column - x).abs()) * (1 - (row - y).abs())
            places.append(place)
            weights.append(torch.where(asked & inside & same, weight, 0.0))
    weight = torch.stack(weights, dim=-1)
    total = weight.sum(dim=-1, keepdim=True)
    weight = torch.where(total > SEEN, weight / total.clamp(min=SEEN), 0.0)
    seen = weight.sum(dim=-1)
    shows = seen.sum(dim=-1) > 0
    token, view = (shows if only_seen else torch.ones(shows.shape)).nonzero(as_tuple=True)
    centers = -torch.linalg.solve(projections[:, :, :3], projections[:, :, 3:])[..., 0]
    rays = F.normalize(target[token] - centers[view, None], dim=-1)
    own_rays = F.normalize(target[token] - centers[own[token]], dim=-1)
    turn = (1 - (rays * own_rays).sum(dim=-1)).clamp(min=0).sqrt()
    seen, weight = seen[token, view], weight[token, view]
    turn = (turn * seen).sum(dim=-1) / seen.sum(dim=-1).clamp(min=HARDLY)
    return Sources(token, view, turn, torch.stack(places, dim=-1)[token, view], weight)


@without_autocast
def moved(latents: Float[Tensor, "draw view c h w"], sources: Sources) -> Float[Tensor, "draw source c pixel"]:
    """The latents of the sources' views at the places of their tokens' pixels; 0 where they are not seen."""
    flat = latents.movedim(2, 1).flatten(2)  # (draw, c, view h w)
    return (flat[:, :, sources.place] * sources.weight).sum(dim=-1).movedim(1, 2)


class MovedErrors(nn.Module):
    """What moved patches are worth, by the turn between two views and for each component of a patch.

    With the rendering taken off both, a moved patch is `gain` times the true one plus an error of some `variance`:
    the regression of one on the other. Both are interpolated between `TURNS`.
    """

    turns: Tensor
    gain: Tensor
    variance: Tensor

    def __init__(self, components: int) -> None:
        super().__init__()
        turns = torch.tensor(TURNS)
        self.register_buffer("turns", turns, persistent=False)
        self.register_buffer("gain", torch.ones(len(TURNS), components))
        self.register_buffer("variance", (0.03 + 0.22 * turns)[:, None].repeat(1, components))

    @without_autocast
    def at(self, turn: Float[Tensor, " n"]) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"]]:
        """Gains and variances at some turns."""
        weights = self._weights(turn)
        return weights @ self.gain, weights @ self.variance

    @without_autocast
    def told(
        self, moved: Float[Tensor, "draw source k"], sigma: Float[Tensor, "draw source"], sources: Sources, tokens: int
    ) -> tuple[Float[Tensor, "draw token k"], Float[Tensor, "draw token k"]]:
        """What the sources of each of the `tokens` together say of the true patch, and the precision of that.

        `moved` is what they show, less the tokens' renderings, and `sigma` the noise on it. One depth moved them all,
        so they err alike: more of them average out their noise, but not their errors.
        """
        gain, variance = self.at(sources.turn)
        share = sources.share[:, None]
        doubt = (DOUBT * variance / share).sqrt() / gain
        noise = (sources.averaging * sigma**2)[..., None] / (share * gain**2)
        weight = 1 / (doubt**2 + noise)
        empty = moved.new_zeros(len(moved), tokens, moved.shape[-1])
        total, mean, doubt, noise = (
            empty.index_add(1, sources.token, x)
            for x in (weight, weight * moved / (gain * share), weight * doubt, weight**2 * noise)
        )
        return mean / total.clamp(min=1e-9), total**2 / (doubt**2 + noise).clamp(min=1e-9)

    @torch.no_grad()
    def fit(
        self, turn: Float[Tensor, " n"], true: Float[Tensor, "n k"], told: Float[Tensor, "n k"], least: float
    ) -> None:
        """From patches that are wholly seen, less their renderings. A turn with few of them tells nothing.

        `least` is the smallest deviation, which keeps a patch that was never wrong from being believed forever.
        """
        weights = self._weights(turn).T  # (turn, n)
        count = weights.sum(dim=1, keepdim=True)
        truth, moved, both = (weights @ x / count.clamp(min=1) for x in (true.square(), told.square(), true * told))
        gain = both / truth.clamp(min=least**2)
        variance = (moved - gain.square() * truth).clamp(min=least**2)
        nothing = (count < FEWEST) | (gain < LEAST_GAIN)
        self.gain.copy_(torch.where(nothing, 1.0, gain))
        self.variance.copy_(torch.where(nothing, NOTHING, variance))

    def _weights(self, turn: Float[Tensor, " n"]) -> Float[Tensor, "n turn"]:
        """Of a linear interpolation between `TURNS`, the last of which stands for all beyond it."""
        step = self.turns[1] - self.turns[0]
        return (1 - (turn.clamp(max=TURNS[-1])[:, None] - self.turns).abs() / step).clamp(min=0)
