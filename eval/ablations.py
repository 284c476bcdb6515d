"""What each idea is worth: trains small models that lack it, all for as long, and compares them on the val split.

OUTPUT/<group>/<name>/run/          the training run
OUTPUT/<group>/<name>/eval/         its `eval.run`
OUTPUT/<group>/<name>/losses.json   its training losses on val sets, the same sets and noise for all
OUTPUT/<group>.md, .json            the table
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from eval.methods import JOINT, NERF
from eval.report.bootstrap import mean_interval
from eval.report.columns import COLUMNS
from eval.report.records import folder_name, read_json, write_json
from eval.report.runs import read_run
from eval.report.tables import markdown_table
from mvgenvs.config import TrainConfig, load_config
from mvgenvs.errors import OneSentenceParser, UserError, run_script, whole_number
from mvgenvs.files import write_text
from mvgenvs.folders import OwnFolder
from mvgenvs.runtime import explained_failures

ROOT = Path(__file__).parents[1]
NUM_SETS = 48  # val sets whose losses are compared
METRICS = ("psnr", "lpips-alex", "warp-psnr", "warp-lpips", "flicker")


@dataclass(frozen=True)
class Ablation:
    """One model: what its training has otherwise than the group's configuration."""

    name: str
    changes: dict[str, str] = field(default_factory=dict)
    sampling: tuple[str, ...] = ("--steps", "2", "--guidance", "1")

    @property
    def folder(self) -> str:
        return folder_name(self.name)


@dataclass(frozen=True)
class Group:
    """Models that compare with one another. The first is the one that lacks nothing."""

    config: Path
    losses: tuple[str, ...]  # of the objective, on val
    method: str  # the row of `eval.run` that the table shows
    models: tuple[Ablation, ...]


MANY_STEPS = ("--steps", "10", "--guidance", "1")  # without a rendering to start from two steps cannot do
GROUPS = {
    "denoiser": Group(
        ROOT / "configs/ablation_denoiser.yaml",
        losses=("denoise",),
        method=JOINT,
        models=(
            Ablation("everything"),
            Ablation("everything, another seed", {"run.seed": "1"}),
            Ablation("no joint attention", {"denoiser.attention": "independent"}),
            Ablation("block-causal attention", {"denoiser.attention": "block-causal"}),
            Ablation("no clean anchors in training", {"loss.clean_known": "0"}),
            Ablation("noise law: high", {"loss.noise_law": "high"}),
            Ablation("noise law: high to low", {"loss.noise_law": "high-to-low"}),
            Ablation("noise law: low", {"loss.noise_law": "low"}),
            Ablation("rendering without ray map", {"denoiser.plucker": "false"}),
            Ablation("rendering as condition, not as prior", {"denoiser.render_prior": "false"}, MANY_STEPS),
            Ablation(
                "ray map without rendering (as 3DiM)",
                {"denoiser.render_prior": "false", "loss.drop_condition": "1"},
                ("--steps", "10", "--guidance", "0"),  # 0 is the branch that sees no rendering
            ),
            Ablation("field learns too", {"run.train": "[nerf, denoiser]"}),
            Ablation(
                "pixels instead of latents, as long",
                {
                    "codec.kind": "identity",
                    "denoiser.render_size": "128",
                    "denoiser.condition_scale": "1",
                    "denoiser.block_out_channels": "[32, 32, 64, 96]",
                    "denoiser.attention_levels": "[false, false, false, true]",
                    "loss.noise_draws": "1",
                    "optim.steps": "30",
                },
            ),
        ),
    ),
    "field": Group(
        ROOT / "configs/ablation_field.yaml",
        losses=("rgb", "depth"),
        method=NERF,
        models=(
            Ablation("everything"),
            Ablation("no depth supervision", {"loss.depth": "0"}),
            Ablation("no world coordinates", {"nerf.world_coordinates": "false"}),
        ),
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    args.data, args.output = args.data.resolve(), args.output.resolve()  # the scripts run in our folder
    group = GROUPS[args.group]
    output = args.output / args.group
    with explained_failures(args.output), OwnFolder(args.output) as own:
        kept = ("train.log", "eval.log", "losses.json")
        kept_of_models = [f"{args.group}/{model.folder}/{name}" for model in group.models for name in kept]
        own.claim([f"{args.group}.json", f"{args.group}.md", *kept_of_models])
        output.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(args.workers) as pool, tqdm(total=len(group.models), desc="models") as progress:
            for model, _ in zip(
                group.models, pool.map(lambda model: make(group, model, output, args), group.models), strict=True
            ):
                progress.set_postfix_str(model.name)
                progress.update()
        text, report = table(group, output)
        write_json(args.output / f"{args.group}.json", report)
        write_text(args.output / f"{args.group}.md", text + "\n")
    print(text)


def parser() -> OneSentenceParser:
    parse = OneSentenceParser("python -m eval.ablations", description=__doc__.splitlines()[0])
    parse.add("--group", "which models", choices=GROUPS, default="denoiser")
    parse.add("--data", "data set", type=Path, required=True, metavar="DIR")
    parse.add("--workers", "models at a time; they share the processors", type=whole_number(1), default=1, metavar="N")
    parse.add("--output", "folder of the results; resumes what is there", type=Path, required=True, metavar="DIR")
    return parse


def make(group: Group, model: Ablation, output: Path, args: argparse.Namespace) -> None:
    """Trains and evaluates one model, unless that is done. Raises `UserError` where a step fails."""
    folder = output / model.folder
    run, evaluation, losses = folder / "run", folder / "eval", folder / "losses.json"
    folder.mkdir(exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // args.workers)
    if not losses.exists():
        changes = {"data.root": str(args.data), "run.output": str(run), "run.threads": str(threads)} | model.changes
        flags = [word for key, value in changes.items() for word in (f"--{key}", value)]
        train = ["train_multiview.py", "--config", str(group.config), "--resume", "auto", *flags]
        _call(train, folder / "train.log", threads)
        config = load_config(group.config, {"data.root": str(args.data)} | _of_conditions(model))
        write_json(losses, validation_losses(run, config, group.losses, threads))
    if not (evaluation / "metrics.json").exists():
        words = ["--checkpoint", str(run), "--data", str(args.data), "--split", "val", "--output", str(evaluation)]
        shown = ["--methods", group.method, "--metrics", "consistency", *model.sampling]
        _call(["-m", "eval.run", *words, *shown], folder / "eval.log", threads)


def _of_conditions(model: Ablation) -> dict[str, str]:
    """Those changes that say what the denoiser is shown: without them a loss would be another model's."""
    shown = ("denoiser.render_size", "denoiser.condition_scale", "loss.drop_condition")
    return {key: value for key, value in model.changes.items() if key in shown}


def _call(words: Sequence[str], log: Path, threads: int) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    with log.open("w") as file:
        command = [sys.executable, *words]
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
    if code:
        last = (log.read_text().strip().splitlines() or ["nothing"])[-1]
        raise UserError(f"{' '.join(words[:2])} failed with '{last}': see {log}")


def validation_losses(run: Path, config: TrainConfig, names: Sequence[str], threads: int) -> dict[str, list[float]]:
    """Losses of the newest checkpoint of a run on `NUM_SETS` sets of the val split, one figure of each set.

    Raises `UserError` where the data have no such losses.
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
    """The table in Markdown, and its figures."""
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


if __name__ == "__main__":
    run_script(main, shares_work=False)
