"""From one picture of an object, or a few, to new views of it along a camera trajectory."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mvgenvs.infer_options import parse_arguments

if TYPE_CHECKING:
    import torch

    from mvgenvs.cameras import Cameras
    from mvgenvs.diffusion.plans import Block
    from mvgenvs.inputs import KnownView
    from mvgenvs.results import ResultsFolder


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script with these arguments. Raises `UserError` for what a user can mend."""
    return generate(parse_arguments(argv))


def generate(options: argparse.Namespace) -> int:
    """The whole story: inputs, model, views as they are finished, files. Raises `UserError`."""
    import torch

    from mvgenvs.device import resolve_device
    from mvgenvs.diffusion.flags import take_flags
    from mvgenvs.diffusion.plan_display import plan_picture, plan_table
    from mvgenvs.diffusion.plans import make_plan, plan_sizes
    from mvgenvs.folders import OwnFolder
    from mvgenvs.inputs import read_known_view, read_trajectory
    from mvgenvs.media import write_png
    from mvgenvs.results import ResultsFolder

    options.sampling = take_flags(options)

    # What was asked for: nearly all that can be wrong with it is found before the model is loaded.
    device = resolve_device(options.device)
    known = [read_known_view(image, camera) for image, camera in options.known]
    first = known[0].camera if known else None
    targets = read_trajectory(options.trajectory, options.num_views, options.azimuth, options.elevation, first)
    sampling = options.sampling
    block, anchors = plan_sizes(sampling.plan, sampling.block, sampling.anchors)
    options.sampling = replace(sampling, block=block, anchors=anchors)
    plan = make_plan(
        sampling.plan,
        len(known),
        targets.num_views,
        block,
        anchors,
        centers=torch.cat([*(view.camera.centers for view in known), targets.centers]).numpy(),
        seed=options.seed,
        close_loop=sampling.close_loop,
    )
    if options.show_plan:
        with OwnFolder(options.output) as folder:
            folder.claim(["plan.png"])
            write_png(folder.path / "plan.png", plan_picture(plan, len(known)))
        print(plan_table(plan, len(known)))
        return 0
    inputs = [path for pair in options.known for path in pair if path is not None]
    with ResultsFolder(options.output, targets.num_views, inputs) as results:
        make(options, device, known, targets, plan, results)
    return 0


def make(
    options: argparse.Namespace,
    device: torch.device,
    known: Sequence[KnownView],
    targets: Cameras,
    plan: Sequence[Block],
    results: ResultsFolder,
) -> None:
    """Loads the model, and leaves the views of the plan in the folder. Raises `UserError`."""
    import torch

    from mvgenvs.cameras import concatenate
    from mvgenvs.cli import explained_failures
    from mvgenvs.device import peak_memory
    from mvgenvs.errors import UserError
    from mvgenvs.photos import frame_photo
    from mvgenvs.pipeline import MultiViewPipeline
    from mvgenvs.results import StepReporter
    from mvgenvs.resuming import chosen, run_settings
    from mvgenvs.trial import fastest_precision
    from mvgenvs.versions import versions

    started = time.perf_counter()
    pipe = MultiViewPipeline.from_pretrained(options.checkpoint, attention_backend=options.attention_backend)
    if options.size not in (None, pipe.size):
        raise UserError(f"--size {options.size} is not the size of this model's views, {pipe.size}: leave it out.")
    pipe.to(device)
    options.sampling = pipe.resolved(options.sampling, bool(known))
    loaded = time.perf_counter()

    photos = [frame_photo(view.image, pipe.size, reframe=not view.camera_given) for view in known]
    notes = [note for view in known for note in view.notes] + [note for photo in photos for note in photo.notes]
    for note in notes:
        print(note)
    images, cameras = None, None
    if known:
        images = torch.stack([photo.rgba for photo in photos])[None].to(device)
        cameras = concatenate([view.camera.resized((pipe.size, pipe.size)) for view in known]).batched().to(device)
    targets = targets.resized((pipe.size, pipe.size))
    views = max(len(block.new) for block in plan)
    settings = run_settings(options, targets, str(device))
    unfinished = results.unfinished()
    if options.dtype == "auto":
        if unfinished is not None and settings == {**unfinished, "dtype": "auto"}:
            options.dtype = unfinished["dtype"]  # what it was then
        else:
            steps = len(plan) * options.sampling.num_steps
            with explained_failures(results.partial):
                dtype = fastest_precision(pipe, images, cameras, targets.batched(), views, steps)
            options.dtype = str(dtype).removeprefix("torch.")
        settings["dtype"] = options.dtype
    pipe.set_precision(getattr(torch, options.dtype))
    if options.compile:
        pipe.denoiser.compile_unet()
    blocks = [[view - len(known) for view in block.new] for block in plan]
    resume = None if options.save_progress else results.resumable(settings, blocks)  # a video can't be gone on with
    made_before = {view for block in blocks[: resume.finished if resume else 0] for view in block}

    with explained_failures(results.partial, resumes=not options.save_progress):
        stream = pipe.stream(
            images,
            cameras,
            targets.batched().to(device),
            generator=torch.Generator().manual_seed(options.seed),
            on_step=lambda state: on_step(state),
            resume=resume,
            **replace(options.sampling, plan=plan).keywords(),
        )
        if resume:
            print(f"Going on after {len(made_before)} of {targets.num_views} views.")
        elif unfinished is not None:
            differing = [name for name in settings if settings[name] != unfinished.get(name)]
            reason = f"were made otherwise ({', '.join(differing)})" if differing else "can't be gone on with"
            print(f"Beginning anew: the views in {results.partial} {reason}.")
        results.begin(settings, resume is not None)
        with StepReporter(results.partial if options.save_progress else None, views) as on_step:
            for frames in stream:
                for k, index in enumerate(frames.indices):
                    results.add(index, frames.images[0, k], frames.renders[0, k], frames.depth[0, k])
                results.keep(frames.state)
        generated = time.perf_counter()

        results.summarize(None if images is None else images[0, :, :3], targets)
        seconds = {
            "load": loaded - started,
            "generate": generated - loaded,
            "per_view": (generated - loaded) / max(1, targets.num_views - len(made_before)),
            "files": time.perf_counter() - generated,
        }
        resolved = {"device": str(device), "size": pipe.size, "num_views": targets.num_views}
        record = {
            "settings": {**chosen(options), **resolved},
            "notes": notes,
            "views_of_a_stopped_run": len(made_before),
            "versions": versions(),
            "seconds": {stage: round(duration, 3) for stage, duration in seconds.items()},
            "peak_memory_bytes": peak_memory(device),
        }
        results.publish(record)
    num_made = targets.num_views - len(made_before)
    print(f"{num_made} views in {seconds['generate']:.0f} s: see {Path(options.output, 'orbit.mp4')}")


if __name__ == "__main__":
    arguments = parse_arguments()  # before anything heavy is imported: --help answers at once

    from mvgenvs.cli import run_script

    run_script(lambda: generate(arguments), shares_work=False)
