"""Flicker, loop closure, and all consistency figures of a sequence together."""

import json

import pytest
import torch
from tiny import ray_cast, ring_cameras, toy_car
from torch import Tensor

from eval.metrics.consistency import consistency, sequence_figures
from eval.metrics.flicker import adjacent_distances, flicker
from eval.metrics.loop import loop_closure
from eval.metrics.pairs import adjacent_pairs
from mvgenvs.views import ViewSet


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Stands in for LPIPS."""
    return (a - b).abs().mean(dim=(1, 2, 3))


def greys(*levels: int) -> Tensor:
    """Uniform images of the given 8-bit levels."""
    return (torch.tensor(levels) / 255)[:, None, None, None].expand(-1, 3, 8, 8)


def test_a_closed_sequence_ends_with_the_pair_of_last_and_first() -> None:
    assert adjacent_pairs(4, closed=False) == [(0, 1), (1, 2), (2, 3)]
    assert adjacent_pairs(4, closed=True) == [(0, 1), (1, 2), (2, 3), (3, 0)]
    assert adjacent_pairs(2, closed=True) == [(0, 1)]  # no pair counts twice
    assert adjacent_pairs(1, closed=True) == []


def test_flicker_is_zero_for_the_truth_positive_for_jumps_and_negative_for_a_frozen_frame() -> None:
    truth = greys(100, 110, 120, 130)
    assert flicker(truth, truth, difference)["difference"] == 0
    jumping = flicker(greys(100, 150, 100, 150), truth, difference)
    assert jumping["generated"] == pytest.approx([50 / 255] * 3)
    assert jumping["truth"] == pytest.approx([10 / 255] * 3)
    assert jumping["difference"] == pytest.approx(40 / 255)
    assert flicker(greys(100, 100, 100, 100), truth, difference)["difference"] == pytest.approx(-10 / 255)
    assert flicker(truth[:1], truth[:1], difference)["difference"] is None


def test_a_drift_too_small_to_see_between_neighbours_shows_where_the_loop_closes() -> None:
    drifting = loop_closure(adjacent_distances(greys(*range(100, 120, 2)), difference, closed=True))
    assert drifting["ratio"] == pytest.approx(9)
    assert drifting["closing"] == pytest.approx(18 / 255)
    assert drifting["num_adjacent"] == 9
    there_and_back = loop_closure(adjacent_distances(greys(10, 20, 30, 20), difference, closed=True))
    assert there_and_back["ratio"] == pytest.approx(1)


def test_loop_closure_leaves_out_pairs_without_a_figure() -> None:
    some = loop_closure([1.0, None, 3.0, 4.0])
    assert (some["closing"], some["adjacent_mean"], some["ratio"], some["num_adjacent"]) == (4, 2, 2, 2)
    assert loop_closure([1.0, 1.0, None])["ratio"] is None
    assert loop_closure([None, None, 1.0])["ratio"] is None
    frozen = loop_closure([0.0, 0.0, 0.5])
    assert frozen["ratio"] is None and frozen["closing"] == 0.5
    assert loop_closure([])["closing"] is None


def test_the_loops_figure_does_not_grow_when_only_the_neighbours_agree_better() -> None:
    views = ray_cast(toy_car(1), ring_cameras(6, 64))
    worse = views.images.clone()
    worse[2] = (worse[2] + 0.1).clamp(max=1)  # neither the first view nor the last
    exact, loose = (
        sequence_figures(images, views, difference, closed=True, radiance=False) for images in (views.images, worse)
    )
    assert exact["warp-psnr"] != loose["warp-psnr"] and exact["loop-warp"] == loose["loop-warp"]


def test_all_figures_of_a_sequence_are_json_and_those_that_lack_their_means_are_none() -> None:
    views = ray_cast(toy_car(1), ring_cameras(4, 64))
    full = consistency(views.images, views, difference, radiance=False)
    assert json.loads(json.dumps(full, allow_nan=False)) == full
    assert full["flicker"]["difference"] == 0 and len(full["tsed"]["matches"]) == 4
    assert full["loop_lpips"]["closing"] == full["flicker"]["generated"][-1]
    assert full["loop_warp"]["closing"] == full["warp"]["rmse"][-1]
    bare = consistency(views.images, ViewSet(views.images, views.cameras), closed=False, radiance=False)
    assert [name for name, value in bare.items() if value is None] == [
        "warp", "flicker", "loop_lpips", "loop_warp", "radiance"
    ]  # fmt: skip
    assert len(bare["tsed"]["matches"]) == 3
