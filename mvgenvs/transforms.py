"""Camera files in the format of nerfstudio's `transforms.json`.

The file's cameras have OpenGL axes (+x right, +y up, -z forward), ours OpenCV's: the camera's y and z change sign. The
world stays as it is (y up, the object at the origin). Pixel centres lie at +0.5 in both.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError

_INTRINSICS = ("fl_x", "fl_y", "cx", "cy", "w", "h")
_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")  # pinholes without distortion
_OPENGL_FROM_OPENCV = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))


def read_cameras(path: str | os.PathLike[str]) -> Cameras:
    """The cameras of a `transforms.json`, or of a file holding a single camera, `{"transform_matrix": …, "fl_x": …}`.

    Intrinsics are at the top level or in each frame; those in a frame take precedence. `fl_y`, `cx` and `cy` may be
    left out (square pixels, centre of the image). Raises `UserError` naming the file and the missing or malformed key.
    """
    return read_transforms(path)[1]


def read_transforms(path: str | os.PathLike[str]) -> tuple[list[str], Cameras]:
    """The frames' `file_path`s (empty strings if there are none) and their cameras; errors as in `read_cameras`."""
    content = _read_json(path)
    frames = content.get("frames", [content])
    if not isinstance(frames, list) or not frames:
        raise UserError(f"camera file {path}: 'frames' must be a list with at least one frame.")
    poses, intrinsics, sizes, file_paths = [], [], set(), []
    for index, frame in enumerate(frames):
        where = f"camera file {path}: frame {index}" if "frames" in content else f"camera file {path}"
        if not isinstance(frame, dict):
            raise UserError(f"{where} must be an object with the key 'transform_matrix'.")
        poses.append(_pose(frame, where))
        K, hw = _intrinsics({**content, **frame}, where)
        intrinsics.append(K)
        sizes.add(hw)
        file_paths.append(str(frame.get("file_path", "")))
    if len(sizes) > 1:
        raise UserError(f"camera file {path}: 'w' and 'h' must be the same in all frames.")
    return file_paths, Cameras(torch.stack(poses) @ _OPENGL_FROM_OPENCV, torch.stack(intrinsics), sizes.pop())


def write_cameras(path: str | os.PathLike[str], cameras: Cameras, file_paths: Sequence[str]) -> None:
    """Writes unbatched cameras with one image path each, atomically; intrinsics go into every frame."""
    if len(file_paths) != cameras.num_views:
        raise ValueError(f"{len(file_paths)} file paths for {cameras.num_views} cameras")
    height, width = cameras.hw
    frames = []
    for file_path, c2w, K in zip(file_paths, cameras.c2w.cpu(), cameras.K.cpu(), strict=True):
        frame: dict[str, Any] = {"file_path": file_path}
        frame |= {"fl_x": K[0, 0].item(), "fl_y": K[1, 1].item(), "cx": K[0, 2].item(), "cy": K[1, 2].item()}
        frame["transform_matrix"] = (c2w @ _OPENGL_FROM_OPENCV.to(c2w.dtype)).tolist()
        frames.append(frame)
    content = {"camera_model": "OPENCV", "w": width, "h": height, "frames": frames}
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(target)


def _read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no such camera file: {path}.") from None
    except OSError as error:
        raise UserError(f"camera file {path} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        position = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"camera file {path} is not JSON{position}.") from None
    if not isinstance(content, dict):
        raise UserError(f"camera file {path} must hold an object with 'frames' or 'transform_matrix'.")
    return content


def _pose(frame: dict[str, Any], where: str) -> Float[Tensor, "4 4"]:
    """The frame's camera-to-world matrix as in the file, with OpenGL axes."""
    if "transform_matrix" not in frame:
        raise UserError(f"{where}: the key 'transform_matrix' is missing.")
    rows = frame["transform_matrix"]
    square = isinstance(rows, list) and len(rows) == 4 and all(isinstance(r, list) and len(r) == 4 for r in rows)
    if not square or not all(_is_number(x) for row in rows for x in row):
        raise UserError(f"{where}: 'transform_matrix' must be 4 rows of 4 finite numbers.")
    pose = torch.tensor(rows, dtype=torch.float32)
    rotation = pose[:3, :3]
    rigid = torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-2) and torch.linalg.det(rotation) > 0
    if not rigid or not torch.allclose(pose[3], torch.tensor([0.0, 0.0, 0.0, 1.0]), atol=1e-4):
        raise UserError(f"{where}: 'transform_matrix' must be a rotation and a translation above a row 0 0 0 1.")
    return pose


def _intrinsics(keys: dict[str, Any], where: str) -> tuple[Float[Tensor, "3 3"], tuple[int, int]]:
    for key in ("fl_x", "w", "h"):
        if key not in keys:
            raise UserError(f"{where}: the key '{key}' is missing.")
    for key in (*_INTRINSICS, *_DISTORTION):
        if key in keys and not _is_number(keys[key]):
            raise UserError(f"{where}: '{key}' must be a finite number.")
    for key in ("fl_x", "fl_y", "w", "h"):
        if keys.get(key, 1) <= 0:
            raise UserError(f"{where}: '{key}' must be greater than 0.")
    for key in ("w", "h"):
        if keys[key] != int(keys[key]):
            raise UserError(f"{where}: '{key}' must be a whole number of pixels.")
    for key in _DISTORTION:
        if keys.get(key, 0) != 0:
            raise UserError(f"{where}: lens distortion ('{key}') is not supported, undistort the image first.")
    _check_model(keys, where)
    width, height = int(keys["w"]), int(keys["h"])
    fl_x = keys["fl_x"]
    K = [
        [fl_x, 0.0, keys.get("cx", width / 2)],
        [0.0, keys.get("fl_y", fl_x), keys.get("cy", height / 2)],
        [0.0, 0.0, 1.0],
    ]
    return torch.tensor(K, dtype=torch.float32), (height, width)


def _check_model(keys: dict[str, Any], where: str) -> None:
    """Raises `UserError` unless the camera is a pinhole."""
    model = keys.get("camera_model", _PERSPECTIVE[0])
    if model not in _PERSPECTIVE or keys.get("is_fisheye", False) is not False:
        kind = "a fisheye camera ('is_fisheye')" if model in _PERSPECTIVE else f"'camera_model' {model!r}"
        raise UserError(f"{where}: {kind} is not supported, only pinhole cameras are: undistort the images first.")
    parameters = keys.get("distortion_params") or []
    if not isinstance(parameters, list) or any(value != 0 for value in parameters):
        raise UserError(f"{where}: lens distortion ('distortion_params') is not supported, undistort the image first.")


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a number that fits into float32."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 3e38
