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

PLAN = "plan.json"  # in the run's folder: the number of steps that its minutes allow
UNTIMED = 2  # first steps, slow for other reasons (compilation, allocation), which are not timed
MOST_TIMED = 40  # steps that suffice to know the throughput
ENDLESS = 10**9


class StageLength:
    """The steps of a stage, and its learning rate: linear warm-up, then a cosine to zero over the remaining steps.

    With `run.minutes`, the number of steps is unknown until some steps of the warm-up have been timed. Then the rest of
    the minutes, counted from before the first step, is divided by the time of a step. The result is written to the run,
    so that a resumed run keeps it.
    """

    def __init__(self, config: TrainConfig, agree: Callable[[int], int]) -> None:
        """`agree` makes one number out of all processes'. Raises `UserError` if the run's plan is damaged."""
        self.path = Path(config.run.output) / PLAN
        self.warmup, self.seconds, self.agree = config.optim.warmup, 60 * config.run.minutes, agree
        self.timed = max(1, min(config.optim.warmup, MOST_TIMED) - UNTIMED)
        self.steps: int | None = None if self.seconds else config.optim.steps
        self.started = time.perf_counter()
        self.ends: list[float] = []  # of the timed steps, and of the step before them
        if self.seconds and self.path.exists():
            try:
                self.steps = int(json.loads(self.path.read_text())["steps"])
            except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
                raise UserError(f"{self.path} is damaged: choose another --run.output") from error

    def spent(self, seconds: float) -> None:
        """Subtracts from the minutes what an earlier process, stopped before the first step, has used of them."""
        if self.steps is None:
            self.started -= seconds

    @property
    def end(self) -> int:
        """The last step; practically infinite until it is known."""
        return ENDLESS if self.steps is None else self.steps

    def progress(self, step: int) -> float:
        """The fraction of the stage that is done, in [0, 1]."""
        return step / self.end

    def rate(self, step: int) -> float:
        """The learning rate at a step, divided by its peak."""
        if step < self.warmup:
            return step / self.warmup
        left = (step - self.warmup) / max(1, self.end - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, left)))

    def after(self, step: int) -> None:
        """To be called after each step. Fixes the number of steps when enough of them were timed.

        The median is used, since some of the first steps compile a kernel or try several.
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
