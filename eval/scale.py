"""What orbits cost against batch, views and size, and long sequences along their way: `python -m eval.scale --help`."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvgenvs.cli import SIDE, VIEWS, WORKERS, OneSentenceParser, explained_failures, run_script, whole_number

if TYPE_CHECKING:
    from eval.benchmarks.sequences import Orbit, Place

FILES = ("scale.json", "scale.md")


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)

    from eval.report.provenance import all_versions
    from mvgenvs.device import resolve_device, torch_threads
    from mvgenvs.folders import OwnFolder
    from mvgenvs.infer_options import Given
    from mvgenvs.inputs import read_known_view
    from mvgenvs.photos import frame_photo

    device = resolve_device(args.device)
    photo = frame_photo(read_known_view(Given(str(args.image), "canonical")).image, max([128, *args.sizes])).rgba
    with ExitStack() as stack:
        if args.output:
            stack.enter_context(OwnFolder(args.output)).claim(FILES)
        stack.enter_context(torch_threads(args.threads))
        orbits = measure_orbits(args, device, photo)
        places = measure_places(args, device, photo)
        text = "\n\n".join(table for table in (orbit_table(orbits), place_table(places)) if table)
        if args.output:
            rows = {"orbits": list(map(asdict, orbits)), "places": list(map(asdict, places))}
            with explained_failures(args.output):
                write(args.output, device, {"versions": all_versions(), **rows}, text)
    print(text)


def parser() -> argparse.ArgumentParser:
    parse = OneSentenceParser("python -m eval.scale", description=__doc__.partition(":")[0] + ".")
    whole: dict[str, Any] = {"nargs": "*", "metavar": "N"}
    parse.add("--image", "photo of the orbits", type=Path, default=Path("assets/car.png"), metavar="FILE")
    parse.add("--checkpoint", "model of the orbits", default="bundled", metavar="NAME")
    parse.add("--views", "views of an orbit; the first number goes with all batches and sizes", type=VIEWS,
              default=[8, 24, 96], **whole)  # fmt: skip
    parse.add("--batch", "orbits in a batch", type=whole_number(1, 256), default=[1, 2, 4], **whole)
    parse.add("--sizes", "pixels; the model is taken at these sizes, whatever it was trained for", type=SIDE,
              default=[64, 128, 256], **whole)  # fmt: skip
    parse.add("--along", "where to look along a sequence, whose views are the last number", type=VIEWS,
              default=[50, 200, 1000], **whole)  # fmt: skip
    parse.add("--device", "where to compute", choices=("auto", "cpu", "cuda"), default="cpu")
    parse.add("--threads", "threads on the CPU", type=WORKERS, default=1, metavar="N")
    parse.add("--output", "folder for scale.json and scale.md", type=Path, metavar="DIR")
    return parse


def measure_orbits(args: argparse.Namespace, device: Any, photo: Any) -> "list[Orbit]":
    """One row for each number of views, for each further batch, and for each size but the model's own."""
    from eval.benchmarks.sequences import measure_orbit, model_of_size

    if not args.views:
        return []
    own = model_of_size(args.checkpoint, None).to(device)
    first = args.views[0]
    asked = [(own.size, 1, views) for views in args.views]
    asked += [(own.size, batch, first) for batch in args.batch] + [(size, 1, first) for size in args.sizes]
    rows = []
    for size, batch, views in dict.fromkeys(asked):
        print(f"orbits of {views} views, {size} px, {batch} in a batch ...", file=sys.stderr, flush=True)
        model = own if size == own.size else model_of_size(args.checkpoint, size).to(device)
        rows.append(measure_orbit(model, photo, batch, views))
    return rows


def measure_places(args: argparse.Namespace, device: Any, photo: Any) -> "list[Place]":
    """One sequence."""
    from eval.benchmarks.sequences import measure_sequence, model_of_size

    if not args.along:
        return []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = model_of_size(args.checkpoint, None).to(device)
        for place in measure_sequence(model, photo, sorted(args.along), Path(folder)):
            print(f"view {place.views} of the sequence ...", file=sys.stderr, flush=True)
            rows.append(place)
    return rows


def orbit_table(rows: "Sequence[Orbit]") -> str:
    from eval.report.tables import markdown_table

    header = ("size", "batch", "views", "s per orbit", "ms per view", "peak GB")
    return (rows and markdown_table(
        header,
        (
            (str(row.size), str(row.batch), str(row.views), f"{row.seconds:.2f}", f"{1e3 * row.per_view:.0f}",
             f"{row.peak_gbytes:.2f}")
            for row in rows
        ),
    )) or ""  # fmt: skip


def place_table(rows: "Sequence[Place]") -> str:
    """Ratios are to the first row."""
    from eval.report.tables import markdown_table

    header = ("views", "ms per view", "ratio", "ms of the last 50", "GB held")
    return (rows and markdown_table(
        header,
        (
            (str(row.views), f"{1e3 * row.per_view:.0f}", f"{row.per_view / rows[0].per_view:.2f}",
             f"{1e3 * row.per_late_view:.0f}", f"{row.held_gbytes:.3f}")
            for row in rows
        ),
    )) or ""  # fmt: skip


def write(folder: Path, device: Any, record: dict[str, Any], text: str) -> None:
    """scale.json and scale.md."""
    from eval.benchmarks.report import machine
    from eval.report.records import write_json
    from mvgenvs.files import write_text

    write_json(folder / "scale.json", {"machine": machine(device), **record})
    write_text(folder / "scale.md", text + "\n")


if __name__ == "__main__":
    run_script(main, shares_work=False)
