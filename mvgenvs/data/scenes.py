"""The data sets of the project, whatever their format on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from mvgenvs.cameras import Cameras
from mvgenvs.data import captures, packed, srn, streamed
from mvgenvs.data.stored import SPLITS, CachedScenes, SceneObject
from mvgenvs.errors import UserError
from mvgenvs.views import ViewSet


@runtime_checkable
class ObjectDataset(Protocol):
    """The objects of one split, and their views at one size: what training and evaluation need of a data set."""

    objects: Sequence[SceneObject]

    def load(self, index: int, view_positions: Sequence[int] | None = None) -> ViewSet:
        """Views of one object by their positions in its `view_ids`; all of them by default."""
        ...

    def cameras(self, index: int) -> Cameras:
        """The cameras of all views of one object."""
        ...

    def __len__(self) -> int: ...


def open_scenes(root: Path, split: str, size: int = 128, category: str = "", fit_captures: bool = True) -> CachedScenes:
    """Opens the data set in a folder: packed files, shards, the SRN layout (including OpenCars), or posed captures.

    `category` selects one of several (cars, chairs); `fit_captures` is that of `CaptureScenes`. Raises `UserError` if
    there is no data set in the folder, or it lacks this split.
    """
    root = Path(root)
    if split not in SPLITS:
        raise UserError(f"there is no split '{split}': choose one of {', '.join(SPLITS)}")
    present = splits_in(root)
    if split not in present:
        raise UserError(f"{root} has no split '{split}', it has {', '.join(present)}")
    if packed.splits_in(root):
        return packed.PackedScenes(root, split, size, category)
    if streamed.splits_in(root):
        return streamed.ShardScenes(root, split, size, category)
    if srn.splits_in(root):
        return srn.SRNScenes(root, split, size, category=category)
    if category:
        raise UserError(f"the captures in {root} have no categories: leave out '{category}'")
    return captures.CaptureScenes(root, split, size, fit_captures)


def splits_in(root: Path) -> list[str]:
    """The splits of the data set in a folder; raises `UserError` if there is none."""
    if not root.is_dir():
        raise UserError(f"there is no folder {root}")
    found = packed.splits_in(root) or streamed.splits_in(root) or srn.splits_in(root) or captures.splits_in(root)
    if not found:
        raise UserError(
            f"found no data set in {root}: it needs folders such as cars_train, packed files such as train.safetensors,"
            f" or captures with a transforms.json"
        )
    return found
