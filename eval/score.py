"""Scores views that any program made: `python -m eval.score --help`. See docs/evaluation.md for what figures mean."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.cli import METRICS, NETS, add_metric_flags, in_order
from mvgenvs.cli import OneSentenceParser, run_script
from mvgenvs.errors import UserError

SEQUENCES = ("auto", "closed", "open")
EPILOG = """DIR holds images and their cameras, as nerfstudio's transforms.json, the cameras.json of infer_multiview.py,
a COLMAP model of pinhole cameras, or in SRN's layout; or one such folder for each object."""


def main(argv: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if argv is None else argv)
    args = parse_arguments(given)

    from eval.scoring.scores import run  # only now, so that --help and errors are answered at once

    run(args, given)


def parser() -> OneSentenceParser:
    parse = OneSentenceParser(
        "python -m eval.score",
        description="Scores views that any program made: their consistency, and with the truth their quality.",
        epilog=EPILOG,
    )
    parse.add_argument("views", help="the views", type=Path, metavar="DIR")
    add = parse.add
    add("--truth", "the true views, in a folder of any of these forms; may hold more of them", type=Path, metavar="DIR")
    add("--output", "folder of the report (default: reports/NAME of DIR)", type=Path, metavar="DIR")
    add(
        "--sequence",
        "whether the last view is a neighbour of the first; auto: by the cameras",
        choices=SEQUENCES,
        default=SEQUENCES[0],
    )
    add_metric_flags(parse, "object, and as much for the truth", None)
    add("--device", "where to compute", choices=("auto", "cpu", "cuda"), default="auto")
    return parse


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Reads the command line and puts lists in their usual order."""
    args = parser().parse_args(argv)
    args.metrics = in_order(args.metrics, METRICS, METRICS)
    args.lpips_nets = in_order(args.lpips_nets, NETS, NETS[:1])
    args.output = args.output or Path("reports", args.views.resolve().name)
    if args.truth is None:
        if args.inception_weights is not None:
            raise UserError("--inception-weights compare with true views: give --truth, too")
        args.metrics = tuple(name for name in args.metrics if name != METRICS[0])
        if not args.metrics:
            raise UserError("without --truth there is nothing to measure: add consistency or 3d to --metrics")
    return args


if __name__ == "__main__":
    run_script(main, shares_work=False)
