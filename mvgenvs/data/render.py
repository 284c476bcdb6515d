"""Renders your own meshes as a data set: `python -m mvgenvs.data.render car.obj --output data/mine`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mvgenvs.cameras import Cameras
from mvgenvs.cli import ANGLE, ELEVATION, SEED, VIEWS, OneSentenceParser, number, run_script
from mvgenvs.data.srn import SPLITS
from mvgenvs.data.srn_writer import FORMATS, PARTIAL, check_object, write_object
from mvgenvs.errors import UserError
from mvgenvs.folders import OwnFolder
from mvgenvs.meshes.files import SUFFIXES, load_mesh
from mvgenvs.meshes.renderer import Renderer
from mvgenvs.trajectories import TRAJECTORIES, random_views
from mvgenvs.transforms import read_cameras

AXES = ("+x", "-x", "+y", "-y", "+z", "-z")
RANDOM = "random"


def parser() -> argparse.ArgumentParser:
    parse = OneSentenceParser(
        "python -m mvgenvs.data.render",
        description="Renders meshes into the layout of SRN, with mattes and exact depth, one object for each file. "
        "Objects are centred and scaled to a bounding-box diagonal of 1.",
    )

    add = parse.add
    add("meshes", f"meshes, each one of {', '.join(SUFFIXES)}", type=Path, nargs="+", metavar="MESH")
    add("--output", "folder of the data set", type=Path, required=True, metavar="DIR")
    add("--split", "which split the objects belong to", choices=SPLITS, default="test")
    add("--category", "what the objects are; names the folder", default="objects", metavar="NAME")
    add(
        "--trajectory",
        f"{RANDOM} (upper half of the sphere, seeded), {', '.join(TRAJECTORIES)}, or a transforms.json of cameras",
        default="spiral",
    )
    add(
        "--num-views",
        "views of each object; the spiral's 251 are those of SRN's test sets",
        type=VIEWS,
        default=251,
    )
    add("--elevation", "of an orbit or circle, in degrees", type=ELEVATION, default=20.0)
    add("--azimuth", "where an orbit or circle starts, in degrees", type=ANGLE, default=0.0)
    add("--size", "pixels along each side of an image", type=number(int, 8, 2048), default=128, metavar="N")
    add("--up", "the meshes' upward axis; write --up=-z for a minus", choices=AXES, default="+y")
    add("--front", "the meshes' front, which comes to face -z; glTF's is +z", choices=AXES, default="-z")
    add("--format", "of the images, lossless both", choices=FORMATS, default="png")
    add("--seed", "of random views", type=SEED, default=0)
    return parse


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if args.up[1] == args.front[1]:
        raise UserError(f"--up {args.up} and --front {args.front} lie on one axis: they must be perpendicular")
    names = [path.stem for path in args.meshes]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two meshes are called '{doubled.pop()}': give them different names or outputs")
    folders = [args.output / f"{args.category}_{args.split}" / name for name in names]
    for folder in folders:
        check_object(folder)
    cameras = _cameras(args)
    with OwnFolder(args.output), Renderer(cameras.hw) as renderer:
        for path, folder in zip(tqdm(args.meshes, unit="mesh"), folders, strict=True):
            mesh = load_mesh(path).oriented(args.front, args.up).normalised()
            metadata = {
                "id": path.stem,
                "family": path.stem,
                "category": args.category,
                "split": args.split,
                "source": {"file": path.name},
                "triangles": mesh.num_triangles,
            }
            views = renderer.render(mesh, cameras)
            write_object(folder, args.output / PARTIAL, views, cameras, args.format, metadata)
        device = renderer.device
    print(f"{len(args.meshes)} objects of {cameras.num_views} views are in {args.output}, drawn by {device}")


def _cameras(args: argparse.Namespace) -> Cameras:
    hw = (args.size, args.size)
    if args.trajectory == RANDOM:
        return random_views(args.num_views, np.random.default_rng(args.seed), hw=hw)
    if args.trajectory in TRAJECTORIES:
        return TRAJECTORIES[args.trajectory](args.num_views, args.elevation, args.azimuth, hw)
    return read_cameras(Path(args.trajectory)).resized(hw)


if __name__ == "__main__":
    run_script(main, shares_work=False)
