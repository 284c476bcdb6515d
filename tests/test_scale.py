"""What orbits and long sequences cost: the tables, and that memory does not grow along a sequence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_pipeline

from eval import scale
from eval.benchmarks.sequences import model_of_size, reset_peak

REPO = Path(__file__).parent.parent
GROWTH = 0.03  # GB from view 100 to view 1,000


def held_along(folder: Path, views: int, manner: str) -> tuple[dict[str, float], dict[str, float]]:
    """What is held at a tenth of the views and at the end: see `long_sequence.py`."""
    command = [sys.executable, "tests/long_sequence.py", str(folder), str(views), manner]
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    early, late = json.loads(done.stdout)
    return early, late


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_views_take_the_memory_of_a_hundred(tmp_path: Path) -> None:
    early, late = held_along(tmp_path, 1000, "forgetful")
    assert len(list((tmp_path / "partial/frames").iterdir())) == 1000
    assert late["tensors"] <= early["tensors"]
    assert late["gbytes"] - early["gbytes"] < GROWTH
    assert late["per_view"] < 1.5 * early["per_view"], "of CPU time; quiet, they are within 2%"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_test_before_would_see_views_that_are_kept(tmp_path: Path) -> None:
    early, late = held_along(tmp_path, 80, "hoarding")
    assert late["tensors"] - early["tensors"] > 72


def test_the_tables_have_the_rows_that_were_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    words = [
        "--checkpoint",
        str(tmp_path / "tiny"),
        "--views",
        "2",
        "3",
        "--batch",
        "1",
        "2",
        "--sizes",
        "--along",
        "5",
    ]
    scale.main([*words, "--output", str(tmp_path / "out")])
    record = json.loads((tmp_path / "out/scale.json").read_text())
    assert [(row["batch"], row["views"]) for row in record["orbits"]] == [(1, 2), (1, 3), (2, 2)]
    assert [row["views"] for row in record["places"]] == [5]
    assert all(row["seconds"] > 0 and row["peak_gbytes"] > 0 for row in record["orbits"])
    table = (tmp_path / "out/scale.md").read_text()
    assert table in capsys.readouterr().out
    assert table.count("\n| ") == 7


def test_a_model_of_another_size_has_the_weights_of_the_first() -> None:
    bundled, larger = model_of_size("bundled", None), model_of_size("bundled", 64)
    assert (bundled.size, larger.size) == (128, 64)
    for name, weight in bundled.denoiser.state_dict().items():
        assert torch.equal(weight, larger.denoiser.state_dict()[name]), name


def test_the_peak_begins_anew() -> None:
    from eval.benchmarks.sequences import PEAK_RESET, memory_gbytes

    if not PEAK_RESET.exists():
        pytest.skip("this system keeps the peak")
    large = torch.ones(2**26)  # a quarter of a GB
    before = memory_gbytes("VmHWM")
    del large
    reset_peak()
    assert memory_gbytes("VmHWM") < before - 0.2
