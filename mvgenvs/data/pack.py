"""Packs a data set for training: python -m mvgenvs.data.pack data/opencars --size 64 --output data/opencars64."""

import json
import struct
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from shutil import copyfileobj
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from mvgenvs.cli import SIDE, OneSentenceParser, run_script
from mvgenvs.data.packed import ARRAYS, FORMAT, HEADER, is_packed, packed_file
from mvgenvs.data.scenes import open_scenes, splits_in
from mvgenvs.data.stored import SPLITS, CachedScenes
from mvgenvs.files import written
from mvgenvs.folders import OwnFolder

DTYPES = {"c2w": "F32", "K": "F32", "depth": "U16", "images": "U8", "mask": "U8"}


def pack(scenes: CachedScenes, size: int, path: Path) -> None:
    """Writes all objects into one file, which appears only when it is complete; the same data give the same bytes.

    Objects are decoded one at a time, so that memory need not hold them all. Raises `UserError` if the disk is full or
    cannot be written.
    """
    with written(path) as partial, ExitStack() as stack:
        bodies = {name: stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for name in ARRAYS}
        shapes, entries = _write_bodies(scenes, bodies)
        with partial.open("wb") as file:
            file.write(_header(shapes, {"format": FORMAT, "size": size, "arrays": list(shapes), "objects": entries}))
            for name in shapes:
                bodies[name].seek(0)
                copyfileobj(bodies[name], file, 1 << 20)


def _write_bodies(
    scenes: CachedScenes, bodies: Mapping[str, IO[bytes]]
) -> tuple[dict[str, list[int]], list[dict[str, Any]]]:
    """Appends every object's arrays; returns their shapes, in the order of `ARRAYS`, and the records of the objects."""
    shapes: dict[str, list[int]] = {}
    entries = []
    for index, item in enumerate(tqdm(scenes.objects, unit="object")):
        views = scenes.read(index)
        arrays = {
            "c2w": views.cameras.c2w, "K": views.cameras.K,
            "depth": views.depth, "images": views.images, "mask": views.mask,
        }  # fmt: skip
        present = {name: value.numpy() for name, value in arrays.items() if value is not None}
        for name, value in present.items():
            bodies[name].write(np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False).tobytes())
            shapes[name] = [shapes.get(name, [0])[0] + len(value), *value.shape[1:]]
        entries.append(
            {
                "name": item.name,
                "family": item.family,
                "category": item.category,
                "view_ids": list(item.view_ids),
                "arrays": list(present),
                "depth_unit": views.depth_unit,
                "about": dict(item.about),
            }
        )
    return {name: shapes[name] for name in ARRAYS if name in shapes}, entries


def _header(shapes: dict[str, list[int]], content: dict[str, Any]) -> bytes:
    """The beginning of a safetensors file: the length of a JSON text, and the text, padded to a multiple of 8 bytes."""
    header: dict[str, Any] = {"__metadata__": {HEADER: json.dumps(content, sort_keys=True)}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + int(np.prod(shape)) * {"F32": 4, "U16": 2, "U8": 1}[DTYPES[name]]
        header[name] = {"dtype": DTYPES[name], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = OneSentenceParser("python -m mvgenvs.data.pack", description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="data set: the SRN layout, OpenCars, or captures")
    parser.add_argument("--output", type=Path, required=True, help="folder for <split>.safetensors, the new data.root")
    parser.add_argument("--size", type=SIDE, default=128, help="image side in pixels (default: %(default)s)")
    parser.add_argument("--split", nargs="+", choices=SPLITS, help="splits to pack (default: all that are there)")
    parser.add_argument("--category", default="", help="only cars, or chairs, … (default: all)")
    parser.add_argument(
        "--keep-world", action="store_true", help="do not move captures into the model's world; see data/captures.py"
    )
    options = parser.parse_args(arguments)
    paths = {split: packed_file(options.output, split) for split in options.split or splits_in(options.root)}
    with OwnFolder(options.output) as own:
        own.add(path.name for path in paths.values() if is_packed(path))  # listed or not
        own.claim([path.name for path in paths.values()])
        for split, path in paths.items():
            scenes = open_scenes(options.root, split, options.size, options.category, not options.keep_world)
            pack(scenes, options.size, path)
            print(f"wrote {path}: {len(scenes)} objects, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main, shares_work=False)
