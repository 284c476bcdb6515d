"""Trains, evaluates and compares the models of an ablation: for the files see `eval.ablations`."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.report.bootstrap import mean_interval
from eval.report.columns import COLUMNS
from eval.report.records import read_json, write_json
from eval.report.runs import read_run
from eval.report.tables import markdown_table
from eval.studies.ablation_models import ROOT, Ablation, Group
from mvgenvs.config import TrainConfig, load_config
from mvgenvs.errors import UserError

NUM_SETS = 48  # val sets whose losses are compared
RENDERINGS = "renderings"  # of training sets, beside the models that share them
COSTS = ("parameters", "steps", "seconds per view")


@dataclass(frozen=True)
class Setup:
    """What all models of an ablation have in common."""

    data: Path
    train_data: Path
    output: Path
    threads: int
    minutes: float = 0.0
    """of training, instead of the configuration's steps; 0: those"""
    num_objects: int | None = None
    """of val; None: all"""


def train_and_evaluate(group: Group, model: Ablation, setup: Setup) -> None:
    """Makes one model's run, evaluation, losses and costs, unless they exist. Raises `UserError` if a step fails."""
    folder = setup.output / model.folder
    run, evaluation, losses = folder / "run", folder / "eval", folder / "losses.json"
    folder.mkdir(exist_ok=True)
    if model.trained and not losses.exists():
        changes = changes_of(group, model, setup) | {"run.output": str(run), "run.threads": str(setup.threads)}
        flags = [argument for key, value in changes.items() for argument in (f"--{key}", value)]
        train = ["train_multiview.py", "--config", str(group.config_of(model)), "--resume", "auto", *flags]
        _call(train, folder / "train.log", setup.threads)
        config = load_config(group.config_of(model), {"data.root": str(setup.data)} | _condition_changes(model))
        write_json(losses, validation_losses(run, config, group.losses, setup.threads) if group.losses else {})
    checkpoint = str(run) if model.trained else "bundled"
    if not (evaluation / "metrics.json").exists():
        arguments = ["--checkpoint", checkpoint, "--data", str(setup.data), "--split", "val"]
        objects = [] if setup.num_objects is None else ["--num-objects", str(setup.num_objects)]
        shown = ["--methods", *group.methods_of(model), "--metrics", *group.measured, *model.sampling]
        _call(["-m", "eval.run", *arguments, "--output", str(evaluation), *objects, *shown], folder / "eval.log",
              setup.threads)  # fmt: skip
    if group.costs and not (folder / "costs.json").exists():
        write_json(folder / "costs.json", costs(checkpoint, evaluation, group.methods_of(model), setup))


def changes_of(group: Group, model: Ablation, setup: Setup) -> dict[str, str]:
    """How the training of a model differs from its configuration."""
    changes = {"data.root": str(setup.train_data)}
    if setup.minutes:
        changes["run.minutes"] = str(setup.minutes)
    if load_config(group.config_of(model), model.changes).data.renderings:
        seed = model.changes.get("run.seed")  # another seed draws other sets
        changes["data.renderings_folder"] = str(setup.output / (RENDERINGS if seed is None else f"{RENDERINGS}_{seed}"))
    return changes | model.changes


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


def costs(checkpoint: str, evaluation: Path, methods: Sequence[str], setup: Setup) -> dict[str, Any]:
    """Parameters and training steps of a model, and for each row the seconds per view of the first val object."""
    import torch

    from eval.evaluation import load_pipeline
    from eval.methods import predictions
    from eval.protocols import choose_views
    from mvgenvs.data.scenes import open_scenes
    from mvgenvs.parts import resolve_checkpoint

    torch.set_num_threads(setup.threads)
    settings = read_run(evaluation).settings
    pipeline = load_pipeline(resolve_checkpoint(checkpoint), torch.device("cpu"))
    scenes = open_scenes(setup.data, settings.split, pipeline.size)
    views, item = scenes.read(0).view_set(), scenes.objects[0]
    chosen = choose_views(item, views.cameras, settings.protocol, settings.num_inputs)
    known, cameras = views.select(chosen.inputs), views.cameras.select(chosen.targets)
    seconds = {}
    for method in methods:
        started = time.perf_counter()
        for _ in predictions(pipeline, known, cameras, [method], settings.sampling, [settings.seed]):
            seconds[method] = (time.perf_counter() - started) / cameras.num_views
    parts = [pipeline.nerf] if pipeline.denoiser.sees_rendering else []
    own = {method: parts if method == "nerf" else [*parts, pipeline.denoiser, pipeline.codec] for method in methods}
    counts = {method: sum(p.numel() for part in used for p in part.parameters()) for method, used in own.items()}
    plan = Path(checkpoint, "plan.json")
    steps = read_json(plan)["steps"] if plan.exists() else None
    return {"parameters": counts, "steps": steps, "seconds per view": seconds}


def table(group: Group, output: Path) -> tuple[str, dict[str, dict[str, float | None]]]:
    """The table in Markdown, and its values."""
    columns = [COLUMNS[metric] for metric in group.metrics]
    rows, report = [], {}
    for model in group.models:
        losses = read_json(output / model.folder / "losses.json") if group.losses else {}
        run = read_run(output / model.folder / "eval").table
        for method in group.methods_of(model):
            name = model.name if method == group.methods_of(model)[0] else f"{model.name}, {method}"
            means = {name: sum(values) / len(values) for name, values in losses.items()}
            spent = _costs_of(output / model.folder, method) if group.costs else {}
            cells = [*_loss_cells(group, model, losses, output), *(_cost_cell(name, spent[name]) for name in spent)]
            figures = run[method]
            rows.append([name, *cells, *(column.format(figures.get(column.key)) for column in columns)])
            report[name] = {f"val-{name}": mean for name, mean in means.items()} | figures | spent
    header = [title for name in group.losses for title in (f"val {name} ↓", "against the first")]
    header += COSTS if group.costs else ()
    return markdown_table(["", *header, *(column.heading for column in columns)], rows), report


def _loss_cells(group: Group, model: Ablation, losses: dict[str, list[float]], output: Path) -> list[str]:
    """The means of a model's losses, each with its difference from the first model's."""
    cells = []
    for name in group.losses:
        if "codec.kind" in model.changes:  # an error in other units
            cells += ["–", "–"]
        else:
            whole = read_json(output / group.models[0].folder / "losses.json")[name]
            mean = sum(losses[name]) / len(losses[name])
            cells += [f"{mean:.4f}", "–" if model == group.models[0] else difference(whole, losses[name])]
    return cells


def _costs_of(folder: Path, method: str) -> dict[str, float | None]:
    """The costs of one row, by the names in `COSTS`."""
    found = read_json(folder / "costs.json")
    costs = {name: found[name][method] if isinstance(found[name], dict) else found[name] for name in COSTS}
    return {name: None if cost is None else float(cost) for name, cost in costs.items()}


def _cost_cell(name: str, cost: float | None) -> str:
    if cost is None:
        return "–"
    return {"parameters": f"{cost / 1e6:.1f} M", "steps": f"{cost:.0f}", "seconds per view": f"{cost:.2f}"}[name]


def difference(whole: Sequence[float], losses: Sequence[float]) -> str:
    """The mean difference in percent of the first model's mean, and its interval over the sets."""
    mean = sum(whole) / len(whole)
    differences = [100 * (b - a) / mean for a, b in zip(whole, losses, strict=True)]
    low, high = mean_interval(differences) or (float("nan"), float("nan"))
    return f"{sum(differences) / len(differences):+.1f}% ({low:+.1f} to {high:+.1f})"
