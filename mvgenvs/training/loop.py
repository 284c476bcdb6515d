"""The training loop, as a generator: it yields one report per optimisation step and leaves the rest to its caller."""

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from mvgenvs.config import TrainConfig
from mvgenvs.data.device_sets import DeviceSets
from mvgenvs.data.sampling import TrainingSets
from mvgenvs.errors import UserError
from mvgenvs.training.schedule import StageLength

T = TypeVar("T")


@runtime_checkable
class Movable(Protocol):
    """What a data set's items are collated to: a batch that can be moved to a device."""

    def to(self, device: torch.device) -> Any: ...


@runtime_checkable
class Items(Protocol):
    """An endless data set: item `i` belongs to step `i // batch`, and is a function of the seed and `i` alone."""

    def __getitem__(self, index: int) -> Any: ...
    def collate(self, items: list[Any]) -> Movable: ...


@dataclass(frozen=True)
class StepReport:
    """What one optimisation step did."""

    step: int  # number of steps done, including this one
    losses: dict[str, float]  # unweighted, averaged over the step's sets on this process
    grad_norm: float  # before clipping
    lr: float
    skipped: int  # steps skipped so far for a non-finite loss
    seconds: float  # from the request for data to the updated weights, on this process
    waited: float  # part of `seconds` spent waiting for data
    rendering: float = 0.0  # part of `seconds` spent in the NeRF's forward pass

    @property
    def wait(self) -> float:
        """The share of the step spent waiting for data, in [0, 1]."""
        return self.waited / self.seconds


class StepBatches:
    """Indices of the training sets that this process sees in each backward pass, from step `start` on, without end."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator, start: int) -> None:
        passes = config.optim.accumulation
        self.share, rest = divmod(config.optim.batch, passes * accelerator.num_processes)
        if rest or not self.share:
            raise UserError(
                f"optim.batch {config.optim.batch} must be a multiple of optim.accumulation {passes}"
                f" times {accelerator.num_processes} processes"
            )
        self.rank, self.world, self.first = accelerator.process_index, accelerator.num_processes, start * passes

    def __iter__(self) -> Iterator[list[int]]:
        for number in itertools.count(self.first):
            begin = (number * self.world + self.rank) * self.share
            yield list(range(begin, begin + self.share))


def batches(sets: Items, config: TrainConfig, accelerator: Accelerator, start: int) -> Iterator[Movable]:
    """The items of this process from step `start` on, in order, without end."""
    indices = StepBatches(config, accelerator, start)
    if config.data.on_device and isinstance(sets, TrainingSets):
        on_device = DeviceSets(sets, accelerator.device)
        return prefetched(map(on_device.batch, indices))
    loader: DataLoader[Any] = DataLoader(
        sets,  # type: ignore[arg-type]
        batch_sampler=indices,
        num_workers=config.data.workers,
        collate_fn=sets.collate,
        generator=torch.Generator(),  # for the workers' seeds, which are not used; spares the global generator
    )
    return prefetched(from_workers(loader))


def from_workers(loader: Iterable[Any]) -> Iterator[Movable]:
    """Its batches. Raises `UserError` if a process that prepares them was killed."""
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            "a process that prepares data was killed, as happens when memory runs out: set data.workers lower,"
            " and continue with --resume auto"
        ) from error


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """The same items; a thread prepares the next one while the current one is in use."""
    end = object()
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]


def train(
    accelerator: Accelerator,
    objective: torch.nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    ema: EMAModel,
    data: Iterator[Movable],
    config: TrainConfig,
    length: StageLength,
    start: int,
    skipped: int = 0,
) -> Iterator[StepReport]:
    """Trains from step `start` to the stage's end. A step with a non-finite loss or gradient is skipped and counted.

    `objective` is prepared by accelerate, and has `total` and `rendering_seconds` as in `Objective`. Raises `UserError`
    after `run.max_nonfinite` skipped steps in a row.
    """
    core: Any = accelerator.unwrap_model(objective)
    trained = [p for p in core.parameters() if p.requires_grad]
    in_a_row = 0
    step = start
    core.rendering_seconds()  # discards time before the first step
    while step < length.end:
        objective.train()  # the receiver of the last report may have saved or sampled
        sums: dict[str, Tensor] = {}
        norm = math.nan
        begin, waited = time.perf_counter(), 0.0
        for _ in range(config.optim.accumulation):
            asked = time.perf_counter()
            batch = next(data)
            waited += time.perf_counter() - asked
            with accelerator.accumulate(objective):
                losses = objective(batch.to(accelerator.device), length.progress(step))
                accelerator.backward(core.total(losses))  # divides by the accumulation steps
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(trained, config.optim.clip).item()
                    # Gradients are already averaged, so every process decides alike. The fp16 scaler skips the step by
                    # itself, and must be told of it in order to scale less from then on.
                    if math.isfinite(norm) or accelerator.scaler is not None:
                        optimizer.step()
                    optimizer.zero_grad()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / config.optim.accumulation
        schedule.step()
        step += 1
        length.after(step)
        if math.isfinite(norm):
            ema.step(trained)
            in_a_row = 0
        else:
            skipped, in_a_row = skipped + 1, in_a_row + 1
            if in_a_row >= config.run.max_nonfinite:
                raise UserError(
                    f"stopped at step {step}: the loss was not finite for {in_a_row} steps in a row;"
                    " lower optim.lr or look at the data"
                )
        lr = float(schedule.get_last_lr()[0])
        floats = {name: float(value) for name, value in sums.items()}
        rendering, seconds = core.rendering_seconds(), time.perf_counter() - begin
        yield StepReport(step, floats, norm, lr, skipped, seconds, waited, rendering)
