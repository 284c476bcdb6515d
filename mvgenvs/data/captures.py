"""Reader of posed captures in nerfstudio's `transforms.json` format: photographs or renderings with any cameras.

    ROOT/transforms.json                              one object
    ROOT/<object>/transforms.json                     several
    ROOT/{train,val,test}/<object>/transforms.json    several, in splits

An object's own views are split by the lists `train_filenames`, `val_filenames` and `test_filenames` of its file, as in
nerfstudio, or by having transforms_train.json, transforms_val.json and transforms_test.json in place of one file, as in
Blender's data sets. Without any of these, every object belongs to every split, with all its views: enough to fit a few
objects and look at them, but numbers on "test" are then numbers on training data.

Each frame names its image (`file_path`, relative to the folder) and, if there are any, a mask (`mask_path`) and a depth
map (`depth_file_path` or `depth_path`: 16 bits or .npy, z-depth in steps of `depth_unit_scale_factor` or
`integer_depth_scale` world units, which the file may set and is otherwise 0.001; 0 where unknown). An image's alpha
becomes the mask, and the image is composited on white. Images of distorting lenses are straightened. An image that is
not square is cropped to its middle square, and `K` adjusted.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras, concatenate
from mvgenvs.data.frames import check_all_or_none, in_one_unit, read_frames
from mvgenvs.data.images import resized, resized_depth
from mvgenvs.data.stored import SPLITS, CachedScenes, SceneObject, StoredViews, store
from mvgenvs.errors import UserError
from mvgenvs.transforms import Frame, check_disjoint, read_posed_frames

CAMERA_FILE = "transforms.json"
SPLIT_FILES = {split: f"transforms_{split}.json" for split in ("train", "val", "test")}
RADIUS = 1.3  # distance of the cameras in the model's world
MIN_SPREAD = 1e-4  # least eigenvalue of the viewing directions' spread: that of two cameras 1.1 degrees apart


@dataclass(frozen=True, eq=False)
class Capture:
    """One object: all its frames, in order, and which of them belong to a split."""

    folder: Path
    frames: tuple[Frame, ...]
    cameras: Cameras
    splits: Mapping[str, tuple[int, ...]]  # positions; empty if all frames belong to all splits

    def positions(self, split: str) -> tuple[int, ...]:
        """The frames of a split; none if it lacks them."""
        return self.splits.get(split, ()) if self.splits else tuple(range(len(self.frames)))


class CaptureScenes(CachedScenes):
    """The captured objects of one split, in the order of their folders."""

    def __init__(self, root: Path, split: str, size: int = 128, fit: bool = True) -> None:
        """Lists the captures under `root`; images come back as `size` x `size` pixels.

        `fit` moves each capture into the model's world, see `fitted`; otherwise the world is that of the file. Raises
        `UserError` if there is no capture, or its camera file is malformed.
        """
        super().__init__()
        self.size, self.fit = size, fit
        found = [read_capture(folder) for folder in _folders(Path(root), split)]
        self._captures = [capture for capture in found if capture.positions(split)]
        if not self._captures:
            raise UserError(f"found no {CAMERA_FILE} for split '{split}' in {root}")
        names = [capture.folder.resolve().name for capture in self._captures]
        self.objects = [
            SceneObject(name, name, capture.folder, capture.positions(split))
            for name, capture in zip(names, self._captures, strict=True)
        ]

    def read(self, index: int) -> StoredViews:
        capture, positions = self._captures[index], self.objects[index].view_ids
        folder, frames = capture.folder, [capture.frames[position] for position in positions]
        images, masks, depths = [], [], []
        for image, alpha, depth in read_frames(folder, CAMERA_FILE, frames, capture.cameras.hw):
            images.append(resized(_middle(image), self.size))
            masks += [] if alpha is None else [resized(_middle(alpha), self.size)]
            depths += [] if depth is None else [resized_depth(_middle(depth), self.size)]
        check_all_or_none(folder, len(images), masks, depths)
        maps, unit = in_one_unit(depths, [frame.depth_unit for frame in frames] if depths else [])
        cameras, scale = fitted(capture.cameras, folder) if self.fit else (capture.cameras, 1.0)  # by all splits' views
        cameras = cameras.select(positions).middle_square().resized((self.size, self.size))
        return store(images, cameras, masks or None, maps or None, unit * scale)


def read_capture(folder: Path) -> Capture:
    """What the camera files in an object's folder say. Raises `UserError` if one is malformed."""
    files = {split: folder / name for split, name in SPLIT_FILES.items() if (folder / name).exists()}
    if not files:
        found = read_posed_frames(folder / CAMERA_FILE, rectify=True)
        return Capture(folder, found.frames, found.cameras, found.splits)
    each = {split: read_posed_frames(path, rectify=True) for split, path in files.items()}
    if len({found.cameras.hw for found in each.values()}) > 1:
        raise UserError(f"the camera files in {folder} have other values of 'w' and 'h', and must not")
    frames = tuple(itertools.chain(*(found.frames for found in each.values())))
    ends = list(itertools.accumulate((len(found.frames) for found in each.values()), initial=0))
    splits = {split: tuple(range(*span)) for split, span in zip(each, itertools.pairwise(ends), strict=True)}
    firsts: dict[str, int] = {}  # by their paths: a view in two files is one
    same = [firsts.setdefault(frame.file_path or str(index), index) for index, frame in enumerate(frames)]
    once = {split: [same[position] for position in positions] for split, positions in splits.items()}
    check_disjoint(once, [frame.file_path for frame in frames], str(folder))
    return Capture(folder, frames, concatenate([found.cameras for found in each.values()]), splits)


def splits_in(root: Path) -> list[str]:
    """The splits of the captures in a folder; none if there are no captures."""
    if _has_splits(root):
        return [split for split in SPLITS if _capture_folders(root / split)]
    found = [read_capture(folder) for folder in _capture_folders(root)]
    return [split for split in SPLIT_FILES if any(capture.positions(split) for capture in found)]


def fitted(cameras: Cameras, where: Path | str = "this capture") -> tuple[Cameras, float]:
    """Moves a capture into the model's world; returns the cameras and the scale, which also applies to depths.

    The point nearest to all optical axes, at which the cameras look, becomes the origin; the direction that is upright
    in the images becomes +y; the median distance of the cameras becomes `RADIUS`. The heading stays as it was: a car's
    front need not point to -z. Cameras that already fit stay as they are.

    Raises `UserError` if the cameras do not look at a common point, or all look along one line.
    """
    c2w = cameras.c2w.double()
    centers, forward = c2w[:, :3, 3], c2w[:, :3, 2]
    across = torch.eye(3, dtype=c2w.dtype) - forward[:, :, None] * forward[:, None, :]  # projects along the axis
    spread = across.mean(dim=0)
    if torch.linalg.eigvalsh(spread)[0] < MIN_SPREAD:
        raise UserError(f"the cameras of {where} look along one line, so their target is unknown: do not fit them")
    focus = torch.linalg.solve(spread, (across @ centers[:, :, None]).mean(dim=0)[:, 0])
    if ((focus - centers) * forward).sum(dim=-1).median() <= 0:
        raise UserError(f"the cameras of {where} do not look at one object from around it: do not fit them")
    scale = RADIUS / (centers - focus).norm(dim=-1).median()
    rotation = _rotation_to_y(_upright(c2w))
    moved = c2w.clone()
    moved[:, :3, :3] = rotation @ c2w[:, :3, :3]
    moved[:, :3, 3] = scale * (centers - focus) @ rotation.T
    return Cameras(moved.to(cameras.c2w.dtype), cameras.K, cameras.hw), scale.item()


def _upright(c2w: Float[Tensor, "view 4 4"]) -> Float[Tensor, "3"]:
    """The common upright direction of level cameras: at right angles to the pixel rows of all of them.

    If all look the same way, many directions are; then the mean image-up direction, with a small weight, decides.
    """
    right, up = c2w[:, :3, 0], -c2w[:, :3, 1].mean(dim=0)
    direction = torch.linalg.eigh(right.T @ right / len(right) - 1e-3 * torch.outer(up, up)).eigenvectors[:, 0]
    return direction if direction @ up >= 0 else -direction


def _rotation_to_y(direction: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """The smallest rotation that takes a unit vector to +y."""
    x, y, z = direction.tolist()
    if y < -1 + 1e-9:
        return torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=direction.dtype))
    cross = torch.tensor([[0.0, -x, 0.0], [x, 0.0, z], [0.0, -z, 0.0]], dtype=direction.dtype)  # direction x (+y)
    return torch.eye(3, dtype=direction.dtype) + cross + cross @ cross / (1 + y)


def _has_splits(root: Path) -> bool:
    return any(_capture_folders(root / split) for split in SPLITS)


def _folders(root: Path, split: str) -> list[Path]:
    """The folders of the captures in which to look for views of a split."""
    return _capture_folders(root / split) if _has_splits(root) else _capture_folders(root)


def _capture_folders(folder: Path) -> list[Path]:
    if _is_capture(folder):
        return [folder]
    return sorted(path for path in folder.glob("*") if _is_capture(path))


def _is_capture(folder: Path) -> bool:
    return any((folder / name).exists() for name in (CAMERA_FILE, *SPLIT_FILES.values()))


def _middle(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])
