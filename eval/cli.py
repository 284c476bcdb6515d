"""The command line of `python -m eval.run`."""

import argparse
from pathlib import Path

from mvgenvs.cli import SEED, OneSentenceParser, whole_number
from mvgenvs.diffusion.flags import add_flags, take_flags
from mvgenvs.errors import UserError

# Repeated from eval.metrics.suite, eval.methods, eval.protocols and mvgenvs.perceptual, so that --help stays fast.
METRICS, DEFAULT_METRICS = ("fd", "consistency", "3d"), ("fd", "consistency")
ROWS = ("copy-nearest", "nerf", "distilled", "independent", "joint", "truth")
DEFAULT_ROWS = tuple(row for row in ROWS if row != "distilled")  # which takes minutes for each object
PROTOCOLS = ("orbit", "srn")
NETS = ("alex", "vgg")
NO_MATTES = "known views without their mattes, like photos without alpha"
SAMPLING = (  # the sampling options that are flags here
    "plan", "block", "anchors", "anchor_level", "renoise", "sampler", "num_inference_steps", "churn", "guidance_scale",
)  # fmt: skip

EPILOG = """Several processes share the objects: `torchrun --nproc_per_node 4 -m eval.run ...`, and on GPUs `accelerate
launch` as well; all must see the same --output folder. A run that was stopped continues when the same command is given
again."""


def parser() -> OneSentenceParser:
    parse = OneSentenceParser(
        "python -m eval.run", description="Compares a pipeline with baselines and with the ground truth.", epilog=EPILOG
    )

    add = parse.add
    add("--checkpoint", "pipeline folder", default="bundled", metavar="bundled|DIR")
    add("--data", "data set", type=Path, required=True, metavar="DIR")
    add("--split", "which objects", choices=("test", "val", "test2", "val2"), default="test")
    add("--protocol", "which views are given and which are predicted", choices=PROTOCOLS, default="orbit")
    add("--inputs", "known views, 1 to 3 (srn: 1 or 2)", type=whole_number(1, 16), default=1, metavar="N")
    add("--no-mattes", NO_MATTES, action="store_true")
    add("--num-objects", "only the first N objects", type=whole_number(1), metavar="N")
    add("--methods", _list("rows of the table", ROWS, DEFAULT_ROWS), nargs="+", choices=ROWS, metavar="NAME")
    add(
        "--samples",
        "samples of each view; more than 1 add a table of their own",
        type=whole_number(1),
        default=1,
        metavar="N",
    )
    add_metric_flags(parse, "row and object", DEFAULT_METRICS)
    add_flags(parse.add_argument, names=SAMPLING, defaults={"block": 4}, texts={"block": "views per block"})
    add("--seed", "start of the random numbers", type=SEED, default=0)
    add("--device", "where to compute", choices=("auto", "cpu", "cuda"), default="auto")
    add("--output", "folder of the results; resumes what is there", type=Path, required=True, metavar="DIR")
    return parse


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Reads the command line, puts lists in their usual order, and the sampling options into `sampling`."""
    args = parser().parse_args(argv)
    args.sampling = take_flags(args)
    args.methods = in_order(args.methods, ROWS, DEFAULT_ROWS)
    args.metrics = in_order(args.metrics, METRICS, DEFAULT_METRICS)
    args.lpips_nets = in_order(args.lpips_nets, NETS, NETS[:1])
    if args.methods == (ROWS[-1],):
        raise UserError(f"--methods {ROWS[-1]} alone evaluates nothing: add one of {', '.join(ROWS[:-1])}")
    return args


def add_metric_flags(parse: OneSentenceParser, each: str, default: tuple[str, ...] | None) -> None:
    """Adds the flags that say what is measured. `each` is what the 3-D score takes 10 s for; no `default` means all."""
    add, text = parse.add, f"metrics besides PSNR, SSIM, LPIPS (3d: 10 s of CPU per {each})"
    add("--metrics", _list(text, METRICS, default), nargs="*", choices=METRICS, metavar="NAME")
    add("--lpips-nets", _list("LPIPS networks", NETS, NETS[:1]), nargs="*", choices=NETS, metavar="NET")
    add("--lpips-trunks", "folder with torchvision's AlexNet or VGG-16 weights", type=Path, metavar="DIR")
    add("--inception-weights", "torch-fidelity's Inception weights, for FID and KID", type=Path, metavar="FILE")


def _list(text: str, names: tuple[str, ...], default: tuple[str, ...] | None = None) -> str:
    usual = "all of them" if default is None else " ".join(default)
    return f"{text}, of {', '.join(names)}; {usual} unless given"


def in_order(chosen: list[str] | None, names: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name in (default if chosen is None else chosen))
