"""The kernels that compute attention, chosen at run time by what works on this machine."""

from enum import Enum
from functools import cache

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from jaxtyping import Float
from torch import Tensor


class AttentionBackend(Enum):
    """`SDPA` is torch's scaled_dot_product_attention, the default and the reference of all others."""

    SDPA = "sdpa"
    XFORMERS = "xformers"


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
    """Unmasked attention through diffusers' dispatcher."""
    return dispatch_attention_fn(query, key, value, backend=_DIFFUSERS_NAMES[backend])


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
    """Why the backend cannot be used, found by using it: an extension may install and still not load."""
    if backend is AttentionBackend.SDPA:
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.ones(1, 8, 1, 32, device=device, dtype=torch.float16 if device == "cuda" else torch.float32)
    try:
        attend(x, x, x, backend)
    except Exception as error:  # whatever an extension that was built for another torch may raise
        return f"{type(error).__name__} on {device}"
    return None
