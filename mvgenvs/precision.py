"""Where mixed precision begins, and where it ends."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """`function` in the precision of its inputs: for geometry, sums along rays and latents, 8 bits are too few."""

    @functools.wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return exact


def low_precision_norms(model: nn.Module) -> None:
    """Lets the model's normalisations work in the precision of what they normalise.

    Autocast computes them in fp32, which turns everything between two convolutions into fp32 and back. Their kernels
    sum in fp32 anyway.
    """
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = functools.partial(_group_norm, module)  # type: ignore[method-assign]
        elif isinstance(module, nn.LayerNorm):
            module.forward = functools.partial(_layer_norm, module)  # type: ignore[method-assign]
        elif isinstance(module, nn.RMSNorm):
            module.forward = functools.partial(_rms_norm, module)  # type: ignore[method-assign]


def _like(x: Tensor, parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.to(x.dtype)


@without_autocast
def _group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    return F.group_norm(x, norm.num_groups, _like(x, norm.weight), _like(x, norm.bias), norm.eps)


@without_autocast
def _layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, _like(x, norm.weight), _like(x, norm.bias), norm.eps)


@without_autocast
def _rms_norm(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    return F.rms_norm(x, norm.normalized_shape, _like(x, norm.weight), norm.eps)


def best_mixed_precision() -> str:
    """What `run.mixed_precision: auto` means on this machine, the same in every process: no clock decides.

    A GPU decides by what it computes, bf16 or else fp16. A CPU takes bf16 if it computes that, and none elsewhere.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if cpu_computes_bf16() else "no"


def cpu_computes_bf16() -> bool:
    """Whether the CPU has instructions for products in bf16, which would otherwise be computed in fp32.

    They are AVX512_BF16, which every processor with AMX has too.
    """
    return torch.cpu._is_avx512_bf16_supported()
