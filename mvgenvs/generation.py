"""What `infer_multiview.py` does with its parsed arguments: load the model, generate views, write the files."""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras, concatenate
from mvgenvs.cli import explained_failures
from mvgenvs.device import peak_memory
from mvgenvs.diffusion.options import SamplingOptions
from mvgenvs.diffusion.plans import Block, make_plan, plan_sizes
from mvgenvs.diffusion.sequence import OnStep
from mvgenvs.diffusion.state import Frames, SequenceState
from mvgenvs.errors import UserError
from mvgenvs.inputs import KnownView
from mvgenvs.model import MultiViewModel
from mvgenvs.photos import frame_photo
from mvgenvs.results import ResultsFolder, StepReporter
from mvgenvs.resuming import chosen, run_settings
from mvgenvs.trial import fastest_precision
from mvgenvs.versions import versions


@dataclass(frozen=True, eq=False, slots=True)
class ModelInputs:
    """The known views in the form that the model takes; None if there are none."""

    images: Float[Tensor, "1 known 4 h w"] | None
    cameras: Cameras | None
    notes: list[str]  # sentences on what was done and what was assumed


def make_views(
    options: argparse.Namespace,
    pipe: Any,
    known: Sequence[KnownView],
    targets: Cameras,
    plan: Sequence[Block],
    results: ResultsFolder,
    load_seconds: float,
) -> None:
    """Writes the views of the plan to the folder, and exports them. Raises `UserError`.

    Views that are to be exported are not made again if they were finished before. `load_seconds` are those that the
    model took.
    """
    given = model_inputs(known, pipe.size, pipe.device)
    print("".join(f"{note}\n" for note in given.notes), end="")
    targets = targets.resized((pipe.size, pipe.size))
    settings = run_settings(options, targets, str(pipe.device))
    finished = results.finished() if options.export else None
    earlier = [run for run in (finished, results.unfinished()) if run is not None]
    with explained_failures(results.partial):
        choose_precision(options, pipe, given, targets, plan, settings, earlier)
    if options.export and settings == finished:
        print(f"All {targets.num_views} views are in {results.path} already.")
    else:
        sample_views(options, pipe, given, targets, plan, settings, results, load_seconds)
    if options.export:
        from mvgenvs.exporting import export_views

        export_views(options.export, pipe, given.images, given.cameras, targets, results)


def sample_views(
    options: argparse.Namespace,
    pipe: Any,
    given: ModelInputs,
    targets: Cameras,
    plan: Sequence[Block],
    settings: dict[str, Any],
    results: ResultsFolder,
    load_seconds: float,
) -> None:
    """Writes the views of the plan to the folder; `settings` are all that they depend on."""
    started, device, unfinished = time.perf_counter(), torch.device(settings["device"]), results.unfinished()
    num_known = 0 if given.images is None else given.images.shape[1]
    if options.compile:
        pipe.denoiser.compile_network()
    blocks = [[view - num_known for view in block.new] for block in plan]
    resume = None if options.save_progress else results.resumable(settings, blocks)  # a video cannot be continued
    made_before = {view for block in blocks[: resume.finished if resume else 0] for view in block}

    progress: StepReporter  # made later, since it needs the folder in which the results are begun
    with explained_failures(results.partial, resumes=not options.save_progress):
        sampling = replace(options.sampling, plan=plan)
        stream = view_stream(pipe, given, targets, sampling, options.seed, lambda state: progress(state), resume)
        if resume:
            print(f"Continuing after {len(made_before)} of {targets.num_views} views.")
        elif unfinished is not None:
            print(f"Starting anew: the views in {results.partial} {why_anew(settings, unfinished)}.")
        results.begin(settings, resume is not None)
        with StepReporter(results.partial if options.save_progress else None, most_new(plan)) as progress:
            for frames in stream:
                results.take(frames)
        generated, num_made = time.perf_counter(), targets.num_views - len(made_before)
        results.summarize(None if given.images is None else given.images[0, :, :3], targets)
        seconds = {
            "load": load_seconds,
            "generate": generated - started,
            "per_view": (generated - started) / max(1, num_made),
            "files": time.perf_counter() - generated,
        }
        resolved = {"device": str(device), "size": pipe.size, "num_views": targets.num_views}
        record = run_record(chosen(options) | resolved, given.notes, len(made_before), seconds, device)
        results.publish(record | {"made_with": settings})
    print(f"{num_made} views in {seconds['generate']:.0f} s: see {Path(options.output, 'orbit.mp4')}")


def make_blocks(
    sampling: SamplingOptions, known: Sequence[KnownView], targets: Cameras, seed: int
) -> tuple[SamplingOptions, list[Block]]:
    """The blocks of a plan that is given by its name, and the options with its own sizes in place of None.

    Raises `UserError`.
    """
    assert isinstance(sampling.plan, str)
    block, anchors = plan_sizes(sampling.plan, sampling.block, sampling.anchors)
    plan = make_plan(
        sampling.plan,
        len(known),
        targets.num_views,
        block,
        anchors,
        centers=torch.cat([*(view.camera.centers for view in known), targets.centers]).numpy(),
        seed=seed,
        close_loop=sampling.close_loop,
        resample=sampling.resample,
    )
    return replace(sampling, block=block, anchors=anchors), plan


def view_stream(
    pipe: Any,
    given: ModelInputs,
    targets: Cameras,
    sampling: SamplingOptions,
    seed: int,
    on_step: OnStep,
    resume: SequenceState | None = None,
) -> Iterator[Frames]:
    """The views at the unbatched `targets`, block by block; see `MultiViewPipeline.stream`."""
    return pipe.stream(
        given.images,
        given.cameras,
        targets.batched().to(pipe.device),
        generator=torch.Generator().manual_seed(seed),
        on_step=on_step,
        resume=resume,
        **sampling.keywords(),
    )


def load_model(options: argparse.Namespace, device: torch.device, has_known: bool) -> Any:
    """The model on its device; sampling options left to the checkpoint are resolved here. Raises `UserError`."""
    pipe = MultiViewModel.from_pretrained(options.checkpoint, attention_backend=options.attention_backend)
    if options.size not in (None, pipe.size):
        raise UserError(f"--size {options.size} is not the size of this model's views, {pipe.size}: leave it out.")
    options.sampling = pipe.resolved(options.sampling, has_known)
    pipe.to(device)
    return pipe


def model_inputs(known: Sequence[KnownView], size: int, device: torch.device) -> ModelInputs:
    """The photos, framed for the model, with their mattes and cameras."""
    photos = [frame_photo(view.image, size, reframe=not view.camera_given) for view in known]
    notes = [note for view in known for note in view.notes] + [note for photo in photos for note in photo.notes]
    if not known:
        return ModelInputs(None, None, notes)
    images = torch.stack([photo.rgba for photo in photos])[None].to(device)
    cameras = concatenate([view.camera.resized((size, size)) for view in known]).batched().to(device)
    return ModelInputs(images, cameras, notes)


def choose_precision(
    options: argparse.Namespace,
    pipe: Any,
    given: ModelInputs,
    targets: Cameras,
    plan: Sequence[Block],
    settings: dict[str, Any],
    earlier: Sequence[dict[str, Any]],
) -> None:
    """Sets the number format. "auto" takes that of the `earlier` run being resumed, or else the fastest in a trial."""
    if options.dtype == "auto":
        same = [run["dtype"] for run in earlier if settings == {**run, "dtype": "auto"}]
        if same:
            options.dtype = same[0]
        else:
            steps = len(plan) * options.sampling.num_steps
            dtype = fastest_precision(pipe, given.images, given.cameras, targets.batched(), most_new(plan), steps)
            options.dtype = str(dtype).removeprefix("torch.")
        settings["dtype"] = options.dtype
    pipe.set_precision(getattr(torch, options.dtype))


def most_new(plan: Sequence[Block]) -> int:
    """The largest number of views that a block generates."""
    return max(len(block.new) for block in plan)


def why_anew(settings: dict[str, Any], unfinished: dict[str, Any]) -> str:
    """Why the views that a stopped run left cannot be used."""
    differing = [name for name in settings if settings[name] != unfinished.get(name)]
    return f"were made with other settings ({', '.join(differing)})" if differing else "cannot be continued"


def run_record(
    settings: dict[str, Any], notes: list[str], num_before: int, seconds: dict[str, float], device: torch.device
) -> dict[str, Any]:
    """The content of `run.json`."""
    return {
        "settings": settings,
        "notes": notes,
        "views_of_a_stopped_run": num_before,
        "versions": versions(),
        "seconds": {stage: round(duration, 3) for stage, duration in seconds.items()},
        "peak_memory_bytes": peak_memory(device),
    }
