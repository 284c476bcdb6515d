"""The refiner's stage: the codec's refiner learns to correct the views that the finished model generates.

The model's views of training objects are generated once, exactly as users sample them, and kept as pictures. The
refiner, which sees only neighbourhoods, then learns from many crops of them, in the loop of all stages.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.utils.data import Dataset

from mvgenvs.config import DataConfig, LossConfig, OptimConfig, RefineConfig, RunConfig, TrainConfig
from mvgenvs.data.sampling import TrainingSets
from mvgenvs.data.stored import CachedScenes
from mvgenvs.diffusion.codec import PatchCodec
from mvgenvs.diffusion.refiner import Refiner
from mvgenvs.errors import UserError
from mvgenvs.files import atomically
from mvgenvs.media import read_png, tile, write_png
from mvgenvs.parts import Parts, checkpoint_sha256, find_checkpoint
from mvgenvs.perceptual import PerceptualDistance
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training.kept import KeptItems, data_key, make_all
from mvgenvs.training.objective import vgg_trunk, weighted_sum

VIEWS = "views"  # in the run's folder
MAKING = ("views", "steps", "guidance", "render_sigma", "temperature")  # the settings that say how each is made

Pictures = UInt8[Tensor, "view 3 h w"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Crops of generated views, and of the true ones, in [0, 1]."""

    made: Float[Tensor, "n 3 s s"]
    true: Float[Tensor, "n 3 s s"]

    def to(self, device: torch.device) -> "Pairs":
        return Pairs(self.made.to(device), self.true.to(device))


class Crops(Dataset[Float[Tensor, "2 3 s s"]]):
    """An endless sequence of random crops, half of them mirrored: item `i` is a function of (seed, i) alone.

    An item holds a crop of a generated view, and the same crop of the true one.
    """

    def __init__(self, made: Pictures, true: Pictures, side: int, seed: int) -> None:
        self.made, self.true, self.seed = made, true, seed
        self.side = min(side, made.shape[-1])

    def __getitem__(self, index: int) -> Float[Tensor, "2 3 s s"]:
        rng = np.random.default_rng((self.seed, index))
        room = self.made.shape[-1] - self.side + 1
        view, top, left, mirrored = (int(rng.integers(high)) for high in (len(self.made), room, room, 2))
        pair = torch.stack([self.made[view], self.true[view]])
        pair = pair[..., top : top + self.side, left : left + self.side].float() / 255
        return pair.flip(-1) if mirrored else pair

    @staticmethod
    def collate(items: list[Float[Tensor, "2 3 s s"]]) -> Pairs:
        return Pairs(*torch.stack(items).unbind(dim=1))


class Refinement(nn.Module):
    """The objective of this stage: L1, and LPIPS-VGG if it has a weight, between refined and true crops."""

    def __init__(self, parts: Parts, config: TrainConfig) -> None:
        """Raises `UserError` if the codec has no refiner, crops do not fit it, or VGG's weights are missing."""
        super().__init__()
        self.refiner, self.weights = refiner_of(parts), config.loss
        if min(config.loss.perceptual_crop, config.data.size) % self.refiner.cell:
            raise UserError(f"'loss.perceptual_crop' must be a multiple of {self.refiner.cell}, the refiner's cells")
        for part in parts.modules().values():
            part.requires_grad_(False)
        self.refiner.requires_grad_(True)
        if config.loss.perceptual:
            self.perceptual_distance = PerceptualDistance("vgg", vgg_trunk(config))  # no module: not saved

    def forward(self, pairs: Pairs, progress: float) -> dict[str, Float[Tensor, ""]]:
        """Unweighted losses by name."""
        after = pairs.made + self.refiner(pairs.made)
        losses = {"refine": (after - pairs.true).abs().mean()}
        if self.weights.perceptual:
            losses["perceptual"] = self.perceptual_distance.loss(after, pairs.true)
        return losses

    def total(self, losses: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """The weighted sum that is minimised."""
        return weighted_sum(self.weights, losses)

    def rendering_seconds(self) -> float:
        return 0.0


def refiner_of(parts: Parts) -> Refiner:
    """The codec's refiner. Raises `UserError` if it has none."""
    if not isinstance(parts.codec, PatchCodec):
        raise UserError("the codec has no refiner: only those of kind 'patch' have one")
    return parts.codec.refiner


def forget_refiner(codec: PatchCodec) -> None:
    """Replaces the codec's refiner by a new one, which does nothing yet."""
    old = codec.refiner
    codec.refiner = Refiner(old.cell, codec.config.refiner_width, codec.config.refiner_blocks).to(old.enter.weight)


def made_views(accelerator: Accelerator, scenes: CachedScenes, config: TrainConfig) -> tuple[Crops, KeptItems]:
    """Crops of views of training sets that the model in `run.init_from` generates without its refiner.

    RUN/views/000000.png, ... hold the generated views of a set and, below them, the true ones. Raises `UserError`.
    """
    settings, folder, start = config.refine, Path(config.run.output) / VIEWS, find_checkpoint(config.run.init_from)
    pipeline = MultiViewPipeline.from_pretrained(start).to(accelerator.device)
    pipeline.set_progress_bar_config(disable=True)
    forget_refiner(pipeline.codec)
    data = config.data
    sets = TrainingSets(
        scenes, settings.views + 1, (1, 1), 1, config.run.seed, settings.sets, data.recolour, data.mirror,
        expose=data.expose,
    )  # fmt: skip
    sampling = sampling_options(settings)

    def path(index: int) -> Path:
        return folder / f"{index:06d}.png"

    def make(index: int) -> None:
        views = sets[index].views.to(accelerator.device)
        known, targets = views.select([0]), views.select(slice(1, None))
        generator = torch.Generator().manual_seed(index)
        out = pipeline(
            known.rgba[None], known.cameras.batched(), targets.cameras.batched(), generator=generator, **sampling
        )
        picture = tile(torch.cat([out.images[0], targets.images]).float().cpu(), columns=settings.views)
        atomically(path(index), lambda partial: write_png(partial, picture))

    made_by = {
        "checkpoint": checkpoint_sha256(start), "data": data_key(config, scenes),
        "views": {name: value for name, value in asdict(settings).items() if name in MAKING},
    }  # fmt: skip
    seconds = 60 * config.run.minutes * settings.share or None
    kept = make_all(accelerator, folder, made_by, path, make, settings.sets, seconds)
    made, true = read_views([path(index) for index in range(kept.count)], config.data.size)
    return Crops(made, true, config.loss.perceptual_crop, config.run.seed), kept


def refining_stage(
    pipeline: str, size: int, data: Sequence[str], output: Path, refine: RefineConfig, steps: int, seed: int
) -> TrainConfig:
    """The stage that refines the model in a folder, for images of this size; `data` are FOLDER or FOLDER=WEIGHT."""
    return TrainConfig(
        data=DataConfig(sources=tuple(data), size=size),
        loss=LossConfig(refine=1.0, perceptual=1.0),
        refine=refine,
        optim=OptimConfig(steps=steps, batch=8, lr=1e-3, warmup=30, ema=0.995),
        run=RunConfig(
            output=str(output), train=("codec",), init_from=pipeline, seed=seed, keep=1,
            tracker="none", validate_every=-1,
        ),
    )  # fmt: skip


def sampling_options(settings: RefineConfig) -> dict[str, Any]:
    """The pipeline's sampling options for these views; None is the checkpoint's default."""
    return {
        "num_inference_steps": settings.steps or None,
        "guidance_scale": settings.guidance or None,
        "start": "render" if settings.render_sigma else None,
        "sigma_max": settings.render_sigma or None,
        "temperature": settings.temperature if settings.render_sigma else None,
    }


def read_views(paths: list[Path], size: int) -> tuple[Pictures, Pictures]:
    """The generated views, and the true ones."""
    pairs = [torch.from_numpy(np.ascontiguousarray(read_png(path))).movedim(-1, 0).split(size, dim=1) for path in paths]
    made, true = ([view for pair in pairs for view in pair[row].split(size, dim=2)] for row in (0, 1))
    return torch.stack(made), torch.stack(true)
