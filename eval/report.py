"""What a run leaves behind: metrics.json, report.md, and sheets of the best, the median and the worst object."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from eval.methods import DESCRIPTIONS, JOINT

Record = dict[str, Any]  # of one object: names, view ids, and per method and metric one figure per view

LABELS = {"psnr": "PSNR (dB) ↑", "ssim": "SSIM ↑", "lpips-alex": "LPIPS-alex ↓", "lpips-vgg": "LPIPS-vgg ↓"}


def write_json(path: Path, content: Any) -> None:
    """Writes atomically: after a crash the file is whole or absent."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def mean_figures(records: list[Record]) -> dict[str, dict[str, float]]:
    """Method -> metric -> mean over the views of an object, then over objects."""
    return {
        method: {metric: float(np.mean([np.mean(r["figures"][method][metric]) for r in records])) for metric in metrics}
        for method, metrics in records[0]["figures"].items()
    }


def write_report(output: Path, records: list[Record], context: dict[str, Any]) -> str:
    """Writes everything into `output`, beside `objects/`, and returns the table in Markdown.

    `context` describes the run: `settings`, `command`, `commit`, `lpips` and what else is to be on record.
    """
    means = mean_figures(records)
    differences = [r["joint_independent_difference"] for r in records if "joint_independent_difference" in r]
    difference = float(np.mean(differences)) if differences else None
    summary = context | {
        "num_objects": len(records),
        "num_images": sum(len(r["target_view_ids"]) for r in records),
        "samples_per_view": 1,
        "means": means,
        "joint_independent_difference": difference,
        "objects": records,
    }
    write_json(output / "metrics.json", summary)
    table = _table(means)
    settings = context["settings"]
    lines = [
        f"# {settings['protocol']} on {settings['split']}: {summary['num_objects']} objects, "
        f"{summary['num_images']} views, one sample each",
        "",
        table,
        "",
        *(f"- {method}: {DESCRIPTIONS[method]}" for method in means),
        *([] if context["lpips"] else ["", "LPIPS is missing: its ImageNet weights were not found."]),
        *(
            []
            if difference is None
            else ["", f"Joint and independent samples differ by {difference:.4f} of 1 on average."]
        ),
        "",
        f"`{context['command']}` at commit {context['commit'] or 'unknown'}, "
        f"checkpoint sha256 {settings['checkpoint_sha256'][:12]}, seed {settings['seed']}.",
        "Means over the views of an object, then over objects; images rounded to 8 bits. Details: metrics.json.",
        "",
        *_copy_sheets(output, records),
    ]
    (output / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def _table(means: dict[str, dict[str, float]]) -> str:
    metrics = list(next(iter(means.values())))
    rows = [
        [method] + [f"{figures[metric]:.2f}" if metric == "psnr" else f"{figures[metric]:.3f}" for metric in metrics]
        for method, figures in means.items()
    ]
    header = ["method", *(LABELS[metric] for metric in metrics)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def _copy_sheets(output: Path, records: list[Record]) -> list[str]:
    """Copies the sheets of three objects to best.png, median.png and worst.png; returns their lines of the report."""
    methods = list(records[0]["figures"])
    judged = JOINT if JOINT in methods else methods[-1]
    metric, sign = ("lpips-alex", 1) if "lpips-alex" in records[0]["figures"][judged] else ("psnr", -1)
    ranked = sorted(records, key=lambda r: sign * np.mean(r["figures"][judged][metric]))
    lines = [f"Objects ranked by {metric} of {judged}."]
    for title, record in (("best", ranked[0]), ("median", ranked[len(ranked) // 2]), ("worst", ranked[-1])):
        shutil.copyfile(output / "objects" / f"{record['object']}.png", output / f"{title}.png")
        lines += ["", f"{title}: {record['object']}", "", f"![{title}]({title}.png)"]
    return lines
