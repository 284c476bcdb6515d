"""Studies of the denoiser and of how sequences are sampled: `python -m eval.study --help`."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from eval.cli import NO_MATTES
from eval.evaluation import load_pipeline, recorded_sampling
from eval.metrics.suite import CONSISTENCY, METRICS, load_suite
from eval.progress import progress_bar
from eval.protocols import ORBIT_TARGETS
from eval.report.records import Settings
from eval.studies import camera, conditional, fooling, geometry, levels, mattes, mesh, plans, steps
from eval.studies.trials import Study
from mvgenvs.cli import SEED, OneSentenceParser, explained_failures, run_script, whole_number
from mvgenvs.data.scenes import open_scenes
from mvgenvs.data.stored import CachedScenes
from mvgenvs.device import resolve_device
from mvgenvs.diffusion.options import SamplingOptions
from mvgenvs.folders import OwnFolder
from mvgenvs.parts import checkpoint_sha256, resolve_checkpoint
from mvgenvs.perceptual import NETS
from mvgenvs.pipeline import MultiViewPipeline

STUDIES = {
    "conditional": "how far from the truth re-noised anchors lead new views, with an ideal denoiser and no weights",
    "fooling": "every measure of blurred, shuffled and copied views, beside the views themselves and the truth",
    "geometry": "the NeRF's depth and silhouettes against the true ones, and what its depth is good for",
    "mattes": "photos cut out before twenty backgrounds, and what a cut does to pictures on white",
    "camera": "the camera of a picture, estimated, and what the NeRF makes of it",
    "levels": "the denoiser's error on true views at each noise level: alone, joint, with anchors, without renderings",
    "mesh": "exported meshes: drawn at the generated cameras, and their shape against the true one",
    "steps": "quality against network evaluations per new view",
    "plans": "every plan on the same views; joint attention and anchors on and off",
}
EVENLY = ("geometry", "mattes", "camera")  # the studies that also take training objects
Model = tuple[MultiViewPipeline, CachedScenes, int]  # and the number of objects wanted
SAMPLING = {"steps": steps, "plans": plans}  # the studies that sample pictures and measure them


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with explained_failures(args.output):
        model = None if args.study == "conditional" else open_model(args)
        with OwnFolder(args.output) as own:
            own.claim([f"{args.study}.{kind}" for kind in ("json", "md", "png")])
            print(run(args, model, own))


def run(args: argparse.Namespace, model: Model | None, own: OwnFolder) -> str:
    """Runs the study that was asked for; returns its text, which also lies in the folder."""
    if model is None:
        with progress_bar(conditional.num_cases(), "sampling") as progress:
            return conditional.study(own.path, progress.update)
    if args.study == "geometry":
        with progress_bar(model[2], "rendering") as progress:
            return geometry.study(own.path, *model, args.inputs, not args.no_mattes, progress.update)
    if args.study == "mattes":
        with progress_bar(model[2], "cutting") as progress:
            return mattes.study(own.path, *model, args.seed, progress.update)
    if args.study == "camera":
        with progress_bar(model[2], "estimating") as progress:
            return camera.study(own.path, *model, args.network, args.seed, progress.update)
    if args.study == "mesh":
        suite = load_suite((), NETS[:1], args.lpips_trunks, device=model[0].device)
        with progress_bar(model[2], "exporting") as progress:
            return mesh.study(own.path, *model, suite, args.seed, progress.update)
    if args.study == "fooling":
        suite = load_suite(METRICS, NETS[:1], args.lpips_trunks, device=model[0].device)
        sampling = recorded_sampling(SamplingOptions(block=plans.BLOCK), model[0])
        with progress_bar(model[2] * len(fooling.ROWS), "measuring") as progress:
            return fooling.study(own.path, *model, suite, sampling, args.seed, progress.update)
    if args.study == "levels":
        return levels.study(own.path, *model, args.seed)
    return SAMPLING[args.study].study(make_study(args, model, own))


def parser() -> OneSentenceParser:
    parse = OneSentenceParser("python -m eval.study", description=__doc__)
    studies = parse.add_subparsers(dest="study", required=True, metavar="|".join(STUDIES))
    for name, text in STUDIES.items():
        add = studies.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.").add
        if name != "conditional":
            add("--checkpoint", "pipeline folder", default="bundled", metavar="bundled|DIR")
            add("--data", "data set", type=Path, required=True, metavar="DIR")
            splits = ("test", "val", "test2", "val2", *(("train",) if name in EVENLY else ()))
            add("--split", "which objects", choices=splits, default="val")
            spread = name in EVENLY
            which = "only N objects, evenly spread" if spread else "only the first N objects"
            add("--num-objects", which, type=whole_number(1), metavar="N")
            if name == "geometry":
                add("--inputs", "known views, 1 to 3", type=whole_number(1, 16), default=1, metavar="N")
                add("--no-mattes", NO_MATTES, action="store_true")
            if name == "camera":
                add("--network", "folder of a network (default: the bundled one)", type=Path, metavar="DIR")
            add("--seed", "start of the random numbers", type=SEED, default=0)
            add("--device", "where to compute", choices=("auto", "cpu", "cuda"), default="auto")
        if name in (*SAMPLING, "fooling", "mesh"):
            add("--lpips-trunks", "folder with torchvision's AlexNet weights", type=Path, metavar="DIR")
        text = "folder of the results" + ("; resumes what is there" if name in SAMPLING else "")
        add("--output", text, type=Path, required=True, metavar="DIR")
    return parse


def open_model(args: argparse.Namespace) -> Model:
    """The model, the data, and the number of objects wanted. Raises `UserError` where one of them is not to be had."""
    pipeline = load_pipeline(resolve_checkpoint(args.checkpoint), resolve_device(args.device))
    scenes = open_scenes(args.data, args.split, pipeline.size)
    return pipeline, scenes, min(args.num_objects or len(scenes), len(scenes))


def make_study(args: argparse.Namespace, model: Model, own: OwnFolder) -> Study:
    """The model, the data and the metrics of a study. Raises `UserError` where one of them is not to be had."""
    pipeline, scenes, num_objects = model
    suite = load_suite((CONSISTENCY,), NETS[:1], args.lpips_trunks, device=pipeline.device)
    settings = Settings(
        data=str(args.data.resolve()),
        split=args.split,
        protocol="orbit",
        num_inputs=1,
        methods=(),
        metrics=suite.metrics,
        sampling=recorded_sampling(SamplingOptions(plan="sliding", block=plans.BLOCK, sampler="euler"), pipeline),
        num_samples=1,
        seed=args.seed,
        image_size=pipeline.size,
        checkpoint_sha256=checkpoint_sha256(resolve_checkpoint(args.checkpoint)),
        weights_sha256=suite.hashes(),
        device=pipeline.device.type,
    )
    few = args.study == "steps"
    choose = partial(steps.chosen_views, num_objects=num_objects) if few else lambda _: range(ORBIT_TARGETS)
    return Study(own, pipeline, scenes, num_objects, suite, settings, choose, closed=not few)


if __name__ == "__main__":
    run_script(main, shares_work=False)
