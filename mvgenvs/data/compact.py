"""A data set in few bytes, to carry to another machine: some 3 kB a view, colours lossy, mattes exact, depth in 8 bits.

python -m mvgenvs.data.compact pack data/opencars data/vehicles --output carry --views 24
python -m mvgenvs.data.compact expand carry/opencars.safetensors --output data/opencars128

One file holds a split of one data set: for each view a WebP of colours and matte and one of depths, and the cameras.
`expand` turns it into the packed form of `mvgenvs.data.packed`.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8, UInt16
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from mvgenvs.cameras import Cameras
from mvgenvs.cli import SIDE, VIEWS, OneSentenceParser, run_script, whole_number
from mvgenvs.data.pack import pack
from mvgenvs.data.packed import packed_file
from mvgenvs.data.scenes import open_scenes
from mvgenvs.data.stored import SPLITS, CachedScenes, SceneObject, StoredViews, sound_records
from mvgenvs.errors import UserError
from mvgenvs.files import atomically

FORMAT = "mvgenvs compact 1"
TENSORS = ("bytes", "lengths", "ranges", "c2w", "K")
LOSSLESS = 101  # OpenCV's quality for WebP without loss


def compact(scenes: CachedScenes, views: int, quality: int, size: int, path: Path) -> None:
    """Writes the first `views` views of every object. Raises `UserError` if masks or depths are missing."""
    blobs: list[bytes] = []
    ranges, c2w, K, objects = [], [], [], []
    for index, item in enumerate(tqdm(scenes.objects, unit="object")):
        stored = scenes.read(index)
        if stored.mask is None or stored.depth is None:
            raise UserError(f"{item.folder} has no masks or depths, and the compact form needs both")
        count = min(views, len(stored.images))
        for view in range(count):
            rgb, mask, depth = (x[view].numpy() for x in (stored.images, stored.mask, stored.depth))
            pixels = np.concatenate([rgb[::-1], mask]).transpose(1, 2, 0)  # BGRA
            eight, low, step = _in_8_bits(depth[0])
            blobs += [_webp(pixels, quality), _webp(eight, LOSSLESS)]
            ranges.append((low, step))
        c2w.append(stored.cameras.c2w[:count])
        K.append(stored.cameras.K[:count])
        objects.append(
            {"name": item.name, "family": item.family, "category": item.category,
             "view_ids": item.view_ids[:count], "depth_unit": stored.depth_unit, "about": dict(item.about)}
        )  # fmt: skip
    tensors = {
        "bytes": torch.frombuffer(bytearray(b"".join(blobs)), dtype=torch.uint8),
        "lengths": torch.tensor([len(blob) for blob in blobs]),
        "ranges": torch.tensor(ranges, dtype=torch.int32),
        "c2w": torch.cat(c2w),
        "K": torch.cat(K),
    }
    header = {"mvgenvs": json.dumps({"format": FORMAT, "size": size, "objects": objects}, sort_keys=True)}
    atomically(path, lambda partial: save_file(tensors, partial, header))


class CompactScenes(CachedScenes):
    """The objects of a compact file."""

    def __init__(self, path: Path) -> None:
        """Raises `UserError` if the file is damaged or of another format."""
        super().__init__()
        self.path = path
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("mvgenvs", "{}"))
                tensors = {name: file.get_tensor(name) for name in TENSORS}
        except (OSError, SafetensorError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged or missing: make it again") from error
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise UserError(f"{path} is not of the form '{FORMAT}'")
        if not isinstance(header.get("size"), int) or not sound_records(header.get("objects")):
            raise UserError(f"{path} lacks the records of its objects: make it again")
        self.size, self._entries = int(header["size"]), header["objects"]
        self._bytes, self._ranges = tensors["bytes"].numpy(), tensors["ranges"].tolist()
        self._ends = np.cumsum(tensors["lengths"].numpy())
        self._cameras = Cameras(tensors["c2w"], tensors["K"], (self.size, self.size))
        counts = [len(entry["view_ids"]) for entry in self._entries]
        self._starts = np.cumsum([0, *counts])
        views, lengths = int(self._starts[-1]), tensors["lengths"]
        wanted = {"lengths": (2 * views,), "ranges": (views, 2), "c2w": (views, 4, 4), "K": (views, 3, 3)}
        sound = all(tuple(tensors[name].shape) == shape for name, shape in wanted.items())
        if not sound or lengths.lt(0).any() or int(lengths.sum()) != tensors["bytes"].numel():
            raise UserError(f"{path} lacks a part of its views: make it again")
        self.objects = [
            SceneObject(e["name"], e["family"], path, tuple(e["view_ids"]), e["category"], e["about"])
            for e in self._entries
        ]

    def read(self, index: int) -> StoredViews:
        views = range(self._starts[index], self._starts[index + 1])
        with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
            images, masks, depths = zip(*pool.map(self._view, views), strict=True)
        return StoredViews(
            torch.from_numpy(np.stack(images)),
            self._cameras.select(views),
            torch.from_numpy(np.stack(masks))[:, None],
            torch.from_numpy(np.stack(depths))[:, None],
            self._entries[index]["depth_unit"],
        )

    def _view(self, number: int) -> tuple[UInt8[np.ndarray, "3 h w"], UInt8[np.ndarray, "h w"], Any]:
        pixels = self._decoded(2 * number)
        opaque = pixels.shape[2] == 3  # WebP drops a matte that is 255 everywhere
        mask = np.full(pixels.shape[:2], 255, np.uint8) if opaque else pixels[..., 3]
        rgb = np.where(mask[..., None] == 0, np.uint8(255), pixels[..., 2::-1])  # WebP drops colours that are invisible
        low, step = self._ranges[number]
        eight = self._decoded(2 * number + 1)[..., 0].astype(np.int32)
        depth = np.where(eight == 0, 0, low + (eight - 1) * step).astype(np.uint16)
        return np.ascontiguousarray(rgb.transpose(2, 0, 1)), mask, depth

    def _decoded(self, number: int) -> np.ndarray:
        end = self._ends[number]
        start = self._ends[number - 1] if number else 0
        data, pixels = self._bytes[start:end], None
        try:
            with Image.open(BytesIO(data)) as header:  # a few bytes may stand for more pixels than fit into memory
                if header.size == (self.size, self.size):
                    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        except Exception:  # of a damaged header, Pillow raises almost anything
            pixels = None
        if pixels is None or pixels.dtype != np.uint8 or pixels.shape[:2] != (self.size, self.size):
            raise UserError(f"{self.path} is damaged or missing: make it again")
        return pixels if pixels.ndim == 3 else pixels[..., None].repeat(3, axis=2)


def _in_8_bits(depth: UInt16[np.ndarray, "h w"]) -> tuple[UInt8[np.ndarray, "h w"], int, int]:
    """Depth as low + (value - 1) step, 0 where there is none; together with low and step."""
    seen = depth[depth > 0].astype(np.int64)
    if not len(seen):
        return np.zeros(depth.shape, np.uint8), 0, 1
    low = int(seen.min())
    step = max(1, -(-(int(seen.max()) - low) // 254))
    steps = np.round((depth.astype(np.int64) - low) / step).astype(np.int64) + 1
    return np.where(depth > 0, steps, 0).astype(np.uint8), low, step


def _webp(pixels: np.ndarray, quality: int) -> bytes:
    return cv2.imencode(".webp", np.ascontiguousarray(pixels), [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def parser() -> OneSentenceParser:
    parse = OneSentenceParser("python -m mvgenvs.data.compact", description=__doc__.splitlines()[0])
    commands = parse.add_subparsers(dest="command", required=True, parser_class=OneSentenceParser)
    make = commands.add_parser("pack", help="writes OUTPUT/<name of the data set>.safetensors")
    make.add_argument("roots", type=Path, nargs="+", help="data sets with masks and depths")
    make.add("--output", "folder for the files", type=Path, required=True)
    make.add("--split", "which objects", choices=SPLITS, default="train")
    make.add("--category", "only cars, or vehicles, …; all unless given", default="")
    make.add("--views", "of each object", type=VIEWS, default=50, metavar="N")
    make.add("--quality", "of the colours, 1 to 100", type=whole_number(1, 100), default=80, metavar="Q")
    make.add("--size", "image side in pixels", type=SIDE, default=128, metavar="N")
    expand = commands.add_parser("expand", help="makes the packed form, OUTPUT/<split>.safetensors")
    expand.add_argument("file", type=Path, help="what pack has written")
    expand.add("--output", "folder of the packed form", type=Path, required=True)
    expand.add("--split", "its name there", choices=SPLITS, default="train")
    return parse


def main(arguments: Sequence[str] | None = None) -> None:
    options: argparse.Namespace = parser().parse_args(arguments)
    if options.command == "expand":
        packed = CompactScenes(options.file)
        pack(packed, packed.size, packed_file(options.output, options.split))
        return
    for root in options.roots:
        path = options.output / f"{root.resolve().name}.safetensors"
        scenes = open_scenes(root, options.split, options.size, options.category)
        compact(scenes, options.views, options.quality, options.size, path)
        print(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)
