"""What a run stores on disk. The report is made from these files alone.

OUTPUT/settings.json                      all that the metrics depend on; a run resumes only with equal settings
OUTPUT/objects/NAME.safetensors           features of the object's images, for the distances between distributions:
                                          "<network>/<row>", (view, feature); row "truth" holds the true images'
OUTPUT/objects/NAME.png                   the object's sheet
OUTPUT/objects/NAME.json                  its `Record`, written last: an object that has one is done
OUTPUT/metrics.json, report.md, *.png     see `eval.report.writer`
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from eval.metrics.figures import Figures
from mvgenvs.errors import UserError
from mvgenvs.files import atomically, write_text
from mvgenvs.folders import OwnFolder

REPORT = (
    "metrics.json", "report.md", "bars.png", "angles.png", "consistency.png", "best.png", "median.png", "worst.png",
)  # fmt: skip
KINDS = ("safetensors", "png", "json")


def folder_name(name: str) -> str:
    """The name of a row of a table, fit for a file system."""
    return re.sub(r"[^\w.=+-]+", "_", name)


@dataclass(frozen=True)
class Settings:
    """All that an object's metrics depend on."""

    data: str
    split: str
    protocol: str
    num_inputs: int
    methods: Sequence[str]  # rows of the table
    metrics: Sequence[str]
    sampling: dict[str, Any]  # keyword arguments of the pipeline
    num_samples: int
    seed: int
    image_size: int
    checkpoint_sha256: str
    weights_sha256: dict[str, str]  # of the metrics' networks
    device: str
    mattes: bool = True  # known views come with their mattes, if the data have them


@dataclass(frozen=True)
class Record:
    """Metrics of one object."""

    object: str
    family: str
    input_view_ids: list[int]
    target_view_ids: list[int]  # in their order in the sequence
    angles: list[float]  # degrees between the viewing directions of each target and of the input nearest to it
    truth_sha256: str  # of the true images of inputs and targets: two runs with equal hashes saw the same data
    # Row of the table -> metric -> one value per target view, per pair of neighbours or for the object, as in
    # `eval.report.columns`; an empty list if the metric has no value, such as a warp without depth.
    figures: dict[str, Figures]
    joint_independent_difference: float | None = None  # mean absolute difference of their samples, of 1

    def mean(self, row: str, metric: str) -> float | None:
        """The mean of the values that are not None; None if there are none."""
        figures = [figure for figure in self.figures.get(row, {}).get(metric, []) if figure is not None]
        return float(np.mean(figures)) if figures else None


class RunFolder:
    """The folder of a run. Files appear whole or not at all, even if several processes write."""

    def __init__(self, path: Path) -> None:
        self.path, self.objects = path, path / "objects"

    @staticmethod
    def names(objects: Sequence[str]) -> list[str]:
        """The files that a run of these objects writes before its report."""
        return ["settings.json", *(f"objects/{name}.{kind}" for name in objects for kind in KINDS)]

    def settings(self) -> dict[str, Any] | None:
        """The settings of the run in this folder; None if there is none. Raises `UserError` for a damaged file."""
        path = self.path / "settings.json"
        if not path.exists():
            return None
        content = read_json(path)
        if not isinstance(content, dict):
            raise UserError(f"{path} is damaged: choose another --output folder or delete this one")
        return content

    def check(self, settings: Settings) -> None:
        """Raises `UserError` if the folder holds a run with other settings."""
        mine, theirs = _plain(settings), self.settings()
        differing = [] if theirs is None else [key for key in mine if mine[key] != theirs.get(key)]
        if differing:
            raise UserError(
                f"{self.path} holds a run with other settings ({', '.join(differing)}): choose another --output folder"
            )

    def claim(self, settings: Settings) -> None:
        """Writes settings.json, unless it exists. To be called with the first result: before it, they may be wrong."""
        if not (self.path / "settings.json").exists():
            write_json(self.path / "settings.json", _plain(settings))

    def has(self, name: str) -> bool:
        return (self.objects / f"{name}.json").exists()

    def sheet(self, name: str) -> Path:
        self.objects.mkdir(parents=True, exist_ok=True)
        return self.objects / f"{name}.png"

    def write(self, record: Record, features: dict[str, Float[Tensor, "view feature"]]) -> None:
        """Stores the metrics and features of one object."""
        if features:
            tensors = {key: value.contiguous() for key, value in features.items()}
            atomically(self.objects / f"{record.object}.safetensors", lambda partial: save_file(tensors, partial))
        write_json(self.objects / f"{record.object}.json", asdict(record))

    def read(self, name: str) -> Record:
        """The record of an object. Raises `UserError` if it is damaged."""
        path = self.objects / f"{name}.json"
        try:
            return Record(**read_json(path))
        except TypeError:
            raise UserError(f"{path} is damaged: delete it and run again") from None

    def features(self, name: str, network: str, row: str) -> Float[Tensor, "view feature"]:
        """The features of one row's images of an object. Raises `UserError` if they are missing or damaged."""
        path = self.objects / f"{name}.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(f"{network}/{row}")
        except (OSError, SafetensorError):
            raise UserError(f"cannot read {path}: delete {name}.json beside it and run again") from None


def claim_run(folder: OwnFolder, run: RunFolder, names: Sequence[str]) -> None:
    """Lists the files `names` that a run will write as ours. `folder` is the run's own, or one around it.

    Raises `UserError` if one would replace a file that is not ours. In a folder with settings.json all are ours,
    whether or not they are listed: earlier versions kept no list.
    """
    place, theirs = run.path.relative_to(folder.path), run.settings()
    within = [(place / name).as_posix() for name in names]
    if theirs is not None and "checkpoint_sha256" in theirs and not folder.owns(within[0]):
        folder.add(name for name in within if (folder.path / name).exists())
    folder.claim(within)


def _plain(settings: Settings) -> dict[str, Any]:
    """The settings in the form in which JSON returns them."""
    return json.loads(json.dumps(asdict(settings)))


def write_json(path: Path, content: Any) -> None:
    """Writes atomically; NaN and infinity are refused, since JSON has no such numbers."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises `UserError` if there is no such file, or it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"cannot read {path}: it is missing or damaged") from None
