"""The study of fooled measures: what it makes of the views, and its table."""

import json
from pathlib import Path

import cv2
import torch
from tiny_data import write_opencars
from toy_eval import FakePipeline

from eval.metrics.suite import CONSISTENCY, MetricSuite
from eval.studies import fooling
from mvgenvs.data.srn import SRNScenes


def test_blurred_views_lose_detail_and_shuffled_ones_their_places():
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = fooling.variants(images, images, images[:1].expand_as(images))
    spread = [rows[name].std().item() for name in ("joint", "blurred a little", "blurred")]
    assert spread[0] > spread[1] > spread[2]
    assert not torch.equal(rows["shuffled"], rows["joint"])
    assert sorted(rows["shuffled"].mean(dim=(1, 2, 3)).tolist()) == sorted(rows["joint"].mean(dim=(1, 2, 3)).tolist())


def test_the_study_measures_every_row(tmp_path: Path):
    scenes = SRNScenes(write_opencars(tmp_path / "data", {"val": 1}, views=24), "val", 32)
    (tmp_path / "out").mkdir()
    text = fooling.study(tmp_path / "out", FakePipeline(), scenes, 1, MetricSuite((CONSISTENCY,)), {})
    table = json.loads((tmp_path / "out/fooling.json").read_text())["table"]
    assert list(table) == list(fooling.ROWS)
    assert "psnr" not in table["truth"]
    assert table["truth"]["warp-psnr"] is not None
    assert table["blurred"]["warp-psnr"] > table["joint"]["warp-psnr"]  # noise, and noise that is smoothed
    assert text == (tmp_path / "out/fooling.md").read_text().strip()
    assert cv2.imread(str(tmp_path / "out/fooling.png")) is not None
