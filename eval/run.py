"""Evaluates a checkpoint on a data set in the SRN layout: `python -m eval.run --help`."""

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from eval.methods import COPY, INDEPENDENT, JOINT, METHODS, SamplesViews, predict
from eval.metrics import psnr, rounded_to_8_bits, ssim
from eval.perceptual import NETS, PerceptualDistance, find_trunk
from eval.protocols import PROTOCOLS
from eval.provenance import checkpoint_sha256
from eval.report import Record, write_json, write_report
from mvgenvs.data.srn import SRNScenes
from mvgenvs.errors import OneSentenceParser, UserError, run_script
from mvgenvs.media import contact_sheet, write_png
from mvgenvs.parts import resolve_checkpoint
from mvgenvs.runtime import git_commit
from mvgenvs.views import ViewSet

SHEET_COLUMNS = 12


@dataclass(frozen=True)
class Settings:
    """All that an object's figures depend on. A run resumes only under equal settings."""

    data: str
    split: str
    protocol: str
    methods: tuple[str, ...]
    sampling: dict[str, Any]  # keyword arguments of the pipeline
    seed: int
    image_size: int
    checkpoint_sha256: str
    lpips_trunks_sha256: dict[str, str]
    device: str


def evaluate(
    pipeline: SamplesViews,
    scenes: SRNScenes,
    settings: Settings,
    output: Path,
    distances: Sequence[PerceptualDistance] = (),
    num_objects: int | None = None,
) -> list[Record]:
    """Evaluates the first `num_objects` objects, all by default, and keeps each one's figures in `output`/objects.

    Objects that an earlier run has left there are not computed again. Raises `UserError` where that run had other
    settings, or an object lacks the views that the protocol needs.
    """
    folder = output / "objects"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {output} ({error.strerror}): choose another --output folder") from error
    _claim(output / "settings.json", settings)
    records = []
    total = min(num_objects or len(scenes), len(scenes))
    for index in (progress := tqdm(range(total), unit="object")):
        name = scenes.objects[index].name
        progress.set_postfix_str(name)
        path = folder / f"{name}.json"
        if not path.exists():
            write_json(path, _evaluate_object(pipeline, scenes, index, settings, distances, path.with_suffix(".png")))
        records.append(json.loads(path.read_text()))
    return records


def _evaluate_object(
    pipeline: SamplesViews,
    scenes: SRNScenes,
    index: int,
    settings: Settings,
    distances: Sequence[PerceptualDistance],
    sheet: Path,
) -> Record:
    item, views = scenes.objects[index], scenes.load(index)
    try:
        task = PROTOCOLS[settings.protocol](item.view_ids, views.cameras)
    except UserError as error:
        raise UserError(f"{item.folder}: {error}") from error
    known, targets = views.select(task.inputs).to(settings.device), views.select(task.targets)
    # Each object has its own noise, whichever others are evaluated before it.
    digest = hashlib.sha256(f"{settings.seed}/{item.name}".encode()).digest()
    cameras_only = ViewSet(torch.zeros_like(targets.images), targets.cameras).to(settings.device)  # no truth leaks
    seed = int.from_bytes(digest[:4], "big")
    predicted = predict(pipeline, known, cameras_only, settings.methods, settings.sampling, seed)
    predicted = {method: rounded_to_8_bits(images) for method, images in predicted.items()}
    truth = targets.images
    figures = {
        method: {
            "psnr": psnr(images, truth).tolist(),
            "ssim": ssim(images, truth).tolist(),
            **{f"lpips-{d.net}": d(images.to(settings.device), truth.to(settings.device)).tolist() for d in distances},
        }
        for method, images in predicted.items()
    }
    record: Record = {
        "object": item.name,
        "family": item.family,
        "input_view_ids": [item.view_ids[i] for i in task.inputs],
        "target_view_ids": [item.view_ids[i] for i in task.targets],
        "figures": figures,
    }
    if JOINT in predicted and INDEPENDENT in predicted:
        record["joint_independent_difference"] = (predicted[JOINT] - predicted[INDEPENDENT]).abs().mean().item()
    rows = [("input", known.images), ("truth", truth), *((m, predicted[m]) for m in settings.methods if m != COPY)]
    write_png(sheet, contact_sheet(rows, SHEET_COLUMNS))
    return record


def _claim(path: Path, settings: Settings) -> None:
    """Marks an output folder as that of `settings`; raises `UserError` where it belongs to others."""
    mine = json.loads(json.dumps(asdict(settings)))
    if not path.exists():
        write_json(path, mine)
        return
    try:
        theirs = json.loads(path.read_text())
        differing = [key for key in mine if mine[key] != theirs.get(key)]
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: choose another --output folder or delete this one") from error
    if differing:
        raise UserError(
            f"{path.parent} holds a run with other settings ({', '.join(differing)}): choose another --output folder"
        )


def load_pipeline(folder: Path, device: str) -> Any:
    from mvgenvs.pipeline import MultiViewPipeline

    pipeline = MultiViewPipeline.from_pretrained(folder).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_distances(nets: Sequence[str], folder: Path | None, device: str) -> list[PerceptualDistance]:
    """The LPIPS networks that can be had; says on stderr how to get the others."""
    distances = []
    for net in nets:
        try:
            distances.append(PerceptualDistance(net, find_trunk(net, folder), device))
        except UserError as error:
            print(f"note: {error}; going on without LPIPS-{net}", file=sys.stderr)
    return distances


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def parser() -> argparse.ArgumentParser:
    parse = OneSentenceParser(
        "python -m eval.run", description="Compares a pipeline with baselines, on data in the SRN layout."
    )

    def add(flag: str, text: str, **options: Any) -> None:
        shown = options.get("default")
        parse.add_argument(flag, help=text if shown is None else f"{text} (default: %(default)s)", **options)

    add("--checkpoint", "pipeline folder", default="bundled", metavar="bundled|DIR")
    add("--data", "data set in the SRN layout", type=Path, required=True, metavar="DIR")
    add("--split", "which objects", choices=("test", "val"), default="test")
    add("--protocol", "which views are given and which are wanted", choices=PROTOCOLS, default="orbit")
    add("--num-objects", "only the first N objects", type=_positive, metavar="N")
    add(
        "--methods",
        f"rows of the table, of {', '.join(METHODS)}; all of them unless given",
        nargs="+",
        choices=METHODS,
        metavar="NAME",
    )
    add("--lpips-nets", "LPIPS networks, of alex and vgg; alex unless given", nargs="*", choices=NETS, metavar="NET")
    add("--lpips-trunks", "folder with torchvision's AlexNet or VGG-16 weights", type=Path, metavar="DIR")
    add("--steps", "sampler steps; those that suit the checkpoint unless given", type=_positive, metavar="N")
    add("--guidance", "weight of classifier-free guidance, 1 for none; as for --steps", type=float, metavar="W")
    add("--sampler", "as in infer_multiview.py", default="euler", metavar="NAME")
    add("--churn", "stochasticity of the sampler", type=float, default=0.0, metavar="S")
    add("--plan", "as in infer_multiview.py", default="sliding", metavar="NAME")
    add("--block", "new views per set", type=_positive, default=4, metavar="N")
    add("--anchors", "finished views shown to each block", type=int, metavar="N")
    add("--anchor-level", "noise level of the anchors", choices=("matched", "clean"), default="matched")
    add("--renoise", "noise of the anchors", choices=("fresh", "fixed"), default="fresh")
    add("--seed", "start of the random numbers", type=int, default=0)
    add("--device", "where to compute", choices=("auto", "cpu", "cuda"), default="auto")
    add("--output", "folder of the results; resumes what is there", type=Path, required=True, metavar="DIR")
    return parse


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(words)
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no usable GPU here: leave out --device cuda")
    folder = resolve_checkpoint(args.checkpoint)
    pipeline = load_pipeline(folder, device)
    scenes = SRNScenes(args.data, args.split, pipeline.size)
    distances = load_distances(args.lpips_nets if args.lpips_nets is not None else ["alex"], args.lpips_trunks, device)
    settings = Settings(
        data=str(args.data.resolve()),
        split=args.split,
        protocol=args.protocol,
        methods=tuple(method for method in METHODS if method in (args.methods or METHODS)),
        sampling={
            "plan": args.plan,
            "block": args.block,
            "anchors": args.anchors,
            "anchor_level": args.anchor_level,
            "renoise": args.renoise,
            "sampler": args.sampler,
            "num_inference_steps": args.steps or pipeline.config.default_steps,
            "churn": args.churn,
            "guidance_scale": pipeline.config.default_guidance if args.guidance is None else args.guidance,
        },
        seed=args.seed,
        image_size=pipeline.size,
        checkpoint_sha256=checkpoint_sha256(folder),
        lpips_trunks_sha256={distance.net: distance.sha256 for distance in distances},
        device=device,
    )
    records = evaluate(pipeline, scenes, settings, args.output, distances, args.num_objects)
    context = {
        "command": shlex.join(["python", "-m", "eval.run", *words]),
        "commit": git_commit(),
        "checkpoint": args.checkpoint,
        "lpips": {distance.net: distance.source for distance in distances},
        "settings": asdict(settings),
    }
    print(write_report(args.output, records, context))


if __name__ == "__main__":
    run_script(main)
