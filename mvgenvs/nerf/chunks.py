"""A differentiable function of many chunks of rays, one chunk per thread at a time.

PyTorch splits every operator among its threads, but the operators of one chunk are too small for that: two threads make
a rendering only a fifth faster. Here each thread takes whole chunks, and runs their operators alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

R = TypeVar("R")

Chunk = tuple[Tensor, ...]


def threads_on(device: torch.device) -> int:
    """How many chunks are processed at a time: as many as PyTorch has threads, and one on a GPU."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def map_chunks(
    function: Callable[..., tuple[Tensor, ...]],
    chunks: Sequence[Chunk],
    parameters: Iterable[Tensor],
    num_kept: int,
) -> list[tuple[Tensor, ...]]:
    """`function(*chunk)` of every chunk, differentiable only in `parameters`.

    The first `num_kept` chunks keep their intermediate results for the backward pass; the others recompute them.
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    if not (wanted and torch.is_grad_enabled()):
        return list(_in_threads(torch.no_grad()(function), chunks, threads_on(chunks[0][0].device)))
    flat = _Chunks.apply(function, chunks, num_kept, *wanted)
    each = len(flat) // len(chunks)
    return [flat[start : start + each] for start in range(0, len(flat), each)]


class _Chunks(torch.autograd.Function):
    """Keeps one graph per chunk, so that the backward pass can process several at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., tuple[Tensor, ...]],
        chunks: Sequence[Chunk],
        num_kept: int,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.function, ctx.chunks, ctx.parameters = function, chunks, parameters
        ctx.threads = threads_on(chunks[0][0].device)
        ctx.kept = list(_in_threads(torch.enable_grad()(function), chunks[:num_kept], ctx.threads))
        others = _in_threads(torch.no_grad()(function), chunks[num_kept:], ctx.threads)
        return tuple(out.detach() for outs in (*ctx.kept, *others) for out in outs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        each = len(gradients) // len(ctx.chunks)

        def of_chunk(index: int) -> tuple[Tensor | None, ...]:
            kept = index < len(ctx.kept)
            outs = ctx.kept[index] if kept else torch.enable_grad()(ctx.function)(*ctx.chunks[index])
            pairs = zip(outs, gradients[index * each : (index + 1) * each], strict=True)
            outs, of_outs = zip(*[(out, gradient) for out, gradient in pairs if out.requires_grad], strict=True)
            return torch.autograd.grad(outs, ctx.parameters, of_outs, allow_unused=True)

        of_chunks = _in_threads(of_chunk, [(index,) for index in range(len(ctx.chunks))], ctx.threads)
        totals = reduce(lambda total, part: tuple(map(_add, total, part)), of_chunks)  # in the chunks' order
        return None, None, None, *totals


def _add(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    if total is None or part is None:
        return part if total is None else total
    return total + part


def _in_threads(function: Callable[..., R], arguments: Sequence[tuple[Any, ...]], threads: int) -> Iterator[R]:
    """`function(*each)` in order, in `threads` threads with one chunk each; the caller is one of them."""
    if threads == 1 or len(arguments) < 2:
        for each in arguments:
            yield function(*each)
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from pool.map(lambda each: function(*each), arguments)
        finally:
            torch.set_num_threads(threads)  # for threads created after those of the pool
