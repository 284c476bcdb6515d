"""Trains one stage of the model from a configuration, or exports a checkpoint as a pipeline folder.

python train_multiview.py --config configs/field.yaml [--optim.lr 1e-4] [--resume auto]
python train_multiview.py recipe configs/recipes/two_cores.yaml --data DIR --output DIR [--minutes M]
python train_multiview.py export RUN --output DIR
python train_multiview.py refine RUN --data DIR --output DIR
python train_multiview.py camera --data DIR --output DIR
python train_multiview.py estimate --config configs/field.yaml [--optim.batch 16]
"""

import argparse
import sys
from pathlib import Path

from mvgenvs.cli import (
    GUIDANCE,
    MINUTES,
    SEED,
    SIGMA,
    STEPS,
    TEMPERATURE,
    OneSentenceParser,
    run_script,
    whole_number,
    without_collection,
)
from mvgenvs.config import RefineConfig, TrainConfig, fields_help, load_config
from mvgenvs.processes import join_processes, leave_processes, refuse_several


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    alone = {
        "export": export,
        "refine": refine,
        "camera": camera,
        "estimate": estimate,
    }  # commands that do not share their work
    if arguments and arguments[0] in alone:
        refuse_several()
        return alone[arguments[0]](arguments[1:])
    if arguments[:1] == ["recipe"]:
        return recipe(arguments[1:])
    options = parse(arguments)
    return train(configuration(options), resume=options.resume == "auto")


def configuration(options: argparse.Namespace) -> TrainConfig:
    """The configuration of the file, overridden by the flags."""
    return load_config(options.config, {k: v for k, v in vars(options).items() if "." in k and v is not None})


def train(config: TrainConfig, resume: bool) -> int:
    """One stage, from its first step or its newest checkpoint to its last."""
    with without_collection():
        from mvgenvs.training.trainer import train

    code = train(config, resume)
    leave_processes()
    return code


def recipe(arguments: list[str]) -> int:
    """`recipe FILE --data DIR --output DIR`: every stage from nothing to a model and its table on val.

    If it is stopped, the same command resumes it.
    """
    parser = OneSentenceParser(prog="train_multiview.py recipe", description=recipe.__doc__)
    parser.add_argument("recipe", type=Path, help="a file of configs/recipes/")
    parser.add_argument("--data", nargs="+", required=True, metavar="DIR[=WEIGHT]", help="data sets with a train split")
    parser.add("--output", "folder for the stages' runs and the model", type=Path, required=True, metavar="DIR")
    parser.add("--minutes", "of all stages together (default: the recipe's)", type=MINUTES, metavar="M")
    parser.add_argument("--resume", choices=["auto"], help="always the case: a recipe that was stopped is resumed")
    options = parser.parse_args(arguments)

    from eval.recipe_table import val_data, val_table
    from mvgenvs.training.recipe import PIPELINE, VAL, cook, read_recipe, write_reports

    state = join_processes()
    dish = read_recipe(options.recipe, options.output, options.data, options.minutes)
    data = val_data(options.data) if dish.val_objects else None
    if code := cook(dish):
        return code
    pipeline = options.output / PIPELINE
    val = val_table(pipeline, data, dish.val_objects, options.output / VAL) if data else None
    if state.is_main_process:
        write_reports(dish, val)
        print(f"wrote {pipeline}")
    leave_processes()
    return 0


def export(arguments: list[str]) -> int:
    """`export RUN --output DIR`: the newest checkpoint's averaged weights as an fp16 safetensors pipeline folder."""
    parser = OneSentenceParser(prog="train_multiview.py export", description=export.__doc__)
    parser.add_argument("run", type=Path, help="run, checkpoint or pipeline folder")
    parser.add_argument("--output", type=Path, required=True, help="pipeline folder to write")
    parser.add_argument("--steps", type=STEPS, default=20, help="the model's default sampler steps (default: 20)")
    parser.add_argument("--guidance", type=GUIDANCE, default=1.5, help="the model's default guidance (default: 1.5)")
    text = "start from the rendering with noise of this level, instead of from noise alone"
    parser.add_argument("--render-sigma", type=SIGMA, metavar="X", help=text)
    text = "deviation of that noise, as a share of what its level says (default: 1)"
    parser.add_argument("--temperature", type=TEMPERATURE, default=1.0, metavar="X", help=text)
    options = parser.parse_args(arguments)

    from mvgenvs.parts import find_pipeline, load_parts
    from mvgenvs.pipeline import MultiViewPipeline
    from mvgenvs.training.checkpoint import save_fp16

    parts = load_parts(find_pipeline(options.run))
    pipeline = MultiViewPipeline.from_parts(
        parts,
        default_steps=options.steps,
        default_guidance=options.guidance,
        default_render_sigma=options.render_sigma,
        default_temperature=options.temperature,
    )
    save_fp16(pipeline, options.output)
    print(f"wrote {options.output}")
    return 0


def refine(arguments: list[str]) -> int:
    """`refine RUN --data DIR --output DIR`: trains the codec's refiner on views of training objects generated by RUN.

    It is a stage like any other: OUTPUT/ holds its views and checkpoints, so that a stopped command can be resumed;
    OUTPUT/pipeline/ is the new pipeline.
    """
    parser = OneSentenceParser(prog="train_multiview.py refine", description=refine.__doc__)
    parser.add_argument("run", help="run, checkpoint or pipeline folder, or bundled")
    parser.add_argument("--data", nargs="+", required=True, metavar="DIR[=WEIGHT]", help="data sets")
    parser.add("--output", "folder for the views and the new pipeline", type=Path, required=True, metavar="DIR")
    parser.add("--sets", "training sets to generate six views of", type=whole_number(1), default=120, metavar="N")
    parser.add("--steps", "optimisation steps", type=whole_number(1), default=2000, metavar="N")
    parser.add("--seed", "start of the random numbers", type=SEED, default=0)
    parser.add("--keep", "go on from RUN's own refiner instead of a new one", action="store_true")
    options = parser.parse_args(arguments)

    from mvgenvs.parts import checkpoints, load_parts, resolve_checkpoint
    from mvgenvs.pipeline import MultiViewPipeline
    from mvgenvs.training.checkpoint import save_fp16
    from mvgenvs.training.refining import refining_stage

    before = MultiViewPipeline.from_pretrained(options.run)
    start, views = str(resolve_checkpoint(options.run)), RefineConfig(from_scratch=not options.keep, sets=options.sets)
    config = refining_stage(start, before.size, options.data, options.output, views, options.steps, options.seed)
    if code := train(config, resume=True):
        return code
    after = MultiViewPipeline.from_parts(load_parts(checkpoints(options.output)[-1] / "pipeline"), **before.defaults)
    save_fp16(after, options.output / "pipeline")
    print(f"wrote {options.output / 'pipeline'}")
    return 0


def camera(arguments: list[str]) -> int:
    """`camera --data DIR --output DIR`: trains the network that estimates a photo's camera; minutes on one core."""
    parser = OneSentenceParser(prog="train_multiview.py camera", description=camera.__doc__)
    parser.add_argument("--data", nargs="+", required=True, metavar="DIR[=WEIGHT]", help="data sets with a train split")
    parser.add("--output", "folder for config.json and the weights", type=Path, required=True, metavar="DIR")
    parser.add("--steps", "optimisation steps", type=whole_number(20), default=6000, metavar="N")
    parser.add("--minutes", "end after so many (default: as many as the steps need)", type=MINUTES, metavar="M")
    parser.add("--seed", "start of the random numbers", type=SEED, default=0)
    options = parser.parse_args(arguments)

    from mvgenvs.data.mixture import open_mixture, parse_sources
    from mvgenvs.folders import OwnFolder
    from mvgenvs.training.camera import CAMERA_FILES, save_camera, train_camera

    scenes = open_mixture(parse_sources("", options.data), "train")
    with OwnFolder(options.output) as folder:
        folder.claim(list(CAMERA_FILES))
        save_camera(train_camera(scenes, options.steps, options.minutes, options.seed), folder.path)
    print(f"wrote {options.output}")
    return 0


def estimate(arguments: list[str]) -> int:
    """`estimate --config FILE`: the memory that one training step needs, estimated from shapes alone."""
    config = configuration(parse(arguments))

    from mvgenvs.parts import build_parts
    from mvgenvs.training.memory import step_memory

    keeping, saving = step_memory(build_parts(config), config)
    rows = [*((name, getattr(keeping, name), getattr(saving, name)) for name in vars(keeping)),
            ("total", keeping.total, saving.total)]  # fmt: skip
    print(f"{'GB per process, gradient checkpointing':40}{'off':>8}{'on':>8}")
    for name, off, on in rows:
        print(f"{name:40}{off / 1e9:8.3f}{on / 1e9:8.3f}")
    print("Not counted: the workspace of kernels, the allocator's reserve, and the CUDA context of a GPU.")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    usage = (
        "%(prog)s --config FILE [--section.field VALUE ...] [--resume auto] | recipe|export|refine|camera|estimate …"
    )
    parser = OneSentenceParser(usage=usage, description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, help="YAML file with changes to the defaults below")
    parser.add_argument("--resume", choices=["auto"], help="continue exactly from the run's newest checkpoint")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, (text, default) in fields_help(TrainConfig).items():
        section = name.split(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        groups[section].add_argument(f"--{name}", metavar="VALUE", help=f"{text} (default: {shown})".replace("%", "%%"))
    return parser.parse_args([underscored(argument) for argument in arguments])


def underscored(argument: str) -> str:
    """A flag with hyphens replaced by the configuration's underscores: --run.init-from becomes --run.init_from."""
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value if name.startswith("--") else argument


def script() -> None:
    """The command `mvgenvs-train`, or this file."""
    run_script(main)


if __name__ == "__main__":
    script()
