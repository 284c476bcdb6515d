"""Finished runs, read from their metrics.json."""

from dataclasses import dataclass
from pathlib import Path

from eval.report.records import Record, Settings, read_json
from eval.report.tables import Table
from mvgenvs.errors import UserError


@dataclass(frozen=True)
class FinishedRun:
    """The content of a run's `metrics.json`."""

    path: Path
    settings: Settings
    records: list[Record]
    table: Table


def read_run(path: Path) -> FinishedRun:
    """Reads the folder of a run, or its `metrics.json`. Raises `UserError` if that is missing or damaged."""
    file = path / "metrics.json" if path.is_dir() else path
    if not file.exists():
        raise UserError(f"there is no {file}: give the --output folder of a finished run of eval.run")
    content = read_json(file)
    try:
        records = [Record(**record) for record in content["objects"]]
        return FinishedRun(path, Settings(**content["settings"]), records, content["table"])
    except (TypeError, KeyError):
        raise UserError(f"{file} is damaged, or of another version of eval.run: run the evaluation again") from None
