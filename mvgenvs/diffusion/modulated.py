"""Transformer blocks that are told the noise level of each token's view."""

import math
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Float, Int
from torch import Tensor, nn

LEVEL_CHANNELS = 64  # sines and cosines of a noise level


class TransformerBlock(nn.Module):
    """Attention and an MLP, each scaled, shifted and gated by the noise level of the token's view."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attention = Attention(query_dim=width, heads=heads, dim_head=width // heads, bias=True)
        last = nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), last)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        for weight in (self.attention.to_out.get_parameter("0.weight"), last.weight):
            nn.init.normal_(weight, std=0.006)  # a deep stack starts near the identity

    def forward(
        self,
        tokens: Float[Tensor, "draw n d"],
        level: Float[Tensor, "draw view d"],
        view: Int[Tensor, " n"],
        told: dict[str, Any],
    ) -> Float[Tensor, "draw n d"]:
        """`view` says which view each token is of, `told` what the attention processor is told."""
        scale, shift, gate, scale_mlp, shift_mlp, gate_mlp = self.modulation(level)[:, view].chunk(6, dim=-1)
        attended = self.attention(self.norms[0](tokens) * (1 + scale) + shift, **told)
        tokens = tokens + (1 + gate) * attended
        return tokens + (1 + gate_mlp) * self.mlp(self.norms[1](tokens) * (1 + scale_mlp) + shift_mlp)


def level_channels(sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape c"]:
    """Sines and cosines of ln(sigma) / 4, which resolve a noise level and its neighbours."""
    rates = torch.linspace(math.log(0.5), math.log(40), LEVEL_CHANNELS // 2, device=sigma.device).exp()
    angles = (sigma.log() / 4)[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
