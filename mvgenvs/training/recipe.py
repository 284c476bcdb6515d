"""A recipe: all stages of a model, one after the other, within a given number of minutes.

A recipe is a YAML file with these keys; OUTPUT/<stage>/ is the run of each stage, OUTPUT/pipeline/ the model.

    minutes: 8                     # of all stages together; --minutes overrides it
    base: {data: …, nerf: …, …}    # a training configuration, common to all stages
    stages:                        # in order; each starts from the weights of the one before
      field:    {share: 0.4, loss: …, optim: …, run: {train: [nerf]}}     # share of the minutes, and changes to base
      denoiser: {share: 0.4, …}
      refiner:  {share: 0.2, …}
    export: {steps: 8, guidance: 1.0}    # the model's sampling defaults; render_sigma starts from the rendering
    eval: {objects: 4}             # of the val split, for the table at the end; 0 makes none
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState

from mvgenvs.config import TrainConfig, build, read_yaml
from mvgenvs.errors import UserError
from mvgenvs.files import clear_unfinished, write_text
from mvgenvs.parts import find_pipeline, load_parts
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.processes import on_main
from mvgenvs.training.checkpoint import save_fp16
from mvgenvs.training.log import LOG, read_log
from mvgenvs.training.objective import check_perceptual
from mvgenvs.training.trainer import check, train

RESOLVED, REPORT, PIPELINE = "recipe.yaml", "recipe.json", "pipeline"
VAL = "val"  # the evaluation of the model on this split
KEYS = {"minutes", "base", "stages", "export", "eval"}


@dataclass(frozen=True)
class Export:
    """The model's sampling defaults."""

    steps: int = 20
    guidance: float = 1.0
    render_sigma: float = 0.0  # 0: start from noise alone
    temperature: float = 1.0  # of the noise on the rendering


@dataclass(frozen=True)
class Val:
    """The table at the end."""

    objects: int = 0


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe."""

    name: str
    config: TrainConfig


@dataclass(frozen=True)
class Recipe:
    """A recipe that has been read, with its minutes fixed and its data filled in."""

    content: dict[str, Any]
    output: Path

    @property
    def export(self) -> Export:
        return build(Export, self.content["export"], "export")

    @property
    def val_objects(self) -> int:
        """How many objects are evaluated for the table at the end."""
        return build(Val, self.content["eval"], "eval").objects

    @property
    def finished(self) -> bool:
        """Whether all stages have been trained."""
        return all((self.output / name / REPORT).exists() for name in self.content["stages"])

    @property
    def stages(self) -> list[Stage]:
        """Raises `UserError` if a stage's configuration is wrong."""
        return list(self._stages())

    def check(self) -> None:
        """Raises `UserError` for a wrong stage, or one that lacks what it needs, before anything is written."""
        for stage in self.stages:
            check(stage.config)
            if not self.finished:
                check_perceptual(stage.config)

    def _stages(self) -> Iterator[Stage]:
        before: Path | None = None
        total = sum(stage["share"] for stage in self.content["stages"].values())
        base = merged({"refine": self.content["export"]}, self.content["base"])  # views are made as users make them
        for name, stage in self.content["stages"].items():
            changes = {key: value for key, value in stage.items() if key != "share"}
            config: TrainConfig = build(TrainConfig, merged(base, changes), f"stages.{name}")
            run = dataclasses.replace(
                config.run,
                output=str(self.output / name),
                init_from=str(before or config.run.init_from),
                minutes=self.content["minutes"] * stage["share"] / total,
            )
            yield Stage(name, dataclasses.replace(config, run=run))
            before = self.output / name


def read_recipe(path: Path, output: Path, data: list[str], minutes: float | None) -> Recipe:
    """The recipe at `path` for these data sets (FOLDER or FOLDER=WEIGHT) and minutes, to be made in `output`.

    Raises `UserError` for a wrong recipe, or minutes that are not above 0. Nothing is written.
    """
    found = read_yaml(path, "recipe")
    if not isinstance(found, dict) or {*map(str, found)} - KEYS or "stages" not in found:
        raise UserError(f"{path} must hold {', '.join(sorted(KEYS))}, and nothing else")
    content: dict[str, Any] = {"base": {}, "export": {}, "eval": {}} | found
    if bad := [key for key in ("base", "stages", "export", "eval") if not isinstance(content[key], dict)]:
        raise UserError(f"'{bad[0]}' of {path} must hold settings, not {content[bad[0]]!r:.80}")
    export, val = build(Export, content["export"], "export"), build(Val, content["eval"], "eval")
    if not (export.steps > 0 and 0 < export.guidance < math.inf and 0 <= export.render_sigma < math.inf):
        raise UserError(f"'export' of {path} needs steps and guidance above 0, and a render_sigma of 0 or more")
    if val.objects < 0:
        raise UserError(f"'eval.objects' of {path} must be 0 or more, not {val.objects}")
    if not content["stages"]:
        raise UserError(f"{path} has no stages")
    for name, stage in content["stages"].items():
        if not isinstance(stage, dict) or not _is_number(stage.get("share"), 1e6):
            raise UserError(f"stage '{name}' of {path} needs a 'share' of the minutes above 0")
    content["minutes"] = minutes if minutes is not None else content.get("minutes", 0)
    if not _is_number(content["minutes"], 1e6):
        raise UserError(f"a recipe needs minutes above 0, not {content['minutes']}")
    content["base"] = merged(content["base"], {"data": {"sources": list(data)}})
    recipe = Recipe(content, output)
    recipe.check()
    return recipe


def claim(recipe: Recipe) -> None:
    """Makes the folder the recipe's. Raises `UserError` if it holds another recipe's run, or anything else."""
    text, place = yaml.safe_dump(recipe.content, sort_keys=False), recipe.output / RESOLVED
    if recipe.output.exists() and not recipe.output.is_dir():
        raise UserError(f"{recipe.output} is a file: choose another --output")
    if place.exists() and place.read_text(encoding="utf-8", errors="replace") != text:
        raise UserError(f"{recipe.output} belongs to another recipe, other data or minutes: choose another --output")
    clear_unfinished(recipe.output)
    names = [path.name for path in recipe.output.iterdir()] if recipe.output.exists() else []
    if RESOLVED not in names and any(not name.startswith(f".{RESOLVED}.") for name in names):  # left by a killed run
        raise UserError(f"{recipe.output} holds files that do not belong to a recipe: choose another --output")
    write_text(place, text)


def cook(recipe: Recipe) -> int:
    """Trains every stage that is not finished, and exports the model. Returns 0, or 1 if a signal stopped it.

    Raises `UserError` if the folder belongs to another recipe.
    """
    on_main(PartialState(), lambda: claim(recipe))
    main = PartialState().is_main_process
    for stage in recipe.stages:
        folder = recipe.output / stage.name
        if main:
            print(f"stage {stage.name}: {stage.config.run.minutes:.1f} minutes", flush=True)
        if (folder / REPORT).exists():
            continue
        if train(stage.config, resume=True):
            return 1
        PartialState().wait_for_everyone()
        if main:
            write_text(folder / REPORT, json.dumps(report(stage), indent=1) + "\n")
    parts = load_parts(find_pipeline(recipe.output / stage.name))
    export = recipe.export
    defaults = {
        "default_steps": export.steps, "default_guidance": export.guidance,
        "default_render_sigma": export.render_sigma or None, "default_temperature": export.temperature,
    }  # fmt: skip
    on_main(
        PartialState(), lambda: save_fp16(MultiViewPipeline.from_parts(parts, **defaults), recipe.output / PIPELINE)
    )
    return 0


def write_reports(recipe: Recipe, val: dict[str, Any] | None) -> None:
    """Writes the reports of all stages, and the table of `val` if there is one, to OUTPUT/recipe.json."""
    reports = [json.loads((recipe.output / name / REPORT).read_text()) for name in recipe.content["stages"]]
    write_text(recipe.output / REPORT, json.dumps({"stages": reports, "val": val}, indent=1) + "\n")


def report(stage: Stage) -> dict[str, Any]:
    """A finished stage's report, from its log: steps, seconds, training sets and noise draws per second.

    `waiting` is the share of a step's time spent on data, `rendering` on the NeRF's forward pass, and `learning` on all
    the rest: denoising, both backward passes, and the optimiser.
    """
    lines = read_log(Path(stage.config.run.output) / LOG)
    seconds = sorted(line["seconds"] for line in lines)
    each = seconds[len(seconds) // 2]
    sets = stage.config.optim.batch / each
    draws = sets * stage.config.loss.noise_draws if stage.config.loss.denoise else 0.0
    last, mean = lines[-1], sum(seconds) / len(seconds)
    waiting, rendering = (sum(line[name] * line["seconds"] for line in lines) / sum(seconds) for name in
                          ("wait", "rendering"))  # fmt: skip
    return {
        "stage": stage.name,
        "steps": last["step"],
        "seconds": last["step"] * mean,  # of all steps, without preparations before the first
        "seconds_per_step": each,
        "sets_per_second": sets,
        "set_draws_per_second": draws,
        "waiting": waiting,
        "rendering": rendering,
        "learning": 1 - waiting - rendering,
        "losses": {key: value for key, value in last.items() if key in vars(stage.config.loss)},
    }


def _is_number(value: Any, high: float) -> bool:
    """Whether it is a number above 0 and below `high`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < high


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, with those of `changes` taking precedence over those of `base`."""
    out = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if nested else value
    return out
