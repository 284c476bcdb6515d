"""Averages over the objects of a run: the table, PSNR by angle, and curves along the sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, zip_longest

from eval.methods import TRUTH
from eval.metrics.figures import mean_of_present
from eval.report.columns import COLUMNS
from eval.report.records import Record
from eval.report.tables import Table

ANGLE_BIN = 20  # degrees, of 180
RANKING = ("lpips-alex", "psnr", "tsed")  # metrics that rank objects, the first that there is


@dataclass(frozen=True)
class AngleBin:
    """Views whose direction is between `low` and `high` degrees from that of the nearest input view."""

    low: int
    high: int
    num_views: int
    psnr: dict[str, float]  # by row


def rows_of(records: Sequence[Record]) -> list[str]:
    """The rows of the table, in the order in which they were measured."""
    return list(records[0].figures)


def make_table(records: Sequence[Record], distributions: Table) -> Table:
    """Means within each object, then over the objects that have a value; and the `distributions` of each row."""
    return {
        row: {
            metric: mean_of_present([record.mean(row, metric) for record in records])
            for metric in COLUMNS
            if any(metric in record.figures[row] for record in records)
        }
        | distributions.get(row, {})
        for row in rows_of(records)
    }


def psnr_by_angle(records: Sequence[Record]) -> list[AngleBin]:
    """Mean PSNR within each bin of angles that holds a view: within objects, then over the objects with views there."""
    bins = []
    for low in range(0, 180, ANGLE_BIN):
        inside = [[low <= min(angle, 179.9) < low + ANGLE_BIN for angle in record.angles] for record in records]
        if any(map(any, inside)):
            psnr = {row: mean_of_present(_means_inside(records, row, inside)) for row in rows_of(records)}
            there = {row: figure for row, figure in psnr.items() if figure is not None}
            bins.append(AngleBin(low, low + ANGLE_BIN, sum(map(sum, inside)), there))
    return bins


def _means_inside(records: Sequence[Record], row: str, inside: Sequence[Sequence[bool]]) -> list[float | None]:
    """The mean PSNR of each object's views that are `inside`; the truth has none."""
    figures = [record.figures[row].get("psnr", []) for record in records]
    return [mean_of_present(list(compress(views, which))) for views, which in zip(figures, inside, strict=True)]


def curve(records: Sequence[Record], row: str, metric: str) -> list[float | None]:
    """The mean over objects of each value along the sequence, such as each pair of neighbours."""
    along = [record.figures[row].get(metric, []) for record in records]
    return [mean_of_present(figures) for figures in zip_longest(*along)]


def ranked(records: Sequence[Record]) -> tuple[list[Record], str, str]:
    """The records from best to worst, the metric they are ranked by, and the row: the last one but for the truth."""
    row = [row for row in rows_of(records) if row != TRUTH][-1]
    metric = next(metric for metric in RANKING if metric in records[0].figures[row])
    sign = -1 if COLUMNS[metric].best == "high" else 1
    return sorted(records, key=lambda record: sign * (record.mean(row, metric) or 0.0)), metric, row
