"""Folders of posed images, as programs leave them: which objects they hold, and the views of each.

An object's folder holds one of

    transforms.json                        nerfstudio's; frames name image and, if they like, depth map
    cameras.json                           the same form, as infer_multiview.py writes it
    sparse/0/, sparse/ or the folder       a COLMAP model; images in images/ or in the folder
    rgb/, pose/, intrinsics.txt            the layout of SRN and OpenCars; mask/ and depth/ are read, too
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mvgenvs.cameras import Cameras
from mvgenvs.colmap import is_model, read_colmap
from mvgenvs.data.frames import check_all_or_none, in_one_unit, read_frames
from mvgenvs.data.images import resized, resized_depth
from mvgenvs.data.srn import describe_object, read_object, read_object_cameras
from mvgenvs.data.stored import SceneObject, StoredViews, store
from mvgenvs.errors import UserError
from mvgenvs.transforms import Frame, read_posed_frames

CAMERA_FILES = ("transforms.json", "cameras.json")
OURS = "cameras.json"  # its world is the model's
MODEL_FOLDERS = ("sparse/0", "sparse", ".")
WANTED = "transforms.json, cameras.json, a COLMAP model in sparse/0, or rgb/, pose/ and intrinsics.txt"


@dataclass(frozen=True, eq=False)
class PosedFolder(ABC):
    """One object: its cameras, known at once, and its images, read when they are asked for."""

    names: Sequence[str]  # of the views, in their order in the sequence
    ids: Sequence[int]  # their numbers
    cameras: Cameras
    in_model_world: bool  # the object is known to be at the origin, with a diagonal of 1

    @abstractmethod
    def read(self, positions: Sequence[int], hw: tuple[int, int]) -> StoredViews:
        """The views at some positions, scaled to `hw`. Raises `UserError` if an image is missing or damaged."""


@dataclass(frozen=True, eq=False)
class FrameFolder(PosedFolder):
    """Images that a file names one by one."""

    folder: Path  # to which the names are relative
    cameras_from: str  # the name of the file that says so
    frames: Sequence[Frame]

    def read(self, positions: Sequence[int], hw: tuple[int, int]) -> StoredViews:
        frames, images, masks, depths = [self.frames[i] for i in positions], [], [], []
        for image, alpha, depth in read_frames(self.folder, self.cameras_from, frames, self.cameras.hw):
            images.append(resized(image, hw))
            masks += [] if alpha is None else [resized(alpha, hw)]
            depths += [] if depth is None else [resized_depth(depth, hw)]
        check_all_or_none(self.folder, len(images), masks, depths)
        maps, unit = in_one_unit(depths, [frame.depth_unit for frame in frames] if depths else [])
        cameras = self.cameras.select(positions).resized(hw)
        return store(images, cameras, masks or None, maps or None, unit)


@dataclass(frozen=True, eq=False)
class SRNFolder(PosedFolder):
    """An object in the layout of SRN and OpenCars."""

    item: SceneObject

    def read(self, positions: Sequence[int], hw: tuple[int, int]) -> StoredViews:
        chosen = tuple(self.item.view_ids[i] for i in positions)
        return read_object(replace(self.item, view_ids=chosen), hw[0])  # square, as the layout demands


def object_folders(root: Path, flag: str) -> dict[str, Path]:
    """The folders of the objects in `root`, by name: `root` itself, or those directly below it.

    `flag` is what the user calls it, for messages. Raises `UserError` if there are none.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root} for {flag}")
    if _has_cameras(root):
        return {root.resolve().name: root}
    found = {path.name: path for path in sorted(root.iterdir()) if path.is_dir() and _has_cameras(path)}
    if not found:
        raise UserError(f"found no cameras in {root}: {flag} and its folders need one of {WANTED}")
    return found


def open_folder(folder: Path) -> PosedFolder:
    """Reads the cameras of an object's folder. Raises `UserError` if they are missing or malformed."""
    for name in CAMERA_FILES:
        if (path := folder / name).is_file():
            found = read_posed_frames(path)
            names = [frame.file_path for frame in found.frames]
            return FrameFolder(names, range(len(names)), found.cameras, name == OURS, folder, name, found.frames)
    if _is_srn(folder):
        item = describe_object(folder)
        names = [f"{view_id:06d}" for view_id in item.view_ids]
        return SRNFolder(names, item.view_ids, read_object_cameras(item), True, item)
    for place in MODEL_FOLDERS:
        if is_model(folder / place):
            names, cameras = read_colmap(folder / place)
            frames = [Frame(name) for name in names]
            images = folder / "images" if (folder / "images").is_dir() else folder
            return FrameFolder(names, range(len(names)), cameras, False, images, "the COLMAP model", frames)
    raise UserError(f"found no cameras in {folder}: it needs one of {WANTED}")


def _has_cameras(folder: Path) -> bool:
    listed = any((folder / name).is_file() for name in CAMERA_FILES)
    return listed or _is_srn(folder) or any(is_model(folder / place) for place in MODEL_FOLDERS)


def _is_srn(folder: Path) -> bool:
    return (folder / "rgb").is_dir() and (folder / "pose").is_dir() and (folder / "intrinsics.txt").is_file()
