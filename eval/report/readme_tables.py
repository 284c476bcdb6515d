"""The tables of README.md and of the model card.

A table is between `<!-- table NAME -->` and `<!-- end -->`. `quality` and `consistency` have the rows of finished runs
of eval.run, one split after another. Any other table is the first one of a file NAME.md.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.methods import JOINT
from eval.report.columns import Column
from eval.report.runs import FinishedRun
from eval.report.tables import columns_of, markdown_table
from mvgenvs.errors import UserError

MARKED = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
LEADING_ZERO = re.compile(r"(?<![\w.])0\.(?=\d)(?!\d+e)")


def runs_table(runs: Sequence[FinishedRun], among: Sequence[Column]) -> str:
    """The rows of all runs, each run's with its split and its number of objects and views."""
    everything = {f"{i} {row}": figures for i, run in enumerate(runs) for row, figures in run.table.items()}
    columns = columns_of(everything, among)
    rows = []
    for run in runs:
        views = sum(len(record.target_view_ids) for record in run.records)
        title = f"{run.settings.split} ({len(run.records)} objects, {views} views)"
        for row, figures in run.table.items():
            name = f"**{row}**" if row == JOINT else row
            cells = [column.format(figures.get(column.key)) for column in columns]
            if any(figures.get(column.key) is not None for column in columns):
                rows.append([title, name, *cells])
                title = ""
    return markdown_table(["split", "method", *(column.heading for column in columns)], rows)


def first_table(path: Path) -> str:
    """The first table of a Markdown file. Raises `UserError` if there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: give the folder of a run of eval.run, or a Markdown file") from error
    start = next((i for i, line in enumerate(lines) if line.startswith("|")), None)
    if start is None:
        raise UserError(f"{path} holds no table: give a Markdown file that a command of eval has written")
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith("|")), len(lines))
    return "\n".join(lines[start:end])


def fill(text: str, tables: Mapping[str, str]) -> str:
    """`text` with its marked tables replaced by those of the same name; others stay as they are."""

    def replaced(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        return begin + LEADING_ZERO.sub(".", tables[name]) + "\n" + end if name in tables else match[0]

    return MARKED.sub(replaced, text)
