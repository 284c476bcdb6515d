"""The reader of the shards that `mvgenvs.data.shards` writes: it holds a few of them in memory."""

import json
import tarfile
import zlib
from collections.abc import Collection, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvgenvs.cameras import Cameras
from mvgenvs.data.stored import SPLITS, CachedScenes, SceneObject, StoredViews, sound_records
from mvgenvs.errors import UserError
from mvgenvs.limits import leads_out
from mvgenvs.views import ViewSet

FORMAT = "mvgenvs shards 1"
KEPT = 4  # shards in memory
FIELDS = {"number": int, "shard": int, "name": str, "family": str, "category": str, "view_ids": list,
          "depth_unit": float, "about": dict}  # fmt: skip


def index_file(root: Path, split: str) -> Path:
    return root / f"{split}.shards.json"


def splits_in(root: Path) -> list[str]:
    """The splits in a folder whose shards are complete."""
    return [split for split in SPLITS if index_file(root, split).exists()]


def read_index(path: Path) -> dict[str, Any]:
    """The index of the shards. Raises `UserError` if it is damaged or incomplete."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise UserError(f"{path} is not of the form '{FORMAT}': write the shards again")
        whole = isinstance(content["size"], int) and isinstance(content["url"], str) and content["objects"]
        whole = whole and sound_records(content["objects"]) and isinstance(content["shards"], list)
        places = range(len(content["shards"]))
        if any(not isinstance(name, str) or "/" in name or leads_out(name) for name in content["shards"]):
            raise UserError(f"{path} names shards that do not lie beside it: write the shards again")
        for entry in content["objects"]:
            whole = whole and all(isinstance(entry[key], kind) for key, kind in FIELDS.items())
            whole = whole and entry["shard"] in places
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged: write the shards again") from error
    if not whole:
        raise UserError(f"{path} is damaged: write the shards again")
    return content


class ShardScenes(CachedScenes):
    """The objects of one split, shard by shard. Reading one reads its shard; the last `KEPT` stay in memory."""

    def __init__(self, root: Path, split: str, size: int = 128, category: str = "") -> None:
        """Raises `UserError` if the index is damaged, or of another size, or lacks the category."""
        super().__init__()
        path = index_file(Path(root), split)
        content = read_index(path)
        if content["size"] != size:
            raise UserError(f"{path} has images of {content['size']} pixels, not {size}: write shards of --size {size}")
        categories = sorted({entry["category"] for entry in content["objects"]})
        if category and category not in categories:
            raise UserError(f"{path} has no category '{category}': choose one of {', '.join(categories)}")
        base = f"{content['url'].rstrip('/')}/" if content["url"] else f"{root}/"
        self.size, self.shards = size, [base + name for name in content["shards"]]
        self._entries = [entry for entry in content["objects"] if category in ("", entry["category"])]
        self.objects = [
            SceneObject(e["name"], e["family"], path, tuple(e["view_ids"]), e["category"], e["about"])
            for e in self._entries
        ]
        self.shard_of = [entry["shard"] for entry in self._entries]
        self._kept: dict[int, dict[int, StoredViews]] = {}  # by shard, the oldest first

    def read(self, index: int) -> StoredViews:
        shard = self.shard_of[index]
        if shard not in self._kept:
            while len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[shard] = self._read_shard(shard)
        return self._kept[shard][self._entries[index]["number"]]

    def hold(self, shards: Collection[int]) -> None:
        """Drops all shards except these."""
        self._kept = {shard: views for shard, views in self._kept.items() if shard in shards}

    def load(self, index: int, view_positions: Sequence[int] | None = None) -> ViewSet:
        return self.read(index).view_set(view_positions)  # kept by the shard, not by the object

    def _read_shard(self, shard: int) -> dict[int, StoredViews]:
        """The shard's objects by their numbers."""
        try:
            import webdataset
        except ImportError as error:
            raise UserError("streaming shards needs webdataset: run `pip install 'mvgenvs[stream]'`") from error
        units = {e["number"]: float(e["depth_unit"]) for e in self._entries if e["shard"] == shard}
        url = self.shards[shard]
        # Which process reads which shard is already decided: no splitting among nodes and workers.
        samples = webdataset.WebDataset(
            [url], shardshuffle=False, nodesplitter=None, workersplitter=None, empty_check=False
        )
        try:
            found = {
                int(sample["__key__"]): self._views(sample, units[int(sample["__key__"])])
                for sample in samples
                if int(sample["__key__"]) in units
            }
        except (OSError, EOFError, ValueError, KeyError, tarfile.TarError, zlib.error) as error:
            raise UserError(f"cannot read the shard {url}: is it there, and whole?") from error
        if missing := set(units) - set(found):
            raise UserError(f"the shard {url} lacks {len(missing)} of its {len(units)} objects: copy or write it again")
        return found

    def _views(self, sample: dict[str, Any], unit: float) -> StoredViews:
        arrays = {
            name.removesuffix(".npy"): torch.from_numpy(np.load(BytesIO(data)))
            for name, data in sample.items()
            if name.endswith(".npy")
        }
        cameras = Cameras(arrays["c2w"], arrays["k"], (self.size, self.size))
        return StoredViews(arrays["images"], cameras, arrays.get("mask"), arrays.get("depth"), unit)
