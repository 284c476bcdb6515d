"""The throughput table's frame: which ways it compares, and what it counts. No time is asserted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import tiny_config, write_srn
from tiny_recipe import tiny_recipe, write

from eval import throughput
from eval.benchmarks import training
from mvgenvs.nerf import model


def test_the_ways_are_measured_in_turns_and_rendering_is_left_out_where_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model, "CELL", 0.1)
    tiny = tiny_config()
    small = {name: getattr(tiny, name) for name in ("data", "nerf", "denoiser", "codec")}
    monkeypatch.setattr(training, "EARLIER", replace(training.EARLIER, **small))
    data = write_srn(tmp_path / "data", {"train": 2}, views=6)
    recipe = write(tmp_path, tiny_recipe())
    words = ["--recipe", str(recipe), "--data", str(data), "--steps", "2", "--output", str(tmp_path / "out")]
    throughput.main(words)
    rows = json.loads((tmp_path / "out/throughput.json").read_text())["rows"]
    assert [(row["settings"], row["precision"], row["renderings"]) for row in rows] == [
        ("earlier", "fp32", "made anew"),
        ("recipe", "fp32", "made anew"),
        ("recipe", "bf16", "made anew"),
        ("recipe", "fp32", "kept"),
        ("recipe", "bf16", "kept"),
    ]
    assert [row["rendering"] > 0 for row in rows] == [True, True, True, False, False]
    draws = [6, 4, 4, 4, 4]  # sets times noise draws of a step
    assert [row["draws"] * row["seconds"] for row in rows] == pytest.approx(draws)
    assert (tmp_path / "out/throughput.md").read_text() in capsys.readouterr().out
