"""Reader of the SRN layout as pixelNeRF ships it: ShapeNet-SRN cars and chairs, and OpenCars.

    ROOT/<category>_<split>/<object>/{intrinsics.txt, rgb/NNNNNN.png|webp, pose/NNNNNN.txt}
    ROOT/meta.json        optional: [{"id": …, "family": …}, …], see `SceneObject.family`

`pose` holds an OpenCV camera-to-world matrix, 16 numbers; `intrinsics.txt` holds "f cx cy 0.", two lines that are not
used here (grid centre, scale), and the height and width of the images. The objects may be one folder deeper, as in
SRN's chairs_train/chairs_2.0_train. OpenCars adds to each object, and any other data set may add,

    metadata.json         {"id": …, "family": …, "licence": …, …}; takes precedence over meta.json
    mask/NNNNNN.png       8 bits: the object's share of each pixel
    depth/NNNNNN.png      16 bits: z-depth at the pixel's centre times 20000, 0 on the background
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.data.images import read_colour, read_depth, read_mask, resized, resized_depth
from mvgenvs.data.stored import SPLITS, CachedScenes, SceneObject, StoredViews, store
from mvgenvs.errors import UserError
from mvgenvs.transforms import FARTHEST, RANGES, is_rigid

IMAGE_SUFFIXES = (".png", ".webp")
DEPTH_SCALE = 20000  # steps of a depth map in one world unit


class SRNScenes(CachedScenes):
    """The objects of one split, in the order of their folders."""

    def __init__(self, root: Path, split: str, size: int = 128, category: str = "") -> None:
        """Lists the objects under `root`; images come back as `size` x `size` pixels.

        For an object without mask/, everything that is not pure white is the mask, which is right for renderings.
        `category` reads only <category>_<split>; all categories by default.

        Raises `UserError` if there is no such folder, split, category, or object.
        """
        super().__init__()
        if split not in SPLITS:
            raise UserError(f"there is no split '{split}': choose one of {', '.join(SPLITS)}")
        folders = _split_folders(Path(root), split)
        if not folders:
            raise UserError(f"found no folder '*_{split}' (such as cars_{split}) in {root}: is this the SRN layout?")
        categories = [folder.name.removesuffix(f"_{split}") for folder in folders]
        if category and category not in categories:
            raise UserError(f"there is no folder {category}_{split} in {root}: choose one of {', '.join(categories)}")
        index = _read_index(Path(root))
        self.size = size
        self.objects = [
            _describe(folder, kind, index)
            for split_folder, kind in zip(folders, categories, strict=True)
            if category in ("", kind)
            for folder in _object_folders(split_folder)
        ]
        if not self.objects:
            raise UserError(f"found no objects with an rgb/ folder in {folders[0]}")

    def read(self, index: int) -> StoredViews:
        return read_object(self.objects[index], self.size)


def read_object(item: SceneObject, size: int) -> StoredViews:
    """Decodes the views `item.view_ids` of one object; raises `UserError` if a file is missing or damaged."""
    has_mask, has_depth = (item.folder / "mask").is_dir(), (item.folder / "depth").is_dir()
    cameras = read_object_cameras(item).resized((size, size))
    images, masks, depths = [], [], []
    for view_id in item.view_ids:
        image = _read_image(item.folder / "rgb", view_id)
        images.append(resized(image, size))
        hw = image.shape[:2]
        if has_mask:
            masks.append(resized(read_mask(item.folder / "mask" / f"{view_id:06d}.png", hw), size))
        else:
            masks.append(_not_white(images[-1]))
        if has_depth:
            depths.append(resized_depth(read_depth(item.folder / "depth" / f"{view_id:06d}.png", hw), size))
    return store(images, cameras, masks, depths or None, 1 / DEPTH_SCALE)


def read_object_cameras(item: SceneObject) -> Cameras:
    """The cameras of the views `item.view_ids`, for images of the size that intrinsics.txt says."""
    if not item.view_ids:
        raise UserError(f"found no images in {item.folder / 'rgb'}")
    poses = [_pose(item.folder / "pose" / f"{view_id:06d}.txt") for view_id in item.view_ids]
    K, hw = _intrinsics(item.folder)
    return Cameras(torch.stack(poses), K.repeat(len(poses), 1, 1), hw)


def describe_object(folder: Path) -> SceneObject:
    """The object in a folder of this layout, without its data set's record."""
    return SceneObject(folder.name, folder.name, folder, _view_ids(folder))


def splits_in(root: Path) -> list[str]:
    """The splits in a folder of this layout; none if it has another layout."""
    return [split for split in SPLITS if _split_folders(root, split)]


def _split_folders(root: Path, split: str) -> list[Path]:
    return sorted(folder for folder in root.glob(f"*_{split}") if folder.is_dir())


def _object_folders(split_folder: Path) -> list[Path]:
    """Folders of objects, or those one level deeper."""
    for pattern in ("*", "*/*"):
        if found := sorted(folder for folder in split_folder.glob(pattern) if (folder / "rgb").is_dir()):
            return found
    return []


def _describe(folder: Path, category: str, index: dict[str, dict[str, Any]]) -> SceneObject:
    about = index.get(folder.name, {})
    path = folder / "metadata.json"
    if path.exists():
        about = _read_json(path)
        if not isinstance(about, dict) or not isinstance(about.get("family"), str):
            raise UserError(f"{path} is not the record of an object with a 'family'")
        if not isinstance(about.get("front", True), bool):
            raise UserError(f"'front' in {path} must be true or false, or left out")
    return SceneObject(folder.name, about.get("family", folder.name), folder, _view_ids(folder), category, about)


def _read_index(root: Path) -> dict[str, dict[str, Any]]:
    """The entries of meta.json by object."""
    path = root / "meta.json"
    if not path.exists():
        return {}
    entries = _read_json(path)
    records = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    if not records or not all(isinstance(entry.get(key), str) for entry in entries for key in ("id", "family")):
        raise UserError(f"{path} is not a list of objects with 'id' and 'family'")
    return {entry["id"]: entry for entry in entries}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON") from error


def _view_ids(folder: Path) -> tuple[int, ...]:
    files = (folder / "rgb").iterdir()
    return tuple(sorted(int(f.stem) for f in files if f.suffix in IMAGE_SUFFIXES and f.stem.isdecimal()))


def _read_image(folder: Path, view_id: int) -> UInt8[np.ndarray, "h w 3"]:
    path = next((p for s in IMAGE_SUFFIXES if (p := folder / f"{view_id:06d}{s}").exists()), None)
    if path is None:
        raise UserError(f"there is no view {view_id:06d} in {folder}: names have six digits")
    image, _ = read_colour(path)
    if image.shape[0] != image.shape[1]:
        raise UserError(f"{path} is not square")
    return image


def _not_white(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return np.where(red & green & blue < 255, np.uint8(255), np.uint8(0))  # all bits set in all three: white


def _intrinsics(folder: Path) -> tuple[Float[Tensor, "3 3"], tuple[int, int]]:
    path = folder / "intrinsics.txt"
    focal, cx, cy, *_, height, width = _numbers(path, 10)
    for name, value in {"fl_x": focal, "cx": cx, "cy": cy, "w": width, "h": height}.items():
        low, high = RANGES[name]
        if not low <= value <= high or (name in "wh" and value != int(value)):
            raise UserError(f"{path} holds {value} where '{name}', from {low} to {high}, belongs")
    return torch.tensor([[focal, 0, cx], [0, focal, cy], [0, 0, 1]], dtype=torch.float32), (int(height), int(width))


def _pose(path: Path) -> Float[Tensor, "4 4"]:
    values = _numbers(path, 16)
    pose = torch.from_numpy(values[:16]).float().reshape(4, 4)
    if len(values) > 16 or not is_rigid(pose):
        raise UserError(f"{path} must hold 16 numbers, a rotation and a translation above a row 0 0 0 1")
    return pose


def _numbers(path: Path, at_least: int) -> Float[np.ndarray, " n"]:
    try:
        values = np.array([float(word) for word in path.read_text().split()])
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read numbers from {path}") from error
    if len(values) < at_least:
        raise UserError(f"{path} holds {len(values)} numbers where at least {at_least} are needed")
    if not (np.abs(values) <= FARTHEST).all():
        raise UserError(f"{path} holds a number that is not finite, or beyond {FARTHEST:.0e}")
    return values
