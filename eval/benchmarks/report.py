"""The report of a benchmark: the machine, the ceilings, and a row for each stage, as JSON and as a Markdown table."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from eval.benchmarks.measure import Measurement
from eval.report.provenance import all_versions
from eval.report.records import write_json
from eval.report.tables import markdown_table
from mvgenvs.cli import explained_failures
from mvgenvs.files import write_text


def write_report(
    folder: Path | None, device: torch.device, rates: dict[str, float], rows: Sequence[Measurement]
) -> str:
    """Writes bench.json and bench.md of the rows so far, if there is a folder for them; returns the latter's text."""
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


def machine(device: torch.device) -> dict[str, Any]:
    """The machine that the times depend on."""
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
