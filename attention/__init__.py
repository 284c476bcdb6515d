"""Joint-view attention: the mathematics, the diffusers processor that applies it, and the kernels that compute it."""

from attention.anchor_cache import AnchorCache, AnchorState
from attention.backends import AttentionBackend, resolve_backend
from attention.processor import (
    PROCESSORS,
    BlockCausalAttnProcessor,
    IndependentViewAttnProcessor,
    JointViewAttnProcessor,
    add_qk_norm,
    attention_layers,
    install_joint_attention,
)
from attention.reference import joint_attention_reference

__all__ = [
    "PROCESSORS",
    "AnchorCache",
    "AnchorState",
    "AttentionBackend",
    "BlockCausalAttnProcessor",
    "IndependentViewAttnProcessor",
    "JointViewAttnProcessor",
    "add_qk_norm",
    "attention_layers",
    "install_joint_attention",
    "joint_attention_reference",
    "resolve_backend",
]
