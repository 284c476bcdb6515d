"""Reader of the SRN layout as pixelNeRF ships it: ShapeNet-SRN cars and chairs, and OpenCars.

    ROOT/<category>_<split>/<object>/{intrinsics.txt, rgb/NNNNNN.png|webp, pose/NNNNNN.txt}
    ROOT/meta.json        optional: [{"id": …, "family": …}, …], see `SRNObject.family`

`pose` holds an OpenCV camera-to-world matrix, 16 numbers; `intrinsics.txt` holds "f cx cy 0.", two lines that are not
used here (grid centre, scale), and the height and width of the images.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError
from mvgenvs.views import ViewSet

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".png", ".webp")


@dataclass(frozen=True)
class SRNObject:
    """One object of a split: where its views lie."""

    name: str
    family: str  # objects of one shape in other paint share a family; without a meta.json each object is its own
    folder: Path
    view_ids: tuple[int, ...]  # the numbers in the file names, ascending


class SRNScenes:
    """The objects of one split. Views are decoded once, when first asked for, and kept as 8-bit images."""

    def __init__(self, root: Path, split: str, size: int = 128, white_background: bool = True) -> None:
        """Lists the objects under `root`; images come back as `size` x `size` pixels.

        `white_background` takes pure white for background and all else for the object's mask, which holds for
        renderings without a stored mask.

        Raises `UserError` where there is no such folder, split, or object.
        """
        if split not in SPLITS:
            raise UserError(f"there is no split '{split}': choose one of {', '.join(SPLITS)}")
        folders = sorted(Path(root).glob(f"*_{split}"))
        if not folders:
            raise UserError(f"found no folder '*_{split}' (such as cars_{split}) in {root}: is this the SRN layout?")
        families = _families(Path(root))
        self.size, self.white_background = size, white_background
        self.objects = [
            SRNObject(folder.name, families.get(folder.name, folder.name), folder, _view_ids(folder))
            for split_folder in folders
            for folder in sorted(split_folder.iterdir())
            if (folder / "rgb").is_dir()
        ]
        if not self.objects:
            raise UserError(f"found no objects with an rgb/ folder in {folders[0]}")
        self._images: dict[int, UInt8[Tensor, "view 3 h w"]] = {}
        self._cameras: dict[int, Cameras] = {}

    def __len__(self) -> int:
        return len(self.objects)

    def load(self, index: int, view_positions: Sequence[int] | None = None) -> ViewSet:
        """Views of one object by their positions in `view_ids`; all of them by default."""
        if index not in self._images:
            self._read(index)
        views = list(view_positions) if view_positions is not None else list(range(len(self.objects[index].view_ids)))
        images = self._images[index][views]
        mask = (images < 255).any(dim=1, keepdim=True).float() if self.white_background else None
        return ViewSet(images.float() / 255, self._cameras[index].select(views), mask)

    def _read(self, index: int) -> None:
        item = self.objects[index]
        images, poses = [], []
        if not item.view_ids:
            raise UserError(f"found no images in {item.folder / 'rgb'}")
        for view_id in item.view_ids:
            images.append(_read_image(item.folder / "rgb", view_id, self.size))
            poses.append(_numbers(item.folder / "pose" / f"{view_id:06d}.txt", 16).reshape(4, 4))
        focal, cx, cy, *_, height, width = _numbers(item.folder / "intrinsics.txt", 10)
        K = torch.tensor([[focal, 0, cx], [0, focal, cy], [0, 0, 1]], dtype=torch.float32)
        c2w = torch.from_numpy(np.stack(poses)).float()
        cameras = Cameras(c2w, K.repeat(len(poses), 1, 1), (int(height), int(width)))
        self._images[index] = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        self._cameras[index] = cameras.resized((self.size, self.size))


def _families(root: Path) -> dict[str, str]:
    path = root / "meta.json"
    if not path.exists():
        return {}
    try:
        return {entry["id"]: entry["family"] for entry in json.loads(path.read_text())}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a list of objects with 'id' and 'family'") from error


def _view_ids(folder: Path) -> tuple[int, ...]:
    files = (folder / "rgb").iterdir()
    return tuple(sorted(int(f.stem) for f in files if f.suffix in IMAGE_SUFFIXES and f.stem.isdigit()))


def _read_image(folder: Path, view_id: int, size: int) -> UInt8[np.ndarray, "h w 3"]:
    path = next((p for s in IMAGE_SUFFIXES if (p := folder / f"{view_id:06d}{s}").exists()), None)
    image = None if path is None else cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UserError(f"cannot read view {view_id:06d} in {folder}")
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if image.shape[0] != image.shape[1]:
        raise UserError(f"view {view_id:06d} in {folder} is not square")
    if image.shape[-1] == 4:  # ShapeNet-SRN's renderings carry an alpha channel
        alpha = image[..., 3:].astype(np.float32) / 255
        image = np.round(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    if image.shape[0] != size:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _numbers(path: Path, at_least: int) -> Float[np.ndarray, " n"]:
    try:
        values = np.array([float(word) for word in path.read_text().split()])
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read numbers from {path}") from error
    if len(values) < at_least:
        raise UserError(f"{path} holds {len(values)} numbers where at least {at_least} are needed")
    return values
