"""Training sets drawn at random, by family: every draw is a function of (seed, index) and of nothing else.

There is no sampler state and no global generator: resuming at step n, or splitting a batch over processes, gives
exactly the same sets.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.utils.data import Dataset

from mvgenvs.data.augment import Augmentation, draw_augmentation
from mvgenvs.data.scenes import ObjectDataset
from mvgenvs.errors import UserError
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

    def to(self, device: torch.device) -> "Batch":
        return replace(self, views=self.views.to(device))


@dataclass(frozen=True, eq=False)
class SetDraw:
    """The random choices for one training set, before any picture is read."""

    scene: int
    views: list[int]  # positions in the scene's views; the known ones first
    augmentation: Augmentation
    num_known: int
    seed: int


@dataclass(frozen=True, eq=False)
class Families:
    """Scenes by family, from which sets are drawn."""

    members: list[list[int]]
    odds: Float[np.ndarray, " family"] | None  # of the families, if they are not uniform


class TrainingSets(Dataset[Sample]):
    """An endless sequence of view sets; item `i` belongs to optimisation step `i // global_batch`."""

    def __init__(
        self,
        scenes: ObjectDataset,
        num_views: int,
        num_known: tuple[int, int],
        global_batch: int,
        seed: int,
        num_items: int,
        recolour: float = 0.8,
        mirror: bool = True,
        known_odds: Sequence[float] = (),
        expose: float = 0.0,
        neighbours: float = 0.0,
    ) -> None:
        """The arguments are the fields of `DataConfig` that say how sets are drawn.

        `num_known` is the inclusive range from which each step draws its number of known views; `known_odds`, if
        given, are the odds of 1, 2, ... of them instead. Scenes of several sources are drawn by weight, and within a
        source by family. Raises `UserError` for odds that leave no view to generate.
        """
        sound = all(0 <= odds < math.inf for odds in known_odds) and sum(known_odds) > 0  # NaN is not
        if known_odds and (len(known_odds) >= num_views or not sound):
            raise UserError(f"setting 'data.known_odds' takes up to {num_views - 1} odds, one of them above 0")
        self.scenes, self.num_views, self.num_known = scenes, num_views, num_known
        self.global_batch, self.seed, self.num_items = global_batch, seed, num_items
        self.recolour, self.mirror, self.expose, self.neighbours = recolour, mirror, expose, neighbours
        self.known_odds = np.array(known_odds) / sum(known_odds) if known_odds else None
        self.families = self.families_of(range(len(scenes)))

    def __len__(self) -> int:
        return self.num_items

    def families_of(self, scenes: Iterable[int]) -> Families:
        """The families of some scenes, ordered by source and name."""
        members: dict[tuple[int, str], list[int]] = {}
        for index in scenes:
            item = self.scenes.objects[index]
            members.setdefault((item.source, item.family), []).append(index)
        sources = np.array([source for source, _ in sorted(members)])
        weights = np.array(getattr(self.scenes, "weights", [1.0]))
        odds = None
        if len(weights) > 1:
            odds = weights[sources] / np.bincount(sources, minlength=len(weights))[sources]
            odds = odds / odds.sum()
        return Families([members[key] for key in sorted(members)], odds)

    def candidates(self, index: int) -> Families:
        """The scenes that the set with this index is drawn from: here, all of them."""
        return self.families

    def draw(self, index: int) -> SetDraw:
        """The random choices for the set with this index."""
        rng = np.random.default_rng((self.seed, index))
        members, odds = self.candidates(index).members, self.candidates(index).odds
        family = members[rng.integers(len(members)) if odds is None else rng.choice(len(odds), p=odds)]
        scene = family[rng.integers(len(family))]
        available = len(self.scenes.objects[scene].view_ids)
        chosen = rng.choice(available, size=self.num_views, replace=available < self.num_views)
        has_front = self.scenes.objects[scene].has_front
        augmentation = draw_augmentation(rng, self.recolour, self.mirror, self.expose, has_front)
        num_known, seed = self.draw_num_known(index), int(rng.integers(2**62))
        if self.neighbours and rng.random() < self.neighbours and available >= self.num_views:
            chosen = self._with_neighbours(scene, chosen, num_known)
        return SetDraw(scene, chosen.tolist(), augmentation, num_known, seed)

    def draw_num_known(self, index: int) -> int:
        """The number of known views of the set with this index, the same for all sets of its step."""
        low, high = self.num_known
        rng = np.random.default_rng((self.seed, index // self.global_batch, 1))
        if self.known_odds is None:
            return int(rng.integers(low, high + 1))
        return 1 + int(rng.choice(len(self.known_odds), p=self.known_odds))

    def _with_neighbours(
        self, scene: int, chosen: Int[np.ndarray, " view"], num_known: int
    ) -> Int[np.ndarray, " view"]:
        """The known views, the view after them, and those others whose cameras are nearest to that one's."""
        centers = self.scenes.cameras(scene).centers
        far = (centers - centers[chosen[num_known]]).norm(dim=-1).numpy()
        far[chosen[:num_known]] = np.inf
        nearest = far.argsort(kind="stable")[: len(chosen) - num_known]
        return np.concatenate([chosen[:num_known], nearest])

    def __getitem__(self, index: int) -> Sample:
        draw = self.draw(index)
        views = draw.augmentation(self.scenes.load(draw.scene, draw.views))
        return Sample(views, draw.num_known, draw.seed)

    @staticmethod
    def collate(samples: list[Sample]) -> Batch:
        return collate(samples)


def collate(samples: list[Sample]) -> Batch:
    """Stacks the sets of one optimisation step."""
    return Batch(stack([s.views for s in samples]), samples[0].num_known, [s.seed for s in samples])
