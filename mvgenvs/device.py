"""The device of a computation, its threads, its clock, and its peak memory."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from mvgenvs.errors import UserError


def resolve_device(name: str) -> torch.device:
    """The device that a name stands for; `auto` is the GPU if there is one. Raises `UserError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name).item()  # "meta" and absent devices fail here, before a model is loaded
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device {name} is not available on this machine, use auto or cpu.") from None
    return torch.device(name)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within the block, PyTorch computes in `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clock(device: torch.device) -> Callable[[], float]:
    """A clock in seconds: on a CPU the CPU time of this process, since others may be running; on a GPU wall time."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def peak_memory(device: torch.device) -> dict[str, int]:
    """The most memory this process has held so far, in bytes, on the host and on its GPU."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts KiB on Linux
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peak["cuda"] = torch.cuda.max_memory_allocated(device)
    return peak
