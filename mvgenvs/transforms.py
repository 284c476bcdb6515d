"""Camera files in the format of nerfstudio's `transforms.json`, as instant-ngp and Blender's data sets use it, too.

The file's cameras have OpenGL axes (+x right, +y up, -z forward), ours OpenCV's: the camera's y and z change sign. The
world stays as it is (y up, the object at the origin). Pixel centres lie at +0.5 in both.

Intrinsics are at the top level or in each frame; those in a frame take precedence. `fl_x` may be left out for
`camera_angle_x`, the field of view in radians; `fl_y`, `cx` and `cy` (square pixels, centre of the image); `w` and `h`,
if the image is there to tell them.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError
from mvgenvs.files import below, write_text
from mvgenvs.lenses import Rectification, read_lens, rectification
from mvgenvs.limits import check_bytes

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # tried for a `file_path` without one, as in Blender's data sets
DEPTH_UNIT = 0.001  # nerfstudio's default: millimetres in a world in metres
SPLIT_LISTS = {split: f"{split}_filenames" for split in ("train", "val", "test")}
RANGES = {  # of the numbers in a camera file: least, most
    "fl_x": (1e-3, 1e7), "fl_y": (1e-3, 1e7), "cx": (-1e7, 1e7), "cy": (-1e7, 1e7), "w": (1, 30_000), "h": (1, 30_000),
    "camera_angle_x": (1e-3, 3.141), "camera_angle_y": (1e-3, 3.141),
    "depth_unit_scale_factor": (1e-9, 1e9), "integer_depth_scale": (1e-9, 1e9),
}  # fmt: skip
FARTHEST = 1e7  # in a pose's translation; float32 knows it to one unit
MOST_FRAMES = 100_000
_OPENGL_FROM_OPENCV = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))


@dataclass(frozen=True)
class Frame:
    """What a camera file says about one picture besides its camera. Empty paths are none."""

    file_path: str
    mask_path: str = ""
    depth_path: str = ""
    depth_unit: float = DEPTH_UNIT  # world units
    rectification: Rectification | None = None  # if its lens is no pinhole; its camera is that of the straight picture


@dataclass(frozen=True, eq=False)
class PosedFrames:
    """The frames of a camera file, and their cameras."""

    frames: tuple[Frame, ...]
    cameras: Cameras
    splits: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # positions; without splits, all are in all


def read_cameras(path: str | os.PathLike[str]) -> Cameras:
    """The cameras of a `transforms.json`, or of a file holding a single camera, `{"transform_matrix": …, "fl_x": …}`.

    Raises `UserError` naming the file and the missing or malformed key, or a lens that is no pinhole.
    """
    return read_transforms(path)[1]


def read_transforms(path: str | os.PathLike[str]) -> tuple[list[str], Cameras]:
    """The frames' `file_path`s (empty strings if there are none) and their cameras; errors as in `read_cameras`."""
    found = read_posed_frames(path)
    return [frame.file_path for frame in found.frames], found.cameras


def read_posed_frames(path: str | os.PathLike[str], rectify: bool = False) -> PosedFrames:
    """All that a camera file says. Errors as in `read_cameras`, but with `rectify` not only pinholes are read."""
    content = _read_json(path)
    listed = content.get("frames", [content])
    if not isinstance(listed, list) or not 0 < len(listed) <= MOST_FRAMES:
        raise UserError(f"camera file {path}: 'frames' must be a list with 1 to {MOST_FRAMES} frames.")
    folder, shared = Path(path).parent, {key: value for key, value in content.items() if key != "frames"}
    poses, intrinsics, sizes, frames = [], [], set(), []
    for index, frame in enumerate(listed):
        where = f"camera file {path}: frame {index}" if "frames" in content else f"camera file {path}"
        if not isinstance(frame, dict):
            raise UserError(f"{where} must be an object with the key 'transform_matrix'.")
        poses.append(_pose(frame, where))
        lens, keys = read_lens(shared, frame, where), {**shared, **frame}
        K, hw = _intrinsics(keys, folder, where)
        if not (lens.is_pinhole or rectify):
            raise UserError(
                f"{where}: {lens.named_by} is not supported here, only pinhole cameras are: undistort the image."
            )
        straight = None if lens.is_pinhole else rectification(lens, K, hw, where)
        intrinsics.append(K if straight is None else straight.K)
        sizes.add(hw)
        frames.append(_frame(keys, straight, where))
    if len(sizes) > 1:
        raise UserError(f"camera file {path}: 'w' and 'h' must be the same in all frames.")
    all_K = torch.from_numpy(np.stack(intrinsics)).float()
    cameras = Cameras(torch.stack(poses) @ _OPENGL_FROM_OPENCV, all_K, sizes.pop())
    return PosedFrames(tuple(frames), cameras, _splits(content, [frame.file_path for frame in frames], path))


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
    write_text(Path(path), json.dumps(content, indent=1) + "\n")


def _read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        check_bytes(Path(path))
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no such camera file: {path}.") from None
    except OSError as error:
        raise UserError(f"camera file {path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # of bytes that are no text, of text that is no JSON, of huge numbers
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
    if not square or not all(_is_number(x, -FARTHEST, FARTHEST) for row in rows for x in row):
        raise UserError(f"{where}: 'transform_matrix' must be 4 rows of 4 finite numbers.")
    pose = torch.tensor(rows, dtype=torch.float32)
    if not is_rigid(pose):
        raise UserError(f"{where}: 'transform_matrix' must be a rotation and a translation above a row 0 0 0 1.")
    return pose


def is_rigid(pose: Float[Tensor, "4 4"]) -> bool:
    """Whether a matrix is a rotation and a translation above a row 0 0 0 1, as far as files write it."""
    rotation = pose[:3, :3]
    rigid = torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-2) and torch.linalg.det(rotation) > 0
    return bool(rigid) and torch.allclose(pose[3], torch.tensor([0.0, 0.0, 0.0, 1.0]), atol=1e-4)


def _intrinsics(keys: dict[str, Any], folder: Path, where: str) -> tuple[Float[np.ndarray, "3 3"], tuple[int, int]]:
    for key, (low, high) in RANGES.items():
        if key in keys and not _is_number(keys[key], low, high):
            raise UserError(f"{where}: '{key}' must be a finite number from {low} to {high}.")
    if not {"w", "h"} <= keys.keys():
        keys = {**_size_of_image(keys, folder, where), **keys}
    for key in ("w", "h"):
        if keys[key] != int(keys[key]):
            raise UserError(f"{where}: '{key}' must be a whole number of pixels.")
    width, height = int(keys["w"]), int(keys["h"])
    fl_x = keys["fl_x"] if "fl_x" in keys else _focal_length(keys, "camera_angle_x", width)
    if fl_x is None:
        raise UserError(f"{where}: the key 'fl_x' is missing.")
    from_angle = None if "fl_x" in keys else _focal_length(keys, "camera_angle_y", height)
    fl_y = keys.get("fl_y", fl_x if from_angle is None else from_angle)
    K = [[fl_x, 0.0, keys.get("cx", width / 2)], [0.0, fl_y, keys.get("cy", height / 2)], [0.0, 0.0, 1.0]]
    return np.array(K, dtype=np.float64), (height, width)


def _focal_length(keys: dict[str, Any], angle: str, side: int) -> float | None:
    return side / 2 / math.tan(keys[angle] / 2) if angle in keys else None


def _size_of_image(keys: dict[str, Any], folder: Path, where: str) -> dict[str, int]:
    """The size of the frame's image as the keys `w` and `h`; none if there is no image to tell it."""
    from mvgenvs.data.images import size_of  # here, since few files need it

    missing = next(key for key in ("w", "h") if key not in keys)
    file_path = keys.get("file_path")
    if not isinstance(file_path, str) or not (image := image_file(folder, file_path, where)).is_file():
        raise UserError(f"{where}: the key '{missing}' is missing.")
    height, width = size_of(image)
    return {"w": width, "h": height}


def image_file(folder: Path, file_path: str, where: str) -> Path:
    """The file below `folder` that a `file_path` names, with or without its suffix. Raises `UserError` if outside."""
    path = below(folder, file_path, where)
    if path.is_file():
        return path
    found = (path.with_name(path.name + suffix) for suffix in IMAGE_SUFFIXES)
    return next((candidate for candidate in found if path.name and candidate.is_file()), path)


def _frame(keys: dict[str, Any], straight: Rectification | None, where: str) -> Frame:
    paths = {key: keys.get(key) or "" for key in ("file_path", "mask_path", "depth_file_path", "depth_path")}
    for key, value in paths.items():
        if not isinstance(value, str) or "\0" in value:
            raise UserError(f"{where}: '{key}' must be the name of a file.")
    unit = keys.get("depth_unit_scale_factor", keys.get("integer_depth_scale", DEPTH_UNIT))
    depth_path = paths["depth_file_path"] or paths["depth_path"]
    return Frame(paths["file_path"], paths["mask_path"], depth_path, float(unit), straight)


def _splits(
    content: dict[str, Any], file_paths: Sequence[str], path: str | os.PathLike[str]
) -> dict[str, tuple[int, ...]]:
    """The positions of the frames of each split that the file lists. Raises `UserError` if they cannot be so."""
    known = [os.path.normpath(name) for name in file_paths]
    splits = {}
    for split, key in SPLIT_LISTS.items():
        if key not in content:
            continue
        names = content[key]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"camera file {path}: '{key}' must be a list of the frames' 'file_path's.")
        wanted = {os.path.normpath(name): name for name in names}
        if strays := wanted.keys() - set(known):
            stray = wanted[min(strays)]
            raise UserError(f"camera file {path}: '{key}' names {stray!r}, which is the 'file_path' of no frame.")
        splits[split] = tuple(index for index, name in enumerate(known) if name in wanted)
    check_disjoint(splits, file_paths, f"camera file {path}")
    return splits


def check_disjoint(splits: Mapping[str, Sequence[int]], file_paths: Sequence[str], where: str) -> None:
    """Raises `UserError` if a frame of train is in val or test, too."""
    for split in ("val", "test"):
        if shared := set(splits.get("train", ())) & set(splits.get(split, ())):
            raise UserError(f"{where}: {file_paths[min(shared)]!r} is in train and in {split}: take it out of one.")


def _is_number(value: Any, low: int | float, high: int | float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
