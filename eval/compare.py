"""Differences between two runs, or between two rows of one run: `python -m eval.compare --help`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.bootstrap import FEW, FEWEST, LEVEL, mean_interval
from eval.columns import COLUMNS, SAMPLES, markdown_table
from eval.methods import ROWS
from eval.records import Record, Settings, read_json
from eval.summary import Table
from mvgenvs.errors import OneSentenceParser, UserError, run_script


@dataclass(frozen=True)
class Run:
    """What `metrics.json` of a run says."""

    path: Path
    settings: Settings
    records: list[Record]
    table: Table


@dataclass(frozen=True)
class Difference:
    """How much a figure of one row exceeds that of another."""

    metric: str
    first: float
    second: float
    difference: float  # second - first, as a mean over `num_objects`
    interval: tuple[float, float] | None  # of the difference; None where there is one figure per run, or one object
    num_objects: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0 and there are objects enough to say so."""
        if self.interval is None or self.num_objects < FEWEST:
            return False
        return not self.interval[0] <= 0 <= self.interval[1]


def read_run(path: Path) -> Run:
    """Reads the folder of a run, or its `metrics.json`. Raises `UserError` where that is missing or damaged."""
    file = path / "metrics.json" if path.is_dir() else path
    if not file.exists():
        raise UserError(f"there is no {file}: give the --output folder of a finished run of eval.run")
    content = read_json(file)
    try:
        records = [Record(**record) for record in content["objects"]]
        return Run(path, Settings(**content["settings"]), records, content["table"])
    except (TypeError, KeyError):
        raise UserError(f"{file} is damaged, or of another version of eval.run: run the evaluation again") from None


def check_comparable(a: Run, b: Run) -> None:
    """Raises `UserError` unless the runs judge the same views of the same objects by the same protocol."""
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


def differences(a: Run, row_a: str, b: Run, row_b: str) -> list[Difference]:
    """`row_b` of run `b` less `row_a` of run `a`, for each metric that both have, paired by object."""
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


def parser() -> OneSentenceParser:
    parse = OneSentenceParser(
        "python -m eval.compare",
        description="Prints how the figures of run B differ from those of run A, row by row; or, in one run, how those "
        "of row --method differ from those of row --against. Bootstrap confidence intervals over objects, in pairs.",
    )
    parse.add_argument("a", help="the folder of a run", type=Path, metavar="A")
    parse.add_argument("b", help="the folder of another run", type=Path, nargs="?", metavar="B")
    parse.add_argument("--method", help="this row of B alone, or of A where there is no B", choices=ROWS)
    parse.add_argument("--against", help="the row of A that it is compared with; the same unless given", choices=ROWS)
    return parse


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if args.against is not None and args.method is None:
        raise UserError("--against needs --method: say which row to compare with it")
    if args.b is None and args.against is None:
        raise UserError("there is nothing to compare A with: give a second run, or --method and --against")
    a = read_run(args.a)
    b = a if args.b is None else read_run(args.b)
    check_comparable(a, b)
    rows = [(row, row) for row in ROWS if row in a.table and row in b.table]
    if args.method is not None:
        rows = [(args.against or args.method, args.method)]
    print(f"- A: {a.path}\n- B: {b.path}")
    for row_a, row_b in rows:
        for run, row in ((a, row_a), (b, row_b)):
            if row not in run.table:
                raise UserError(f"{run.path} has no row '{row}': its rows are {', '.join(run.table)}")
        title = row_a if row_a == row_b else f"{row_a} (A), {row_b} (B)"
        print("\n" + describe(title, differences(a, row_a, b, row_b)))
    print(
        f"\nBetter: A or B where the interval leaves out 0 and there are at least {FEWEST} objects. "
        "The intervals are of the mean over objects, taken in pairs; a figure of all images of a run has none."
    )
    if len(a.records) < FEW:
        print(f"With only {len(a.records)} objects such intervals are too narrow.")


if __name__ == "__main__":
    run_script(main)
