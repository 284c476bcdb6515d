"""A recipe: all stages of a model, one after the other, in the minutes that it is given.

A recipe is a YAML file with these keys; OUTPUT/<stage>/ is the run of each stage, OUTPUT/pipeline/ the model.

    minutes: 8                     # of all stages together; --minutes overrides it
    base: {data: …, nerf: …, …}    # a training configuration, common to all stages
    stages:                        # in order; each starts from the weights of the one before
      field:    {share: 0.4, loss: …, optim: …, run: {train: [nerf]}}     # share of the minutes, and what differs
      denoiser: {share: 0.6, …}
    export: {steps: 8, guidance: 1.0}    # sampling settings that suit the model; render_sigma starts from the rendering
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mvgenvs.config import ConfigLoader, TrainConfig, build
from mvgenvs.errors import UserError
from mvgenvs.files import write_text
from mvgenvs.parts import find_pipeline, load_parts
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training.checkpoint import save_fp16
from mvgenvs.training.trainer import check, train

RESOLVED, REPORT, PIPELINE = "recipe.yaml", "recipe.json", "pipeline"
KEYS = {"minutes", "base", "stages", "export"}


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe."""

    name: str
    config: TrainConfig


@dataclass(frozen=True)
class Recipe:
    """A recipe with its file read, its minutes fixed, and its data in place."""

    content: dict[str, Any]
    output: Path

    @property
    def stages(self) -> list[Stage]:
        """Raises `UserError` where a stage's configuration is mistaken."""
        return list(self._stages())

    def check(self) -> None:
        """Raises `UserError` for a mistaken stage, before anything is written."""
        for stage in self.stages:
            check(stage.config)

    def _stages(self) -> Iterator[Stage]:
        before: Path | None = None
        total = sum(stage["share"] for stage in self.content["stages"].values())
        for name, stage in self.content["stages"].items():
            changes = {key: value for key, value in stage.items() if key != "share"}
            config: TrainConfig = build(TrainConfig, merged(self.content["base"], changes), f"stages.{name}")
            run = dataclasses.replace(
                config.run,
                output=str(self.output / name),
                init_from=str(before or config.run.init_from),
                minutes=self.content["minutes"] * stage["share"] / total,
            )
            yield Stage(name, dataclasses.replace(config, run=run))
            before = self.output / name


def read_recipe(path: Path, output: Path, data: list[str], minutes: float | None) -> Recipe:
    """The recipe at `path` for these data sets (FOLDER or FOLDER=WEIGHT) and minutes, written into `output`.

    Raises `UserError` for a mistaken recipe, minutes that are not above 0, or an `output` of another recipe.
    """
    try:
        found: Any = yaml.load(path.read_text(encoding="utf-8"), ConfigLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML") from error
    if not isinstance(found, dict) or set(found) - KEYS or "stages" not in found:
        raise UserError(f"{path} must hold {', '.join(sorted(KEYS))}, and nothing else")
    content: dict[str, Any] = {"base": {}, "export": {}} | found
    if bad := [key for key in ("base", "stages", "export") if not isinstance(content[key], dict)]:
        raise UserError(f"'{bad[0]}' of {path} must hold settings, not {content[bad[0]]!r}")
    if not content["stages"]:
        raise UserError(f"{path} has no stages")
    for name, stage in content["stages"].items():
        if not isinstance(stage, dict) or not isinstance(stage.get("share"), int | float) or not stage["share"] > 0:
            raise UserError(f"stage '{name}' of {path} needs a 'share' of the minutes above 0")
    content["minutes"] = minutes if minutes is not None else content.get("minutes", 0)
    if not isinstance(content["minutes"], int | float) or not 0 < content["minutes"] < 1e6:
        raise UserError(f"a recipe needs minutes above 0, not {content['minutes']}")
    content["base"] = merged(content["base"], {"data": {"sources": list(data)}})
    recipe = Recipe(content, output)
    recipe.check()
    text, place = yaml.safe_dump(content, sort_keys=False), output / RESOLVED
    if place.exists() and place.read_text(encoding="utf-8") != text:
        raise UserError(f"{output} belongs to another recipe, other data or minutes: choose another --output")
    if not place.exists() and output.exists() and any(output.iterdir()):
        raise UserError(f"{output} holds files that are no recipe's: choose another --output")
    write_text(place, text)
    return recipe


def cook(recipe: Recipe) -> int:
    """Trains every stage that is not finished, and exports the model. 0, or 1 where a signal stopped it."""
    reports = []
    for stage in recipe.stages:
        folder = recipe.output / stage.name
        print(f"stage {stage.name}: {stage.config.run.minutes:.1f} minutes", flush=True)
        if not (folder / REPORT).exists():
            if train(stage.config, resume=True):
                return 1
            write_text(folder / REPORT, json.dumps(report(stage), indent=1) + "\n")
        reports.append(json.loads((folder / REPORT).read_text()))
    parts = load_parts(find_pipeline(recipe.output / stage.name))
    export = recipe.content["export"]
    defaults = {"default_steps": int(export.get("steps", 20)), "default_guidance": float(export.get("guidance", 1.0))}
    if "render_sigma" in export:
        defaults["default_render_sigma"] = float(export["render_sigma"])
    save_fp16(MultiViewPipeline.from_parts(parts, **defaults), recipe.output / PIPELINE)
    write_text(recipe.output / REPORT, json.dumps({"stages": reports}, indent=1) + "\n")
    return 0


def report(stage: Stage) -> dict[str, Any]:
    """What a finished stage did, from its log: steps, seconds, training sets and noise draws in a second."""
    lines = [json.loads(line) for line in (Path(stage.config.run.output) / "log.jsonl").read_text().splitlines()]
    seconds = sorted(line["seconds"] for line in lines)
    each = seconds[len(seconds) // 2]
    sets = stage.config.optim.batch / each
    draws = sets * stage.config.loss.noise_draws if stage.config.loss.denoise else 0.0
    last = lines[-1]
    return {
        "stage": stage.name,
        "steps": last["step"],
        "seconds_per_step": each,
        "sets_per_second": sets,
        "set_draws_per_second": draws,
        "wait": sum(line["wait"] for line in lines) / len(lines),
        "losses": {key: value for key, value in last.items() if key in vars(stage.config.loss)},
    }


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, those of `changes` over those of `base`."""
    out = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if nested else value
    return out
