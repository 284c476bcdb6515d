"""Renderings of training sets, kept on disk: a frozen NeRF renders each set once, and training reuses the renderings
with new noise. On a CPU, rendering a set costs more than denoising it.

The random choices of a set, its views, colours and the noise on its known views, are part of its rendering. The random
choices of the denoiser's stage, noise levels, noise and dropped conditions, are new each time.
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from mvgenvs.config import TrainConfig
from mvgenvs.data.sampling import Sample, TrainingSets, collate
from mvgenvs.data.stored import CachedScenes
from mvgenvs.errors import UserError
from mvgenvs.files import atomically
from mvgenvs.nerf.model import Rendering
from mvgenvs.training.kept import KeptItems, data_key, make_all, weights_sha256
from mvgenvs.training.objective import Objective, RenderedBatch

RENDERINGS = "renderings"  # in the run's folder
PARTS = ("features", "depth", "opacity")


@dataclass(frozen=True)
class RenderedSample:
    """A training set, and its rendering."""

    sample: Sample
    rendering: dict[str, Float[Tensor, "view _ h w"]]  # by the names in `PARTS`


class RenderedSets(Dataset[RenderedSample]):
    """An endless sequence of the same `count` training sets; item `i` belongs to step `i // global_batch`.

    The sets of each step are drawn anew, as a function of (seed, step), from those with the same number of known views.
    """

    def __init__(self, sets: TrainingSets, folder: Path, count: int) -> None:
        self.sets, self.folder, self.count = sets, folder, count
        self.known = np.array([sets.draw_num_known(index) for index in range(count)])
        self.members = functools.lru_cache(maxsize=4)(self._members)

    def _members(self, step: int) -> list[int]:
        """The sets of a step."""
        rng = np.random.default_rng((self.sets.seed, step, 2))
        alike = np.flatnonzero(self.known == self.known[rng.integers(self.count)])
        batch = self.sets.global_batch
        return rng.choice(alike, size=batch, replace=len(alike) < batch).tolist()

    def __getitem__(self, index: int) -> RenderedSample:
        step, place = divmod(index, self.sets.global_batch)
        number = self.members(step)[place]
        seed = int(np.random.default_rng((self.sets.seed, index, 3)).integers(2**62))
        path = file_of(self.folder, number)
        try:
            rendering = {name: x.float() for name, x in load_file(path).items()}
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is missing or damaged: delete it and start again") from error
        return RenderedSample(replace(self.sets[number], seed=seed), rendering)

    @staticmethod
    def collate(samples: list[RenderedSample]) -> RenderedBatch:
        batch = collate([each.sample for each in samples])
        parts = (torch.stack([each.rendering[name] for each in samples]) for name in PARTS)
        return RenderedBatch(batch.views, batch.num_known, batch.seeds, Rendering(*parts))


def file_of(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.safetensors"


def rendered_sets(
    accelerator: Accelerator, objective: Objective, sets: TrainingSets, scenes: CachedScenes, config: TrainConfig
) -> tuple[RenderedSets, KeptItems]:
    """The renderings of the first `data.renderings` sets, or of as many as their share of the minutes allows.

    RUN/renderings/000000.safetensors, ..., or `data.renderings_folder`, hold them in 16 bits. What another stage made
    there counts as if this one had: it takes as much of the minutes. Raises `UserError` if the folder holds others.
    """
    folder = Path(config.data.renderings_folder or Path(config.run.output) / RENDERINGS)

    @torch.no_grad()
    def make(number: int) -> None:
        objective.eval()
        batch = sets.collate([sets[number]]).to(accelerator.device)
        with accelerator.autocast():
            rendering = objective.rendered(batch)
        tensors = {name: getattr(rendering, name)[0].half().contiguous().cpu() for name in PARTS}
        atomically(file_of(folder, number), lambda partial: save_file(tensors, partial))

    made_by = {
        "nerf": weights_sha256(objective.nerf), "data": data_key(config, scenes), "batch": config.optim.batch,
        "input_noise": config.loss.input_noise, "render_size": config.denoiser.render_size,
        "views": [config.data.num_views, config.data.min_known, config.data.max_known, *config.data.known_odds],
        "neighbours": config.data.neighbours,
    }  # fmt: skip
    seconds = 60 * config.run.minutes * config.data.renderings_share or None
    kept = make_all(
        accelerator, folder, made_by, lambda number: file_of(folder, number), make, config.data.renderings, seconds
    )
    return RenderedSets(sets, folder, kept.count), kept


def check_rendered(config: TrainConfig) -> None:
    """Raises `UserError` if kept renderings do not go together with other settings of a stage."""
    loss = config.loss
    if tuple(config.run.train) != ("denoiser",) or not loss.denoise or any(loss.field_weights) or loss.reconstruction:
        raise UserError("data.renderings are for stages that train the denoiser alone, by loss.denoise: set it to 0")
    if config.data.on_device:
        raise UserError("data.renderings are read from the disk: set them or data.on_device to 0")
