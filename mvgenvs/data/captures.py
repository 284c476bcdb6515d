"""Reader of posed captures in nerfstudio's `transforms.json` format: photographs or renderings with any cameras.

    ROOT/transforms.json                              one object
    ROOT/<object>/transforms.json                     several
    ROOT/{train,val,test}/<object>/transforms.json    several, in splits

Without folders for splits, every object belongs to every split, with all its views: enough to fit a few objects and
look at them, but numbers on "test" are then numbers on training data. Each frame names its image (`file_path`, relative
to the folder) and, if there is one, a 16-bit depth map (`depth_file_path`: z-depth in steps of
`depth_unit_scale_factor` world units, which the file may set and is otherwise 0.001; 0 where unknown). An image's alpha
becomes the mask, and the image is composited on white. An image that is not square is cropped to its middle square, and
`K` adjusted.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8, UInt16
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.data.images import read_colour, read_depth, resized, resized_depth
from mvgenvs.data.stored import SPLITS, CachedScenes, SceneObject, StoredViews, store
from mvgenvs.errors import UserError
from mvgenvs.transforms import read_transforms

CAMERA_FILE = "transforms.json"
DEPTH_UNIT = 0.001  # nerfstudio's default: millimetres in a world in metres
RADIUS = 1.3  # distance of the cameras in the model's world
MIN_SPREAD = 1e-4  # least eigenvalue of the viewing directions' spread: that of two cameras 1.1 degrees apart

Frame = tuple[
    UInt8[np.ndarray, "h w 3"],
    UInt8[np.ndarray, "h w"] | None,
    UInt16[np.ndarray, "h w"] | None,
]  # on white, alpha, depth


class CaptureScenes(CachedScenes):
    """The captured objects of one split, in the order of their folders."""

    def __init__(self, root: Path, split: str, size: int = 128, fit: bool = True) -> None:
        """Lists the captures under `root`; images come back as `size` x `size` pixels.

        `fit` moves each capture into the model's world, see `fitted`; otherwise the world is that of the file. Raises
        `UserError` if there is no capture, or its camera file is malformed.
        """
        super().__init__()
        self.size, self.fit = size, fit
        folders = _captures(Path(root) / split) if _has_splits(Path(root)) else _captures(Path(root))
        if not folders:
            raise UserError(f"found no {CAMERA_FILE} for split '{split}' in {root}")
        self._frames = [read_transforms(folder / CAMERA_FILE) for folder in folders]
        names = [folder.resolve().name for folder in folders]
        self.objects = [
            SceneObject(name, name, folder, tuple(range(cameras.num_views)))
            for name, folder, (_, cameras) in zip(names, folders, self._frames, strict=True)
        ]

    def read(self, index: int) -> StoredViews:
        folder = self.objects[index].folder
        file_paths, cameras = self._frames[index]
        depth_paths, depth_unit = depth_maps(folder / CAMERA_FILE, len(file_paths))
        images, masks, depths = [], [], []
        for image, alpha, depth in read_frames(folder, CAMERA_FILE, file_paths, depth_paths, cameras.hw):
            images.append(resized(_middle(image), self.size))
            masks += [] if alpha is None else [resized(_middle(alpha), self.size)]
            depths += [] if depth is None else [resized_depth(_middle(depth), self.size)]
        check_all_or_none(folder, len(images), masks, depths)
        cameras, scale = fitted(cameras, folder) if self.fit else (cameras, 1.0)
        cameras = cameras.middle_square().resized((self.size, self.size))
        return store(images, cameras, masks or None, depths or None, depth_unit * scale)


def read_frames(
    folder: Path, cameras_from: str, file_paths: Sequence[str], depth_paths: Sequence[str], hw: tuple[int, int]
) -> Iterator[Frame]:
    """Decodes frames at their own size, which must be `hw`, as `cameras_from` says, a file or the like.

    Raises `UserError` if a frame has no path, its path leads out of the folder, or its file is not as it should be.
    """
    for file_path, depth_path in zip(file_paths, depth_paths, strict=True):
        if not file_path:
            raise UserError(f"{folder / cameras_from}: every frame needs a 'file_path', the name of its image")
        for path in (file_path, depth_path):
            if Path(path).is_absolute() or Path(os.path.normpath(path)).parts[:1] == (os.pardir,):
                raise UserError(f"{folder / cameras_from}: '{path}' leads out of the folder: put it below {folder}")
        image, alpha = read_colour(folder / file_path)
        if image.shape[:2] != hw:
            theirs, ours = (f"{size[1]}x{size[0]}" for size in (image.shape[:2], hw))
            raise UserError(f"{folder / file_path} has {theirs} pixels, but {cameras_from} says {ours}")
        yield image, alpha, read_depth(folder / depth_path, hw) if depth_path else None


def check_all_or_none(folder: Path, count: int, masks: Sequence[np.ndarray], depths: Sequence[np.ndarray]) -> None:
    """Raises `UserError` if only some of the `count` frames have a mask, or a depth map."""
    for kind, found in (("an alpha channel", masks), ("a depth map", depths)):
        if len(found) not in (0, count):
            raise UserError(f"only {len(found)} of the {count} frames of {folder} have {kind}: all or none")


def splits_in(root: Path) -> list[str]:
    """The splits of the captures in a folder; none if there are no captures."""
    if _has_splits(root):
        return [split for split in SPLITS if _captures(root / split)]
    return ["train", "val", "test"] if _captures(root) else []


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
    return any(_captures(root / split) for split in SPLITS)


def _captures(folder: Path) -> list[Path]:
    if (folder / CAMERA_FILE).exists():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{CAMERA_FILE}"))


def _middle(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def depth_maps(path: Path, count: int) -> tuple[list[str], float]:
    """Each frame's depth map, empty if there is none, and their unit; the file is known to be well-formed."""
    content = json.loads(path.read_text(encoding="utf-8"))
    unit = content.get("depth_unit_scale_factor", DEPTH_UNIT)
    if not isinstance(unit, int | float) or not 0 < unit < 1e9:
        raise UserError(f"{path}: 'depth_unit_scale_factor' must be a number greater than 0")
    frames = content.get("frames", [content] * count)
    return [str(frame.get("depth_file_path") or "") for frame in frames], float(unit)
