"""Evaluates a checkpoint: `python -m eval.run --help`. For the files of a run see `eval.report.records`."""

import sys
from collections.abc import Sequence

from eval.cli import parse_arguments
from mvgenvs.cli import run_script, without_collection


def main(argv: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if argv is None else argv)
    args = parse_arguments(given)

    with without_collection():
        from eval.evaluation import run  # only now, so that --help and errors are answered at once

    run(args, given)


def script() -> None:
    """The command `mvgenvs-eval`, or `python -m eval.run`."""
    run_script(main)


if __name__ == "__main__":
    script()
