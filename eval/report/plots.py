"""The plots of a report, with matplotlib: PNG, one style, colours that the colour-blind can tell apart."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.methods import COPY, DISTILLED, INDEPENDENT, JOINT, NERF, TRUTH, VIEWS
from eval.report.bootstrap import mean_interval
from eval.report.columns import CONSISTENCY, QUALITY, Column
from eval.report.records import Record
from eval.report.summary import AngleBin, curve
from eval.report.tables import Table, columns_of
from mvgenvs.files import atomically

HOW_TO_GET = "run `pip install matplotlib` and the same command again"
# Okabe & Ito's palette; markers and dashes distinguish the rows in print without colour, too.
COLOURS = {
    COPY: "#999999", NERF: "#E69F00", DISTILLED: "#009E73", INDEPENDENT: "#CC79A7", JOINT: "#0072B2", VIEWS: "#0072B2",
    TRUTH: "#000000",
}  # fmt: skip
MARKERS = {COPY: "s", NERF: "^", DISTILLED: "v", INDEPENDENT: "D", JOINT: "o", VIEWS: "o", TRUTH: ""}
DASHES = dict.fromkeys(COLOURS, "-") | {TRUTH: (0, (4, 2))}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
}
DPI = 130
PANEL = (2.9, 2.3)  # inches
PANELS_IN_A_ROW = 4
MARKED = 50  # points; lines with more have no markers


def can_plot() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def plot_bars(path: Path, records: Sequence[Record], table: Table) -> None:
    """One panel for each column of the table, with the 95% interval of the mean over objects if it has one."""
    columns = [column for column in columns_of(table, (*QUALITY, *CONSISTENCY)) if _is_there(table, column)]
    with panel_picture(path, len(columns)) as panels:
        for column, axes in zip(columns, panels, strict=True):
            for row, figures in table.items():
                height = figures.get(column.key)
                if height is None:
                    continue
                axes.bar(row, height, color=COLOURS[row], width=0.7)
                means = [record.mean(row, column.key) for record in records]
                interval = mean_interval([mean for mean in means if mean is not None])
                if interval is not None:
                    axes.plot([row, row], interval, color="#444444", linewidth=1.2)
            axes.set_title(column.heading)
            axes.grid(visible=False, axis="x")
            for label in axes.get_xticklabels():
                label.set(rotation=30, horizontalalignment="right", rotation_mode="anchor")


def plot_by_angle(path: Path, bins: Sequence[AngleBin]) -> None:
    """PSNR against the angle to the nearest input view, one line for each row of the table."""
    with panel_picture(path, 1, (5.4, 3.2)) as (axes,):
        for row in COLOURS:
            points = [((b.low + b.high) / 2, b.psnr[row]) for b in bins if row in b.psnr]
            if points:
                axes.plot(*zip(*points, strict=True), **_line(row))
        axes.set(xlabel="angle to the nearest input view (degrees)", ylabel="PSNR (dB)")
        axes.set_xticks(sorted({edge for b in bins for edge in (b.low, b.high)}))
        axes.legend()


def plot_curves(path: Path, records: Sequence[Record], table: Table) -> bool:
    """Each metric of neighbouring views along the sequence, mean over objects; False if there is none to plot."""
    columns = [c for c in columns_of(table, CONSISTENCY) if c.per == "pair" and _is_there(table, c)]
    if not columns:
        return False
    with panel_picture(path, len(columns), (4.4, 2.5), 2) as panels:
        for column, axes in zip(columns, panels, strict=True):
            for row in table:
                points = [(i + 1, y) for i, y in enumerate(curve(records, row, column.key)) if y is not None]
                if points:
                    unmarked = {"marker": ""} if len(points) > MARKED else {}
                    axes.plot(*zip(*points, strict=True), **(_line(row) | unmarked))
            axes.set_title(column.heading)
            axes.set_xlabel("pair of neighbouring views")
        panels[0].figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(table))
    return True


def _is_there(table: Table, column: Column) -> bool:
    return any(figures.get(column.key) is not None for figures in table.values())


def _line(row: str) -> dict[str, Any]:
    return {"color": COLOURS[row], "marker": MARKERS[row], "linestyle": DASHES[row], "label": row}


@contextmanager
def panel_picture(
    path: Path, count: int, size: tuple[float, float] = PANEL, in_a_row: int = PANELS_IN_A_ROW
) -> Iterator[list[Any]]:
    """Yields `count` axes in rows, `size` inches each, and writes their picture when the block ends."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot, so that no window system is needed

    across, down = min(count, in_a_row), -(-count // in_a_row)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(size[0] * across, size[1] * down))
        yield [figure.add_subplot(down, across, number + 1) for number in range(count)]
        atomically(path, lambda partial: figure.savefig(partial, dpi=DPI, format="png"))
