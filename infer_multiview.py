"""From one or a few pictures of an object to new views of it along a camera trajectory."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from mvgenvs.cli import without_collection
from mvgenvs.infer_options import parse_arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script with these arguments. Raises `UserError` for errors that users can correct."""
    return generate(parse_arguments(argv))


def generate(options: argparse.Namespace) -> int:
    """The whole story: inputs, model, views as they are finished, files. Raises `UserError`."""
    with without_collection():
        from mvgenvs.device import resolve_device
        from mvgenvs.diffusion.flags import take_flags
        from mvgenvs.diffusion.plan_display import plan_picture, plan_table
        from mvgenvs.folders import OwnFolder
        from mvgenvs.generation import load_model, make_blocks, make_views
        from mvgenvs.inputs import read_known_view, read_trajectory
        from mvgenvs.media import write_png
        from mvgenvs.photo_folder import make_folder
        from mvgenvs.preview import write_preview
        from mvgenvs.reconstruction.formats import FILES, check_export
        from mvgenvs.results import ResultsFolder

    options.sampling = take_flags(options)
    if options.images is not None:
        make_folder(options)
        return 0

    # The request: nearly everything that can be wrong with it is found before the model is loaded.
    device = resolve_device(options.device)
    known = [read_known_view(given) for given in options.known]
    first = known[0].camera if known else None
    targets = read_trajectory(options.trajectory, options.num_views, options.azimuth, options.elevation, first)
    check_export(options.export, targets.num_views)
    options.sampling, plan = make_blocks(options.sampling, known, targets, options.seed)
    if options.show_plan:
        with OwnFolder(options.output) as folder:
            folder.claim(["plan.png"])
            write_png(folder.path / "plan.png", plan_picture(plan, len(known)))
        print(plan_table(plan, len(known)))
        return 0
    if options.preview:
        write_preview(options, device, known, targets)
        return 0
    inputs = [path for given in options.known for path in given.files]
    exports = [FILES[kind] for kind in options.export]
    with ResultsFolder(options.output, targets.num_views, inputs, exports) as results:
        started = time.perf_counter()
        pipe = load_model(options, device, bool(known))
        make_views(options, pipe, known, targets, plan, results, load_seconds=time.perf_counter() - started)
    return 0


def script() -> None:
    """The command `mvgenvs-infer`, or this file."""
    arguments = parse_arguments()  # before heavy imports, so that --help answers at once

    from mvgenvs.cli import run_script

    run_script(lambda: generate(arguments), shares_work=arguments.images is not None)


if __name__ == "__main__":
    script()
