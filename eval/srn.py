"""The table of ShapeNet-SRN that papers print, from pixelNeRF's archive: `python -m eval.srn --help`.

Unpacks the test split of the archive, evaluates a model by pixelNeRF's protocol, and puts it beside published rows.
"""

import argparse
import re
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mvgenvs.cli import OneSentenceParser, explained_failures, run_script, whole_number
from mvgenvs.errors import UserError
from mvgenvs.files import write_text
from mvgenvs.folders import OwnFolder
from mvgenvs.limits import leads_out, open_zip, read_member

TABLE = "published.md"
METRICS = ("psnr", "ssim", "lpips-vgg", "fid")
WANTED = re.compile(
    r"(?:^|.*/)(?P<split>[a-z]+_test)/(?:[^/]+/)?(?P<object>[^/]+)/(?P<file>intrinsics\.txt|(?:rgb|pose)/\d+\.\w+)"
)
FULL = {"cars": 704, "chairs": 1317}  # objects of the test splits, of 251 views each


@dataclass(frozen=True)
class Published:
    """A row of a paper: one view in (view 64), 128 x 128, one sample, 250 other views of 704 cars."""

    system: str
    figures: tuple[float | None, float | None, float | None, float | None]  # in the order of `METRICS`
    source: str


CARS = (
    Published("SRN", (22.25, 0.89, 0.129, 41.21), "Sitzmann et al. 2019; FID by 3DiM"),
    Published("pixelNeRF", (23.17, 0.90, 0.146, 59.24), "Yu et al. 2021; FID by 3DiM"),
    Published("VisionNeRF", (22.88, 0.91, 0.084, 21.31), "Lin et al. 2023; FID by 3DiM"),
    Published("3DiM", (21.01, 0.57, None, 8.99), "Watson et al. 2023"),
    Published("SSDNeRF", (23.52, 0.91, 0.078, 16.39), "Chen et al. 2023"),
    Published("Viewset Diffusion", (23.21, 0.90, 0.116, None), "Szymanowicz et al. 2023, without its discriminator"),
    Published("NerfDiff, without NGD", (23.95, 0.92, 0.092, None), "Gu et al. 2023"),
    Published("Splatter Image", (24.00, 0.92, 0.078, None), "Szymanowicz et al. 2024"),
)


def parser() -> OneSentenceParser:
    parse = OneSentenceParser("python -m eval.srn", description=__doc__.splitlines()[0])
    add = parse.add
    add("--archive", "srn_cars.zip or srn_chairs.zip, or its unpacked folder", type=Path, required=True, metavar="PATH")
    add("--unpacked", "folder for the test split (default: beside the archive, by its name)", type=Path, metavar="DIR")
    add("--checkpoint", "pipeline folder", default="bundled", metavar="bundled|DIR")
    add("--inputs", "known views: 64, or 64 and 104", type=whole_number(1, 2), default=1, metavar="N")
    add("--num-objects", "only the first N objects", type=whole_number(1), metavar="N")
    add("--inception-weights", "torch-fidelity's Inception weights, for FID", type=Path, metavar="FILE")
    add("--output", "folder of the results; resumes what is there", type=Path, required=True, metavar="DIR")
    return parse


def unpack_test(archive: Path, folder: Path) -> Path:
    """Unpacks the objects of the test split that are not in `folder` yet, each whole or not at all; returns it.

    Only cameras and pictures are taken, in the layout of `mvgenvs.data.srn`, however deep the archive has them.
    Raises `UserError` if it is no such archive.
    """
    try:
        with open_zip(archive) as opened:
            members: dict[Path, dict[str, str]] = {}
            for name in opened.namelist():
                found = WANTED.fullmatch(name)
                if found and not leads_out(name) and "__MACOSX" not in PurePosixPath(name).parts:
                    place = folder / found["split"] / found["object"]
                    members.setdefault(place, {})[found["file"]] = name
            if not members:
                raise UserError(f"{archive} holds no test split in the layout of pixelNeRF: give srn_cars.zip")
            for place, files in members.items():
                if not place.exists():
                    _unpack(opened, files, place)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"cannot unpack {archive} to {folder}: {error}") from error
    return folder


def _unpack(opened: zipfile.ZipFile, files: dict[str, str], place: Path) -> None:
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for file, name in files.items():
            (partial / file).parent.mkdir(parents=True, exist_ok=True)
            (partial / file).write_bytes(read_member(opened, name))
        partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def published_table(rows: dict[str, dict[str, float | None]], category: str, objects: int, images: int) -> str:
    """The rows of this run, and for cars those of papers, in Markdown."""
    complete = objects == FULL.get(category)
    note = f"{objects} objects, {images} views. " + (
        "One sample; means within objects, then over objects; 8-bit images; SSIM uniform 7x7; LPIPS-VGG on [-1, 1]."
        if complete
        else f"Not comparable with published rows: these are means over all {FULL.get(category, 'test')} objects."
    )
    lines = ["| system | PSNR ↑ | SSIM ↑ | LPIPS ↓ | FID ↓ | source |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    ours = [(f"**{name}**", [row.get(metric) for metric in METRICS], "this run") for name, row in rows.items()]
    theirs = [(each.system, list(each.figures), each.source) for each in (CARS if category == "cars" else ())]
    for system, figures, source in ours + theirs:
        cells = ["–" if x is None else f"{x:.{places}f}" for x, places in zip(figures, (2, 3, 3, 2), strict=True)]
        lines.append(f"| {system} | {' | '.join(cells)} | {source} |")
    return "\n".join([note, "", *lines, ""])


def evaluate(args: argparse.Namespace) -> str:
    """Runs `eval.run` and returns the table."""
    from eval.cli import parse_arguments
    from eval.evaluation import run
    from eval.report.runs import read_run
    from mvgenvs.data.scenes import open_scenes

    data = args.archive
    if not data.is_dir():
        if not data.exists():
            raise UserError(f"there is no archive {data}")
        data = unpack_test(data, args.unpacked or data.with_suffix(""))
    argv = ["--checkpoint", str(args.checkpoint), "--data", str(data), "--split", "test", "--protocol", "srn",
            "--inputs", str(args.inputs), "--methods", "nerf", "joint", "--metrics", "--lpips-nets", "vgg",
            "--output", str(args.output)]  # fmt: skip
    if args.num_objects is not None:
        argv += ["--num-objects", str(args.num_objects)]
    if args.inception_weights is not None:
        argv += ["--inception-weights", str(args.inception_weights)]
    run(parse_arguments(argv), argv)
    finished = read_run(args.output)
    category = open_scenes(data, "test", 128).objects[0].category
    images = sum(len(record.angles) for record in finished.records)
    return published_table(finished.table, category, len(finished.records), images)


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with explained_failures(args.output, resumes=True):
        table = evaluate(args)
        with OwnFolder(args.output) as own:
            own.claim([TABLE])
            write_text(args.output / TABLE, table)
    print(table)


if __name__ == "__main__":
    run_script(main)
