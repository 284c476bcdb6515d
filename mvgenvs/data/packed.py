"""The packed form of a data set: one memory-mapped file per split, which opens at once and loads without decoding.

    ROOT/<split>.safetensors    images, masks, depths and cameras of all views; the objects in the header

`python -m mvgenvs.data.pack` writes it. Its views equal those of the original data set bit for bit.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.data.stored import SPLITS, CachedScenes, SceneObject, StoredViews, sound_records
from mvgenvs.errors import UserError

FORMAT = "mvgenvs views 1"
HEADER = "mvgenvs"  # the only key of the file's metadata: with several, their order would differ from run to run
TYPES = {"c2w": "float32", "K": "float32", "depth": "uint16", "images": "uint8", "mask": "uint8"}
ARRAYS = ("c2w", "K", "depth", "images", "mask")  # in the file's order, widest numbers first, for alignment


def shapes(size: int) -> dict[str, tuple[int, ...]]:
    """The shape of a view in each array."""
    return {"c2w": (4, 4), "K": (3, 3), "images": (3, size, size), "mask": (1, size, size), "depth": (1, size, size)}


def packed_file(root: Path, split: str) -> Path:
    return root / f"{split}.safetensors"


def is_packed(path: Path) -> bool:
    """Whether there is such a file, and it is a packed data set."""
    try:
        return path.exists() and bool(_read_header(path))
    except UserError:
        return False


class PackedScenes(CachedScenes):
    """The objects of one packed split."""

    def __init__(self, root: Path, split: str, size: int = 128, category: str = "") -> None:
        """Raises `UserError` if the file is damaged, was packed at another size, or lacks the category."""
        super().__init__()
        path = packed_file(Path(root), split)
        header = _read_header(path)
        if header["size"] != size:
            raise UserError(
                f"{path} was packed at {header['size']} pixels, not {size}: pack the data again with --size {size}"
            )
        categories = sorted({entry["category"] for entry in header["objects"]})
        if category and category not in categories:
            raise UserError(f"{path} has no category '{category}': choose one of {', '.join(categories)}")
        self._header = header
        self._entries = _with_offsets(header["objects"])
        if category:
            self._entries = [entry for entry in self._entries if entry["category"] == category]
        self.objects = [
            SceneObject(e["name"], e["family"], path, tuple(e["view_ids"]), e["category"], e["about"])
            for e in self._entries
        ]
        try:
            with safe_open(path, framework="pt") as file:
                self._arrays = {name: file.get_tensor(name) for name in header["arrays"]}  # mapped, not read
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} is damaged: pack the data again") from error
        _check_arrays(path, self._arrays, header["objects"], size)

    def read(self, index: int) -> StoredViews:
        entry = self._entries[index]
        count, size = len(entry["view_ids"]), self._header["size"]

        def part(name: str) -> Any:
            start = entry["start"][name]
            return None if start is None else self._arrays[name][start : start + count]

        cameras = Cameras(part("c2w"), part("K"), (size, size))
        return StoredViews(part("images"), cameras, part("mask"), part("depth"), entry["depth_unit"])


def splits_in(root: Path) -> list[str]:
    """The packed splits in a folder."""
    return [split for split in SPLITS if packed_file(root, split).exists()]


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: pack the data again") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"{path} is not of the form '{FORMAT}': pack the data again")
    sound = isinstance(header.get("size"), int) and _are_arrays(header.get("arrays"))
    sound = sound and sound_records(header.get("objects"))
    if not sound or not all(_are_arrays(entry.get("arrays")) for entry in header["objects"]):
        raise UserError(f"{path} lacks the records of its objects: pack the data again")
    return header


def _are_arrays(names: Any) -> bool:
    return isinstance(names, list) and all(name in ARRAYS for name in names) and {"c2w", "K", "images"} <= set(names)


def _check_arrays(path: Path, arrays: dict[str, Tensor], entries: list[dict[str, Any]], size: int) -> None:
    """Raises `UserError` unless each array has the rows and the shape that the header's objects need."""
    for name in {name for entry in entries for name in entry["arrays"]}:
        rows = sum(len(entry["view_ids"]) for entry in entries if name in entry["arrays"])
        if name not in arrays or tuple(arrays[name].shape) != (rows, *shapes(size)[name]):
            raise UserError(f"{path} lacks a part of its '{name}': pack the data again")
        if str(arrays[name].dtype) != f"torch.{TYPES[name]}":
            raise UserError(f"{path} holds '{name}' of another type, {arrays[name].dtype}: pack the data again")


def _with_offsets(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds to each object where its views start in each array; None for arrays that have nothing of it."""
    starts = dict.fromkeys(ARRAYS, 0)
    placed = []
    for entry in entries:
        start = {name: starts[name] if name in entry["arrays"] else None for name in ARRAYS}
        placed.append({**entry, "start": start})
        for name in entry["arrays"]:
            starts[name] += len(entry["view_ids"])
    return placed
