"""Steps of the denoiser's training, timed: of a recipe, in fp32 and bf16, with renderings made anew and kept."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import torch
from accelerate import Accelerator

from eval.benchmarks.measure import interleaved
from eval.report.tables import markdown_table
from mvgenvs.config import DataConfig, DenoiserConfig, LossConfig, NerfConfig, OptimConfig, RunConfig, TrainConfig
from mvgenvs.precision import low_precision_norms
from mvgenvs.training.loop import Items
from mvgenvs.training.objective import Objective
from mvgenvs.training.optimizer import make_optimizer
from mvgenvs.training.recipe import read_recipe
from mvgenvs.training.rendered import rendered_sets
from mvgenvs.training.trainer import make_parts, open_data

RENDERINGS = 8  # kept for the rows that read them; their number does not affect the time of a step
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
    """Measurements of one way to train the denoiser."""

    settings: str
    precision: str
    renderings: str
    seconds: float  # of a step: the median
    draws: float  # per second, by the median
    rendering: float  # share of a step


def measure(recipe: Path, data: str, field: str, num_steps: int, folder: Path) -> list[Row]:
    """Times `num_steps` steps of each row, in turns, so that a busy machine slows all alike.

    The first step of each is not timed. `field` is a trained run whose field is rendered, or empty; `folder` holds
    temporary files.
    """
    stages = read_recipe(recipe, folder / "recipe", [data], 1.0).stages
    (present,) = (stage.config for stage in stages if stage.config.loss.denoise)
    present = replace(
        present,
        denoiser=replace(present.denoiser, fit_prior=False),
        run=replace(present.run, init_from=field, init_parts=("nerf",) if field else (), minutes=0.0),
    )
    earlier = replace(EARLIER, data=replace(EARLIER.data, sources=(data,)))
    compared = [("earlier", earlier, "fp32", False)]
    compared += [("recipe", present, precision, kept) for kept in (False, True) for precision in ("fp32", "bf16")]
    steps, objectives = [], []
    for number, (name, config, precision, kept) in enumerate(compared):
        config = replace(config, run=replace(config.run, output=str(folder / str(number))))
        step, objective = make_step(config, precision, kept, skips_air=name != "earlier")
        step()
        objective.rendering_seconds()
        steps.append(step)
        objectives.append(objective)
    seconds = interleaved(steps, torch.device("cpu"), num_steps, budget=float("inf"))
    rows = []
    for (name, config, precision, kept), times, objective in zip(compared, seconds, objectives, strict=True):
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
    if skips_air:  # the earlier stage had neither
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
    """The table in Markdown. The last column is the number of draws relative to the first row."""
    header = ["settings", "precision", "renderings", "s / step", "rendering", "set-draws / s", "times"]
    cells = [
        [row.settings, row.precision, row.renderings, f"{row.seconds:.3f}", f"{row.rendering:.0%}", f"{row.draws:.2f}",
         f"{row.draws / rows[0].draws:.1f}"]
        for row in rows
    ]  # fmt: skip
    return markdown_table(header, cells)
