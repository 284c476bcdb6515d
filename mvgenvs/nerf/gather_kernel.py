"""Triton kernels for GPUs: trilinear interpolation as a weighted sum of rows, forward and backward.

torch's embedding bag writes and sorts indices, which on a GPU takes longer than all other work for a sample.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128  # samples of one program


@triton.jit
def _gather(
    table, first, weights, corners, out, num_samples,
    CHANNELS: tl.constexpr, PADDED: tl.constexpr, CORNERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, PADDED)
    inside = sample < num_samples
    mask = inside[:, None] & (channel < CHANNELS)[None, :]
    row = tl.load(first + sample, mask=inside, other=0).to(tl.int64)
    total = tl.zeros((BLOCK, PADDED), dtype=tl.float32)
    for k in range(CORNERS):
        weight = tl.load(weights + sample * CORNERS + k, mask=inside, other=0.0)
        place = (row + tl.load(corners + k)) * CHANNELS
        total += weight[:, None] * tl.load(table + place[:, None] + channel[None, :], mask=mask, other=0.0)
    where = sample.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    tl.store(out + where, total, mask=mask)


@triton.jit
def _scatter(
    gradient, first, weights, corners, total, num_samples,
    CHANNELS: tl.constexpr, PADDED: tl.constexpr, CORNERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, PADDED)
    inside = sample < num_samples
    mask = inside[:, None] & (channel < CHANNELS)[None, :]
    row = tl.load(first + sample, mask=inside, other=0).to(tl.int64)
    where = sample.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    value = tl.load(gradient + where, mask=mask, other=0.0)
    for k in range(CORNERS):
        weight = tl.load(weights + sample * CORNERS + k, mask=inside, other=0.0)
        place = (row + tl.load(corners + k)) * CHANNELS
        tl.atomic_add(total + place[:, None] + channel[None, :], weight[:, None] * value, mask=mask)


def gather(table: Tensor, first: Tensor, weights: Tensor, corners: Tensor) -> Tensor:
    """sum_k weights[i, k] table[first[i] + corners[k]], all contiguous; (sample, channel)."""
    out = table.new_empty(len(first), table.shape[1])
    _launch(_gather, table, first, weights, corners, out)
    return out


def scatter(gradient: Tensor, first: Tensor, weights: Tensor, corners: Tensor, rows: int) -> Tensor:
    """The gradient of `gather` with respect to a table of `rows` rows."""
    total = gradient.new_zeros(rows, gradient.shape[1])
    _launch(_scatter, gradient, first, weights, corners, total)
    return total


def _launch(kernel: Any, source: Tensor, first: Tensor, weights: Tensor, corners: Tensor, target: Tensor) -> None:
    if not len(first):
        return
    channels = source.shape[1]
    with torch.cuda.device(source.device) if source.is_cuda else torch.no_grad():
        kernel[(triton.cdiv(len(first), BLOCK),)](
            source, first, weights, corners, target, len(first),
            CHANNELS=channels, PADDED=triton.next_power_of_2(channels), CORNERS=len(corners), BLOCK=BLOCK,
        )  # fmt: skip
