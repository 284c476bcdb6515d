"""Mixtures of data sets: shares follow the weights, and a single source gives what it always gave."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ray_cast, ring_cameras, toy_car, write_srn

from mvgenvs.data.augment import hue_rotation, turned
from mvgenvs.data.mixture import Mixture, open_mixture, parse_sources
from mvgenvs.data.sampling import TrainingSets
from mvgenvs.data.stored import CachedScenes, SceneObject, StoredViews
from mvgenvs.errors import UserError


class Toys(CachedScenes):
    """Objects of the families given; every picture of object n has the brightness `first` + n."""

    def __init__(self, families: str, first: int = 0) -> None:
        super().__init__()
        self.first = first
        self.objects = [SceneObject(f"{f}{n}", f, Path(f), tuple(range(6))) for n, f in enumerate(families)]

    def read(self, index: int) -> StoredViews:
        return StoredViews(torch.full((6, 3, 2, 2), self.first + index, dtype=torch.uint8), ring_cameras(6, 2))


def sets_of(scenes: CachedScenes, **options: object) -> TrainingSets:
    return TrainingSets(scenes, **({"num_views": 4, "num_known": (1, 2), "global_batch": 4, "seed": 7,
                                    "num_items": 10**6} | options))  # fmt: skip


def assert_shares(counts: Counter, expected: dict) -> None:
    """Each count within four standard deviations of what is expected; nothing else occurs."""
    total = sum(counts.values())
    assert set(counts) <= set(expected)
    for key, share in expected.items():
        assert abs(counts[key] - total * share) < 4 * math.sqrt(total * share * (1 - share)), key


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 3.0), (0.5, 0.02)])
def test_shares_follow_the_weights(weights: tuple[float, float]) -> None:
    """Three families to one: it is sources that are weighed, then families are alike, then the objects of a family."""
    scenes = Mixture([Toys("aabc"), Toys("ddd")], weights)
    draws = [sets_of(scenes).draw(index).scene for index in range(1500)]
    first, second = (weight / sum(weights) for weight in weights)
    assert_shares(Counter(scenes.objects[s].source for s in draws), {0: first, 1: second})
    each = {0: first / 6, 1: first / 6, 2: first / 3, 3: first / 3, 4: second / 3, 5: second / 3, 6: second / 3}
    assert_shares(Counter(draws), each)


def test_families_of_one_name_in_two_sources_are_two() -> None:
    scenes = Mixture([Toys("a"), Toys("ab")], (1.0, 1.0))
    draws = Counter(sets_of(scenes).draw(index).scene for index in range(1500))
    assert_shares(draws, {0: 0.5, 1: 0.25, 2: 0.25})


def test_objects_come_from_their_source() -> None:
    scenes = Mixture([Toys("ab", 10), Toys("cd", 20)], (1.0, 1.0))
    assert [(item.name, item.source) for item in scenes.objects] == [("a0", 0), ("b1", 0), ("c0", 1), ("d1", 1)]
    for index, brightness in enumerate((10, 11, 20, 21)):
        assert (scenes.load(index, [3]).images * 255 - brightness).abs().max() < 1e-4


def drawn_before(scenes: CachedScenes, seed: int, index: int, global_batch: int, num_views: int) -> tuple:
    """How sets were drawn before there were mixtures, written down from then."""
    rng = np.random.default_rng((seed, index))
    names = sorted({item.family for item in scenes.objects})
    families = [[i for i, item in enumerate(scenes.objects) if item.family == name] for name in names]
    family = families[rng.integers(len(families))]
    scene = family[rng.integers(len(family))]
    available = len(scenes.objects[scene].view_ids)
    chosen = rng.choice(available, size=num_views, replace=available < num_views)
    views = scenes.load(scene, chosen.tolist())
    if rng.random() < 0.5:
        views = views.mirrored()
    if rng.random() < 0.8:
        if rng.random() < 0.5:
            views = views.with_images(views.images.index_select(-3, torch.from_numpy(rng.permutation(3))))
        else:
            views = views.with_images(turned(views.images, hue_rotation(rng.uniform(0, 2 * math.pi))))
    step_rng = np.random.default_rng((seed, index // global_batch, 1))
    return views, int(step_rng.integers(1, 3)), int(rng.integers(2**62))


class Cars(Toys):
    """Coloured pictures."""

    def read(self, index: int) -> StoredViews:
        views = ray_cast(toy_car(index), ring_cameras(6, 8))
        return StoredViews((views.images * 255).byte(), views.cameras)


def test_one_source_draws_what_it_always_drew() -> None:
    scenes = Cars("bbca")
    sets = sets_of(scenes)
    for index in range(60):
        views, num_known, seed = drawn_before(scenes, 7, index, 4, 4)
        sample = sets[index]
        assert (sample.num_known, sample.seed) == (num_known, seed)
        assert torch.equal(sample.views.cameras.c2w, views.cameras.c2w)
        torch.testing.assert_close(sample.views.images, views.images, atol=1e-6, rtol=0)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_weights_must_be_above_zero(tmp_path: Path, weight: float) -> None:
    write_srn(tmp_path / "a", {"train": 1}, views=2)
    with pytest.raises(UserError, match="must be above 0"):
        open_mixture({str(tmp_path / "a"): 1.0, str(tmp_path / "b"): weight}, "train", 32)


def test_sources_are_folders_and_weights(tmp_path: Path) -> None:
    assert parse_sources("root", ()) == {"root": 1.0}
    assert parse_sources("root", ("a", "b=2.5")) == {"a": 1.0, "b": 2.5}
    assert parse_sources("root", ("x=1/a=2.5",)) == {"x=1/a": 2.5}
    (tmp_path / "run=3").mkdir()
    assert parse_sources(str(tmp_path / "run=3"), ()) == {str(tmp_path / "run=3"): 1.0}
    assert parse_sources("root", (f"{tmp_path / 'run=3'}=2",)) == {str(tmp_path / "run=3"): 2.0}
    with pytest.raises(UserError, match="FOLDER=WEIGHT"):
        parse_sources("root", ("a=much",))
    a, b = (write_srn(tmp_path / name, {"train": count}, views=2) for name, count in (("a", 1), ("b", 2)))
    single = open_mixture({str(a): 0.3}, "train", 32)
    assert not isinstance(single, Mixture) and len(single) == 1
    both = open_mixture({str(a): 1.0, str(b): 3.0}, "train", 32)
    assert [item.source for item in both.objects] == [0, 1, 1] and both.weights == [1, 3]
    with pytest.raises(UserError, match="no folder"):
        open_mixture({str(a): 1.0, str(tmp_path / "c"): 1.0}, "train", 32)


def test_known_views_follow_their_odds() -> None:
    sets = sets_of(Toys("ab"), known_odds=[6.0, 0.0, 2.0])
    numbers = [sets.draw(index).num_known for index in range(0, 6000, 4)]
    assert_shares(Counter(numbers), {1: 0.75, 3: 0.25})
    for step in range(50):
        assert len({sets.draw(4 * step + place).num_known for place in range(4)}) == 1
    plain = sets_of(Toys("ab"))
    for index in range(50):  # all but the number stays
        a, b = sets.draw(index), plain.draw(index)
        assert (a.scene, a.views, a.seed) == (b.scene, b.views, b.seed)


@pytest.mark.parametrize("odds", [[1.0] * 4, [1.0, -1.0, 3.0], [0.0, 0.0], [math.nan, 1.0], [math.inf]])
def test_odds_that_leave_nothing_are_one_sentence(odds: list[float]) -> None:
    with pytest.raises(UserError, match="known_odds"):
        sets_of(Toys("ab"), known_odds=odds)
