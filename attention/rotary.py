"""Rotary encoding of the 3-D point that each token shows: tokens of one surface point are encoded alike in every view.

RoPE [Su et al. 2021, arXiv 2104.09864] rotates pairs of channels of queries and keys by angles proportional to a
position, so that their product depends only on the difference of the positions. Here the position is a point in the
world, which is the same for all views, and not a place in the image, which is not.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

LONGEST, SHORTEST = 2.0, 0.15  # wavelengths in world units: twice the object, and a seventh of it


def rotate(x: Float[Tensor, "b n h d"], points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n h d"]:
    """Queries or keys, of at least 6 channels, rotated by the points of their tokens.

    Each axis gets a third of the channel pairs; channels that are left over stay unchanged.
    """
    pairs = x.shape[-1] // 6
    steps = torch.arange(pairs, device=points.device, dtype=points.dtype) / max(1, pairs - 1)
    frequencies = 2 * math.pi / LONGEST * (LONGEST / SHORTEST) ** steps
    angles = (points[..., None] * frequencies).flatten(-2)[:, :, None]  # (b, n, 1, 3 pairs)
    cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second, rest = x.split([3 * pairs, 3 * pairs, x.shape[-1] - 6 * pairs], dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine, rest], dim=-1)
