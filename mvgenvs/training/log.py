"""What a run reports of its steps: a line in a file and in the tracker, and numbers behind the progress bar."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from mvgenvs.config import TrainConfig
from mvgenvs.errors import UserError
from mvgenvs.training.loop import StepReport

LOG = "log.jsonl"  # in the run's folder


def note(bar: tqdm, accelerator: Accelerator, report: StepReport, config: TrainConfig, last: bool) -> None:
    """Shows a step, and logs it if it is due."""
    losses = {name: round(value, 4) for name, value in report.losses.items()}
    bar.set_postfix(**losses, skipped=report.skipped, wait=f"{report.wait:.0%}", refresh=False)
    if report.step % config.run.log_every and not last:
        return
    state = {
        "grad_norm": report.grad_norm, "lr": report.lr, "seconds": report.seconds, "wait": report.wait,
        "rendering": report.rendering / report.seconds,
    }  # fmt: skip
    accelerator.log({**report.losses, **state}, step=report.step)
    if accelerator.is_main_process:
        append_line(Path(config.run.output) / LOG, {"step": report.step, **report.losses, **state})


def append_line(path: Path, entry: Mapping[str, float | int]) -> None:
    """Raises `UserError` if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            cut_off = size and file.read(1) != b"\n"  # by a full disk or a killed run
            file.write(b"\n" * bool(cut_off) + json.dumps(entry).encode() + b"\n")
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}): free some space, and continue with --resume auto"
        ) from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, without one that a killed run has left incomplete."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines
