"""Measures the machine's ceilings and every stage against them: `python -m eval.bench --help`."""

import argparse
import importlib
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from eval.benchmarks.ceilings import best_of, ceilings
from eval.benchmarks.measure import Measurement, measure
from eval.benchmarks.stage import Setup, Stage
from eval.report.provenance import all_versions
from eval.report.records import write_json
from eval.report.tables import markdown_table
from mvgenvs.errors import OneSentenceParser, UserError, run_script, whole_number
from mvgenvs.files import write_text
from mvgenvs.folders import OwnFolder
from mvgenvs.runtime import explained_failures, resolve_device

FAMILIES = ("nerf", "denoiser", "attention", "anchor_cache")  # modules of eval.benchmarks


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    device = resolve_device(args.device)
    with ExitStack() as stack:
        if args.output:
            stack.enter_context(OwnFolder(args.output)).claim(["bench.json", "bench.md"])
        measure_all(args, device)


def measure_all(args: argparse.Namespace, device: torch.device) -> None:
    """Measures what was asked for, and prints the table."""
    if args.threads:
        torch.set_num_threads(args.threads)
    rows: list[Measurement] = []
    rates = ceilings(device)
    for stage in chosen_stages(Setup(device), args.only):
        print(f"measuring {stage.name} ...", file=sys.stderr, flush=True)
        rows.append(measure(stage, device, args.repetitions, rates))
        write_report(args.output, device, rates, rows)  # the whole table takes minutes
    before, rates = rates, best_of(rates, ceilings(device))  # a busy moment at the start would flatter every share
    rows = [replace(row, share=row.share * before[row.ceiling] / rates[row.ceiling]) for row in rows]
    print(write_report(args.output, device, rates, rows))


def write_report(
    folder: Path | None, device: torch.device, rates: dict[str, float], rows: Sequence[Measurement]
) -> str:
    """Writes bench.json and bench.md of the rows so far where there is a folder for them; returns the latter's text."""
    report: dict[str, Any] = {
        "machine": machine(device),
        "versions": all_versions(),
        "ceilings": rates,
        "stages": list(map(asdict, rows)),
    }
    text = as_markdown(report["machine"], rates, rows)
    if folder:
        with explained_failures(folder):
            write_json(folder / "bench.json", report)
            write_text(folder / "bench.md", text + "\n")
    return text


def parser() -> argparse.ArgumentParser:
    parse = OneSentenceParser("python -m eval.bench", description="Times every stage against the machine's ceilings.")
    parse.add("--device", "where to compute", choices=("auto", "cpu", "cuda"), default="cpu")
    parse.add(
        "--threads", "threads on the CPU; as many as it has cores unless given", type=whole_number(1), metavar="N"
    )
    parse.add("--only", "stages whose names start with one of these, such as nerf", nargs="+", metavar="NAME")
    parse.add(
        "--repetitions", "timed runs of each stage and of its reference", type=whole_number(1), default=5, metavar="N"
    )
    parse.add("--output", "folder for bench.json and bench.md", type=Path, metavar="DIR")
    return parse


def chosen_stages(setup: Setup, only: Sequence[str] | None) -> Iterator[Stage]:
    """The stages, each made when its turn comes. Raises `UserError` where `only` names none of them."""
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


def machine(device: torch.device) -> dict[str, Any]:
    """What the times depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "system": platform.platform(),
        "cpu": models[0] if models else platform.processor(),
        "cores": len(models) or None,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def as_markdown(machine: dict[str, Any], rates: dict[str, float], rows: Sequence[Measurement]) -> str:
    where = machine["device"] if machine["device"] != "cpu" else f"{machine['cpu']}, {machine['threads']} threads"
    ceilings_line = ", ".join(
        f"{name} {rate:.0f} {'GB/s' if name == 'copy' else 'GFLOP/s'}" for name, rate in rates.items()
    )
    header = ["stage", "ms (median)", "ms (min)", "GFLOP", "GFLOP/s", "share of ceiling", "peak MB",
              "reference ms", "times faster", "its peak MB", "difference"]  # fmt: skip
    return f"{where}: {ceilings_line}\n\n{markdown_table(header, map(_cells, rows))}"


def _cells(row: Measurement) -> list[str]:
    def optional(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    rate = f"{row.gflops:.1f}" if row.gbytes_per_s is None else f"({row.gbytes_per_s:.1f} GB/s)"
    return [
        row.name,
        f"{row.median_ms:.1f}",
        f"{row.min_ms:.1f}",
        f"{row.gflop:.2f}",
        rate,
        f"{row.share:.0%} of {row.ceiling}",
        f"{row.peak_mbytes:.0f}",
        optional(row.reference_min_ms, ".0f"),
        optional(row.speedup, ".1f"),
        optional(row.reference_peak_mbytes, ".0f"),
        optional(row.difference, ".1e"),
    ]


if __name__ == "__main__":
    run_script(main, shares_work=False)
