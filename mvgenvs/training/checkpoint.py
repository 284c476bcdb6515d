"""Checkpoints: atomic folders that hold both the exact training state and a pipeline that inference can load.

RUN/checkpoint-000200/state/       accelerate's: weights, optimizer, schedule, EMA, RNG
RUN/checkpoint-000200/pipeline/    the averaged weights as a pipeline folder, with LoRA updates merged
RUN/checkpoint-000200/config.yaml  the resolved configuration
RUN/checkpoint-000200/step.json
"""

import copy
import json
import pickle
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils.other import load
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError

from mvgenvs.cli import explained_failures
from mvgenvs.config import TrainConfig, to_dict
from mvgenvs.errors import UserError
from mvgenvs.files import share
from mvgenvs.folders import OwnFolder
from mvgenvs.model_card import CARD, LOADER
from mvgenvs.parts import CHECKPOINT_PREFIX, PARTS, Parts, checkpoints
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training.trainable import lora_merged

# Settings that do not change the weights, and may differ when a run is resumed.
HOUSEKEEPING = {
    "data.workers", "data.on_device", "run.output", "run.checkpoint_every", "run.keep", "run.validate_every",
    "run.validate_objects", "run.log_every", "run.tracker", "run.threads", "run.max_nonfinite", "run.compile",
}  # fmt: skip
UNFINISHED = re.compile(rf"\.{CHECKPOINT_PREFIX}\d+\.(tmp|old)")  # their folders
STAGED = ".export"  # where a pipeline is written before it is moved into place
# Exceptions from reading a damaged checkpoint.
TORCH_WRITES = ("writ", "inline_container", "iostream")  # in what torch's archives say of a full disk
DAMAGE = (OSError, ValueError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError, SafetensorError)


@contextmanager
def ema_weights(ema: EMAModel, parts: Parts) -> Iterator[None]:
    """Within the block, the trained parts have their averaged weights."""
    trained = [p for part in parts.modules().values() for p in part.parameters() if p.requires_grad]
    ema.store(trained)
    ema.copy_to(trained)
    try:
        yield
    finally:
        ema.restore(trained)


def save_checkpoint(
    accelerator: Accelerator, config: TrainConfig, parts: Parts, ema: EMAModel, step: int, skipped: int
) -> Path:
    """Writes everything under a temporary name, renames it, then deletes the checkpoints beyond `run.keep`.

    Checkpoints of later steps go, too: they are damaged, or the run would have been resumed from them.
    Raises `UserError` if it cannot be written.
    """
    run = Path(config.run.output)
    final = run / f"{CHECKPOINT_PREFIX}{step:06d}"
    temporary = run / f".{final.name}.tmp"
    try:
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        accelerator.wait_for_everyone()
        write_state(accelerator, config, parts, ema, temporary, {"step": step, "skipped": skipped})
    except (OSError, SafetensorError, RuntimeError) as error:  # each library reports a full disk in its own way
        shutil.rmtree(temporary, ignore_errors=True)
        reason = str(error).strip().partition("\n")[0]
        if isinstance(error, RuntimeError):
            if not any(word in reason for word in TORCH_WRITES):
                raise
            reason = "the disk may be full"
        raise UserError(f"cannot write {final} ({reason}): free some space, and continue with --resume auto") from error
    if accelerator.is_main_process:
        with explained_failures(run, resumes=True):
            put_in_place(temporary, final, config.run.keep)
    accelerator.wait_for_everyone()
    return final


def put_in_place(temporary: Path, final: Path, keep: int) -> None:
    """Gives a finished checkpoint its name, and deletes those that are no longer wanted, oldest last."""
    run, before = final.parent, final.with_name(f".{final.name}.old")
    shutil.rmtree(before, ignore_errors=True)
    if final.exists():  # the same step, trained again
        final.rename(before)
    temporary.rename(final)
    shutil.rmtree(before, ignore_errors=True)
    found = checkpoints(run)
    place = found.index(final)
    for old in [*found[place + 1 :], *reversed(found[: max(0, place + 1 - keep)])]:
        if (old / "state").exists() or (old / "step.json").exists():  # one of ours
            old.rename(before)  # a killed run must not leave half of it under its name
            shutil.rmtree(before, ignore_errors=True)


def clear_unfinished_checkpoints(run: Path) -> None:
    """Deletes what killed runs have left of checkpoints that they wrote or deleted."""
    for folder in run.glob(f".{CHECKPOINT_PREFIX}*"):
        if UNFINISHED.fullmatch(folder.name) and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)


def write_state(
    accelerator: Accelerator, config: TrainConfig, parts: Parts, ema: EMAModel, folder: Path, progress: dict[str, int]
) -> None:
    """Writes the content of a checkpoint."""
    accelerator.save_state(str(folder / "state"))
    if accelerator.is_main_process:
        with ema_weights(ema, parts), lora_merged(parts.denoiser):
            MultiViewPipeline.from_parts(parts).save_pretrained(folder / "pipeline")
        (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")
        (folder / "step.json").write_text(json.dumps(progress))


def resume(accelerator: Accelerator, config: TrainConfig, ema: EMAModel) -> tuple[int, int]:
    """Restores the newest undamaged checkpoint of the run, if there is one. (next step, steps skipped so far).

    Raises `UserError` if it was trained with another configuration, or no checkpoint of the run can be read.
    """
    found = checkpoints(Path(config.run.output))
    for folder in reversed(found):
        try:
            theirs = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
            differing = differing_settings(theirs, config)
        except (*DAMAGE, AttributeError, yaml.YAMLError) as error:
            print(f"{folder} is damaged ({type(error).__name__}): taking the one before", file=sys.stderr)
            continue
        if differing:
            raise UserError(
                f"{folder} has other settings ({', '.join(differing)}): take those, or another --run.output"
            )
        try:
            progress = json.loads((folder / "step.json").read_text())
            check_state(folder / "state")
            accelerator.load_state(str(folder / "state"))
            check_finite(accelerator, ema)
        except DAMAGE as error:
            print(f"{folder} is damaged ({type(error).__name__}): taking the one before", file=sys.stderr)
            continue
        ema.to(accelerator.device)  # diffusers loads the averages on the CPU
        return progress["step"], progress["skipped"]
    if found:
        raise UserError(f"no checkpoint in {config.run.output} can be read: choose another --run.output")
    return 0, 0


def check_state(state: Path) -> None:
    """Raises one of `DAMAGE` where the state holds anything but numbers, which could run when accelerate loads it.

    So it does for random states that cannot be read: accelerate would go on without them.
    """
    for path in sorted([*state.glob("*.pkl"), *state.glob("*.bin")]):
        load(path, map_location="cpu", weights_only=True)


def check_finite(accelerator: Accelerator, ema: EMAModel) -> None:
    """Raises `ValueError` if a weight, or the average of one, is not a number, as on a disk that has failed."""
    held = [x for model in accelerator._models for x in (*model.parameters(), *model.buffers())]
    if not all(bool(x.isfinite().all()) for x in [*held, *ema.shadow_params]):
        raise ValueError("weights that are not finite")


def differing_settings(theirs: Any, config: TrainConfig) -> list[str]:
    """The settings of a checkpoint that lead to other weights than those of `config`."""
    return [
        f"{section}.{name}"
        for section, fields in to_dict(config).items()
        for name, value in fields.items()
        if f"{section}.{name}" not in HOUSEKEEPING and theirs.get(section, {}).get(name, value) != value
    ]


def save_fp16(pipeline: MultiViewPipeline, folder: Path) -> None:
    """Writes a pipeline folder for users: fp16 safetensors, without the paths that its parts came from.

    The pipeline itself stays as it is. An existing pipeline is replaced, file by file. Raises `UserError` if the folder
    holds other files than ours, or cannot be written.
    """
    parts = {name: copy.deepcopy(part) for name, part in pipeline.components.items()}
    halved = type(pipeline)(**parts, **pipeline.defaults).to(dtype=torch.float16)
    with OwnFolder(folder) as own, explained_failures(folder):
        staged = folder / STAGED
        own.add(pipeline_files(folder))
        own.check(["model_index.json", LOADER, *parts])
        shutil.rmtree(staged, ignore_errors=True)
        try:
            halved.save_pretrained(staged, safe_serialization=True)
            for path in staged.glob("*/config.json"):  # diffusers records the folder that a part came from
                config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
                path.write_text(json.dumps(config, indent=2) + "\n")
            for path in staged.glob("*/*.safetensors"):
                share(path)
            names = ["model_index.json", LOADER, *([CARD] if own.owns(CARD) or not (folder / CARD).exists() else [])]
            for path in [*sorted(staged.glob("*/*")), *(staged / name for name in names)]:
                own.replace(path.relative_to(staged).as_posix(), path)
        except SafetensorError as error:  # which hides the system's
            raise UserError(f"cannot write to {folder} ({error}): free some space or choose another folder") from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def pipeline_files(folder: Path) -> list[str]:
    """The files of our pipeline in a folder, if there is one: its model_index.json lists them."""
    try:
        if json.loads((folder / "model_index.json").read_text())["_class_name"] != MultiViewPipeline.__name__:
            return []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    names = ["model_index.json", LOADER, "scheduler/scheduler_config.json"]
    names += [f"{part}/{file}" for part in PARTS for file in ("config.json", "diffusion_pytorch_model.safetensors")]
    return [name for name in names if (folder / name).exists()]
