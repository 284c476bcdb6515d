"""Rebuilds OpenCars from Debian's packages: `python -m mvgenvs.data.opencars --output data/opencars`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from mvgenvs.cli import SEED, VIEWS, WORKERS, OneSentenceParser, number, run_script, whole_number
from mvgenvs.errors import UserError
from mvgenvs.folders import OwnFolder

PROCEDURAL = ("procedural-cars", "procedural-shapes")
# Repeated, so that --help stays light.
CATEGORIES = ("cars", "chairs", "vehicles", "furniture", "aircraft", "objects", *PROCEDURAL)
FORMATS = ("png", "webp")
SIZES = (8, 2048)  # pixels
WIDEST, TIGHTEST = 0.4, 1.2  # focal length by size; at 1.2 the sphere around an object touches the image's edges


def parser() -> argparse.ArgumentParser:
    parse = OneSentenceParser(
        "python -m mvgenvs.data.opencars",
        description="Renders freely licensed cars, vehicles, furniture or all objects from Debian packages, "
        "or procedural ones, into the layout of SRN, with mattes and exact depth. Run it again to continue after an "
        "interruption.",
    )

    add = parse.add
    add("--output", "folder of the data set", type=Path, required=True, metavar="DIR")
    add("--category", "which objects", choices=CATEGORIES, default="cars")
    add("--count", "how many procedural objects; raise it to add more", type=whole_number(1), metavar="N")
    add("--packages", "folder of the .deb files, fetched if absent; OUTPUT/packages unless given", type=Path)
    add("--size", "pixels along each side of an image", type=number(int, *SIZES), default=128, metavar="N")
    add(
        "--focal",
        f"focal length in pixels, {WIDEST} to {TIGHTEST} times the size; by default SRN's, 131.25 at a size of 128",
        type=number(float, 1, 1e6),
        metavar="F",
    )
    add("--views", "views of each train object; those of other splits have SRN's 251", type=VIEWS, default=50)
    add("--sphere", "where the train views come from", choices=("upper", "full"), default="upper")
    add("--format", "of the images, lossless both; webp is a third smaller", choices=FORMATS, default="png")
    variants = whole_number(0, 10_000)
    add("--repaint", "recoloured and re-proportioned variants of each train object", type=variants, default=0)
    add("--only", "only objects whose id matches, such as 'torcs_*'", default="*", metavar="PATTERN")
    add("--seed", "start of the random numbers", type=SEED, default=0)
    add("--jobs", "processes; one for each core unless given", type=WORKERS, metavar="N")
    return parse


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if (args.count is not None) != (args.category in PROCEDURAL):
        problem = (
            "needs --count" if args.count is None else "has as many objects as its packages hold: leave out --count"
        )
        raise UserError(f"category {args.category} {problem}")
    if args.focal is not None and not WIDEST * args.size <= args.focal <= TIGHTEST * args.size:
        raise UserError(
            f"--focal {args.focal:g} is not from {WIDEST * args.size:g} to {TIGHTEST * args.size:g}, "
            f"which is where objects are neither lost nor cut off in images of --size {args.size}"
        )

    from mvgenvs.data.opencars.build import Recipe, build
    from mvgenvs.data.sheet import write_credits, write_sheet

    listed, index = [f"{args.category}.{kind}" for kind in ("jpg", "md")], args.output / f"{args.category}.json"
    sheet, credits = (args.output / name for name in listed)
    recipe = Recipe(
        args.category, args.size, args.views, args.format, args.sphere, args.repaint, args.seed, args.count or 0,
        focal=args.focal or 0.0,
    )  # fmt: skip
    jobs = args.jobs or os.cpu_count() or 1
    with OwnFolder(args.output) as own:
        own.add(name for name in listed if index.exists())  # a folder with an index is ours, listed or not
        own.claim(listed)
        rendered = build(args.output, args.packages or args.output / "packages", recipe, args.only, jobs)
        if rendered or not (sheet.exists() and credits.exists()):
            write_sheet(args.output, args.category, sheet)
            write_credits(args.output, args.category, credits)
    print(f"rendered {rendered} objects; {args.output} is complete: see {sheet.name}, and {credits.name} for makers")


if __name__ == "__main__":
    run_script(main, shares_work=False)
