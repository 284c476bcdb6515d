"""Trilinear interpolation in a table of voxels whose channels are contiguous in memory.

`torch.nn.functional.grid_sample` reads one channel of one voxel at a time. Here a voxel is one row of a table, and a
sample is the weighted sum of eight rows: an embedding bag, which reads whole rows and is 16 times faster on a CPU. For
GPUs there are kernels, see `gather_kernel`.
"""

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor
from torch.nn import functional as F


@functools.cache
def gpu_kernels(device: torch.device) -> ModuleType | None:
    """The kernels for a GPU; None on a CPU, and if Triton is missing."""
    if device.type != "cuda":
        return None
    try:
        from mvgenvs.nerf import gather_kernel
    except ImportError:
        return None
    return gather_kernel


def interpolate(
    table: Float[Tensor, "voxel c"],
    first: Int32[Tensor, "*n"],
    fractions: Sequence[Float[Tensor, "*n"]],
    steps: tuple[int, ...],
) -> Float[Tensor, "*n c"]:
    """Samples between row `first` and its neighbours in x, y and z; differentiable only in `table`.

    `fractions` in [0, 1] say how far a sample lies from the first row towards the neighbours in x, y and z, `steps` how
    many rows further these are.
    """
    corners = [i * steps[0] + j * steps[1] + k * steps[2] for k in (0, 1) for j in (0, 1) for i in (0, 1)]
    sampled: Tensor = _WeightedRows.apply(table, first.flatten(), _corner_weights(*fractions).flatten(0, -2), corners)
    return sampled.view(*first.shape, table.shape[1])


def _corner_weights(x: Float[Tensor, "*n"], y: Float[Tensor, "*n"], z: Float[Tensor, "*n"]) -> Float[Tensor, "*n 8"]:
    """The weight of each corner of a sample's cell; x changes fastest from corner to corner."""
    out = torch.empty(*x.shape, 8, dtype=x.dtype, device=x.device)
    xy = x * y
    for corner, plane in enumerate((1 - x - y + xy, x - xy, y - xy, xy)):
        beyond = plane * z
        torch.sub(plane, beyond, out=out[..., corner])
        out[..., 4 + corner] = beyond
    return out


class _WeightedRows(torch.autograd.Function):
    """out[i] = sum_k weights[i, k] table[first[i] + corners[k]], and its gradient with respect to the table."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, first: Tensor, weights: Tensor, corners: list[int]) -> Tensor:
        ctx.save_for_backward(first, weights)
        ctx.corners, ctx.num_rows = corners, len(table)
        if (kernels := gpu_kernels(table.device)) is not None:
            steps = torch.tensor(corners, dtype=first.dtype, device=first.device)
            return kernels.gather(table.contiguous(), first, weights.contiguous(), steps)
        rows = first[:, None] + torch.tensor(corners, dtype=first.dtype, device=first.device)
        return F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        first, weights = ctx.saved_tensors
        if (kernels := gpu_kernels(gradient.device)) is not None:
            steps = torch.tensor(ctx.corners, dtype=first.dtype, device=first.device)
            total = kernels.scatter(gradient.contiguous(), first, weights.contiguous(), steps, ctx.num_rows)
            return total, None, None, None
        return scatter_rows(gradient.contiguous(), first, weights, ctx.corners, ctx.num_rows), None, None, None


def _scatter_rows(gradient: Tensor, first: Tensor, weights: Tensor, corners: list[int], num_rows: int) -> Tensor:
    """A row's gradient is the weighted sum over the samples near it: again a bag, once the samples are sorted by row.

    Rays touch few of the rows, so the work per touched row matters, not the work for all rows.
    """
    ordered, order = first.sort()
    met, counts = ordered.unique_consecutive(return_counts=True)
    starts = counts.cumsum(dim=0) - counts
    by_corner = weights[order].T.contiguous()
    total = gradient.new_zeros(num_rows, gradient.shape[-1])
    for corner, weight in zip(corners, by_corner, strict=True):
        sums = F.embedding_bag(order, gradient, starts, per_sample_weights=weight, mode="sum")
        total.index_add_(0, met + corner, sums)
    return total


# One operation to PyTorch: the number of touched rows does not follow from shapes, as `estimate` would need.
scatter_rows = torch.library.custom_op("mvgenvs::scatter_rows", _scatter_rows, mutates_args=())


@scatter_rows.register_fake
def _(gradient: Tensor, first: Tensor, weights: Tensor, corners: list[int], num_rows: int) -> Tensor:
    return gradient.new_empty(num_rows, gradient.shape[-1])
