"""The kernels that compute attention, chosen at run time from those that work on this machine."""

from collections.abc import Callable
from enum import Enum
from functools import cache

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention


class AttentionBackend(Enum):
    """`SDPA` is torch's scaled_dot_product_attention, the default and the reference for all others.

    `FLEX` is torch's flex_attention, compiled on CUDA. On a CPU it runs without its compiler: it has no gradient there
    and writes all scores to memory, so it serves only to check results.
    """

    SDPA = "sdpa"
    XFORMERS = "xformers"
    FLEX = "flex"


_DIFFUSERS_NAMES = {
    AttentionBackend.SDPA: AttentionBackendName.NATIVE,
    AttentionBackend.XFORMERS: AttentionBackendName.XFORMERS,
}


def attend(
    query: Float[Tensor, "b n h d"],
    key: Float[Tensor, "b m h d"],
    value: Float[Tensor, "b m h d"],
    backend: AttentionBackend,
) -> Float[Tensor, "b n h d"]:
    """Unmasked attention; sdpa and xformers go through diffusers' dispatcher."""
    if backend is AttentionBackend.FLEX:
        return _flex(query, key, value, None)
    return dispatch_attention_fn(query, key, value, backend=_DIFFUSERS_NAMES[backend])


def attend_block_causal(
    query: Float[Tensor, "b n h d"],
    key: Float[Tensor, "b m h d"],
    value: Float[Tensor, "b m h d"],
    num_new: int,
    backend: AttentionBackend,
) -> Float[Tensor, "b n h d"]:
    """The first `num_new` queries see all keys; the others see the keys from `num_new` on.

    Two calls without a mask compute only the pairs that are needed, and run on every kernel; flex takes a mask instead.
    """
    if num_new == query.shape[1]:
        return attend(query, key, value, backend)
    if backend is AttentionBackend.FLEX:
        return _flex(query, key, value, _block_causal_mask(num_new, query.shape[1], key.shape[1], query.device))
    anchors = attend(query[:, num_new:], key[:, num_new:], value[:, num_new:], backend)
    return torch.cat([attend(query[:, :num_new], key, value, backend), anchors], dim=1) if num_new else anchors


def resolve_backend(name: str) -> AttentionBackend:
    """The backend called `name`, after a trial on this machine; `auto` takes xformers on CUDA where it works.

    Raises `ValueError` with one sentence for an unknown name or a backend that does not work here.
    """
    if name == "auto":
        return AttentionBackend.XFORMERS if _failure(AttentionBackend.XFORMERS) is None else AttentionBackend.SDPA
    try:
        backend = AttentionBackend(name)
    except ValueError:
        known = ", ".join(b.value for b in AttentionBackend)
        raise ValueError(f"there is no attention backend '{name}': choose auto, {known}") from None
    if failure := _failure(backend):
        raise ValueError(f"attention backend '{name}' does not work on this machine ({failure}): use sdpa")
    return backend


@cache
def _failure(backend: AttentionBackend) -> str | None:
    """Why the backend cannot be used, found by trying it: an extension may be installed and still fail to load."""
    if backend is AttentionBackend.SDPA:
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.ones(1, 8, 1, 32, device=device, dtype=torch.float16 if device == "cuda" else torch.float32)
    try:
        attend(x, x, x, backend)
    except Exception as error:  # an extension that was built for another torch may raise anything
        return f"{type(error).__name__} on {device}"
    return None


def _flex(
    query: Float[Tensor, "b n h d"],
    key: Float[Tensor, "b m h d"],
    value: Float[Tensor, "b m h d"],
    mask: BlockMask | None,
) -> Float[Tensor, "b n h d"]:
    kernel = _flex_kernel(query.device.type)
    return kernel(*(x.transpose(1, 2) for x in (query, key, value)), block_mask=mask).transpose(1, 2)


@cache
def _flex_kernel(device_type: str) -> Callable[..., Tensor]:
    if device_type == "cuda":
        return torch.compile(flex_attention, dynamic=False)
    return flex_attention


@cache
def _block_causal_mask(num_new: int, queries: int, keys: int, device: torch.device) -> BlockMask:
    return create_block_mask(
        lambda batch, head, query, key: (query < num_new) | (key >= num_new),
        B=None, H=None, Q_LEN=queries, KV_LEN=keys, device=str(device),
    )  # fmt: skip
