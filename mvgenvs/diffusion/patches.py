"""Patches of all views of a set as tokens, and their cosine components."""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from mvgenvs.precision import without_autocast


class Patches(nn.Module):
    """Square patches of latents. Tokens are numbered through the views of a set, row by row in each."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("basis", cosine_basis(side), persistent=False)

    def tokens(self, views: Tensor, chosen: Int[Tensor, " n"]) -> Tensor:
        """(draw, view, c, h, w) -> (draw, n, c side^2), the chosen tokens."""
        p = self.side
        return rearrange(views, "r v c (h p) (w q) -> r (v h w) (c p q)", p=p, q=p)[:, chosen]

    def views(
        self, tokens: Float[Tensor, "draw n k"], chosen: Int[Tensor, " n"], elsewhere: Float[Tensor, "draw view c h w"]
    ) -> Float[Tensor, "draw view c h w"]:
        """The inverse of `tokens`; `elsewhere` is what the views are where no token is given."""
        p, (views, _, height, _) = self.side, elsewhere.shape[1:]
        whole = rearrange(elsewhere, "r v c (h p) (w q) -> r (v h w) (c p q)", p=p, q=p).index_copy(1, chosen, tokens)
        return rearrange(whole, "r (v h w) (c p q) -> r v c (h p) (w q)", v=views, h=height // p, p=p, q=p)

    @without_autocast
    def spectral(self, tokens: Float[Tensor, "*shape k"]) -> Float[Tensor, "*shape k"]:
        """Pixels as cosine components, channel by channel."""
        return (tokens.unflatten(-1, (-1, self.side**2)) @ self.basis.T).flatten(-2)

    @without_autocast
    def pixels(self, components: Float[Tensor, "*shape k"]) -> Float[Tensor, "*shape k"]:
        """The inverse of `spectral`."""
        return (components.unflatten(-1, (-1, self.side**2)) @ self.basis).flatten(-2)


def cosine_basis(side: int) -> Float[Tensor, "component pixel"]:
    """The orthonormal two-dimensional cosine transform of a square patch, its constant component first."""
    place, order = torch.arange(side) + 0.5, torch.arange(side)
    waves = (math.pi / side * order[:, None] * place).cos() * math.sqrt(2 / side)
    waves[0] = math.sqrt(1 / side)
    return torch.kron(waves, waves)
