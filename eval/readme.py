"""Updates the tables of README.md and of the model card: `python -m eval.readme --help`."""

from collections.abc import Sequence
from pathlib import Path

from eval.report.columns import CONSISTENCY, QUALITY
from eval.report.readme_tables import MARKED, fill, first_table, runs_table
from eval.report.runs import read_run
from mvgenvs.cli import OneSentenceParser, run_script
from mvgenvs.errors import UserError
from mvgenvs.files import write_text

FILES = (Path("README.md"), Path("mvgenvs/pretrained/README.md"))


def main(argv: Sequence[str] | None = None) -> None:
    parse = OneSentenceParser(
        "python -m eval.readme", description="Updates the tables of README.md and of the model card."
    )
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
