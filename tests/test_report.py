"""Averages on records made by hand, and what the report says of them."""

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from eval.methods import ROWS, VIEWS
from eval.metrics.figures import Figures
from eval.metrics.suite import MetricSuite
from eval.report import plots
from eval.report.records import Record, RunFolder
from eval.report.sheets import WHITE_ERROR, error_map
from eval.report.summary import curve, make_table, psnr_by_angle, ranked
from eval.report.writer import write_report
from mvgenvs.errors import UserError


def record(name: str, figures: dict[str, Figures], angles: tuple[float, ...] = (10.0, 30.0)) -> Record:
    return Record(name, name, [64], list(range(len(angles))), list(angles), "0" * 64, figures)


CONTEXT = {
    "title": "orbit on val, one sample each",
    "origin": "checkpoint sha256 ffff, seed 0",
    "notes": ["A note."],
    "command": "python -m eval.run",
    "versions": {"git_commit": "abc"},
    "settings": {"num_samples": 1},
}


@pytest.fixture
def records() -> list[Record]:
    return [
        record(
            "a",
            {
                "nerf": {"psnr": [10.0, 12.0], "tsed": [1.0, None], "warp-psnr": []},
                "joint": {"psnr": [20.0, 22.0], "tsed": [0.0, 1.0], "warp-psnr": []},
                "truth": {"tsed": [1.0, 1.0], "warp-psnr": []},
            },
        ),
        record(
            "b",
            {
                "nerf": {"psnr": [14.0, 16.0, 18.0], "tsed": [None, None], "warp-psnr": []},
                "joint": {"psnr": [30.0, 30.0, 30.0], "tsed": [1.0, 1.0], "warp-psnr": []},
                "truth": {"tsed": [1.0, 0.0], "warp-psnr": []},
            },
            angles=(10.0, 15.0, 170.0),
        ),
    ]


def test_the_table_averages_within_objects_first(records: list[Record]) -> None:
    table = make_table(records, {"nerf": {"fd-effnet": 3.0}})
    assert table["nerf"]["psnr"] == pytest.approx((11 + 16) / 2)  # the mean over all views would be 14
    assert table["nerf"]["tsed"] == 1.0  # object b has no figure
    assert table["joint"]["tsed"] == pytest.approx(0.75)
    assert table["joint"]["warp-psnr"] is None
    assert table["nerf"]["fd-effnet"] == 3.0
    assert "psnr" not in table["truth"]


def test_psnr_by_angle_averages_within_objects_first(records: list[Record]) -> None:
    near, middle, far = psnr_by_angle(records)
    assert [(b.low, b.high, b.num_views) for b in (near, middle, far)] == [(0, 20, 3), (20, 40, 1), (160, 180, 1)]
    assert near.psnr == {"nerf": pytest.approx((10 + 15) / 2), "joint": pytest.approx((20 + 30) / 2)}
    assert middle.psnr["nerf"] == 12.0
    assert far.psnr["joint"] == 30.0


def test_a_view_from_straight_behind_is_in_the_last_bin() -> None:
    (only,) = psnr_by_angle([record("a", {"nerf": {"psnr": [10.0]}}, angles=(180.0,))])
    assert (only.low, only.high) == (160, 180)


def test_curves_average_each_pair_over_the_objects_that_have_it(records: list[Record]) -> None:
    assert curve(records, "nerf", "tsed") == [1.0, None]
    assert curve(records, "joint", "tsed") == [0.5, 1.0]
    assert curve(records, "joint", "psnr") == [25.0, 26.0, 30.0]


def test_objects_are_ranked_by_the_full_system(records: list[Record]) -> None:
    ordered, metric, row = ranked(records)
    assert ([r.object for r in ordered], metric, row) == (["b", "a"], "psnr", "joint")
    with_lpips = [
        record("x", {"joint": {"psnr": [30.0], "lpips-alex": [0.2]}}),
        record("y", {"joint": {"psnr": [20.0], "lpips-alex": [0.1]}}),
    ]
    assert [r.object for r in ranked(with_lpips)[0]] == ["y", "x"]


def written(folder: Path, records: list[Record]) -> str:
    output = RunFolder(folder)
    output.objects.mkdir(parents=True)
    for number, r in enumerate(records):
        cv2.imwrite(str(output.sheet(r.object)), np.full((4, 4, 3), number, np.uint8))
    write_report(output, records, MetricSuite(), CONTEXT)
    return (folder / "report.md").read_text()


def test_the_report_has_tables_notes_and_sheets(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "can_plot", lambda: False)
    report = written(tmp_path, records)
    assert report.startswith("# orbit on val, one sample each: 2 objects, 5 views")
    assert "A note." in report
    assert "at commit abc, checkpoint sha256 ffff, seed 0." in report
    assert "| joint | 25.50 | 0.750 | – |" in report
    assert "| truth | – | 0.750 | – |" in report
    assert "| 0–20° | 3 | 12.50 | 25.00 |" in report
    assert "the data have no depth" in report
    assert "The plots are missing, because matplotlib is" in report
    assert "best: b, 30.00" in report
    assert cv2.imread(str(tmp_path / "best.png"))[0, 0, 0] == 1
    assert cv2.imread(str(tmp_path / "worst.png"))[0, 0, 0] == 0
    summary = json.loads((tmp_path / "metrics.json").read_text())
    assert summary["objects"] == [asdict(r) for r in records]
    assert summary["num_images"] == 5
    for picture in ("bars.png", "angles.png", "consistency.png"):
        assert not (tmp_path / picture).exists()


def test_plots_are_drawn_where_matplotlib_is(records: list[Record], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = written(tmp_path, records)
    for picture in ("bars.png", "angles.png", "consistency.png"):
        assert f"({picture})" in report
        pixels = cv2.imread(str(tmp_path / picture))
        blue = np.abs(pixels.astype(int) - (0xB2, 0x72, 0x00)).max(axis=2) < 8  # of the row "joint", in BGR
        assert blue.sum() > 100


def test_every_row_of_the_table_has_a_look(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written(tmp_path, [record("a", {row: {"psnr": [10.0, 12.0]} for row in (*ROWS, VIEWS)})])
    for picture in ("bars.png", "angles.png"):
        pixels = cv2.imread(str(tmp_path / picture)).astype(int)
        for colour in set(plots.COLOURS.values()):
            blue, green, red = (int(colour[i : i + 2], 16) for i in (5, 3, 1))
            assert (np.abs(pixels - (blue, green, red)).max(axis=2) < 8).sum() > 50, (picture, colour)


def test_error_maps_are_black_where_right_and_bright_where_wrong() -> None:
    truth = torch.zeros(1, 3, 1, 3)
    images = truth.clone()
    images[..., 1], images[..., 2] = WHITE_ERROR / 2, 1.0
    brightness = error_map(images, truth).mean(dim=1).flatten()
    assert brightness[0] < 0.02
    assert brightness[0] < brightness[1] < brightness[2]


def test_features_come_back_as_they_were_and_their_loss_is_named(tmp_path: Path) -> None:
    output = RunFolder(tmp_path)
    output.objects.mkdir()
    features = torch.randn(3, 4)
    output.write(record("a", {}), {"FID/joint": features})
    assert torch.equal(output.features("a", "FID", "joint"), features)
    assert output.read("a") == record("a", {})
    (tmp_path / "objects" / "a.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"a\.safetensors"):
        output.features("a", "FID", "joint")
