"""Camera files: a round trip keeps cameras, nerfstudio's axes are converted, mistakes name file and key."""

import copy
import json
from pathlib import Path

import pytest
import torch

from mvgenvs.errors import UserError
from mvgenvs.trajectories import canonical_camera, orbit
from mvgenvs.transforms import read_cameras, read_transforms, write_cameras

ASSETS = Path(__file__).parent.parent / "assets"
SINGLE = {"transform_matrix": torch.eye(4).tolist(), "fl_x": 100.0, "w": 64, "h": 32}
TWO_FRAMES = {
    "fl_x": 100.0,
    "w": 64,
    "h": 64,
    "frames": [{"transform_matrix": torch.eye(4).tolist()}, {"transform_matrix": torch.eye(4).tolist(), "fl_x": 90.0}],
}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_round_trip(tmp_path, some_cameras):
    names = [f"frames/{i}.png" for i in range(5)]
    write_cameras(tmp_path / "cameras.json", some_cameras, names)
    read_names, cameras = read_transforms(tmp_path / "cameras.json")
    assert read_names == names
    assert cameras.hw == some_cameras.hw
    torch.testing.assert_close(cameras.c2w, some_cameras.c2w)
    torch.testing.assert_close(cameras.K, some_cameras.K)
    assert [p.name for p in tmp_path.iterdir()] == ["cameras.json"], "a temporary file is left"


def test_file_has_opengl_axes(tmp_path):
    """In the file the camera looks along its -z with +y up: from azimuth 0 that is the world's +z and +y."""
    write_cameras(tmp_path / "cameras.json", orbit(1, elevation=0.0), ["a.png"])
    matrix = torch.tensor(json.loads((tmp_path / "cameras.json").read_text())["frames"][0]["transform_matrix"])
    torch.testing.assert_close(-matrix[:3, 2], torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(matrix[:3, 1], torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(matrix[:3, 3], torch.tensor([0.0, 0.0, -1.3]))


def test_single_camera_with_defaults(tmp_path):
    cameras = read_cameras(write(tmp_path / "one.json", SINGLE))
    assert cameras.num_views == 1
    assert cameras.hw == (32, 64)
    torch.testing.assert_close(cameras.K[0], torch.tensor([[100.0, 0.0, 32.0], [0.0, 100.0, 16.0], [0.0, 0.0, 1.0]]))


def test_intrinsics_of_a_frame_win(tmp_path):
    cameras = read_cameras(write(tmp_path / "two.json", TWO_FRAMES))
    torch.testing.assert_close(cameras.K[:, 0, 0], torch.tensor([100.0, 90.0]))


def test_the_bundled_camera_reads():
    cameras = read_cameras(ASSETS / "car.json")
    assert cameras.hw == (128, 128)
    assert (cameras.centers - canonical_camera().centers).norm() < 0.3, "the bundled picture is three quarters in front"


def changed(content, **changes):
    content = copy.deepcopy(content)
    target = content["frames"][0] if "frames" in content else content
    for key, value in changes.items():
        if value is None:
            del target[key]
        else:
            target[key] = value
    return content


SHEARED = [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
MALFORMED = {
    "not JSON": ("{", "not JSON"),
    "a list": ([], "object"),
    "no frames": ({"frames": []}, "'frames'"),
    "frames of another kind": ({"frames": 3}, "'frames'"),
    "frame of another kind": ({"frames": [1]}, "frame 0"),
    "no matrix": (changed(SINGLE, transform_matrix=None), "'transform_matrix' is missing"),
    "matrix of words": (changed(TWO_FRAMES, transform_matrix=[["a"] * 4] * 4), "'transform_matrix'"),
    "3x4 matrix": (changed(SINGLE, transform_matrix=torch.eye(4)[:3].tolist()), "'transform_matrix'"),
    "sheared matrix": (changed(SINGLE, transform_matrix=SHEARED), "'transform_matrix'"),
    "mirrored matrix": (
        changed(SINGLE, transform_matrix=torch.diag(torch.tensor([-1.0, 1, 1, 1])).tolist()),
        "rotation",
    ),
    "not a number": ('{"transform_matrix": [[NaN,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]}', "finite"),
    "no focal length": (changed(SINGLE, fl_x=None), "'fl_x' is missing"),
    "focal length of words": (changed(SINGLE, fl_x="long"), "'fl_x'"),
    "negative focal length": (changed(SINGLE, fl_x=-1), "'fl_x'"),
    "half a pixel": (changed(SINGLE, w=64.5), "'w'"),
    "distortion": (changed(SINGLE, k1=0.1), "'k1'"),
    "a fisheye": (SINGLE | {"camera_model": "OPENCV_FISHEYE"}, "'OPENCV_FISHEYE'"),
    "a fisheye by another name": (SINGLE | {"is_fisheye": True}, "'is_fisheye'"),
    "distortion in a list": (SINGLE | {"distortion_params": [0.0, 0.1]}, "'distortion_params'"),
    "sizes differ": (changed(TWO_FRAMES, w=32), "'w' and 'h'"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_name_file_and_key(tmp_path, name):
    content, expected = MALFORMED[name]
    path = write(tmp_path / "bad.json", content)
    with pytest.raises(UserError) as caught:
        read_cameras(path)
    assert "bad.json" in str(caught.value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such camera file"):
        read_cameras(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_cameras(tmp_path)
