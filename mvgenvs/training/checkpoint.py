"""Checkpoints: atomic folders that hold both the exact training state and a pipeline that inference can load.

RUN/checkpoint-000200/state/       accelerate's: weights, optimizer, schedule, EMA, RNG
RUN/checkpoint-000200/pipeline/    the averaged weights as a pipeline folder, LoRA updates added in
RUN/checkpoint-000200/config.yaml  the resolved configuration
RUN/checkpoint-000200/step.json
"""

import json
import pickle
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError

from mvgenvs.config import TrainConfig, to_dict
from mvgenvs.errors import UserError
from mvgenvs.parts import CHECKPOINT_PREFIX, Parts, checkpoints
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training.trainable import lora_merged

# Settings that change no weight, and may be others when a run is resumed.
HOUSEKEEPING = {
    "data.workers", "data.on_device", "run.output", "run.checkpoint_every", "run.keep", "run.validate_every",
    "run.validate_objects", "run.log_every", "run.tracker", "run.threads", "run.max_nonfinite", "run.compile",
}  # fmt: skip
# What reading a damaged checkpoint raises.
DAMAGE = (OSError, ValueError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError, SafetensorError)


@contextmanager
def ema_weights(ema: EMAModel, parts: Parts) -> Iterator[None]:
    """The trained parts with their averaged weights, for the length of the block."""
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
    """Writes everything under a temporary name, renames it, then drops the checkpoints beyond `run.keep`."""
    run = Path(config.run.output)
    final = run / f"{CHECKPOINT_PREFIX}{step:06d}"
    temporary = run / f".{final.name}.tmp"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary / "state"))
    if accelerator.is_main_process:
        with ema_weights(ema, parts), lora_merged(parts.denoiser):
            MultiViewPipeline.from_parts(parts).save_pretrained(temporary / "pipeline")
        (temporary / "config.yaml").write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
        (temporary / "step.json").write_text(json.dumps({"step": step, "skipped": skipped}))
        before = run / f".{final.name}.old"
        if final.exists():  # the same step, trained again
            final.rename(before)
        temporary.rename(final)
        shutil.rmtree(before, ignore_errors=True)
        for old in checkpoints(run)[: -config.run.keep]:
            if (old / "step.json").exists():  # one of ours
                shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def resume(accelerator: Accelerator, config: TrainConfig, ema: EMAModel) -> tuple[int, int]:
    """Restores the newest checkpoint of the run that is whole, if there is one. (next step, steps skipped so far).

    Raises `UserError` where it was trained under another configuration, or no checkpoint of the run can be read.
    """
    found = checkpoints(Path(config.run.output))
    for folder in reversed(found):
        check_same(folder / "config.yaml", config)
        try:
            progress = json.loads((folder / "step.json").read_text())
            accelerator.load_state(str(folder / "state"))
        except DAMAGE as error:
            print(f"{folder} is damaged ({type(error).__name__}): taking the one before", file=sys.stderr)
            continue
        ema.to(accelerator.device)  # diffusers brings the averages back on the CPU
        return progress["step"], progress["skipped"]
    if found:
        raise UserError(f"no checkpoint in {config.run.output} can be read: choose another --run.output")
    return 0, 0


def check_same(path: Path, config: TrainConfig) -> None:
    """Raises `UserError` where the configuration at `path` makes other weights than `config` would."""
    try:
        theirs = yaml.safe_load(path.read_text())
        differing = [
            f"{section}.{name}"
            for section, fields in to_dict(config).items()
            for name, value in fields.items()
            if f"{section}.{name}" not in HOUSEKEEPING and theirs.get(section, {}).get(name, value) != value
        ]
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is damaged: choose another --run.output") from error
    if differing:
        raise UserError(
            f"{path.parent} has other settings ({', '.join(differing)}): take those, or another --run.output"
        )


def save_fp16(pipeline: MultiViewPipeline, folder: Path) -> None:
    """Writes a pipeline folder for users: fp16 safetensors, and nothing of where its parts came from."""
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    for path in folder.glob("*/config.json"):  # diffusers writes down from which folder of ours a part came
        config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
        path.write_text(json.dumps(config, indent=2) + "\n")
