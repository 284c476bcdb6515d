"""The last stage of training: the codec's refiner, on what a finished pipeline makes of training views.

The pipeline's views are made once, by the very sampling that users run, and kept as pictures; the refiner, which sees
neighbourhoods only, then learns from many crops of them.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from mvgenvs.data.mixture import open_mixture, parse_sources
from mvgenvs.data.sampling import TrainingSets
from mvgenvs.diffusion.codec import PatchCodec
from mvgenvs.diffusion.refiner import Refiner
from mvgenvs.errors import UserError
from mvgenvs.files import write_text
from mvgenvs.media import read_png, tile, write_png
from mvgenvs.parts import checkpoint_sha256, resolve_checkpoint
from mvgenvs.perceptual import PerceptualDistance, find_trunk
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.runtime import explained_failures, resolve_device
from mvgenvs.training.checkpoint import save_fp16

VIEWS = 6  # made of each object, from one known view
BATCH, CROP, LR, WARMUP, EMA = 8, 64, 1e-3, 30, 0.995

Pictures = UInt8[Tensor, "view 3 h w"]


def refine_checkpoint(checkpoint: str, data: Sequence[str], output: Path, num_sets: int, steps: int, seed: int) -> None:
    """The whole stage; `data` are FOLDER or FOLDER=WEIGHT.

    Raises `UserError` where checkpoint, refiner, data or VGG's weights are not there, or OUTPUT holds views of another
    model, seed or data.
    """
    device = resolve_device("auto")
    pipeline = MultiViewPipeline.from_pretrained(checkpoint).to(device)
    pipeline.set_progress_bar_config(disable=True)
    codec = pipeline.codec
    if not isinstance(codec, PatchCodec):
        raise UserError(f"the codec of {checkpoint} has no refiner: only those of kind 'patch' have one")
    distance = PerceptualDistance("vgg", find_trunk("vgg"), device)
    scenes = open_mixture(parse_sources("", data), "train", pipeline.size)
    sets = TrainingSets(scenes, VIEWS + 1, (1, 1), 1, seed, num_sets)
    made_by = {"checkpoint": checkpoint_sha256(resolve_checkpoint(checkpoint)), "data": list(data), "seed": seed}
    torch.manual_seed(seed)
    refiner = Refiner(codec.refiner.cell, codec.config.refiner_width, codec.config.refiner_blocks).to(device)
    codec.refiner = refiner  # which does nothing yet
    with explained_failures(output):
        claim(output / "views", made_by)
        with tqdm(total=num_sets, desc="making views") as bar:
            made, true = make_views(pipeline, sets, output / "views", bar.update)
        with tqdm(train_refiner(refiner, made, true, distance, steps, seed), total=steps, desc="refining") as bar:
            for losses in bar:
                bar.set_postfix({name: round(value, 4) for name, value in losses.items()})
        save_fp16(pipeline, output / "pipeline")


def claim(folder: Path, made_by: dict[str, Any]) -> None:
    """Says in the folder what makes its views. Raises `UserError` where something else has made those there."""
    path = folder / "made_by.json"
    if folder.exists() and any(folder.iterdir()):
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            theirs = None
        if theirs != made_by:
            raise UserError(f"{folder} holds views of another model, seed or data: choose another --output")
    write_text(path, json.dumps(made_by) + "\n")


def make_views(
    pipeline: MultiViewPipeline, sets: TrainingSets, folder: Path, progress: Callable[[], object]
) -> tuple[Pictures, Pictures]:
    """Views made of the training sets, and the true ones; FOLDER/000000.png, ... hold them, one above the other."""
    made: list[Tensor] = []
    true: list[Tensor] = []
    for index in range(len(sets)):
        path = folder / f"{index:06d}.png"
        if not path.exists():
            views = sets[index].views
            known, targets = views.select([0]), views.select(slice(1, None))
            out = pipeline(
                known.images[None],
                known.cameras.batched(),
                targets.cameras.batched(),
                generator=torch.Generator().manual_seed(index),
            )
            write_png(path, tile(torch.cat([out.images[0].float().cpu(), targets.images]), columns=VIEWS))
        pair = torch.from_numpy(np.ascontiguousarray(read_png(path))).movedim(-1, 0).split(pipeline.size, dim=1)
        for pictures, row in zip((made, true), pair, strict=True):
            pictures += row.split(pipeline.size, dim=2)
        progress()
    return torch.stack(made), torch.stack(true)


def train_refiner(
    refiner: nn.Module, made: Pictures, true: Pictures, distance: PerceptualDistance, steps: int, seed: int
) -> Iterator[dict[str, float]]:
    """Trains by L1 and `distance` between crops, yields the losses of each step, and leaves the averaged weights."""
    generator = torch.Generator().manual_seed(seed)
    parameters = list(refiner.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LR, betas=(0.9, 0.99))
    schedule = get_cosine_schedule_with_warmup(optimizer, WARMUP, steps)
    average = EMAModel(parameters, decay=EMA)
    refiner.train()
    for _ in range(steps):
        before, truth = (x.to(parameters[0].device) for x in crops(made, true, generator))
        after = before + refiner(before)
        losses = {"l1": (after - truth).abs().mean(), "lpips": distance.loss(after, truth)}
        optimizer.zero_grad()
        (losses["l1"] + losses["lpips"]).backward()
        if nn.utils.clip_grad_norm_(parameters, 1.0).isfinite():
            optimizer.step()
            average.step(parameters)
        schedule.step()
        yield {name: value.item() for name, value in losses.items()}
    average.copy_to(parameters)
    refiner.eval()


def crops(
    made: Pictures, true: Pictures, generator: torch.Generator
) -> tuple[Float[Tensor, "n 3 s s"], Float[Tensor, "n 3 s s"]]:
    """The same random crops of both, half of them mirrored, in [0, 1]."""

    def draw(high: int) -> list[int]:
        return torch.randint(high, (BATCH,), generator=generator).tolist()

    side = min(CROP, made.shape[-1])
    room = made.shape[-1] - side + 1
    pairs = []
    for view, top, left, mirrored in zip(draw(len(made)), draw(room), draw(room), draw(2), strict=True):
        pair = torch.stack([made[view], true[view]])[..., top : top + side, left : left + side]
        pairs.append(pair.flip(-1) if mirrored else pair)
    before, truth = (torch.stack(pairs).float() / 255).unbind(dim=1)
    return before, truth
