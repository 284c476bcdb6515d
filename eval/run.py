"""Evaluates a checkpoint: `python -m eval.run --help`. What it leaves is described in `eval.report.records`."""

import sys
from collections.abc import Sequence

from eval.cli import parse_arguments
from mvgenvs.errors import run_script


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    args = parse_arguments(words)

    from eval.evaluation import run  # after the arguments: --help and mistakes answer at once

    run(args, words)


if __name__ == "__main__":
    run_script(main)
