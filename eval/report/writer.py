"""The results of a run for its readers, made from its records: metrics.json, and report.md with tables and plots."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from eval.methods import DESCRIPTIONS, TRUTH
from eval.metrics.suite import MetricSuite
from eval.report import plots
from eval.report.bootstrap import FEW, LEVEL
from eval.report.columns import COLUMNS, CONSISTENCY, QUALITY, SAMPLES
from eval.report.distributions import distributions
from eval.report.records import Record, RunFolder, write_json
from eval.report.summary import AngleBin, make_table, psnr_by_angle, ranked, rows_of
from eval.report.tables import Table, columns_of, format_table, markdown_table
from mvgenvs.files import atomically, write_text


def write_report(output: RunFolder, records: Sequence[Record], suite: MetricSuite, context: dict[str, Any]) -> str:
    """Writes everything except `objects/` and returns the table in Markdown.

    `context` describes the run: `title`, `command`, `versions`, `origin` (what the figures depend on, in words),
    `settings`, `notes` for the reader, and whatever else should be recorded.
    """
    judged = [row for row in rows_of(records) if row != TRUTH]
    names = [record.object for record in records]
    table = make_table(records, distributions(output, names, judged, suite.extractors))
    differences = [r.joint_independent_difference for r in records if r.joint_independent_difference is not None]
    num_images = sum(len(record.target_view_ids) for record in records)
    summary = context | {
        "num_objects": len(records),
        "num_images": num_images,  # of each row, and of the truth, in the distances between distributions
        "columns": {key: COLUMNS[key].meaning for key in COLUMNS if any(key in figures for figures in table.values())},
        "table": table,
        "psnr_by_angle": [asdict(b) for b in psnr_by_angle(records)],
        "joint_independent_difference": float(np.mean(differences)) if differences else None,
        "objects": [asdict(record) for record in records],
    }
    write_json(output.path / "metrics.json", summary)
    text = "\n\n".join(_sections(output, records, table, summary))
    write_text(output.path / "report.md", text + "\n")
    return format_table(table, (*QUALITY, *CONSISTENCY))


def _sections(output: RunFolder, records: Sequence[Record], table: Table, summary: dict[str, Any]) -> list[str]:
    """The paragraphs of report.md. Also writes plots and sheets."""
    count = f"{summary['num_objects']} objects, {summary['num_images']} views"
    sections = [
        f"# {summary['title']}: {count}",
        format_table(table, (*QUALITY, *CONSISTENCY)),
        "\n".join(f"- {row}: {DESCRIPTIONS[row]}" for row in table),
        "\n".join(_notes(table, summary)),
    ]
    sampled = {row: figures for row, figures in table.items() if "psnr-best" in figures}
    if sampled:
        sections += [f"## Of {summary['settings']['num_samples']} samples", format_table(sampled, SAMPLES)]
    columns = columns_of(table, (*QUALITY, *CONSISTENCY, *SAMPLES))
    return [
        *sections,
        *_plots(output, records, table),
        "## Objects",
        *_sheets(output, records),
        "## Columns",
        "\n".join(f"- {column.heading}: {column.meaning}" for column in columns),
        "## Made by",
        f"`{summary['command']}` at commit {summary['versions']['git_commit'] or 'unknown'}, {summary['origin']}. "
        "Everything else is in metrics.json.",
    ]


def _plots(output: RunFolder, records: Sequence[Record], table: Table) -> list[str]:
    """Draws the plots, if matplotlib is installed; returns their part of the report, with the table of angles."""
    bins = psnr_by_angle(records)
    angles = ["## PSNR by angle to the nearest input view", _angles(table, bins)] if bins else []
    if not plots.can_plot():
        return [*angles, f"The plots are missing, because matplotlib is: {plots.HOW_TO_GET}."]
    plots.plot_bars(output.path / "bars.png", records, table)
    few = f"; with only {len(records)} objects they are too narrow" if len(records) < FEW else ""
    bars = f"![every column as bars](bars.png)\n\nThin lines: {LEVEL:.0%} bootstrap intervals over objects{few}."
    sections = [bars, *angles]
    if bins:
        plots.plot_by_angle(output.path / "angles.png", bins)
        sections.append("![PSNR by angle](angles.png)")
    if plots.plot_curves(output.path / "consistency.png", records, table):
        sections += ["## Consistency along the sequence", "![consistency along the sequence](consistency.png)"]
    return sections


def _notes(table: Table, summary: dict[str, Any]) -> list[str]:
    notes = ["Means over the views of an object, then over objects; images rounded to 8 bits; a dash means no value."]
    keys = {key for figures in table.values() for key in figures}
    if any(COLUMNS[key].per == "run" for key in keys):
        notes.append(
            f"Distances between distributions are of {summary['num_images']} generated against "
            f"{summary['num_images']} true images, and do not compare with those of other numbers of images."
        )
    if not any("lpips" in key and figure is not None for figures in table.values() for key, figure in figures.items()):
        notes.append("LPIPS is missing: see its note on the screen, or --lpips-nets.")
    notes += summary["notes"]
    if "warp-psnr" in keys and all(figures.get("warp-psnr") is None for figures in table.values()):
        notes.append("The warp figures are missing, because the data have no depth: they need the true one.")
    difference = summary["joint_independent_difference"]
    if difference is not None:
        notes.append(f"Joint and independent samples differ by {difference:.4f} of 1 on average.")
    return notes


def _angles(table: Table, bins: Sequence[AngleBin]) -> str:
    rows = [row for row in table if any(row in b.psnr for b in bins)]
    cells = [
        [f"{b.low}–{b.high}°", str(b.num_views), *(COLUMNS["psnr"].format(b.psnr.get(row)) for row in rows)]
        for b in bins
    ]
    return markdown_table(["angle", "views", *rows], cells)


def _sheets(output: RunFolder, records: Sequence[Record]) -> list[str]:
    """Copies the sheets of three objects to best.png, median.png and worst.png; returns their part of the report."""
    ordered, metric, row = ranked(records)
    sections = [f"Ranked by {metric} of {row}."]
    for title, record in (("best", ordered[0]), ("median", ordered[len(ordered) // 2]), ("worst", ordered[-1])):
        atomically(output.path / f"{title}.png", partial(shutil.copyfile, output.sheet(record.object)))
        figure = COLUMNS[metric].format(record.mean(row, metric))
        sections += [f"{title}: {record.object}, {figure}", f"![{title}]({title}.png)"]
    return sections
