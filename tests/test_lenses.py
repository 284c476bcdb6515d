"""Lenses of others: straightened pictures are those of the pinhole that is returned, or the lens is refused.

Here a picture is drawn ray by ray through a lens whose formulas are written out in this file.
"""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny_data import toy_views, write_capture

from mvgenvs.data.captures import CaptureScenes
from mvgenvs.errors import UserError
from mvgenvs.lenses import read_lens, rectification
from mvgenvs.transforms import read_cameras

HW = (96, 128)
K = np.array([[110.0, 0, 66.0], [0, 104.0, 45.0], [0, 0, 1]])
LENSES = {
    "barrel": {"k1": -0.18, "k2": 0.03},
    "cushion": {"k1": 0.12, "k2": -0.02, "k3": 0.01},
    "tangential": {"k1": -0.05, "p1": 0.01, "p2": -0.015},
    "a list": {"distortion_params": [-0.1, 0.02, 0.0, 0.0, 0.004, 0.002]},
    "fisheye": {"camera_model": "OPENCV_FISHEYE", "k1": 0.04, "k2": -0.01, "k3": 0.002, "k4": -0.001},
    "fisheye of instant-ngp": {"is_fisheye": True, "k1": -0.02},
}


def bend(keys: dict[str, object], x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a lens shows the ray (x, y, 1), in focal lengths: Brown's polynomial, or OpenCV's of the angle."""
    listed = dict(zip(("k1", "k2", "k3", "k4", "p1", "p2"), keys.get("distortion_params", [0] * 6), strict=True))
    k1, k2, k3, k4, p1, p2 = (float(keys.get(key, listed[key])) for key in listed)
    r2 = x * x + y * y
    if "is_fisheye" in keys or "camera_model" in keys:
        r = np.sqrt(r2)
        angle = np.arctan(r)
        bent = angle * (1 + k1 * angle**2 + k2 * angle**4 + k3 * angle**6 + k4 * angle**8)
        return x * bent / r, y * bent / r
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth grey picture of all rays."""
    return 127 + 60 * np.sin(9 * x + 1) + 60 * np.cos(8 * y - 4 * x)


def photographed(keys: dict[str, object], hw: tuple[int, int], K: np.ndarray) -> np.ndarray:
    """The pattern as the lens shows it: each pixel's ray is found by bisection along its direction, then Newton."""
    v, u = np.meshgrid(np.arange(hw[0]) + 0.5, np.arange(hw[1]) + 0.5, indexing="ij")
    at_x, at_y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    x, y = at_x.copy(), at_y.copy()
    for _ in range(60):
        bent_x, bent_y = bend(keys, x, y)
        x, y = x + 0.7 * (at_x - bent_x), y + 0.7 * (at_y - bent_y)
    bent_x, bent_y = bend(keys, x, y)
    assert max(np.abs(bent_x - at_x).max(), np.abs(bent_y - at_y).max()) < 1e-6, "the test's own inversion"
    return pattern(x, y)


@pytest.mark.parametrize("name", LENSES)
def test_straight_pictures_are_what_their_pinholes_see(name: str) -> None:
    keys = LENSES[name]
    straight = rectification(read_lens({}, keys, "here"), K, HW, "here")
    picture = straight(photographed(keys, HW, K).round().clip(0, 255).astype(np.uint8))
    v, u = np.meshgrid(np.arange(HW[0]) + 0.5, np.arange(HW[1]) + 0.5, indexing="ij")
    x, y = (u - straight.K[0, 2]) / straight.K[0, 0], (v - straight.K[1, 2]) / straight.K[1, 1]
    difference = np.abs(picture - pattern(x, y))
    assert difference[2:-2, 2:-2].max() < 6, "half a pixel off would be 16"
    assert difference.mean() < 1
    unbent = np.abs(
        pattern(*np.meshgrid((np.arange(128) + 0.5 - 66) / 110, (np.arange(96) + 0.5 - 45) / 104)) - picture
    )
    assert unbent.max() > 12, "the lens does bend"


@pytest.mark.parametrize("name", ["barrel", "tangential"])
def test_rays_agree_with_opencvs_own(name: str) -> None:
    """The corners of the straight picture, sought in the photographed one by `cv2.undistortPoints`."""
    keys = LENSES[name]
    straight = rectification(read_lens(keys, {}, "here"), K, HW, "here")
    corners = np.array([[20.0, 20.0], [100.0, 30.0], [64.0, 80.0]])
    k = [float(keys.get(key, 0.0)) for key in ("k1", "k2", "p1", "p2", "k3")]  # OpenCV's order
    rays = cv2.undistortPoints(corners[:, None], K, np.array(k))[:, 0]
    there = rays * [straight.K[0, 0], straight.K[1, 1]] + straight.K[:2, 2]
    dot = np.zeros(HW, np.uint8)
    for x, y in corners:
        cv2.circle(dot, (round(x - 0.5), round(y - 0.5)), 2, 255, -1)
    found = straight(dot)
    assert all(found[round(y - 0.5), round(x - 0.5)] > 200 for x, y in there)


def test_a_frame_outranks_the_top_as_a_whole() -> None:
    top = {"k1": 0.1, "k2": 0.2, "camera_model": "OPENCV"}
    assert read_lens(top, {}, "").coefficients[:2] == (0.1, 0.2)
    assert read_lens(top, {"k1": 0.3}, "").coefficients == (0.3, 0, 0, 0, 0)
    assert read_lens(top, {"distortion_params": [0, 0.5]}, "").coefficients == (0, 0.5, 0, 0, 0)
    assert read_lens(top, {"camera_model": "OPENCV_FISHEYE"}, "").fisheye
    assert read_lens(top, {"k1": 0}, "").is_pinhole
    assert not read_lens({}, {"camera_model": "OPENCV_FISHEYE"}, "").is_pinhole, "a fisheye without parameters"


REFUSED = {
    "equirectangular": ({"camera_model": "EQUIRECTANGULAR"}, "'EQUIRECTANGULAR'"),
    "orthographic": ({"camera_model": "ORTHOPHOTO"}, "'ORTHOPHOTO'"),
    "another fisheye": ({"camera_model": "FISHEYE624"}, "'FISHEYE624'"),
    "unknown": ({"camera_model": "PLENOPTIC"}, "'PLENOPTIC'"),
    "no word": ({"camera_model": 3}, "camera_model"),
    "a list": ({"camera_model": ["OPENCV"]}, "camera_model"),
    "type": ({"camera_type": "equirectangular"}, "camera_type"),
    "rolling shutter": ({"rolling_shutter": [0, 0, 0.03, 0]}, "rolling_shutter"),
    "moving": ({"transform_matrix_start": [[1]]}, "transform_matrix_start"),
    "f-theta": ({"ftheta_p0": 1.0}, "ftheta_p0"),
    "latitude": ({"latlong": True}, "latlong"),
    "cropped circle": ({"camera_model": "OPENCV_FISHEYE", "fisheye_crop_radius": 40}, "fisheye_crop_radius"),
    "k4": ({"k4": 0.01}, "'k4'"),
    "k5": ({"k5": 0.01}, "'k5'"),
    "k6": ({"k6": 0.01}, "'k6'"),
    "fisheye with p1": ({"is_fisheye": True, "p1": 0.01}, "'p1'"),
    "words": ({"k1": "some"}, "'k1'"),
    "no number": ({"k2": float("nan")}, "'k2'"),
    "infinite": ({"p1": float("inf")}, "'p1'"),
    "truth": ({"k1": True}, "'k1'"),
    "too many": ({"distortion_params": [0.0] * 9}, "'distortion_params'"),
    "words in a list": ({"distortion_params": ["a"]}, "'distortion_params'"),
    "no list": ({"distortion_params": 0.1}, "'distortion_params'"),
    "fisheye maybe": ({"is_fisheye": "yes"}, "'is_fisheye'"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("in_frame", [False, True])
def test_other_cameras_are_refused_in_a_sentence(tmp_path: Path, name: str, in_frame: bool) -> None:
    keys, says = REFUSED[name]
    frame = {"transform_matrix": torch.eye(4).tolist()} | (keys if in_frame else {})
    content = {"fl_x": 100.0, "w": 64, "h": 64, "frames": [frame]} | ({} if in_frame else keys)
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=says) as caught:
        read_cameras(tmp_path / "c.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "keys", [{"k1": -3.0}, {"k1": 500.0}, {"k1": -1e5, "k2": 9e5}, {"is_fisheye": True, "k1": -5.0}]
)
def test_lenses_that_fold_the_picture_are_refused(keys: dict[str, object]) -> None:
    with pytest.raises(UserError, match="bends rays too far"):
        rectification(read_lens({}, keys, "here"), K, HW, "here")


def test_a_distorted_capture_is_straightened_and_a_camera_file_is_refused(tmp_path: Path) -> None:
    """Colours, mattes and depths move together: the object of all three stays in one place."""
    folder = write_capture(tmp_path / "car", toy_views(1))
    plain = CaptureScenes(tmp_path, "train", 32).load(0)
    content = json.loads((folder / "transforms.json").read_text()) | {"k1": 0.25}
    (folder / "transforms.json").write_text(json.dumps(content))
    views = CaptureScenes(tmp_path, "train", 32).load(0)
    assert not torch.allclose(views.cameras.K, plain.cameras.K, atol=0.5)
    # a matte's pixel, sent through the formula above, lies on the matte as it was photographed
    inside = views.mask[0, 0] > 0.99
    v, u = (inside.nonzero().T + 0.5).numpy().astype(float)
    straight, photo = views.cameras.K[0].numpy(), plain.cameras.K[0].numpy()
    x, y = bend({"k1": 0.25}, (u - straight[0, 2]) / straight[0, 0], (v - straight[1, 2]) / straight[1, 1])
    columns, rows = (x * photo[0, 0] + photo[0, 2]).astype(int), (y * photo[1, 1] + photo[1, 2]).astype(int)
    assert (plain.mask[0, 0, rows, columns] > 0).float().mean() > 0.98
    assert ((views.depth[0, 0] > 0) == (views.mask[0, 0] > 0.5)).float().mean() > 0.98
    with pytest.raises(UserError, match=r"frame 0: lens distortion \('k1'\)"):
        read_cameras(folder / "transforms.json")


def test_the_angle_of_view_gives_the_focal_length(tmp_path: Path) -> None:
    content = {"transform_matrix": torch.eye(4).tolist(), "camera_angle_x": 0.9, "w": 200, "h": 100}
    (tmp_path / "c.json").write_text(json.dumps(content))
    focal = 100 / math.tan(0.45)
    assert read_cameras(tmp_path / "c.json").K[0, 0, 0].item() == pytest.approx(focal, rel=1e-6)
    assert read_cameras(tmp_path / "c.json").K[0, 1, 1].item() == pytest.approx(focal, rel=1e-6), "square pixels"
    (tmp_path / "c.json").write_text(json.dumps(content | {"camera_angle_y": 0.5}))
    assert read_cameras(tmp_path / "c.json").K[0, 1, 1].item() == pytest.approx(50 / math.tan(0.25), rel=1e-6)
    (tmp_path / "c.json").write_text(json.dumps(content | {"fl_x": 77.0}))
    assert read_cameras(tmp_path / "c.json").K[0, 0, 0].item() == 77
