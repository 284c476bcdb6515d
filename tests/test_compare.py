"""Comparisons of runs made by hand, whose differences are known."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import compare
from eval.metrics.figures import Figures
from eval.report.bootstrap import mean_interval
from eval.report.columns import COLUMNS
from eval.report.comparison import differences
from eval.report.records import Record, Settings, write_json
from eval.report.runs import read_run
from eval.report.summary import make_table
from mvgenvs.cli import run_script
from mvgenvs.errors import UserError

OBJECTS = 12
BASE = np.linspace(15, 25, OBJECTS)  # the objects' PSNR


def write_run(
    folder: Path,
    figures: dict[str, list[Figures]],
    settings: dict[str, Any] | None = None,
    distributions: dict[str, dict[str, float | None]] | None = None,
    **changes: Any,
) -> Path:
    """A run's metrics.json: `figures` holds, for each row, those of each object."""
    defaults: dict[str, Any] = {
        "data": "data", "split": "val", "protocol": "orbit", "num_inputs": 1, "methods": list(figures), "metrics": [],
        "sampling": {}, "num_samples": 1, "seed": 0, "image_size": 128, "checkpoint_sha256": "", "weights_sha256": {},
        "device": "cpu",
    }  # fmt: skip
    records = [
        Record(**({"object": f"car_{i}", "family": "", "input_view_ids": [64], "target_view_ids": [0, 1],
                   "angles": [10.0, 20.0], "truth_sha256": f"{i}"}
                  | changes | {"figures": {row: objects[i] for row, objects in figures.items()}}))
        for i in range(len(next(iter(figures.values()))))
    ]  # fmt: skip
    folder.mkdir()
    write_json(
        folder / "metrics.json",
        {
            "settings": asdict(Settings(**(defaults | (settings or {})))),
            "objects": [asdict(r) for r in records],
            "table": make_table(records, distributions or {}),
        },
    )
    return folder


def psnr(values: np.ndarray) -> list[Figures]:
    """Two views of each object, whose mean is its value."""
    return [{"psnr": [value - 1, value + 1]} for value in values.tolist()]


def test_a_constant_difference_has_an_interval_of_no_width(tmp_path: Path) -> None:
    a = read_run(write_run(tmp_path / "a", {"joint": psnr(BASE)}))
    b = read_run(write_run(tmp_path / "b", {"joint": psnr(BASE + 0.25)}))
    (found,) = differences(a, "joint", b, "joint")
    assert found.difference == pytest.approx(0.25)
    assert found.interval == pytest.approx((0.25, 0.25))  # unpaired, it would be wide: objects differ by 10 dB
    assert found.is_clear
    assert found.num_objects == OBJECTS
    assert (found.first, found.second) == pytest.approx((BASE.mean(), BASE.mean() + 0.25))


def test_noise_without_a_difference_is_not_clear(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(OBJECTS)
    a = read_run(write_run(tmp_path / "a", {"joint": psnr(BASE)}))
    b = read_run(write_run(tmp_path / "b", {"joint": psnr(BASE + noise - noise.mean() + 0.05)}))
    (found,) = differences(a, "joint", b, "joint")
    assert found.difference == pytest.approx(0.05)
    assert not found.is_clear


def test_few_objects_decide_nothing(tmp_path: Path) -> None:
    a = read_run(write_run(tmp_path / "a", {"joint": psnr(BASE[:5])}))
    b = read_run(write_run(tmp_path / "b", {"joint": psnr(BASE[:5] + 1)}))
    (found,) = differences(a, "joint", b, "joint")
    assert found.interval == pytest.approx((1.0, 1.0))
    assert not found.is_clear


def test_the_best_of_different_numbers_of_samples_is_not_compared(tmp_path: Path) -> None:
    figures: list[Figures] = [{"psnr": [20.0], "psnr-best": [21.0]}] * OBJECTS
    a = read_run(write_run(tmp_path / "a", {"joint": figures}, {"num_samples": 4}))
    b = read_run(write_run(tmp_path / "b", {"joint": figures}, {"num_samples": 8}))
    assert [found.metric for found in differences(a, "joint", a, "joint")] == ["psnr", "psnr-best"]
    assert [found.metric for found in differences(a, "joint", b, "joint")] == ["psnr"]


def test_intervals_hold_the_true_mean_about_as_often_as_they_claim() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        interval = mean_interval((3 + generator.standard_normal(40)).tolist(), seed=trial)
        assert interval is not None
        held += interval[0] <= 3 <= interval[1]
    assert 0.90 <= held / 200 <= 0.98


def test_intervals_are_as_wide_as_theory_says_and_repeat() -> None:
    values = np.random.default_rng(1).standard_normal(400)
    low, high = mean_interval(values.tolist()) or (0.0, 0.0)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
    assert mean_interval(values.tolist()) == (low, high)
    assert mean_interval([1.0]) is None


def test_objects_without_a_figure_in_either_run_leave_the_comparison(tmp_path: Path) -> None:
    first: list[Figures] = [{"tsed": [1.0]}, {"tsed": [None]}, {"tsed": [0.0]}]
    second: list[Figures] = [{"tsed": [0.0]}, {"tsed": [1.0]}, {"tsed": [0.0]}]
    a = read_run(write_run(tmp_path / "a", {"joint": first}))
    b = read_run(write_run(tmp_path / "b", {"joint": second}))
    (found,) = differences(a, "joint", b, "joint")
    assert (found.num_objects, found.difference) == (2, -0.5)


def test_figures_of_a_whole_run_have_no_interval(tmp_path: Path) -> None:
    a = read_run(write_run(tmp_path / "a", {"joint": psnr(BASE)}, distributions={"joint": {"fid": 40.0}}))
    b = read_run(write_run(tmp_path / "b", {"joint": psnr(BASE)}, distributions={"joint": {"fid": 30.0}}))
    _, found = differences(a, "joint", b, "joint")
    assert (found.metric, found.difference, found.interval) == ("fid", -10.0, None)


def test_two_runs_are_printed_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a", {"nerf": psnr(BASE), "joint": psnr(BASE)})
    b = write_run(tmp_path / "b", {"nerf": psnr(BASE), "joint": psnr(BASE + 1)})
    compare.main([str(a), str(b / "metrics.json")])
    printed = capsys.readouterr().out
    assert "## nerf" in printed
    assert "| PSNR ↑ | 20.00 | 20.00 | +0.000 | +0.000 to +0.000 |  | 12 |" in printed
    assert "| PSNR ↑ | 20.00 | 21.00 | +1.000 | +1.000 to +1.000 | B | 12 |" in printed
    compare.main([str(a), str(b), "--method", "joint"])
    assert "## nerf" not in capsys.readouterr().out


def test_two_rows_of_one_run_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lower = [{"lpips-alex": [0.3]} for _ in BASE]
    higher = [{"lpips-alex": [0.4]} for _ in BASE]
    run = write_run(tmp_path / "a", {"independent": higher, "joint": lower})
    compare.main([str(run), "--method", "joint", "--against", "independent"])
    printed = capsys.readouterr().out
    assert "## independent (A), joint (B)" in printed
    assert "| LPIPS-alex ↓ | 0.400 | 0.300 | -0.1000 | -0.1000 to -0.1000 | B | 12 |" in printed


def test_less_flicker_than_the_truth_is_no_better_than_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a", {"nerf": [{"flicker": [-0.2]}] * 12, "joint": [{"flicker": [0.1]}] * 12})
    compare.main([str(run), "--method", "joint", "--against", "nerf"])
    assert "| flicker →0 | -0.2000 | 0.1000 | +0.30000 | +0.30000 to +0.30000 | B | 12 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "changes", "objects", "sentence"),
    [
        ({"split": "test"}, {}, OBJECTS, "their split is val and test"),
        ({"protocol": "srn"}, {}, OBJECTS, "their protocol is orbit and srn"),
        ({"num_inputs": 2}, {}, OBJECTS, "their num_inputs is 1 and 2"),
        ({"image_size": 64}, {}, OBJECTS, "their image_size is 128 and 64"),
        ({}, {}, OBJECTS - 1, "car_11"),
        ({}, {"truth_sha256": "other"}, OBJECTS, "their truth_sha256 of car_0 differ"),
        ({}, {"target_view_ids": [0, 2]}, OBJECTS, "their target_view_ids of car_0 differ"),
    ],
)
def test_runs_over_different_things_are_refused_in_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    changes: dict[str, Any],
    objects: int,
    sentence: str,
) -> None:
    a = write_run(tmp_path / "a", {"joint": psnr(BASE)})
    b = write_run(tmp_path / "b", {"joint": psnr(BASE[:objects])}, settings, **changes)
    with pytest.raises(SystemExit) as exit_:
        run_script(lambda: compare.main([str(a), str(b)]))
    (printed,) = capsys.readouterr().err.strip().splitlines()
    assert exit_.value.code == 2
    assert sentence in printed


def test_mistaken_arguments_and_files_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", {"joint": psnr(BASE)})
    for words, sentence in (
        ([str(run)], "nothing to compare"),
        ([str(run), "--against", "joint"], "--against needs --method"),
        ([str(run), "--method", "joint", "--against", "nerf"], "no row 'nerf'"),
        ([str(run), str(tmp_path / "nowhere")], "nowhere"),
    ):
        with pytest.raises(UserError, match=sentence):
            compare.main(words)
    (run / "metrics.json").write_text('{"objects": [{}]}')
    with pytest.raises(UserError, match="damaged, or of another version"):
        compare.main([str(run), str(run)])


@pytest.mark.parametrize(
    ("metric", "first", "second", "better"),
    [
        ("psnr", 20.0, 21.0, "second"),
        ("lpips-alex", 0.2, 0.3, "first"),
        ("flicker", -0.2, 0.1, "second"),
        ("flicker", -0.1, 0.2, "first"),
        ("tsed-matches", 10.0, 20.0, "neither"),
    ],
)
def test_each_column_knows_which_figure_is_better(metric: str, first: float, second: float, better: str) -> None:
    assert COLUMNS[metric].better(first, second) == better
