"""Joint attention written out as its definition; the fast implementations are tested against it."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def joint_attention_reference(
    query: Float[Tensor, "batch_view n d"],
    key: Float[Tensor, "batch_view n d"],
    value: Float[Tensor, "batch_view n d"],
    num_views: int,
    num_heads: int,
    num_anchors: int = 0,
) -> Float[Tensor, "batch_view n d"]:
    """softmax(Q K^T / sqrt(d_head)) V over the tokens of all `num_views` views of a set, set by set.

    The leading axis merges batch and view, view fastest. Views are unordered: permuting the views of a set permutes the
    outputs. With one view it is plain self-attention. The last `num_anchors` views of each set are anchors: a mask
    keeps them from seeing the other views (block-causal attention).
    """

    def join(x: Tensor) -> Tensor:
        return rearrange(x, "(b v) n (h d) -> b h (v n) d", v=num_views, h=num_heads)

    q, k, v = join(query), join(key), join(value)
    is_anchor = torch.arange(q.shape[2], device=q.device) >= (num_views - num_anchors) * query.shape[1]  # per token
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(is_anchor[:, None] & ~is_anchor, -torch.inf).softmax(dim=-1)
    return rearrange(weights @ v, "b h (v n) d -> (b v) n (h d)", v=num_views)
