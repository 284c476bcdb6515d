"""What the denoiser knows at each noise level: tables and a plot of its errors on noised true views."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from eval.report import plots
from eval.report.bootstrap import LEVEL, mean_interval
from eval.report.columns import Column
from eval.report.records import write_json
from eval.report.tables import Table, format_table, markdown_table
from eval.studies import denoising_errors
from eval.studies.denoising_errors import ALONE, RENDERING, SetErrors
from mvgenvs.data.stored import CachedScenes
from mvgenvs.files import write_text
from mvgenvs.pipeline import MultiViewPipeline


def table(found: Sequence[SetErrors]) -> Table:
    """The mean error over the views of an object, then over objects: a row for each mode, a column for each sigma."""
    objects = dict.fromkeys(errors.object for errors in found)
    rows: Table = {}
    for name in found[0].rmse:
        views = [np.concatenate([e.rmse[name] for e in found if e.object == wanted], axis=1) for wanted in objects]
        means = np.mean([errors.mean(axis=1) for errors in views], axis=0)
        rows[name] = {column.key: float(mean) for column, mean in zip(columns(), means, strict=True)}
    return rows


@dataclass(frozen=True)
class Change:
    """By how much an error exceeds that of another mode, in percent: the mean over sets, and its interval."""

    mean: float
    interval: tuple[float, float] | None


def changes(found: Sequence[SetErrors]) -> dict[str, list[Change]]:
    """Each mode's errors relative to those of views alone, set by set, at each of `SIGMAS`."""
    rmse = {name: np.array([np.mean(e.rmse[name], axis=1) for e in found]) for name in found[0].rmse}  # (set, sigma)
    made = {}
    for name in rmse:
        if name not in (ALONE.name, RENDERING):
            percent = 100 * (rmse[name] / rmse[ALONE.name] - 1)
            made[name] = [Change(float(p.mean()), mean_interval(p.tolist())) for p in percent.T]
    return made


def columns() -> list[Column]:
    return [
        Column(f"{s:g}", f"σ = {s:g}", "view", "low", 4, "root mean square error of x0 in latents")
        for s in denoising_errors.SIGMAS
    ]


def study(output: Path, pipeline: MultiViewPipeline, scenes: CachedScenes, num_objects: int, seed: int) -> str:
    """Writes levels.json, .md and .png into `output` and returns the text."""
    found = denoising_errors.measure(pipeline, scenes, num_objects, seed)
    figures, differing = table(found), changes(found)
    text = "\n\n".join(
        [
            "Root mean square error of x0 in latents, mean over views, then over objects",
            format_table(figures, columns()),
            f"The same beside '{ALONE.name}' in percent, mean over {len(found)} sets and its {LEVEL:.0%} interval",
            markdown_table(
                ["", *(column.label for column in columns())],
                [[name, *map(_cell, row)] for name, row in differing.items()],
            ),
            "The intervals are too narrow for other objects than these: sets of one object resemble each other.",
        ]
    )
    content = {
        "sigmas": denoising_errors.SIGMAS,
        "seed": seed,
        "table": figures,
        "sets": [asdict(errors) for errors in found],
    }
    changed = {name: [asdict(change) for change in row] for name, row in differing.items()}
    write_json(output / "levels.json", content | {"changes": changed})
    write_text(output / "levels.md", text + "\n")
    if plots.can_plot():
        _plot(output / "levels.png", figures, differing)
    return text


def _cell(change: Change) -> str:
    interval = "" if change.interval is None else " ({:+.2f} to {:+.2f})".format(*change.interval)
    return f"{change.mean:+.2f}{interval}"


def _plot(path: Path, figures: Table, differing: dict[str, list[Change]]) -> None:
    """The errors, and beside them the differences, which are too small to see there."""
    with plots.panel_picture(path, 2, (5.0, 4.0)) as (errors, percent):
        for name, row in figures.items():
            line = {"linestyle": ":", "color": "#777777"} if name == RENDERING else {"marker": "o"}
            (drawn,) = errors.plot(denoising_errors.SIGMAS, list(row.values()), label=name, **line)
            if name in differing:
                percent.plot(
                    denoising_errors.SIGMAS,
                    [change.mean for change in differing[name]],
                    marker="o",
                    color=drawn.get_color(),
                )
                for sigma, change in zip(denoising_errors.SIGMAS, differing[name], strict=True):
                    if change.interval is not None:
                        percent.plot([sigma, sigma], change.interval, color=drawn.get_color(), linewidth=1)
        errors.set(yscale="log", title="root mean square error of x0 in latents ↓")
        percent.set_yscale("symlog", linthresh=1)
        percent.set_title(f"beside '{ALONE.name}', percent; linear within 1")
        for axes in (errors, percent):
            axes.set(xscale="log", xlabel="noise level σ")
            axes.set_xticks(denoising_errors.SIGMAS, [f"{sigma:g}" for sigma in denoising_errors.SIGMAS])
            axes.xaxis.minorticks_off()
        errors.figure.legend(*errors.get_legend_handles_labels(), loc="outside upper left", ncols=4)
