"""Compares two runs, or two rows of one run: `python -m eval.compare --help`."""

from collections.abc import Sequence
from pathlib import Path

from eval.methods import ROWS
from eval.report.bootstrap import FEW, FEWEST
from eval.report.comparison import check_comparable, describe, differences
from eval.report.runs import read_run
from mvgenvs.cli import OneSentenceParser, run_script
from mvgenvs.errors import UserError


def parser() -> OneSentenceParser:
    parse = OneSentenceParser(
        "python -m eval.compare",
        description="Prints how the metrics of run B differ from those of run A, row by row; or, in one run, how those "
        "of row --method differ from those of row --against. Bootstrap confidence intervals over objects, in pairs.",
    )
    parse.add_argument("a", help="the folder of a run", type=Path, metavar="A")
    parse.add_argument("b", help="the folder of another run", type=Path, nargs="?", metavar="B")
    parse.add_argument("--method", help="this row of B only, or of A if there is no B", choices=ROWS)
    parse.add_argument("--against", help="the row of A that it is compared with (default: the same row)", choices=ROWS)
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
        f"\nBetter: A or B if the interval excludes 0 and there are at least {FEWEST} objects. "
        "The intervals are of the mean over objects, taken in pairs; a metric over all images of a run has none."
    )
    if len(a.records) < FEW:
        print(f"With only {len(a.records)} objects such intervals are too narrow.")


if __name__ == "__main__":
    run_script(main)
