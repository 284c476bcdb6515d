"""Joint attention as a diffusers attention processor, and the one function that installs it."""

from diffusers.models.attention_processor import Attention
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from attention.backends import AttentionBackend, attend


class JointViewAttnProcessor:
    """Self-attention over the tokens of all views of a set; cross-attention stays within its view.

    diffusers hands `cross_attention_kwargs` to every processor of a UNet, so `num_views` travels with each call. It
    has no default: a call that forgets it raises `TypeError` and cannot fall back to independent views in silence.
    """

    def __init__(self, backend: AttentionBackend = AttentionBackend.SDPA) -> None:
        self.backend = backend

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "batch_view n c"],
        encoder_hidden_states: Float[Tensor, "batch_view m e"] | None = None,
        attention_mask: None = None,
        *,
        num_views: int,
    ) -> Float[Tensor, "batch_view n c"]:
        """Merges `(b v) n c` to `b (v n) c` for self-attention and splits it again; sets never see one another."""
        if attention_mask is not None:
            raise ValueError("joint attention takes no attention mask")
        joint = encoder_hidden_states is None
        if joint:
            hidden_states = rearrange(hidden_states, "(b v) n c -> b (v n) c", v=num_views)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def heads(x: Tensor) -> Tensor:
            return rearrange(x, "b n (h d) -> b n h d", h=attn.heads)

        query, key, value = heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))
        if attn.norm_q is not None:
            query, key = attn.norm_q(query), attn.norm_k(key)
        out = rearrange(attend(query, key, value, self.backend), "b n h d -> b n (h d)")
        out = attn.to_out[1](attn.to_out[0](out))  # projection, dropout
        return rearrange(out, "b (v n) c -> (b v) n c", v=num_views) if joint else out


def install_joint_attention(model: nn.Module, backend: AttentionBackend = AttentionBackend.SDPA) -> None:
    """Gives every attention layer of a diffusers model the joint processor. Training and inference both call this."""
    for name, layer in attention_layers(model).items():
        if layer.group_norm is not None or layer.spatial_norm is not None or layer.residual_connection:
            raise ValueError(f"attention layer '{name}' is not of a transformer block, which joint attention needs")
        layer.set_processor(JointViewAttnProcessor(backend))


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
