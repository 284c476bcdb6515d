"""Noise draws of training sets in a second: the denoiser's stage of a recipe, beside the settings of an earlier one.

python -m eval.throughput --data data/opencars [--field runs/two_cores/field] [--output reports/throughput]
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path

import torch
from accelerate import Accelerator

from eval.bench import machine
from eval.benchmarks.measure import interleaved
from eval.report.provenance import all_versions
from eval.report.records import write_json
from eval.report.tables import markdown_table
from mvgenvs.config import DataConfig, DenoiserConfig, LossConfig, NerfConfig, OptimConfig, RunConfig, TrainConfig
from mvgenvs.errors import OneSentenceParser, run_script, whole_number
from mvgenvs.files import write_text
from mvgenvs.folders import OwnFolder
from mvgenvs.precision import low_precision_norms
from mvgenvs.runtime import explained_failures
from mvgenvs.training.loop import Items
from mvgenvs.training.objective import Objective
from mvgenvs.training.optimizer import make_optimizer
from mvgenvs.training.recipe import read_recipe
from mvgenvs.training.rendered import rendered_sets
from mvgenvs.training.trainer import make_parts, open_data

RENDERINGS = 8  # kept for the rows that read them; how many does not change what a step costs
# The first bundled model's denoiser: configs/opencars128_final.yaml at commit 9ba91c4.
EARLIER = TrainConfig(
    data=DataConfig(max_known=1),
    nerf=NerfConfig(),
    denoiser=DenoiserConfig(),
    loss=LossConfig(denoise=1.0, noise_draws=3, noise_law="high"),
    optim=OptimConfig(batch=2),
    run=RunConfig(train=("denoiser",)),
)


@dataclass(frozen=True)
class Row:
    """One way to train the denoiser."""

    settings: str
    precision: str
    renderings: str
    seconds: float  # of a step: the median
    draws: float  # in a second, by the median
    rendering: float  # share of a step


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    with ExitStack() as stack:
        if args.output:
            stack.enter_context(OwnFolder(args.output)).claim(["throughput.json", "throughput.md"])
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = measure(args, folder)
        text = table(rows)
        if args.output:
            with explained_failures(args.output):
                about = {"machine": machine(torch.device("cpu")), "versions": all_versions()}
                write_json(args.output / "throughput.json", {**about, "rows": list(map(asdict, rows))})
                write_text(args.output / "throughput.md", text + "\n")
    print(text)


def parser() -> argparse.ArgumentParser:
    parse = OneSentenceParser("python -m eval.throughput", description=__doc__.partition("\n")[0])
    parse.add("--recipe", "whose denoiser's stage is measured", type=Path,
              default=Path("configs/recipes/two_cores.yaml"), metavar="FILE")  # fmt: skip
    parse.add("--data", "data set with a train split", required=True, metavar="DIR")
    parse.add("--field", "trained run whose field is rendered: its air costs nothing", metavar="DIR", default="")
    parse.add("--steps", "timed steps of each row", type=whole_number(1), default=10, metavar="N")
    parse.add("--threads", "of the CPU", type=whole_number(1), default=1, metavar="N")
    parse.add("--output", "folder for throughput.json and throughput.md", type=Path, metavar="DIR")
    return parse


def measure(args: argparse.Namespace, folder: Path) -> list[Row]:
    """The rows in turns, so that a busy machine disturbs all alike. The first step of each is not timed."""
    recipe = read_recipe(args.recipe, folder / "recipe", [args.data], 1.0)
    (present,) = (stage.config for stage in recipe.stages if stage.config.loss.denoise)
    present = replace(
        present,
        denoiser=replace(present.denoiser, fit_prior=False),
        run=replace(present.run, init_from=args.field, init_parts=("nerf",) if args.field else (), minutes=0.0),
    )
    earlier = replace(EARLIER, data=replace(EARLIER.data, sources=(args.data,)))
    ways = [("earlier", earlier, "fp32", False)]
    ways += [("recipe", present, precision, kept) for kept in (False, True) for precision in ("fp32", "bf16")]
    steps, objectives = [], []
    for number, (name, config, precision, kept) in enumerate(ways):
        config = replace(config, run=replace(config.run, output=str(folder / str(number))))
        step, objective = make_step(config, precision, kept, skips_air=name != "earlier")
        step()
        objective.rendering_seconds()
        steps.append(step)
        objectives.append(objective)
    seconds = interleaved(steps, torch.device("cpu"), args.steps, budget=float("inf"))
    rows = []
    for (name, config, precision, kept), times, objective in zip(ways, seconds, objectives, strict=True):
        each = statistics.median(times)
        draws = config.optim.batch * config.loss.noise_draws / each
        share = objective.rendering_seconds() / sum(times)
        rows.append(Row(name, precision, "kept" if kept else "made anew", each, draws, share))
    return rows


def make_step(config: TrainConfig, precision: str, kept: bool, skips_air: bool) -> tuple[Callable[[], None], Objective]:
    """One optimisation step, from its data to the updated weights."""
    scenes, sets = open_data(config)
    objective = Objective(make_parts(config, scenes)[0], config)
    objective.skips_air = skips_air
    if skips_air:  # neither had the earlier stage this
        low_precision_norms(objective)
    items: Items = sets
    if kept:
        config = replace(config, data=replace(config.data, renderings=RENDERINGS))
        items = rendered_sets(Accelerator(), objective, sets, scenes, config)[0]
    learning = [p for p in objective.parameters() if p.requires_grad]
    optimizer = make_optimizer(learning, config.optim, torch.device("cpu"))
    numbers: Iterator[int] = count()

    def step() -> None:
        objective.train()
        batch = items.collate([items[next(numbers)] for _ in range(config.optim.batch)])
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            losses = objective(batch, 0.0)
        objective.total(losses).backward()
        torch.nn.utils.clip_grad_norm_(learning, config.optim.clip)
        optimizer.step()
        optimizer.zero_grad()

    return step, objective


def table(rows: Sequence[Row]) -> str:
    """In Markdown; times are over those of the first row."""
    header = ["settings", "precision", "renderings", "s / step", "rendering", "set-draws / s", "times"]
    cells = [
        [row.settings, row.precision, row.renderings, f"{row.seconds:.3f}", f"{row.rendering:.0%}", f"{row.draws:.2f}",
         f"{row.draws / rows[0].draws:.1f}"]
        for row in rows
    ]  # fmt: skip
    return markdown_table(header, cells)


if __name__ == "__main__":
    run_script(main, shares_work=False)
