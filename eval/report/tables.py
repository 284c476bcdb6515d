"""Tables of metrics, and how they are written in Markdown."""

from collections.abc import Iterable, Sequence

from eval.report.columns import Column

Table = dict[str, dict[str, float | None]]  # row -> metric -> value


def columns_of(table: Table, among: Sequence[Column]) -> list[Column]:
    """Those columns that were measured for at least one row, in order, even if every value is missing."""
    return [column for column in among if any(column.key in figures for figures in table.values())]


def format_table(table: Table, among: Sequence[Column]) -> str:
    """The table in Markdown, with those of the columns `among` that were measured."""
    columns = columns_of(table, among)
    rows = [[row, *(column.format(figures.get(column.key)) for column in columns)] for row, figures in table.items()]
    return markdown_table(["", *(column.heading for column in columns)], rows)


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown; numbers are right-aligned below their headings."""
    names = list(header)
    rule = ["---", *["---:"] * (len(names) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [names, rule, *rows])
