"""The machine's peak rates on large, regular pieces of work, which no stage can beat by much."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from eval.benchmarks.measure import timed


@dataclass(frozen=True, eq=False)
class Ceiling:
    """A piece of work and its amount, in operations or bytes."""

    run: Callable[[], Any]
    amount: int


@torch.no_grad()
def ceilings(device: torch.device, seconds: float = 1.0) -> dict[str, float]:
    """GFLOP/s by kind of work, and GB/s (read and written) under "copy": the best of `seconds` of repetitions each."""
    return {name: _best_rate(make(device), device, seconds) for name, make in _kinds(device).items()}


def best_of(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    return {name: max(rate, second[name]) for name, rate in first.items()}


def _best_rate(ceiling: Ceiling, device: torch.device, seconds: float) -> float:
    ceiling.run()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        times.append(timed(ceiling.run, device))
    return ceiling.amount / min(times) / 1e9


def _kinds(device: torch.device) -> dict[str, Callable[[torch.device], Ceiling]]:
    kinds: dict[str, Callable[[torch.device], Ceiling]] = {
        "matmul-fp32": lambda device: _matmul(device, torch.float32),
        "convolution-fp32": lambda device: _convolution(device, torch.float32),
        "attention-fp32": lambda device: _attention(device, torch.float32),
        "copy": _copy,
    }
    if device.type == "cuda":
        kinds |= {
            "matmul-bf16": lambda device: _matmul(device, torch.bfloat16),
            "convolution-bf16": lambda device: _convolution(device, torch.bfloat16),
            "attention-bf16": lambda device: _attention(device, torch.bfloat16),
        }
    return kinds


def _matmul(device: torch.device, dtype: torch.dtype) -> Ceiling:
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return Ceiling(lambda: a @ b, 2 * n**3)


def _convolution(device: torch.device, dtype: torch.dtype) -> Ceiling:
    """3 x 3, with as many channels as in the middle of a UNet."""
    n, c, side = (64, 256, 64) if device.type == "cuda" else (4, 128, 32)
    x = torch.randn(n, c, side, side, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.randn(c, c, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    return Ceiling(lambda: F.conv2d(x, kernel, padding=1), 2 * n * c * c * 9 * side**2)


def _attention(device: torch.device, dtype: torch.dtype) -> Ceiling:
    """The tokens of four views of 16 x 16, or of 64 x 64 on a GPU."""
    n, heads, tokens, channels = (4, 16, 16384, 64) if device.type == "cuda" else (2, 4, 1024, 64)
    q, k, v = (torch.randn(n, heads, tokens, channels, device=device, dtype=dtype) for _ in range(3))
    return Ceiling(lambda: F.scaled_dot_product_attention(q, k, v), 4 * n * heads * tokens**2 * channels)


def _copy(device: torch.device) -> Ceiling:
    """256 MB, more than any cache holds."""
    source = torch.zeros(64_000_000, device=device)
    target = torch.empty_like(source)
    return Ceiling(lambda: target.copy_(source), 2 * source.numel() * 4)
