"""The reader of the shards that `mvgenvs.data.shards` writes: it holds a few of them in memory."""

import json
import math
import re
import tarfile
import time
import zlib
from collections.abc import Collection
from http.client import HTTPException
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import torch
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.data.packed import TYPES, shapes
from mvgenvs.data.stored import SPLITS, CachedScenes, SceneObject, StoredViews, sound_records
from mvgenvs.errors import UserError

FORMAT = "mvgenvs shards 1"
KEPT = 4  # shards in memory
FIELDS = {"number": int, "shard": int, "name": str, "family": str, "category": str, "view_ids": list,
          "depth_unit": float, "about": dict}  # fmt: skip
# An index may be someone else's: it can name files beside it, and addresses that are only ever read.
SHARD_NAME = re.compile(r"[\w-][\w.-]*", re.ASCII)
ADDRESS = re.compile(r"https?://[\w.~:/?=&%+,@-]+", re.ASCII)
MEMBER = re.compile(r"([0-9]{1,18})\.(c2w|k|images|mask|depth)\.npy", re.ASCII)
ARRAY_HEADER = 4096  # bytes, at most, of an .npy file
TRIES, PAUSE, PATIENCE = 5, 2.0, 60.0  # of a shard at an address; seconds between them, and without an answer


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
        if not all(isinstance(name, str) and SHARD_NAME.fullmatch(name) for name in content["shards"]):
            raise UserError(f"{path} names shards that do not lie beside it: write the shards again")
        if content["url"] and not ADDRESS.fullmatch(content["url"]):
            raise UserError(f"{path} has its shards at {content['url']!r:.100}: give an address of http or https")
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
        address = content["url"].rstrip("/")
        self.size = size
        self.shards: list[Path | str] = [
            f"{address}/{name}" if address else path.with_name(name) for name in content["shards"]
        ]
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

    def _kept_views(self, index: int) -> StoredViews:
        return self.read(index)  # kept by the shard, not by the object

    def _read_shard(self, shard: int) -> dict[int, StoredViews]:
        """The shard's objects by their numbers."""
        entries = {e["number"]: e for e in self._entries if e["shard"] == shard}
        place = self.shards[shard]
        for tries_left in reversed(range(TRIES)):
            try:
                with _opened(place) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
                    found = self._arrays(tar, entries)
                break
            except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error, HTTPException) as error:
                final = isinstance(place, Path) or (isinstance(error, HTTPError) and error.code < 500)
                if final or not tries_left:
                    raise UserError(f"cannot read the shard {place}: is it there, and whole?") from error
                time.sleep(PAUSE)
        if missing := [number for number in entries if not {"c2w", "k", "images"} <= found.get(number, {}).keys()]:
            raise UserError(
                f"the shard {place} lacks {len(missing)} of its {len(entries)} objects: copy or write it again"
            )
        return {number: self._views(found[number], float(entry["depth_unit"])) for number, entry in entries.items()}

    def _arrays(self, tar: tarfile.TarFile, entries: dict[int, dict[str, Any]]) -> dict[int, dict[str, Tensor]]:
        """The arrays of these objects, of the type and shape that they must have; no more than that is ever read.

        Raises `ValueError` for any other, and what `tarfile` raises.
        """
        found: dict[int, dict[str, Tensor]] = {}
        for member in tar:
            part = MEMBER.fullmatch(member.name)
            if not member.isreg() or part is None or (number := int(part[1])) not in entries:
                continue
            name = "K" if part[2] == "k" else part[2]
            kind, shape = np.dtype(TYPES[name]), (len(entries[number]["view_ids"]), *shapes(self.size)[name])
            file = tar.extractfile(member)
            if file is None or member.size > math.prod(shape) * kind.itemsize + ARRAY_HEADER:
                raise ValueError(f"{member.name} is too long")
            content = file.read()
            try:
                array = np.load(BytesIO(content), allow_pickle=False)
            except Exception as error:  # of a damaged header, numpy raises almost anything
                raise ValueError(f"{member.name} is damaged") from error
            if not isinstance(array, np.ndarray) or (array.dtype, array.shape) != (kind, shape):
                raise ValueError(f"{member.name} is of another shape or type")
            found.setdefault(number, {})[part[2]] = torch.from_numpy(np.ascontiguousarray(array))
        return found

    def _views(self, arrays: dict[str, Tensor], unit: float) -> StoredViews:
        cameras = Cameras(arrays["c2w"], arrays["k"], (self.size, self.size))
        return StoredViews(arrays["images"], cameras, arrays.get("mask"), arrays.get("depth"), unit)


def _opened(place: Path | str) -> BufferedIOBase:
    """A shard as a stream: a file, or at an address."""
    if isinstance(place, Path):
        return place.open("rb")
    answer: BufferedIOBase = urlopen(Request(place, headers={"User-Agent": "mvgenvs"}), timeout=PATIENCE)
    return answer
