"""The benchmark's frame: what it counts and how it takes turns. No time is asserted."""

import pytest
import torch
from torch.nn import functional as F

from eval.bench import main
from eval.benchmarks.measure import count_flops, interleaved, measure, peak_bytes
from eval.benchmarks.report import as_markdown
from eval.benchmarks.stage import Stage
from mvgenvs.errors import UserError

CPU = torch.device("cpu")


def test_matrix_products_and_interpolation_are_counted():
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert count_flops(lambda: a @ b) == 2 * 3 * 5 * 7
    image, grid = torch.randn(2, 3, 4, 4), torch.rand(2, 1, 10, 2)
    with torch.no_grad():
        assert count_flops(lambda: F.grid_sample(image, grid, align_corners=False)) == 2 * 4 * 2 * 3 * 10


def test_peak_memory_is_of_what_lives_at_once():
    x = torch.zeros(250_000)  # 1 MB
    assert peak_bytes(lambda: (x + 1, x + 2, None)[2], CPU)[1] == pytest.approx(2e6, rel=0.01)
    assert peak_bytes(lambda: [(x + 1).sum() for _ in range(4)], CPU)[1] == pytest.approx(1e6, rel=0.01)


def test_runs_take_turns():
    turns: list[str] = []
    seconds = interleaved([lambda: turns.append("stage"), lambda: turns.append("reference")], CPU, 3)
    assert turns == ["stage", "reference"] * 3
    assert [len(s) for s in seconds] == [3, 3]


def test_a_stage_is_compared_with_its_reference():
    x = torch.randn(8, 8)
    rates = {"matmul-fp32": 1e9, "copy": 1e9}
    row = measure(Stage("x/product", lambda: x @ x, lambda: x @ x + 0.5), CPU, 2, rates)
    assert row.difference == pytest.approx(0.5, abs=1e-5)
    assert row.gflop == 2 * 8**3 / 1e9 and row.speedup is not None
    copy = measure(Stage("x/copy", lambda: x.clone(), moved_bytes=512), CPU, 2, rates)
    assert copy.ceiling == "copy" and copy.gbytes_per_s is not None
    text = as_markdown({"device": "cpu", "cpu": "some", "threads": 1}, rates, [row, copy])
    assert "x/product" in text and "5.0e-01" in text


def test_an_unknown_stage_is_one_sentence(monkeypatch):
    monkeypatch.setattr("eval.bench.ceilings", lambda device: {})
    with pytest.raises(UserError, match="names no stage"):
        main(["--only", "nothing"])
