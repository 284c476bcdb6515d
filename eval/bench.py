"""Measures the machine's peak rates, and every stage against them: `python -m eval.bench --help`."""

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from eval.benchmarks.ceilings import best_of, ceilings
from eval.benchmarks.measure import Measurement, measure
from eval.benchmarks.report import write_report
from eval.benchmarks.stage import Setup, Stage
from mvgenvs.cli import WORKERS, OneSentenceParser, run_script, whole_number
from mvgenvs.device import resolve_device
from mvgenvs.errors import UserError
from mvgenvs.folders import OwnFolder

FAMILIES = ("nerf", "denoiser", "attention", "anchor_cache")  # modules of eval.benchmarks


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    device = resolve_device(args.device)
    with ExitStack() as stack:
        if args.output:
            stack.enter_context(OwnFolder(args.output)).claim(["bench.json", "bench.md"])
        measure_all(args, device)


def measure_all(args: argparse.Namespace, device: torch.device) -> None:
    """Measures the chosen stages, and prints the table."""
    if args.threads:
        torch.set_num_threads(args.threads)
    rows: list[Measurement] = []
    rates = ceilings(device)
    for stage in chosen_stages(Setup(device), args.only):
        print(f"measuring {stage.name} ...", file=sys.stderr, flush=True)
        rows.append(measure(stage, device, args.repetitions, rates))
        write_report(args.output, device, rates, rows)  # after each row, since the whole table takes minutes
    before, rates = rates, best_of(rates, ceilings(device))  # a busy moment at the start would flatter every share
    rows = [replace(row, share=row.share * before[row.ceiling] / rates[row.ceiling]) for row in rows]
    print(write_report(args.output, device, rates, rows))


def parser() -> argparse.ArgumentParser:
    parse = OneSentenceParser("python -m eval.bench", description="Times every stage against the machine's ceilings.")
    parse.add("--device", "where to compute", choices=("auto", "cpu", "cuda"), default="cpu")
    parse.add("--threads", "threads on the CPU; by default as many as it has cores", type=WORKERS, metavar="N")
    parse.add("--only", "stages whose names start with one of these, such as nerf", nargs="+", metavar="NAME")
    parse.add(
        "--repetitions", "timed runs of each stage and of its reference", type=whole_number(1), default=5, metavar="N"
    )
    parse.add("--output", "folder for bench.json and bench.md", type=Path, metavar="DIR")
    return parse


def chosen_stages(setup: Setup, only: Sequence[str] | None) -> Iterator[Stage]:
    """The stages, each made when its turn comes. Raises `UserError` if `only` matches none of them."""
    found = False
    for family in FAMILIES:
        if only and not any(name.split("/")[0] in family for name in only):
            continue
        for stage in importlib.import_module(f"eval.benchmarks.{family}").stages(setup):
            if only is None or any(stage.name.startswith(name) for name in only):
                found = True
                yield stage
    if not found:
        raise UserError(f"--only {' '.join(only or ())} names no stage, the families are {', '.join(FAMILIES)}")


if __name__ == "__main__":
    run_script(main, shares_work=False)
