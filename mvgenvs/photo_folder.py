"""A folder of photos, each of which becomes a folder of results: `infer_multiview.py --images`."""

import argparse
import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mvgenvs.cameras import Cameras
from mvgenvs.cli import explained_failures
from mvgenvs.device import resolve_device
from mvgenvs.diffusion.options import SamplingOptions
from mvgenvs.errors import UserError
from mvgenvs.generation import load_model, make_blocks, make_views
from mvgenvs.inputs import KnownView, read_known_view, read_trajectory
from mvgenvs.processes import join_processes, leave_processes, on_main
from mvgenvs.reconstruction.formats import FILES, check_export
from mvgenvs.results import ResultsFolder
from mvgenvs.resuming import run_settings
from mvgenvs.trajectories import canonical_camera

SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(eq=False)
class Tally:
    """What became of the photos: their names."""

    made: list[str] = field(default_factory=list)
    finished_before: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def find_photos(folder: Path) -> tuple[list[Path], list[str]]:
    """The photos of a folder by their names, and the names of its other files; hidden ones and folders do not count.

    Raises `UserError` if there is none, or two would have the same folder of results.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except NotADirectoryError:
        raise UserError(f"--images {folder} is a file: name the folder it is in, or use --image") from None
    except OSError as error:
        raise UserError(f"cannot read --images {folder}: {error.strerror}") from None
    photos = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not photos:
        raise UserError(f"--images {folder} holds no photo: they are named {', '.join(SUFFIXES)}")
    first: dict[str, Path] = {}
    for path in photos:
        other = first.setdefault(path.stem.casefold(), path)  # there are disks that know no capitals
        if other is not path:
            raise UserError(f"{other.name} and {path.name} in {folder} would share one folder of results: rename one")
    return photos, [path.name for path in files if path not in photos]


def make_folder(options: argparse.Namespace) -> None:
    """Makes OUTPUT/<name>/ of each photo. What is finished is left alone; several processes share the photos.

    A photo that fails is reported, and the others go on: raises `UserError` at the end. What would fail for all of them
    raises it at once.
    """
    processes = join_processes(options.device if options.device in ("cpu", "cuda") else "auto")
    several = processes.num_processes > 1
    device = processes.device if several else resolve_device(options.device)
    on_main(processes, lambda: usual_sampling(options))
    options.sampling = usual_sampling(options)
    photos, others = find_photos(Path(options.images))
    if others and processes.is_main_process:
        print(f"No photos, and left out: {', '.join(others[:5])}{', …' if len(others) > 5 else ''}.")
    started = time.perf_counter()
    pipe = load_model(options, device, has_known=True)
    load_seconds, tally = time.perf_counter() - started, Tally()
    for number in range(processes.process_index, len(photos), processes.num_processes):
        photo = photos[number]
        print(f"Photo {number + 1} of {len(photos)}, {photo.name}:", flush=True)
        try:
            with explained_failures(Path(options.output), resumes=True):
                is_new = make_photo(options, pipe, photo, load_seconds)
            (tally.made if is_new else tally.finished_before).append(photo.name)
            load_seconds = 0.0
        except UserError as error:
            print(f"error: {photo.name}: {str(error).rstrip('.')}.", file=sys.stderr, flush=True)
            tally.failed.append(photo.name)
    tallies = [tally]
    if several:
        from accelerate.utils import gather_object

        tallies = gather_object(tallies)
        leave_processes()
    if processes.is_main_process:
        conclude(tallies, options.output)


def usual_sampling(options: argparse.Namespace) -> SamplingOptions:
    """The sampling options with the sizes of blocks. Raises `UserError` for what would fail for every photo alike."""
    find_photos(Path(options.images))
    usual = KnownView(Image.new("RGBA", (1, 1)), canonical_camera(), False, ())
    targets = _targets(options, usual)
    check_export(options.export, targets.num_views)
    return make_blocks(options.sampling, [usual], targets, options.seed)[0]


def make_photo(options: argparse.Namespace, pipe: Any, photo: Path, load_seconds: float) -> bool:
    """Makes the results of one photo, and says so; False if they were finished before. Raises `UserError`."""
    options = copy.copy(options)
    given = options.known[0]._replace(image=str(photo))
    options.known, options.output = [given], str(Path(options.output, photo.stem))
    known = read_known_view(given) if options.trajectory == "circle" else None  # whose middle is the photo's camera
    targets = _targets(options, known)
    exports = [FILES[kind] for kind in options.export]
    with ResultsFolder(options.output, targets.num_views, [photo], exports) as results:
        hw, finished = (pipe.size, pipe.size), results.finished()
        if finished is not None and results.has(exports):
            settings = run_settings(options, targets.resized(hw), str(pipe.device))
            if settings in (finished, {**finished, "dtype": "auto"}):
                print(f"All {targets.num_views} views are in {results.path} already.")
                return False
        known = known or read_known_view(given)
        options.sampling, plan = make_blocks(options.sampling, [known], targets, options.seed)
        make_views(options, pipe, [known], targets, plan, results, load_seconds)
    return True


def conclude(tallies: Sequence[Tally], output: str) -> None:
    """Says what became of the photos. Raises `UserError` if one failed."""
    made, before, failed = (
        sorted(name for tally in tallies for name in getattr(tally, kind)) for kind in Tally.__dataclass_fields__
    )
    print(f"{len(made)} photos are new in {output}, {len(before)} were finished before.")
    if failed:
        names = f"{', '.join(failed[:10])}{', …' if len(failed) > 10 else ''}"
        raise UserError(f"{len(failed)} of {len(made) + len(before) + len(failed)} photos failed: {names}")


def _targets(options: argparse.Namespace, view: KnownView | None) -> Cameras:
    """The cameras to generate; those of a circle depend on the photo's own."""
    first = None if view is None else view.camera
    return read_trajectory(options.trajectory, options.num_views, options.azimuth, options.elevation, first)
