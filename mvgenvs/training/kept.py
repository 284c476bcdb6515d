"""Outputs of frozen parts for training sets: made once, before a stage's first step, and kept in the run's folder.

FOLDER/made_by.json   everything that determines the items
FOLDER/plan.json      the number of items, fixed once from the time that the first ones take
FOLDER/<file>         one item each, whole or absent: a stopped run continues
"""

import hashlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from tqdm import tqdm

from mvgenvs.config import TrainConfig
from mvgenvs.data.stored import CachedScenes
from mvgenvs.errors import UserError
from mvgenvs.files import clear_unfinished, write_text
from mvgenvs.processes import on_main

TIMED = 3  # items per process that suffice to know how long one takes; the first is slow for other reasons


@dataclass(frozen=True)
class KeptItems:
    """All items when they are made: `count` of them, numbered from 0."""

    count: int
    earlier_seconds: float  # taken by the items that an earlier, stopped process made


def claim(folder: Path, made_by: dict[str, Any]) -> None:
    """Records in the folder what makes its items. Raises `UserError` if those there were made by something else."""
    path = folder / "made_by.json"
    clear_unfinished(folder)
    if folder.exists() and any(not found.name.startswith(".") for found in folder.iterdir()):  # left by a killed run
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            theirs = None
        if theirs != json.loads(json.dumps(made_by)):
            raise UserError(f"{folder} was made by another model, seed or data: choose another output folder")
    write_text(path, json.dumps(made_by) + "\n")


def make_all(
    accelerator: Accelerator,
    folder: Path,
    made_by: dict[str, Any],
    path: Callable[[int], Path],
    make: Callable[[int], None],
    most: int,
    seconds: float | None,
) -> KeptItems:
    """Calls `make` with the path of each item in turn: `most` items, or as many as fit into the seconds.

    Several processes share the items. Raises `UserError` if the folder's items were made differently, or cannot be
    written.
    """
    on_main(accelerator.state, lambda: claim(folder, made_by))
    rank, world = accelerator.process_index, accelerator.num_processes
    plan = read_plan(folder / "plan.json")
    there = [index for index in range(most if plan is None else plan[0]) if path(index).exists()]
    accelerator.wait_for_everyone()  # so that all have seen the same files
    with tqdm(desc=folder.name, initial=len(there), unit="set", disable=not accelerator.is_main_process) as bar:

        def timed(index: int) -> float:
            begin = time.perf_counter()
            make(index)
            bar.update(world)
            return time.perf_counter() - begin

        def missing(count: int) -> list[int]:
            return [index for index in range(rank, count, world) if not path(index).exists()]

        if plan is None:
            first = missing(most)[:TIMED]
            took = [timed(index) for index in first]
            each = max(gather_object([statistics.median(took or [0.0])])) / world
            fitting = int(seconds / each) if seconds and each else most
            plan = min(most, max(fitting, world * TIMED)), each
            if accelerator.is_main_process:
                text = json.dumps({"count": plan[0], "seconds": each}) + "\n"
                write_text(folder / "plan.json", text)
            for index in {*there, *first}:
                if index >= plan[0]:  # a run that was killed before its plan had made the first ones already
                    path(index).unlink(missing_ok=True)
        bar.total = plan[0]
        for index in missing(plan[0]):
            timed(index)
    accelerator.wait_for_everyone()
    return KeptItems(plan[0], len(there) * plan[1])


def read_plan(path: Path) -> tuple[int, float] | None:
    """The number of items, and the seconds for one. Raises `UserError` if the plan is damaged."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return int(content["count"]), float(content["seconds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: delete it, or choose another output folder") from error


def data_key(config: TrainConfig, scenes: CachedScenes) -> dict[str, Any]:
    """Everything that determines the training sets, except their views. Fit for JSON."""
    data = config.data
    objects = "\n".join(f"{item.name} {len(item.view_ids)}" for item in scenes.objects)
    return {
        "sources": list(data.sources or (data.root,)),
        "objects": hashlib.sha256(objects.encode()).hexdigest(),
        "size": data.size,
        "recolour": data.recolour,
        "mirror": data.mirror,
        "expose": data.expose,
        "seed": config.run.seed,
    }


def weights_sha256(model: nn.Module) -> str:
    """A hash of all weights of a model, their names and their shapes."""
    digest = hashlib.sha256()
    for name, x in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(x.shape)} {x.dtype}\n".encode())
        digest.update(x.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
