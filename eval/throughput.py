"""Noise draws of training sets per second: the denoiser's stage of a recipe, compared with an earlier one's settings.

python -m eval.throughput --data data/opencars [--field runs/two_cores/field] [--output reports/throughput]
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch

from eval.benchmarks.report import machine
from eval.benchmarks.training import measure, table
from eval.report.provenance import all_versions
from eval.report.records import write_json
from mvgenvs.cli import WORKERS, OneSentenceParser, explained_failures, run_script, whole_number
from mvgenvs.files import write_text
from mvgenvs.folders import OwnFolder


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    with ExitStack() as stack:
        if args.output:
            stack.enter_context(OwnFolder(args.output)).claim(["throughput.json", "throughput.md"])
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = measure(args.recipe, args.data, args.field, args.steps, folder)
        text = table(rows)
        if args.output:
            with explained_failures(args.output):
                about = {"machine": machine(torch.device("cpu")), "versions": all_versions()}
                write_json(args.output / "throughput.json", {**about, "rows": list(map(asdict, rows))})
                write_text(args.output / "throughput.md", text + "\n")
    print(text)


def parser() -> argparse.ArgumentParser:
    parse = OneSentenceParser("python -m eval.throughput", description=__doc__.partition("\n")[0])
    parse.add("--recipe", "recipe whose denoiser's stage is measured", type=Path,
              default=Path("configs/recipes/two_cores.yaml"), metavar="FILE")  # fmt: skip
    parse.add("--data", "data set with a train split", required=True, metavar="DIR")
    parse.add("--field", "trained run whose field is rendered, so that air is skipped", metavar="DIR", default="")
    parse.add("--steps", "timed steps of each row", type=whole_number(1), default=10, metavar="N")
    parse.add("--threads", "of the CPU", type=WORKERS, default=1, metavar="N")
    parse.add("--output", "folder for throughput.json and throughput.md", type=Path, metavar="DIR")
    return parse


if __name__ == "__main__":
    run_script(main, shares_work=False)
