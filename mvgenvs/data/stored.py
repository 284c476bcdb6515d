"""What all readers share: a description of each object, and its views as kept in memory, in 8 and 16 bits."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8, UInt16
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.views import ViewSet

SPLITS = ("train", "val", "test", "val2", "test2")  # the second pair: families of a source that was added later


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One object of a split: its name, its views, and its folder."""

    name: str
    family: str  # objects of one shape in different paint share a family; by default, an object is its own family
    folder: Path  # for messages; of a packed object, its file
    view_ids: tuple[int, ...]  # the numbers of its views in the data set, ascending
    category: str = ""  # "cars", "chairs"; empty for captures
    about: Mapping[str, Any] = field(default_factory=dict)  # the data set's own record: licence, attribution, source…
    source: int = 0  # index of its data set in a mixture

    @property
    def has_front(self) -> bool:
        """Whether its front is known and faces -z: true unless the data set's record says `"front": false`."""
        return self.about.get("front", True) is not False


@dataclass(frozen=True, eq=False, slots=True)
class StoredViews:
    """All views of one object, decoded."""

    images: UInt8[Tensor, "view 3 h w"]  # on white
    cameras: Cameras
    mask: UInt8[Tensor, "view 1 h w"] | None = None  # the object's share of the pixel: 0 none, 255 all
    depth: UInt16[Tensor, "view 1 h w"] | None = None  # z-depth in steps of `depth_unit`, 0 on the background
    depth_unit: float = 1.0  # world units

    @property
    def num_bytes(self) -> int:
        tensors = (self.images, self.mask, self.depth)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)

    def view_set(self, positions: Sequence[int] | None = None) -> ViewSet:
        """The views at some positions, by default all, as floats."""
        index = torch.arange(len(self.images))
        if positions is not None:
            index = index[list(positions)]
        # index_select and division in place: several times faster than images[index] / 255, and equal to the bit
        images = self.images.index_select(0, index).float().div_(255)
        mask = None if self.mask is None else self.mask.index_select(0, index).float().div_(255)
        depth = None if self.depth is None else self.depth.index_select(0, index).float().mul_(self.depth_unit)
        cameras = Cameras(self.cameras.c2w[index], self.cameras.K[index], self.cameras.hw)
        return ViewSet(images, cameras, mask, depth)


def store(
    images: Sequence[UInt8[np.ndarray, "h w 3"]],
    cameras: Cameras,
    masks: Sequence[UInt8[np.ndarray, "h w"]] | None,
    depths: Sequence[UInt16[np.ndarray, "h w"]] | None,
    depth_unit: float = 1.0,
) -> StoredViews:
    """Stacks decoded views. Where a mask says "background", depth is set to 0, too.

    (A mask may miss a sliver that the ray through the pixel's centre hits, and downscaling rounds it away.)
    """
    mask = None if masks is None else torch.from_numpy(np.stack(masks))[:, None]
    depth = None if depths is None else np.stack(depths)[:, None]
    if depth is not None and mask is not None:
        depth = np.where(mask.numpy() == 0, np.uint16(0), depth)
    return StoredViews(
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        cameras,
        mask,
        None if depth is None else torch.from_numpy(depth),
        depth_unit,
    )


RECORD = {"name": str, "family": str, "category": str, "view_ids": list, "depth_unit": int | float, "about": dict}


def sound_records(records: Any) -> bool:
    """Whether these are the records of at least one object that the packed forms hold, each with at least one view."""
    return (
        isinstance(records, list)
        and bool(records)
        and all(
            isinstance(record, dict)
            and all(isinstance(record.get(key), kind) for key, kind in RECORD.items())
            and record["view_ids"]
            and all(isinstance(view, int) for view in record["view_ids"])
            and 0 < record["depth_unit"] < 1e9
            for record in records
        )
    )


CACHE = 4 * 10**9  # bytes of decoded views to keep: some 800 objects of 50 views of 128 pixels


class CachedScenes(ABC):
    """The objects of one split. Each is decoded when it is first needed, and kept while there is room for it."""

    objects: Sequence[SceneObject]

    def __init__(self) -> None:
        self._stored: dict[int, StoredViews] = {}  # the oldest first
        self._held = 0  # of them

    @abstractmethod
    def read(self, index: int) -> StoredViews:
        """Decodes one object; raises `UserError` if one of its files is missing or damaged."""

    def load(self, index: int, view_positions: Sequence[int] | None = None) -> ViewSet:
        """Views of one object by their positions in `view_ids`; all of them by default."""
        return self._kept_views(index).view_set(view_positions)

    def cameras(self, index: int) -> Cameras:
        """The cameras of all views of one object."""
        return self._kept_views(index).cameras

    def _kept_views(self, index: int) -> StoredViews:
        stored = self._stored.get(index)
        if stored is None:
            stored = self._stored[index] = self.read(index)
            self._held += stored.num_bytes
            while self._held > CACHE and len(self._stored) > 1:
                self._held -= self._stored.pop(next(iter(self._stored))).num_bytes
        return stored

    def __len__(self) -> int:
        return len(self.objects)
