"""Writes a data set as WebDataset shards, to be streamed in training: for data larger than the disk, or elsewhere.

python -m mvgenvs.data.shards data/objects --size 64 --shards 32 --output data/objects64

`mvgenvs.data.streamed` reads them. Objects are shuffled over the shards, so that each shard is a small data set:

    ROOT/<split>.shards.json        the objects, and which shard holds each; the URL of the shards, if not beside it
    ROOT/<split>-000000.tar         one sample per object: <number>.images.npy, .mask.npy, .depth.npy, .c2w.npy, .k.npy
"""

import argparse
import io
import json
import tarfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mvgenvs.cli import SIDE, OneSentenceParser, number, run_script
from mvgenvs.data.scenes import open_scenes, splits_in
from mvgenvs.data.stored import SPLITS, CachedScenes, SceneObject, StoredViews
from mvgenvs.data.streamed import ADDRESS, FORMAT, index_file, read_index
from mvgenvs.errors import UserError
from mvgenvs.files import atomically, write_text
from mvgenvs.folders import OwnFolder

OBJECTS = 64  # in a shard by default


def address(text: str) -> str:
    """An argparse type: where shards may lie."""
    if text and not ADDRESS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is no address of http or https")
    return text


def shard_names(split: str, count: int) -> list[str]:
    return [f"{split}-{place:06d}.tar" for place in range(count)]


def write_shards(scenes: CachedScenes, size: int, split: str, folder: Path, count: int, url: str = "") -> None:
    """Writes all objects; the index is deleted first and written last, so it never lists incomplete shards.

    The same data give the same bytes. Raises `UserError` if the disk is full or cannot be written.
    """
    index_file(folder, split).unlink(missing_ok=True)
    order = np.random.default_rng(0).permutation(len(scenes)).tolist()
    entries: list[dict[str, Any]] = []
    with tqdm(total=len(order), unit="object") as progress:

        def write(path: Path, place: int) -> None:
            with tarfile.open(path, "w") as tar:
                for index in sorted(order[place::count]):
                    stored = scenes.read(index)
                    _add(tar, f"{index:09d}", stored)
                    entries.append(_entry(scenes.objects[index], index, place, stored.depth_unit))
                    progress.update()

        for place, name in enumerate(shard_names(split, count)):
            atomically(folder / name, partial(write, place=place))
    content = {"format": FORMAT, "size": size, "url": url, "shards": shard_names(split, count), "objects": entries}
    write_text(index_file(folder, split), json.dumps(content, sort_keys=True))


def _entry(item: SceneObject, index: int, shard: int, depth_unit: float) -> dict[str, Any]:
    return {
        "number": index,
        "shard": shard,
        "name": item.name,
        "family": item.family,
        "category": item.category,
        "view_ids": list(item.view_ids),
        "depth_unit": depth_unit,
        "about": dict(item.about),
    }


def _add(tar: tarfile.TarFile, key: str, stored: StoredViews) -> None:
    arrays = {
        "c2w": stored.cameras.c2w, "k": stored.cameras.K,  # WebDataset's names are in lower case
        "images": stored.images, "mask": stored.mask, "depth": stored.depth,
    }  # fmt: skip
    for name, tensor in arrays.items():
        if tensor is not None:
            buffer = io.BytesIO()
            np.save(buffer, tensor.contiguous().numpy())
            info = tarfile.TarInfo(f"{key}.{name}.npy")  # without a time, so that the bytes are reproducible
            info.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(info, buffer)


def main(arguments: Sequence[str] | None = None) -> None:
    parse = OneSentenceParser("python -m mvgenvs.data.shards", description=__doc__.splitlines()[0])
    parse.add_argument("root", type=Path, help="data set: the SRN layout, OpenCars, captures, or packed")
    parse.add("--output", "folder for the shards and their index, the new data.root", type=Path, required=True)
    parse.add("--size", "image side in pixels", type=SIDE, default=128, metavar="N")
    parse.add("--split", "splits to write; all that are there unless given", nargs="+", choices=SPLITS)
    parse.add("--category", "only cars, or chairs, …; all unless given", default="")
    parse.add(
        "--shards",
        f"how many, at least one for each process that will train; {OBJECTS} objects in each unless given",
        type=number(int, 1, 999_999),
        metavar="N",
    )
    parse.add("--url", "where you will put the shards, such as https://host/folder; beside the index unless given",
              type=address, default="")  # fmt: skip
    options = parse.parse_args(arguments)
    with OwnFolder(options.output) as own:
        for split in options.split or splits_in(options.root):
            scenes = open_scenes(options.root, split, options.size, options.category)
            count = options.shards or -(-len(scenes) // OBJECTS)
            if count > len(scenes):
                raise UserError(f"{options.root} has {len(scenes)} {split} objects: give at most as many --shards")
            own.claim([index_file(options.output, split).name, *shard_names(split, count)])
            write_shards(scenes, options.size, split, options.output, count, options.url)
            read_index(index_file(options.output, split))
            print(f"wrote {count} shards of {len(scenes)} {split} objects to {options.output}")


if __name__ == "__main__":
    run_script(main, shares_work=False)
