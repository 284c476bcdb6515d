"""Joint attention as diffusers attention processors, and the one function that installs them."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from diffusers.models.attention_processor import Attention
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from attention.anchor_cache import AnchorState
from attention.backends import AttentionBackend, attend, attend_block_causal
from attention.rotary import rotate

Points = Mapping[int, Tensor]  # tokens of a view at one level of a network -> their points, (batch_view, n, 3)


class _ViewsProcessor:
    """Self-attention over the tokens of all views of a set, and never across sets; cross-attention stays within each
    view.

    diffusers hands `cross_attention_kwargs` to every processor of a UNet, so `num_views` travels with each call. It
    has no default: a call that forgets it raises `TypeError` and cannot silently fall back to independent views.
    """

    def __init__(self, backend: AttentionBackend = AttentionBackend.SDPA) -> None:
        self.backend = backend

    def process(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "batch_view n c"],
        context: Float[Tensor, "batch_view m e"] | None,
        attention_mask: Tensor | None,
        num_views: int,
        points: Points | None,
        attend_set: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Float[Tensor, "batch_view n c"]:
        """Merges `(b v) n c` to `b (v n) c`, calls `attend_set` with queries, keys and values, and splits the result.

        With `points`, queries and keys are rotated by their tokens' 3-D points, see `rotary`.
        """
        refuse_mask(attention_mask)
        if context is not None:
            return cross_attention(attn, hidden_states, context, self.backend)
        joined = rearrange(hidden_states, "(b v) n c -> b (v n) c", v=num_views)
        query, key, value = project_in(attn, joined, joined)
        if points is not None:
            places = rearrange(points[hidden_states.shape[1]], "(b v) n xyz -> b (v n) xyz", v=num_views)
            query, key = rotate(query, places), rotate(key, places)
        out = project_out(attn, attend_set(query, key, value))
        return rearrange(out, "b (v n) c -> (b v) n c", v=num_views)


class JointViewAttnProcessor(_ViewsProcessor):
    """Joint attention in which all views of a set see one another."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "batch_view n c"],
        encoder_hidden_states: Float[Tensor, "batch_view m e"] | None = None,
        attention_mask: None = None,
        *,
        num_views: int,
        points: Points | None = None,
    ) -> Float[Tensor, "batch_view n c"]:
        whole_set = partial(attend, backend=self.backend)
        return self.process(attn, hidden_states, encoder_hidden_states, attention_mask, num_views, points, whole_set)


class IndependentViewAttnProcessor(JointViewAttnProcessor):
    """No view sees another, not even in its set: joint attention over sets of one view. An ablation."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "batch_view n c"],
        encoder_hidden_states: Float[Tensor, "batch_view m e"] | None = None,
        attention_mask: None = None,
        *,
        num_views: int,
        points: Points | None = None,
    ) -> Float[Tensor, "batch_view n c"]:
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, num_views=1, points=points)


class BlockCausalAttnProcessor(_ViewsProcessor):
    """Joint attention in which the new views of a set see all its views, but its anchors see only anchors.

    The anchors' keys and values then do not depend on the new views, and may be kept in an `AnchorState`.
    `num_anchors` has no default either.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "batch_view n c"],
        encoder_hidden_states: Float[Tensor, "batch_view m e"] | None = None,
        attention_mask: None = None,
        *,
        num_views: int,
        num_anchors: int,
        anchor_state: AnchorState | None = None,
        points: Points | None = None,
    ) -> Float[Tensor, "batch_view n c"]:
        """The last `num_anchors` of the `num_views` views of each set are its anchors.

        With an `anchor_state`, a call with anchors fills it, and a call without anchors attends to those that it holds.
        """
        if not 0 <= num_anchors <= num_views:
            raise ValueError(f"a set of {num_views} views cannot have {num_anchors} anchors")
        new = (num_views - num_anchors) * hidden_states.shape[1]  # tokens of the new views

        def attend_set(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if anchor_state is not None and num_anchors:
                anchor_state.keep(attn, key[:, new:], value[:, new:])
            elif anchor_state is not None:
                held_key, held_value = anchor_state.recall(attn)
                key, value = torch.cat([key, held_key], dim=1), torch.cat([value, held_value], dim=1)
            return attend_block_causal(query, key, value, new, self.backend)

        return self.process(attn, hidden_states, encoder_hidden_states, attention_mask, num_views, points, attend_set)


PROCESSORS = {
    "joint": JointViewAttnProcessor,
    "block-causal": BlockCausalAttnProcessor,
    "independent": IndependentViewAttnProcessor,
}


def install_joint_attention(
    model: nn.Module, backend: AttentionBackend = AttentionBackend.SDPA, attention: str = "joint"
) -> None:
    """Gives every attention layer of a diffusers model the joint processor. Training and inference both call this.

    `attention` is one of `PROCESSORS`.
    """
    for name, layer in attention_layers(model).items():
        if layer.group_norm is not None or layer.spatial_norm is not None or layer.residual_connection:
            raise ValueError(f"attention layer '{name}' is not part of a transformer block, as joint attention needs")
        layer.set_processor(PROCESSORS[attention](backend))


def add_qk_norm(model: nn.Module) -> None:
    """Adds a learned RMS normalisation of queries and keys to every self-attention layer of a new model.

    It keeps joint attention over many tokens from starting out near-uniform [Dehghani et al. 2023, arXiv 2302.05442].
    """
    for layer in attention_layers(model).values():
        if not layer.is_cross_attention:
            head_dim = layer.inner_dim // layer.heads
            layer.norm_q, layer.norm_k = nn.RMSNorm(head_dim), nn.RMSNorm(head_dim)


def attention_layers(model: nn.Module) -> dict[str, Attention]:
    """All attention layers of a diffusers model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Attention)}


def cross_attention(
    attn: Attention,
    hidden_states: Float[Tensor, "batch_view n c"],
    context: Float[Tensor, "batch_view m e"],
    backend: AttentionBackend,
) -> Float[Tensor, "batch_view n c"]:
    """Attention of each view to its own context.

    The softmax over a single token is 1, so every query receives that token's value. Training nevertheless computes the
    attention: distributed training needs a gradient, even if it is 0, for the weights of the queries.
    """
    if context.shape[1] == 1 and not torch.is_grad_enabled():
        value = rearrange(attn.to_v(context), "b 1 (h d) -> b 1 h d", h=attn.heads)
        return project_out(attn, value).expand(-1, hidden_states.shape[1], -1)
    return project_out(attn, attend(*project_in(attn, hidden_states, context), backend))


def project_in(
    attn: Attention, hidden_states: Float[Tensor, "b n c"], context: Float[Tensor, "b m e"]
) -> tuple[Float[Tensor, "b n h d"], Float[Tensor, "b m h d"], Float[Tensor, "b m h d"]]:
    """Queries, keys and values, split into heads and normalised where the layer does so."""

    def heads(x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b n h d", h=attn.heads)

    query, key, value = heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))
    if attn.norm_q is not None:
        query, key = attn.norm_q(query), attn.norm_k(key)
    return query, key, value


def project_out(attn: Attention, out: Float[Tensor, "b n h d"]) -> Float[Tensor, "b n c"]:
    """Merges the heads, projects, and applies the layer's dropout."""
    projection, dropout = attn.to_out
    return dropout(projection(rearrange(out, "b n h d -> b n (h d)")))


def refuse_mask(attention_mask: Tensor | None) -> None:
    """The patterns of joint attention need no mask, and honour none."""
    if attention_mask is not None:
        raise ValueError("joint attention takes no attention mask")
