"""Training sets drawn at random, by family: every draw is a function of (seed, index) and of nothing else.

There is no sampler state and no global generator: resuming at step n, or splitting a batch over processes, gives the
very same sets.
"""

from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from mvgenvs.data.augment import augment
from mvgenvs.data.scenes import Scenes
from mvgenvs.views import ViewSet, stack


@dataclass(frozen=True)
class Sample:
    """One training set. The first `num_known` of its views are the known ones."""

    views: ViewSet
    num_known: int  # the same for all sets of one global batch
    seed: int  # seeds every other random choice made for this set: noise, noise level, dropped conditions


@dataclass(frozen=True)
class Batch:
    """Several training sets of equal size, stacked."""

    views: ViewSet
    num_known: int
    seeds: list[int]


class TrainingSets(Dataset[Sample]):
    """An endless sequence of view sets; item `i` belongs to optimisation step `i // global_batch`."""

    def __init__(
        self,
        scenes: Scenes,
        num_views: int,
        num_known: tuple[int, int],
        global_batch: int,
        seed: int,
        num_items: int,
        recolour: float = 0.8,
        mirror: bool = True,
    ) -> None:
        """`num_known` is the inclusive range from which each step draws its number of known views."""
        self.scenes, self.num_views, self.num_known = scenes, num_views, num_known
        self.global_batch, self.seed, self.num_items = global_batch, seed, num_items
        self.recolour, self.mirror = recolour, mirror
        families: dict[str, list[int]] = {}
        for index, item in enumerate(scenes.objects):
            families.setdefault(item.family, []).append(index)
        self.families = [families[name] for name in sorted(families)]

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        family = self.families[rng.integers(len(self.families))]
        scene = family[rng.integers(len(family))]
        available = len(self.scenes.objects[scene].view_ids)
        chosen = rng.choice(available, size=self.num_views, replace=available < self.num_views)
        views = augment(self.scenes.load(scene, chosen.tolist()), rng, self.recolour, self.mirror)
        low, high = self.num_known
        step_rng = np.random.default_rng((self.seed, index // self.global_batch, 1))
        return Sample(views, int(step_rng.integers(low, high + 1)), int(rng.integers(2**62)))


def collate(samples: list[Sample]) -> Batch:
    """Stacks the sets of one optimisation step."""
    return Batch(stack([s.views for s in samples]), samples[0].num_known, [s.seed for s in samples])
