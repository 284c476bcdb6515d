"""A whole evaluation, from checkpoint and data to the report. For its files see `eval.report.records`."""

import argparse
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from eval.cli import SAMPLING
from eval.methods import SamplesViews, check_rows
from eval.metrics.suite import MetricSuite, load_suite
from eval.object_evaluation import evaluate_object
from eval.progress import progress_bar
from eval.report.provenance import all_versions
from eval.report.records import REPORT, RunFolder, Settings, claim_run
from eval.report.writer import write_report
from mvgenvs.cli import explained_failures
from mvgenvs.data.scenes import open_scenes
from mvgenvs.data.stored import CachedScenes
from mvgenvs.diffusion.options import SamplingOptions
from mvgenvs.errors import UserError
from mvgenvs.folders import OwnFolder
from mvgenvs.parts import checkpoint_sha256, resolve_checkpoint
from mvgenvs.processes import join_processes, on_main

LONGEST_WAIT = timedelta(days=30)  # how long a process that has finished its objects waits for the others


def run(args: argparse.Namespace, argv: Sequence[str]) -> None:
    """Evaluates a checkpoint with `args`, the flags of `eval.cli` read from `argv`. Raises `UserError`."""
    processes = join_processes(args.device, LONGEST_WAIT)
    folder = resolve_checkpoint(args.checkpoint)
    pipeline = load_pipeline(folder, processes.device)
    check_rows(pipeline, args.methods)
    scenes = open_scenes(args.data, args.split, pipeline.size)
    names = [item.name for item in scenes.objects[: args.num_objects]]
    suite = load_suite(args.metrics, args.lpips_nets, args.lpips_trunks, args.inception_weights, processes.device)
    settings = make_settings(args, pipeline, checkpoint_sha256(folder), suite, processes.device)
    check_views(scenes, len(names), settings.protocol)
    output = RunFolder(args.output)
    output.check(settings)
    mine = range(len(names))[processes.process_index :: processes.num_processes]
    with ExitStack() as stack:

        def claim() -> None:
            own = stack.enter_context(OwnFolder(args.output))
            claim_run(own, output, [*output.names(names), *REPORT])

        on_main(processes, claim)
        with explained_failures(args.output, resumes=True):
            evaluate(pipeline, scenes, mine, settings, suite, output, quiet=not processes.is_main_process)
        processes.wait_for_everyone()
        if processes.is_main_process:
            context = {
                "title": f"{settings.protocol} on {settings.split}, one sample each",
                "origin": f"checkpoint sha256 {settings.checkpoint_sha256[:12]}, seed {settings.seed}",
                "notes": [],
                "command": shlex.join(["python", "-m", "eval.run", *argv]),
                "checkpoint": args.checkpoint,
                "versions": all_versions(),
                "weights": suite.sources(),
                "settings": asdict(settings),
            }
            with explained_failures(args.output, resumes=True):
                print(write_report(output, [output.read(name) for name in names], suite, context))


def evaluate(
    pipeline: SamplesViews,
    scenes: CachedScenes,
    indices: Sequence[int],
    settings: Settings,
    suite: MetricSuite,
    output: RunFolder,
    quiet: bool = False,
) -> None:
    """Evaluates those objects at `indices` that `output` does not hold yet."""
    todo = [index for index in indices if not output.has(scenes.objects[index].name)]
    rows = len(settings.methods)
    with progress_bar(len(todo) * rows, "evaluating", quiet) as progress:
        for number, index in enumerate(todo):
            item = scenes.objects[index]
            progress.set_postfix_str(f"{item.name}, {number + 1} of {len(todo)}")
            views = scenes.read(index).view_set()  # not kept in memory: each object is needed once
            evaluate_object(pipeline, item, views, settings, suite, output, progress.update)


def check_views(scenes: CachedScenes, num_objects: int, protocol: str) -> None:
    """Raises `UserError` if an object lacks views that others have: the srn protocol needs all views of each object."""
    if protocol != "srn":
        return
    items = scenes.objects[:num_objects]
    complete = max(items, key=lambda item: len(item.view_ids))
    for item in items:
        missing = sorted(set(complete.view_ids) - set(item.view_ids))
        if missing:
            raise UserError(
                f"{item.folder} lacks view {missing[0]:06d}, which {complete.name} has: the srn protocol takes the "
                "same views of every object, so get the data anew"
            )


def load_pipeline(folder: Path, device: torch.device) -> Any:
    from mvgenvs.pipeline import MultiViewPipeline

    pipeline = MultiViewPipeline.from_pretrained(folder).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def recorded_sampling(options: SamplingOptions, pipeline: Any) -> dict[str, Any]:
    """Those options that are flags here, with the checkpoint's choices where nobody has made one."""
    given = options.keywords()
    for name, default in (("num_inference_steps", "default_steps"), ("guidance_scale", "default_guidance")):
        if given[name] is None:
            given[name] = getattr(pipeline.config, default)
    return {name: given[name] for name in SAMPLING}


def make_settings(
    args: argparse.Namespace, pipeline: Any, checkpoint: str, suite: MetricSuite, device: torch.device
) -> Settings:
    return Settings(
        data=str(args.data.resolve()),
        split=args.split,
        protocol=args.protocol,
        num_inputs=args.inputs,
        methods=args.methods,
        metrics=suite.metrics,
        sampling=recorded_sampling(args.sampling, pipeline),
        num_samples=args.samples,
        seed=args.seed,
        image_size=pipeline.size,
        checkpoint_sha256=checkpoint,
        weights_sha256=suite.hashes(),
        device=device.type,
        mattes=not args.no_mattes,
    )
