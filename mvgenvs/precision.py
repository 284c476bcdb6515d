"""Where mixed precision begins, and where it ends."""

import functools
import time
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


@functools.cache
def best_mixed_precision() -> str:
    """bf16 where it makes convolutions and products at least a quarter faster, found by trying; no elsewhere."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"

    def seconds(dtype: torch.dtype) -> float:
        image, kernel = torch.ones(4, 64, 32, 32, dtype=dtype), torch.ones(64, 64, 3, 3, dtype=dtype)
        rows, matrix = torch.ones(1024, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(4):
                F.conv2d(image, kernel, padding=1)
                rows @ matrix
            best = min(best, time.perf_counter() - start)
        return best

    try:
        return "bf16" if 1.25 * seconds(torch.bfloat16) < seconds(torch.float32) else "no"
    except RuntimeError:  # a processor that has no kernel for it
        return "no"
