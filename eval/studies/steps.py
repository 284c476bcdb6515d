"""How few network evaluations suffice? Quality against evaluations per new view, on the same views and noise."""

from pathlib import Path
from typing import Any

from eval.protocols import ORBIT_TARGETS
from eval.report import plots
from eval.report.columns import COLUMNS, Column
from eval.report.records import write_json
from eval.report.tables import Table, format_table
from eval.studies.trials import REFERENCES, SECONDS, Study, Trial, run_trials
from mvgenvs.files import write_text

# Changes to the checkpoint's defaults, and the numbers of steps to try them with.
GRID: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "euler": ((1, 2, 3, 4, 6, 10, 50), {"start": "noise"}),
    "heun": ((4,), {"start": "noise", "sampler": "heun"}),
    "dpmpp-2m": ((4, 8), {"start": "noise", "sampler": "dpmpp-2m"}),
    "churn": ((8,), {"start": "noise", "churn": 1000.0}),  # as much as EDM allows
    "sigma_max 3": ((2, 4), {"start": "noise", "sigma_max": 3.0}),
    "sigma_max 1": ((2,), {"start": "noise", "sigma_max": 1.0}),
    "rho 3": ((4,), {"start": "noise", "rho": 3.0}),
    "guidance 1.5": ((2,), {"start": "noise", "guidance_scale": 1.5}),
    "clean anchors": ((2, 4), {"start": "noise", "anchor_level": "clean"}),
    "anchors up to 0.5": ((4,), {"start": "noise", "anchor_level": 0.5}),
    "fixed noise": ((4,), {"start": "noise", "renoise": "fixed"}),
    "from the rendering, sigma_max 3": ((2,), {"start": "render", "sigma_max": 3.0}),
    "from the rendering, sigma_max 1": ((2,), {"start": "render", "sigma_max": 1.0}),
    "from the rendering, sigma_max 0.3": ((1, 2, 4), {"start": "render", "sigma_max": 0.3}),
    "the same, temperature 0.5": ((1, 2, 4, 8), {"start": "render", "sigma_max": 0.3, "temperature": 0.5}),
}
REFERENCE = "euler, 50 steps"
FEW = 10  # evaluations per new view
VIEWS = 8  # of each object: two consecutive blocks, starting at a different place for each object
EVALUATIONS = Column("evaluations", "evaluations", "run", "neither", 0, "network evaluations per new view")
TABLE = (EVALUATIONS, *(COLUMNS[key] for key in ("psnr", "lpips-alex", "warp-psnr", "warp-lpips", "flicker")), SECONDS)
PLOTTED = ("lpips-alex", "warp-lpips", "psnr", "warp-psnr")


def trials() -> list[Trial]:
    return [
        Trial(f"{label}, {n} steps", changes | {"num_inference_steps": n})
        for label, (steps, changes) in GRID.items()
        for n in steps
    ]


def evaluations(sampling: dict[str, Any]) -> int:
    """Network evaluations per new view. Heun corrects all steps but the last; guidance evaluates two branches."""
    steps = sampling["num_inference_steps"]
    calls = 2 * steps - 1 if sampling["sampler"] == "heun" else steps
    return calls * (1 if sampling["guidance_scale"] in (0, 1) else 2)


def chosen_views(number: int, num_objects: int) -> list[int]:
    """Neighbours on the orbit, so that warps are meaningful; together the objects cover all of it."""
    start = number * (ORBIT_TARGETS - VIEWS) // max(1, num_objects - 1)
    return list(range(start, start + VIEWS))


def study(common: Study) -> str:
    """Runs the grid, writes steps.json, .md and .png, and returns the text."""
    grid = trials()
    run_trials(common, [*REFERENCES, *grid])
    table: Table = {trial.name: common.figures(trial) for trial in [*REFERENCES, *grid]}
    for trial in grid:
        table[trial.name][EVALUATIONS.key] = float(evaluations(common.settings.sampling | trial.sampling))
    text = "\n\n".join([format_table(table, TABLE), *verdicts(table)])
    write_json(common.output / "steps.json", {"table": table, "objects": common.names})
    write_text(common.output / "steps.md", text + "\n")
    if plots.can_plot():
        _plot(common.output / "steps.png", table)
    return text


def verdicts(table: Table) -> list[str]:
    """The best settings with few evaluations, and how they compare with many evaluations."""
    few = {name: row for name, row in table.items() if 0 < (row.get(EVALUATIONS.key) or 0) <= FEW}
    found = []
    for key in ("lpips-alex", "warp-lpips", "warp-psnr"):
        column = COLUMNS[key]
        measured = {name: figure for name, row in few.items() if (figure := row.get(key)) is not None}
        many = table[REFERENCE].get(key)
        if measured and many is not None:
            best = (max if column.best == "high" else min)(measured, key=measured.__getitem__)
            found.append(
                f"{column.label}: the best of at most {FEW} evaluations is {best} "
                f"with {column.format(measured[best])}; {REFERENCE}: {column.format(many)}."
            )
    return found


def _plot(path: Path, table: Table) -> None:
    """One line for each entry of the grid; horizontal lines for the ground truth and the NeRF alone."""
    columns = [COLUMNS[key] for key in PLOTTED if any(row.get(key) is not None for row in table.values())]
    with plots.panel_picture(path, len(columns), (3.6, 3.2)) as panels:
        for column, axes in zip(columns, panels, strict=True):
            for label, (steps, changes) in GRID.items():
                rows = [table[f"{label}, {n} steps"] for n in steps]
                points = [(row[EVALUATIONS.key], row[column.key]) for row in rows]
                color, marker = "black" if label == "euler" else None, "s" if changes.get("start") == "render" else "o"
                axes.plot(*zip(*points, strict=True), marker=marker, label=label, color=color)
            for trial, dashes in zip(REFERENCES, ("--", ":"), strict=True):
                level = table[trial.name].get(column.key)
                if level is not None:
                    axes.axhline(level, color="#777777", linestyle=dashes, label=trial.name)
            axes.set_xscale("log")
            ticks = (1, 2, 4, 8, 16, 50)
            axes.set_xticks(ticks, map(str, ticks))
            axes.minorticks_off()
            axes.set(title=column.heading, xlabel="network evaluations per new view")
        named = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        panels[0].figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=7)
