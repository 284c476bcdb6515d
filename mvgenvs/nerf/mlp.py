"""A small MLP over very many points, in cache-sized blocks."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

threshold_backward = torch.ops.aten.threshold_backward  # the gradient of ReLU

BLOCK = 2048  # points: the hidden layers of a block stay in a core's second-level cache


def blockwise_mlp(
    layers: nn.Sequential, columns: Float[Tensor, "n a"], rows: Float[Tensor, "b n"]
) -> Float[Tensor, "f n"]:
    """Three linear layers with ReLU between them. The inputs of a point are its row of `columns`, then its column of
    `rows`.

    Hidden layers are never kept: the backward pass recomputes them, which is cheaper than storing and reading them.
    """
    parameters = [parameter.to(columns.dtype) for parameter in layers.parameters()]
    if len(parameters) != 6:
        raise ValueError(f"blockwise_mlp knows three layers with biases, not {len(parameters)} parameters")
    out: Tensor = _BlockwiseMLP.apply(columns, rows, *parameters)
    return out


class _BlockwiseMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, columns: Tensor, rows: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(columns, rows, *parameters)
        out = columns.new_empty(len(parameters[-1]), len(columns))
        last, last_bias = parameters[-2:]
        with torch.autocast(columns.device.type, enabled=False):
            for part, _, hidden in _hidden_layers(columns, rows, parameters):
                torch.addmm(last_bias[:, None], last, hidden.T, out=out[:, part])
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        columns, rows, *parameters = ctx.saved_tensors
        (w1, _, w2, _, w3, _), split = parameters, columns.shape[1]
        totals = [torch.zeros_like(parameter) for parameter in parameters]
        g_w1, g_b1, g_w2, g_b2, g_w3, g_b3 = totals
        g_columns, g_rows = torch.empty_like(columns), torch.empty_like(rows)
        with torch.autocast(columns.device.type, enabled=False):
            for part, hidden1, hidden2 in _hidden_layers(columns, rows, parameters):
                g_out = gradient[:, part]
                g_w3.addmm_(g_out, hidden2)
                g2 = threshold_backward(g_out.T @ w3, hidden2, 0)
                g_w2.addmm_(g2.T, hidden1)
                g1 = threshold_backward(g2 @ w2, hidden1, 0)
                g_w1[:, :split].addmm_(g1.T, columns[part])
                g_w1[:, split:].addmm_(g1.T, rows[:, part].T)
                torch.mm(g1, w1[:, :split], out=g_columns[part])
                torch.mm(w1[:, split:].T, g1.T, out=g_rows[:, part])
                g_b1 += g1.sum(dim=0)
                g_b2 += g2.sum(dim=0)
            g_b3 += gradient.sum(dim=1)
        return g_columns, g_rows, *totals


def _hidden_layers(
    columns: Tensor, rows: Tensor, parameters: Sequence[Tensor]
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Slices of points, with their two hidden layers, whose memory is reused for the next slice."""
    w1, b1, w2, b2 = parameters[:4]
    num_points, split = columns.shape
    block = num_points if columns.is_cuda else BLOCK
    w1_columns, w1_rows, w2 = w1[:, :split].T.contiguous(), w1[:, split:].T.contiguous(), w2.T.contiguous()
    hidden1, hidden2 = (columns.new_empty(min(block, num_points), len(bias)) for bias in (b1, b2))
    for start in range(0, num_points, block):
        part = slice(start, min(start + block, num_points))
        first, second = hidden1[: part.stop - start], hidden2[: part.stop - start]
        torch.addmm(b1, columns[part], w1_columns, out=first)
        first.addmm_(rows[:, part].T, w1_rows).relu_()
        torch.addmm(b2, first, w2, out=second).relu_()
        yield part, first, second
