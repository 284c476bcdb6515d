"""Checkpoints: atomic folders that hold both the exact training state and a pipeline that inference can load.

RUN/checkpoint-000200/state/       accelerate's: weights, optimizer, schedule, EMA, RNG
RUN/checkpoint-000200/pipeline/    the averaged weights as a pipeline folder, LoRA updates added in
RUN/checkpoint-000200/config.yaml  the resolved configuration
RUN/checkpoint-000200/step.json
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from mvgenvs.config import TrainConfig, to_dict
from mvgenvs.parts import CHECKPOINT_PREFIX, Parts, checkpoints
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training.trainable import lora_merged


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
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for old in checkpoints(run)[: -config.run.keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def resume(accelerator: Accelerator, config: TrainConfig) -> tuple[int, int]:
    """Restores the newest checkpoint of the run, if there is one. Returns (next step, steps skipped so far)."""
    found = checkpoints(Path(config.run.output))
    if not found:
        return 0, 0
    accelerator.load_state(str(found[-1] / "state"))
    progress = json.loads((found[-1] / "step.json").read_text())
    return progress["step"], progress["skipped"]


def save_fp16(pipeline: MultiViewPipeline, folder: Path) -> None:
    """Writes a pipeline folder for users: fp16 safetensors, and nothing of where its parts came from."""
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    for path in folder.glob("*/config.json"):  # diffusers writes down from which folder of ours a part came
        config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
        path.write_text(json.dumps(config, indent=2) + "\n")
