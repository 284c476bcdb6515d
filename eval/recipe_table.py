"""The table at the end of a training recipe: its model, evaluated on some objects of the val split."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.cli import parse_arguments
from eval.report.records import read_json
from mvgenvs.data.mixture import parse_sources
from mvgenvs.data.scenes import splits_in
from mvgenvs.errors import UserError

ROWS = ("nerf", "joint")


def val_data(sources: Sequence[str]) -> Path | None:
    """The first of a recipe's data sets that has a val split; None, with a note on stderr, if none has.

    Raises `UserError` if packages for the evaluation are missing, so that this is known before training.
    """
    try:
        import eval.evaluation  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the val table needs the package {error.name}: pip install -e '.[eval]', or set 'eval' of the recipe to "
            "{objects: 0}"
        ) from error
    for folder in parse_sources("", sources):
        if "val" in splits_in(Path(folder)):
            return Path(folder)
    print("note: none of the data sets has a split val, so there will be no val table", file=sys.stderr)
    return None


def val_table(pipeline: Path, data: Path, objects: int, output: Path) -> dict[str, Any]:
    """Evaluates, as `python -m eval.run` does, and prints the table; returns its values by row and metric."""
    from eval.evaluation import run

    argv = ["--checkpoint", str(pipeline), "--data", str(data), "--split", "val", "--num-objects", str(objects),
             "--methods", *ROWS, "--metrics", "--lpips-nets", "alex", "vgg", "--output", str(output)]  # fmt: skip
    run(parse_arguments(argv), argv)
    metrics = read_json(output / "metrics.json")
    return {"objects": metrics["num_objects"], "images": metrics["num_images"], "table": metrics["table"]}
