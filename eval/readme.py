"""Brings the tables of README.md and of the model card up to date: `python -m eval.readme --help`.

A table stands between `<!-- table NAME -->` and `<!-- end -->`. `quality` and `consistency` have the rows of the runs
of eval.run that are given, one split after another; every other table is the first one in the NAME.md that is given.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.columns import CONSISTENCY, QUALITY, Column, markdown_table
from eval.compare import Run, read_run
from eval.methods import JOINT
from eval.summary import columns_of
from mvgenvs.errors import OneSentenceParser, UserError, run_script
from mvgenvs.files import write_text

FILES = (Path("README.md"), Path("mvgenvs/pretrained/README.md"))
MARKED = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
LEADING_ZERO = re.compile(r"(?<![\w.])0\.(?=\d)(?!\d+e)")


def runs_table(runs: Sequence[Run], among: Sequence[Column]) -> str:
    """The rows of all runs, each run's under its split and its number of objects and views."""
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
    """The first table of a Markdown file. Raises `UserError` where there is none."""
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
    """`text` with the tables that it marks replaced by those of the same name; others stay as they are."""

    def replaced(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        return begin + LEADING_ZERO.sub(".", tables[name]) + "\n" + end if name in tables else match[0]

    return MARKED.sub(replaced, text)


def main(argv: Sequence[str] | None = None) -> None:
    parse = OneSentenceParser("python -m eval.readme", description=__doc__.splitlines()[0])
    parse.add_argument("sources", nargs="+", type=Path, metavar="SOURCE",
                       help="folder of a run of eval.run, or a Markdown file with a table")  # fmt: skip
    parse.add_argument("--files", nargs="+", type=Path, default=FILES, help="(default: README.md and the model card)")
    args = parse.parse_args(argv)
    runs = [read_run(path) for path in args.sources if path.is_dir()]
    tables = {path.stem: first_table(path) for path in args.sources if not path.is_dir()}
    if runs:
        tables |= {"quality": runs_table(runs, QUALITY), "consistency": runs_table(runs, CONSISTENCY)}
    for path in args.files:
        try:
            before = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {path}: run this in the repository's folder, or give --files") from error
        write_text(path, fill(before, tables))
        marked = {match[2] for match in MARKED.finditer(before)}
        print(f"{path}: {', '.join(sorted(marked & tables.keys())) or 'no table of these'}")


if __name__ == "__main__":
    run_script(main, shares_work=False)
