"""Time, work and memory of one stage."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from eval.benchmarks.stage import Stage
from mvgenvs.device import torch_threads

BUDGET_S = 60.0  # no more repetitions once a stage and its reference have taken this long together


@dataclass(frozen=True)
class Measurement:
    """One row of the table. Times in ms; `speedup` is the reference's shortest time over the stage's."""

    name: str
    median_ms: float
    min_ms: float
    repetitions: int
    gflop: float
    gflops: float  # per second, in the shortest run
    gbytes_per_s: float | None  # of a stage bound by memory
    ceiling: str
    share: float  # of the ceiling, in the shortest run
    peak_mbytes: float
    reference_min_ms: float | None
    reference_peak_mbytes: float | None
    speedup: float | None
    difference: float | None  # the largest absolute difference between the stage's and the reference's result


def measure(stage: Stage, device: torch.device, repetitions: int, ceilings: dict[str, float]) -> Measurement:
    """Runs a stage and its reference in turn, so that a busy machine slows both alike.

    The first run of each is not timed: it warms up, counts the work, tracks memory and compares the results.
    """
    flops = count_flops(stage.run) if stage.flops is None else stage.flops
    result, peak = peak_bytes(stage.run, device)
    expected, reference_peak = peak_bytes(stage.reference, device) if stage.reference else (None, None)
    difference = _largest_difference(result, expected)
    del result, expected
    callables = [stage.run] if stage.reference is None else [stage.run, stage.reference]
    seconds = interleaved(callables, device, repetitions)
    best = min(seconds[0])
    ceiling = "copy" if stage.moved_bytes else stage.ceiling
    rate = (stage.moved_bytes or flops) / best / 1e9
    return Measurement(
        name=stage.name,
        median_ms=statistics.median(seconds[0]) * 1e3,
        min_ms=best * 1e3,
        repetitions=len(seconds[0]),
        gflop=flops / 1e9,
        gflops=flops / best / 1e9,
        gbytes_per_s=rate if stage.moved_bytes else None,
        ceiling=ceiling,
        share=rate / ceilings[ceiling],
        peak_mbytes=peak / 1e6,
        reference_min_ms=min(seconds[1]) * 1e3 if stage.reference else None,
        reference_peak_mbytes=None if reference_peak is None else reference_peak / 1e6,
        speedup=min(seconds[1]) / best if stage.reference else None,
        difference=difference,
    )


def interleaved(
    callables: Sequence[Callable[[], Any]], device: torch.device, repetitions: int, budget: float = BUDGET_S
) -> list[list[float]]:
    """Seconds of each run of each callable: all of them once, then all of them again, and so on."""
    seconds: list[list[float]] = [[] for _ in callables]
    for _ in range(repetitions):
        for call, times in zip(callables, seconds, strict=True):
            times.append(timed(call, device))
        if sum(map(sum, seconds)) > budget:
            break
    return seconds


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one run, until the device has finished it."""
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def count_flops(call: Callable[[], Any]) -> int:
    """Floating-point operations of one run: matrix products, convolutions, attention (a multiplication and an
    addition are two), and the interpolation of `grid_sample`; elementwise work is not counted. It runs in one thread,
    since PyTorch's counters see only the caller's.
    """
    with torch_threads(1), FlopCounterMode(display=False, custom_mapping=_GRID_SAMPLE | _CPU_ATTENTION) as counter:
        call()
    return counter.get_total_flops()


def peak_bytes(call: Callable[[], Any], device: torch.device) -> tuple[Any, int]:
    """The result of one run and the most memory that its tensors held at any time, beyond what was held before.

    On the CPU these are PyTorch's own allocations with one thread at work; scratch memory inside the matrix libraries
    is not visible.
    """
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        _wait(device)
        return result, torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler announces itself on stderr
    with torch_threads(1), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = call()
    held = peak = 0
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return result, peak


def _largest_difference(result: Any, expected: Any) -> float | None:
    if not (isinstance(result, Tensor) and isinstance(expected, Tensor)):
        return None
    return (result.detach().double() - expected.detach().double()).abs().max().item()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _interpolation(corners: int, passes: int) -> Callable[..., int]:
    """A product and a sum per corner and output value; the backward pass does the same for voxels and coordinates."""

    def flops(input_shape: Any, grid_shape: Any, *_: Any, **__: Any) -> int:
        return 2 * corners * passes * input_shape[1] * prod(grid_shape[:-1])

    return flops


def _interpolation_backward(corners: int) -> Callable[..., int]:
    forward = _interpolation(corners, 2)

    def flops(_gradient_shape: Any, input_shape: Any, grid_shape: Any, *_: Any, **__: Any) -> int:
        return forward(input_shape, grid_shape)

    return flops


_GRID_SAMPLE = {
    torch.ops.aten.grid_sampler_2d: _interpolation(4, 1),
    torch.ops.aten.grid_sampler_3d: _interpolation(8, 1),
    torch.ops.aten.grid_sampler_2d_backward: _interpolation_backward(4),
    torch.ops.aten.grid_sampler_3d_backward: _interpolation_backward(8),
}

# PyTorch counts only the attention kernels of GPUs.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: sdpa_flop_count(
        query, key, value
    )
}
