"""Trains, evaluates and compares the models of an ablation: for the files see `eval.ablations`."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval.report.bootstrap import mean_interval
from eval.report.columns import COLUMNS
from eval.report.records import read_json, write_json
from eval.report.runs import read_run
from eval.report.tables import markdown_table
from eval.studies.ablation_models import ROOT, Ablation, Group
from mvgenvs.config import TrainConfig, load_config
from mvgenvs.errors import UserError

NUM_SETS = 48  # val sets whose losses are compared
METRICS = ("psnr", "lpips-alex", "warp-psnr", "warp-lpips", "flicker")


def train_and_evaluate(group: Group, model: Ablation, data: Path, output: Path, threads: int) -> None:
    """Makes one model's run, evaluation and losses, unless they exist. Raises `UserError` if a step fails."""
    folder = output / model.folder
    run, evaluation, losses = folder / "run", folder / "eval", folder / "losses.json"
    folder.mkdir(exist_ok=True)
    if not losses.exists():
        changes = {"data.root": str(data), "run.output": str(run), "run.threads": str(threads)} | model.changes
        flags = [argument for key, value in changes.items() for argument in (f"--{key}", value)]
        train = ["train_multiview.py", "--config", str(group.config), "--resume", "auto", *flags]
        _call(train, folder / "train.log", threads)
        config = load_config(group.config, {"data.root": str(data)} | _condition_changes(model))
        write_json(losses, validation_losses(run, config, group.losses, threads))
    if not (evaluation / "metrics.json").exists():
        arguments = ["--checkpoint", str(run), "--data", str(data), "--split", "val", "--output", str(evaluation)]
        shown = ["--methods", group.method, "--metrics", "consistency", *model.sampling]
        _call(["-m", "eval.run", *arguments, *shown], folder / "eval.log", threads)


def _condition_changes(model: Ablation) -> dict[str, str]:
    """The changes that affect what the denoiser is shown: without them, a loss would be another model's."""
    shown = ("denoiser.render_size", "denoiser.condition_scale", "loss.drop_condition")
    return {key: value for key, value in model.changes.items() if key in shown}


def _call(arguments: Sequence[str], log: Path, threads: int) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    with log.open("w") as file:
        command = [sys.executable, *arguments]
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
    if code:
        last = (log.read_text().strip().splitlines() or ["nothing"])[-1]
        raise UserError(f"{' '.join(arguments[:2])} failed with '{last}': see {log}")


def validation_losses(run: Path, config: TrainConfig, names: Sequence[str], threads: int) -> dict[str, list[float]]:
    """Losses of the newest checkpoint of a run on `NUM_SETS` sets of the val split, one value per set.

    Raises `UserError` if the data have no such losses.
    """
    import torch

    from mvgenvs.data.sampling import TrainingSets, collate
    from mvgenvs.data.scenes import open_scenes
    from mvgenvs.parts import find_pipeline, load_parts
    from mvgenvs.training.objective import Objective

    torch.set_num_threads(threads)
    scenes = open_scenes(Path(config.data.root), "val", config.data.size, config.data.category)
    known = (config.data.min_known, config.data.max_known)
    sets = TrainingSets(scenes, config.data.num_views, known, 1, 0, NUM_SETS, recolour=0.0, mirror=False)
    frozen = replace(config, run=replace(config.run, train=()))
    objective = Objective(load_parts(find_pipeline(run)), frozen).eval()
    with torch.no_grad():
        found = [objective(collate([sets[i]]), 0.0) for i in range(NUM_SETS)]
    if missing := [name for name in names if name not in found[0]]:
        raise UserError(f"{config.data.root} has no {missing[0]}: build OpenCars anew, or choose another --group")
    return {name: [losses[name].item() for losses in found] for name in names}


def table(group: Group, output: Path) -> tuple[str, dict[str, dict[str, float | None]]]:
    """The table in Markdown, and its values."""
    whole = read_json(output / group.models[0].folder / "losses.json")
    columns = [COLUMNS[metric] for metric in METRICS]
    rows, report = [], {}
    for model in group.models:
        losses = read_json(output / model.folder / "losses.json")
        figures = read_run(output / model.folder / "eval").table[group.method]
        means = {name: sum(losses[name]) / NUM_SETS for name in group.losses}
        cells = [model.name]
        for name in group.losses:
            if "codec.kind" in model.changes:  # an error in other units
                cells += ["–", "–"]
            else:
                first = model == group.models[0]
                cells += [f"{means[name]:.4f}", "–" if first else difference(whole[name], losses[name])]
        rows.append([*cells, *(column.format(figures.get(column.key)) for column in columns)])
        report[model.name] = {f"val-{name}": mean for name, mean in means.items()} | figures
    header = [title for name in group.losses for title in (f"val {name} ↓", "against the first")]
    return markdown_table(["", *header, *(column.heading for column in columns)], rows), report


def difference(whole: Sequence[float], losses: Sequence[float]) -> str:
    """The mean difference in percent of the first model's mean, and its interval over the sets."""
    mean = sum(whole) / len(whole)
    differences = [100 * (b - a) / mean for a, b in zip(whole, losses, strict=True)]
    low, high = mean_interval(differences) or (float("nan"), float("nan"))
    return f"{sum(differences) / len(differences):+.1f}% ({low:+.1f} to {high:+.1f})"
