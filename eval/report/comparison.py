"""How the metrics of two runs differ, or of two rows of one run: paired by object, with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.report.bootstrap import FEWEST, LEVEL, mean_interval
from eval.report.columns import COLUMNS, SAMPLES
from eval.report.runs import FinishedRun
from eval.report.tables import markdown_table
from mvgenvs.errors import UserError


@dataclass(frozen=True)
class Difference:
    """By how much a metric of one row exceeds that of another."""

    metric: str
    first: float
    second: float
    difference: float  # second - first, as a mean over `num_objects`
    interval: tuple[float, float] | None  # of the difference; None for one value per run, or for one object
    num_objects: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0 and there are enough objects to say so."""
        if self.interval is None or self.num_objects < FEWEST:
            return False
        return not self.interval[0] <= 0 <= self.interval[1]


def check_comparable(a: FinishedRun, b: FinishedRun) -> None:
    """Raises `UserError` unless the runs evaluate the same views of the same objects with the same protocol."""
    for name in ("split", "protocol", "num_inputs", "image_size"):
        mine, theirs = getattr(a.settings, name), getattr(b.settings, name)
        if mine != theirs:
            raise UserError(f"{a.path} and {b.path} do not compare: their {name} is {mine} and {theirs}")
    objects = [[record.object for record in run.records] for run in (a, b)]
    if objects[0] != objects[1]:
        differing = sorted(set(objects[0]) ^ set(objects[1]))
        raise UserError(
            f"{a.path} and {b.path} do not compare: they hold {len(objects[0])} and {len(objects[1])} objects, and "
            f"{len(differing)} of them in one run alone" + (f", such as {differing[0]}" if differing else "")
        )
    for mine, theirs in zip(a.records, b.records, strict=True):
        for name in ("input_view_ids", "target_view_ids", "truth_sha256"):
            if getattr(mine, name) != getattr(theirs, name):
                raise UserError(f"{a.path} and {b.path} do not compare: their {name} of {mine.object} differ")


def differences(a: FinishedRun, row_a: str, b: FinishedRun, row_b: str) -> list[Difference]:
    """`row_b` of run `b` minus `row_a` of run `a`, for each metric that both have, paired by object."""
    found = []
    for metric, column in COLUMNS.items():
        if column in SAMPLES and a.settings.num_samples != b.settings.num_samples:
            continue  # the best of more samples is better
        if column.per == "run":
            whole = a.table[row_a].get(metric), b.table[row_b].get(metric)
            if whole[0] is not None and whole[1] is not None:
                found.append(Difference(metric, whole[0], whole[1], whole[1] - whole[0], None, len(a.records)))
            continue
        means = [(x.mean(row_a, metric), y.mean(row_b, metric)) for x, y in zip(a.records, b.records, strict=True)]
        pairs = np.array([(x, y) for x, y in means if x is not None and y is not None])
        if len(pairs):
            first, second = pairs.mean(axis=0).tolist()
            interval = mean_interval((pairs[:, 1] - pairs[:, 0]).tolist())
            found.append(Difference(metric, first, second, second - first, interval, len(pairs)))
    return found


def describe(title: str, found: Sequence[Difference]) -> str:
    """A titled table in Markdown."""
    header = ["metric", "A", "B", "B - A", f"{LEVEL:.0%} interval", "better", "objects"]
    return f"## {title}\n\n{markdown_table(header, map(_cells, found))}"


def _cells(found: Difference) -> list[str]:
    column = COLUMNS[found.metric]
    change = f"+.{column.digits + 1}f"
    interval = "–" if found.interval is None else " to ".join(format(end, change) for end in found.interval)
    better = column.better(found.first, found.second) if found.is_clear else "neither"
    return [
        column.heading,
        column.format(found.first),
        column.format(found.second),
        format(found.difference, change),
        interval,
        {"first": "A", "second": "B", "neither": ""}[better],
        str(found.num_objects),
    ]
