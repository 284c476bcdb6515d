"""Estimates the memory of a training step without using it: the step runs on tensors that have no data.

torch's fake tensors carry shapes through every operation of the forward and backward pass. Counting the storages that
are alive gives the peak, including what the backward pass keeps, and excluding what gradient checkpointing does not.
"""

import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mvgenvs.config import TrainConfig
from mvgenvs.data.sampling import Batch
from mvgenvs.errors import UserError
from mvgenvs.parts import Parts
from mvgenvs.training.objective import Objective
from mvgenvs.training.optimizer import STATE_BYTES
from mvgenvs.trajectories import orbit
from mvgenvs.views import ViewSet, stack

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepMemory:
    """Bytes that training needs on each device. Activations are the rest of the peak, including temporary tensors."""

    weights: int  # of all parts, including frozen ones
    gradients: int
    optimizer: int
    averages: int  # EMA
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.averages + self.activations


class LiveBytes(TorchDispatchMode):
    """Within its block, counts the bytes of tensors made there that are alive, and their peak.

    It cannot see what a kernel needs internally, nor what an allocator holds in reserve.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in before | self._known:
                self._add(x.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        size, key = storage.nbytes(), storage._cdata
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def step_memory(parts: Parts, config: TrainConfig) -> tuple[StepMemory, StepMemory]:
    """What a step of the configured stage needs in one process, without and with gradient checkpointing.

    The step has the largest number of known views that a set may have. The parts lose their weights; they may be on
    torch's meta device, without any weights.
    """
    if config.loss.refine:
        raise UserError("estimate is for stages of the field and the denoiser: the refiner's needs less than these")
    objective = Objective(parts, replace(config, run=replace(config.run, gradient_checkpointing=False))).train()
    objective.skips_air = objective.denoiser.skips_air = False  # where air is depends on the weights
    without_data(objective)
    sets = max(1, config.optim.batch // config.optim.accumulation)
    batch = blank_batch(sets, config.data.num_views, config.data.max_known, config.data.size)

    def measure() -> StepMemory:
        objective.zero_grad()
        return memory_of(objective, lambda: objective.total(objective(batch, 0.0)).backward(), config)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors without data are for one thread alone
    try:
        keeping = measure()
        objective.denoiser.enable_gradient_checkpointing()
        return keeping, measure()
    finally:
        torch.set_num_threads(threads)


def without_data(model: nn.Module) -> None:
    """Replaces all parameters and buffers by tensors of the same shape without data.

    What is computed from them has no data either. Everything else stays real, such as the cameras' rays, of which the
    NeRF renders only those that hit the object: these are counted.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)

    def empty(x: Tensor) -> Tensor:
        with fake:
            return torch.empty(x.shape, dtype=x.dtype)

    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(empty(parameter), parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, empty(buffer))


def memory_of(model: nn.Module, backward: Callable[[], None], config: TrainConfig) -> StepMemory:
    """The memory of training `model`; `backward` runs the forward and backward pass once."""
    trained = [p for p in model.parameters() if p.requires_grad]
    dtype = AUTOCAST.get(config.run.mixed_precision)
    with LiveBytes() as memory, torch.autocast("cpu", dtype) if dtype else nullcontext():
        for _ in range(min(config.optim.accumulation, 2)):  # from the second pass on, gradients exist all the time
            backward()
    gradients = size_of(trained)
    return StepMemory(
        weights=size_of([*model.parameters(), *model.buffers()]),
        gradients=gradients,
        optimizer=sum(p.numel() for p in trained) * STATE_BYTES[config.optim.kind],
        averages=gradients,  # in the weights' own type, like the gradients
        activations=max(0, memory.peak - gradients),
    )


def size_of(tensors: Iterable[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def blank_batch(sets: int, num_views: int, num_known: int, size: int) -> Batch:
    """Sets of white views of an orbit, with masks and depth."""
    cameras = orbit(num_views, hw=(size, size))
    images = torch.ones(num_views, 3, size, size)
    views = ViewSet(images, cameras, mask=images[:, :1], depth=images[:, :1])
    return Batch(stack([views] * sets), num_known, list(range(sets)))
