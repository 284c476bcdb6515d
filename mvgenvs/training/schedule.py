"""How long a stage lasts: steps that are given, or that its minutes allow, fixed once and kept in the run."""

import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from mvgenvs.config import TrainConfig
from mvgenvs.errors import UserError
from mvgenvs.files import write_text

PLAN = "plan.json"  # in the run's folder: the steps that its minutes allow
UNTIMED = 2  # first steps, slow for other reasons (compilation, allocation), that no throughput is taken from
MOST_TIMED = 40  # steps are enough to know the throughput
ENDLESS = 10**9


class StageLength:
    """The steps of a stage, and its learning rate: linear warm-up, then a cosine to zero over the steps that are left.

    Under `run.minutes` the steps are unknown until some of the warm-up's have been timed. What is then left of the
    minutes, counted from before the first step, over the time of a step gives the others. They are written into the
    run, so that a resumed run keeps them.
    """

    def __init__(self, config: TrainConfig, agree: Callable[[int], int]) -> None:
        """`agree` makes one number of those of all processes. Raises `UserError` where the run's plan is damaged."""
        self.path = Path(config.run.output) / PLAN
        self.warmup, self.seconds, self.agree = config.optim.warmup, 60 * config.run.minutes, agree
        self.timed = max(1, min(config.optim.warmup, MOST_TIMED) - UNTIMED)
        self.steps: int | None = None if self.seconds else config.optim.steps
        self.started = time.perf_counter()
        self.ends: list[float] = []  # of the timed steps, and of the one before them
        if self.seconds and self.path.exists():
            try:
                self.steps = int(json.loads(self.path.read_text())["steps"])
            except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
                raise UserError(f"{self.path} is damaged: choose another --run.output") from error

    def spent(self, seconds: float) -> None:
        """To be told of what an earlier process, which was stopped before the first step, has spent of the minutes."""
        if self.steps is None:
            self.started -= seconds

    @property
    def end(self) -> int:
        """The step to stop after; as good as never until it is known."""
        return ENDLESS if self.steps is None else self.steps

    def progress(self, step: int) -> float:
        """How far the stage has come, in [0, 1]."""
        return step / self.end

    def rate(self, step: int) -> float:
        """The learning rate at a step, over its peak."""
        if step < self.warmup:
            return step / self.warmup
        left = (step - self.warmup) / max(1, self.end - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, left)))

    def after(self, step: int) -> None:
        """To be told after each step. Fixes the number of steps when enough of them were timed.

        The median counts: among the first steps are some that compile a kernel or try several.
        """
        if self.steps is not None or step < UNTIMED:
            return
        self.ends.append(time.perf_counter())
        if len(self.ends) <= self.timed:
            return
        each = statistics.median(after - before for before, after in itertools.pairwise(self.ends))
        more = int((self.seconds - (self.ends[-1] - self.started)) / each)
        self.steps = self.agree(step + max(1, more))
        write_text(self.path, json.dumps({"steps": self.steps, "seconds_per_step": each}) + "\n")
