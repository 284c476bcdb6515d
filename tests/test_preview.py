"""The picture of what is about to be made: its cameras around the NeRF's rendering, and nothing else is done."""

import cv2
import numpy as np
import pytest
import torch
from repeating import CAMERA, CAR, infer
from tiny import tiny_pipeline

from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.preview import FIRST, INPUT, LAST, camera_map
from mvgenvs.trajectories import cameras_at, centers_at, orbit


def seen_from(azimuth, elevation):
    return cameras_at(centers_at(torch.tensor([azimuth]), torch.tensor([elevation])))


def places(canvas, colour):
    """Where pixels of about this colour are: their mean (x, y)."""
    y, x = np.nonzero(np.abs(canvas.astype(int) - colour).max(axis=-1) < 12)
    return x.mean(), y.mean()


def test_the_map_shows_cameras_where_they_are():
    """From above the front, both targets are on the sides on which the observer sees them, and the input is below."""
    observer, nothing = seen_from(0.0, 35.0), torch.zeros(4, 32, 32)
    left, right = seen_from(90.0, 0.0), seen_from(-90.0, 0.0)
    targets = Cameras(torch.cat([left.c2w, right.c2w]), torch.cat([left.K, right.K]), left.hw)
    canvas = camera_map(observer, nothing, seen_from(0.0, 20.0), targets)
    pixels, _ = observer.project(targets.centers[None])
    assert (places(canvas, FIRST)[0] < 280) == (pixels[0, 0, 0] < 64)
    assert (places(canvas, LAST)[0] < 280) == (pixels[0, 1, 0] < 64)
    assert places(canvas, INPUT)[0] == pytest.approx(280, abs=12)
    assert places(canvas, INPUT)[1] > canvas.shape[0] / 2, "in front is low in the picture"


def test_the_object_hides_what_is_behind_it_only():
    observer, solid = seen_from(0.0, 0.0), torch.ones(4, 32, 32)
    solid[0] = 0
    for azimuth, hidden in ((180.0, True), (0.0, False)):
        canvas = camera_map(observer, solid, seen_from(azimuth, 0.0), orbit(2, azimuth=90.0))
        middle = canvas[canvas.shape[0] // 2 - 20 : canvas.shape[0] // 2 + 20, 260:300].astype(int)
        assert (np.abs(middle - INPUT).max(axis=-1) < 60).any() != hidden


def test_a_preview_is_drawn_and_nothing_sampled(tmp_path, monkeypatch, capsys):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(MultiViewPipeline, "stream", None)
    shown = ["--image", CAR, "--camera", CAMERA, "--checkpoint", tmp_path / "model", "--output", tmp_path / "out"]
    assert infer(*shown, "--num-views", 20, "--preview") == 0
    assert "20 views from azimuth 0" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"preview.png", ".mvgenvs"}
    picture = cv2.imread(str(tmp_path / "out/preview.png"))
    assert picture.shape[1] >= 560 and (picture < 200).any()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/preview.png").write_text("mine")
    with pytest.raises(UserError, match=r"preview\.png was not written by this program"):
        infer(*shown[:-1], tmp_path / "mine", "--preview")
