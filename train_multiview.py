"""Trains one stage of the model from a configuration, or exports a checkpoint as a pipeline folder.

python train_multiview.py --config configs/opencars128_field.yaml [--optim.lr 1e-4] [--resume auto]
python train_multiview.py export RUN --output DIR
python train_multiview.py refine RUN --data DIR --output DIR
python train_multiview.py estimate --config configs/opencars128_field.yaml [--optim.batch 16]
"""

import argparse
import json
import signal
import sys
from pathlib import Path

from mvgenvs.config import TrainConfig, fields_help, load_config
from mvgenvs.errors import OneSentenceParser, UserError, run_script, whole_number


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["export"]:
        return export(arguments[1:])
    if arguments[:1] == ["refine"]:
        return refine(arguments[1:])
    if arguments[:1] == ["estimate"]:
        return estimate(configuration(parse(arguments[1:])))
    options = parse(arguments)
    return train(configuration(options), resume=options.resume == "auto")


def configuration(options: argparse.Namespace) -> TrainConfig:
    """The file's, changed by the flags."""
    return load_config(options.config, {k: v for k, v in vars(options).items() if "." in k and v is not None})


def train(config: TrainConfig, resume: bool) -> int:
    """One stage, from its first step or its newest checkpoint to its last."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import set_seed
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import EMAModel
    from tqdm import tqdm

    from mvgenvs.data.sampling import TrainingSets
    from mvgenvs.data.scenes import open_scenes
    from mvgenvs.parts import PARTS, build_parts, checkpoints, find_pipeline, load_parts
    from mvgenvs.training import checkpoint, loop
    from mvgenvs.training.objective import Objective, fit_codec
    from mvgenvs.training.optimizer import make_optimizer
    from mvgenvs.training.validation import training_images, validate

    run = Path(config.run.output)
    if not resume and checkpoints(run):
        raise UserError(f"{run} holds checkpoints already: add --resume auto, or choose another --run.output")
    if unknown := {*config.run.train, *config.run.init_parts} - set(PARTS):
        raise UserError(f"there is no part '{unknown.pop()}' for run.train or run.init_parts: use {', '.join(PARTS)}")
    taken = config.run.init_parts if config.run.init_from else ()
    if config.denoiser.trainable != "all" and config.model.kind == "latent" and "denoiser" not in taken:
        raise UserError(f"denoiser.trainable {config.denoiser.trainable} needs a trained denoiser: give run.init_from")
    if config.run.threads:
        torch.set_num_threads(config.run.threads)

    # Data
    scenes = open_scenes(
        Path(config.data.root), "train", config.data.size, config.data.category, config.data.fit_captures
    )
    sets = TrainingSets(
        scenes,
        config.data.num_views,
        (config.data.min_known, config.data.max_known),
        config.optim.batch,
        config.run.seed,
        config.optim.batch * config.optim.steps,
        config.data.recolour,
        config.data.mirror,
    )

    # Model
    set_seed(config.run.seed)
    parts = build_parts(config)
    if taken:
        parts = parts.replaced(load_parts(find_pipeline(Path(config.run.init_from))), taken)
    if "codec" not in taken and config.model.kind == "latent":
        fit_codec(parts.codec, training_images(scenes))
    objective = Objective(parts, config)
    trained = [p for p in objective.parameters() if p.requires_grad]

    # Engine
    tracker = None if config.run.tracker == "none" else config.run.tracker
    accelerator = Accelerator(
        mixed_precision=config.run.mixed_precision,
        gradient_accumulation_steps=config.optim.accumulation,
        log_with=tracker,
        project_dir=str(run),
    )
    optimizer = make_optimizer(trained, config.optim, accelerator.device)
    schedule = get_cosine_schedule_with_warmup(optimizer, config.optim.warmup, config.optim.steps)
    ema = EMAModel(trained, decay=config.optim.ema)
    prepared, optimizer = accelerator.prepare(objective, optimizer)
    ema.to(accelerator.device)
    accelerator.register_for_checkpointing(schedule, ema)
    start, skipped = checkpoint.resume(accelerator, config)
    if tracker:
        accelerator.init_trackers("logs")
    stop_signal = catch_signals()

    # Training
    steps = loop.train(
        accelerator, prepared, optimizer, schedule, ema,
        loop.batches(sets, config, accelerator, start), config, start, skipped,
    )  # fmt: skip
    bar = tqdm(steps, total=config.optim.steps, initial=start, unit="step", disable=not accelerator.is_main_process)
    for report in bar:
        losses = {name: round(value, 4) for name, value in report.losses.items()}
        bar.set_postfix(**losses, skipped=report.skipped, wait=f"{report.wait:.0%}")
        last = report.step == config.optim.steps
        if report.step % config.run.log_every == 0 or last:
            state = {"grad_norm": report.grad_norm, "lr": report.lr, "wait": report.wait}
            accelerator.log({**report.losses, **state}, step=report.step)
            append_line(run / "log.jsonl", {"step": report.step, **report.losses, **state})
        if last or stop_signal or report.step % config.run.checkpoint_every == 0:
            checkpoint.save_checkpoint(accelerator, config, parts, ema, report.step, report.skipped)
        every = config.run.validate_every
        if accelerator.is_main_process and ((every > 0 and report.step % every == 0) or (last and every >= 0)):
            with checkpoint.ema_weights(ema, parts):
                metrics = validate(parts, config, report.step)
            accelerator.log({f"val/{name}": value for name, value in metrics.items()}, step=report.step)
            bar.write(f"step {report.step}: " + ", ".join(f"{name} {value:.2f}" for name, value in metrics.items()))
        if stop_signal:
            bar.write(f"stopped by {stop_signal[0]} after step {report.step}; continue with --resume auto")
            break
    accelerator.end_training()
    return 0


def export(arguments: list[str]) -> int:
    """`export RUN --output DIR`: the newest checkpoint's averaged weights as an fp16 safetensors pipeline folder."""
    parser = OneSentenceParser(prog="train_multiview.py export", description=export.__doc__)
    parser.add_argument("run", type=Path, help="run, checkpoint or pipeline folder")
    parser.add_argument("--output", type=Path, required=True, help="pipeline folder to write")
    parser.add_argument("--steps", type=int, default=20, help="sampler steps that suit the model (default: 20)")
    parser.add_argument("--guidance", type=float, default=1.5, help="guidance that suits the model (default: 1.5)")
    options = parser.parse_args(arguments)

    from mvgenvs.parts import find_pipeline, load_parts
    from mvgenvs.pipeline import MultiViewPipeline
    from mvgenvs.training.checkpoint import save_fp16

    parts = load_parts(find_pipeline(options.run))
    pipeline = MultiViewPipeline.from_parts(parts, default_steps=options.steps, default_guidance=options.guidance)
    save_fp16(pipeline, options.output)
    print(f"wrote {options.output}")
    return 0


def refine(arguments: list[str]) -> int:
    """`refine RUN --data DIR --output DIR`: trains the codec's refiner on what RUN makes of training objects.

    OUTPUT/views/ keeps the views, so that a command that was stopped goes on; OUTPUT/pipeline/ is the new pipeline.
    """
    parser = OneSentenceParser(prog="train_multiview.py refine", description=refine.__doc__)
    parser.add_argument("run", help="run, checkpoint or pipeline folder, or bundled")
    parser.add("--data", "data set", type=Path, required=True, metavar="DIR")
    parser.add("--output", "folder for the views and the new pipeline", type=Path, required=True, metavar="DIR")
    parser.add("--sets", "training sets to make six views of", type=whole_number(1), default=120, metavar="N")
    parser.add("--steps", "optimisation steps", type=whole_number(1), default=2000, metavar="N")
    parser.add("--seed", "start of the random numbers", type=int, default=0)
    options = parser.parse_args(arguments)

    from mvgenvs.training.refining import refine_checkpoint

    refine_checkpoint(options.run, options.data, options.output, options.sets, options.steps, options.seed)
    print(f"wrote {options.output / 'pipeline'}")
    return 0


def estimate(config: TrainConfig) -> int:
    """`estimate --config FILE`: the memory that one training step needs, worked out from shapes alone."""
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
    usage = "%(prog)s --config FILE [--section.field VALUE ...] [--resume auto] | export … | refine … | estimate …"
    parser = OneSentenceParser(usage=usage, description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, help="YAML file with what differs from the defaults below")
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
    """A flag with its hyphens as the configuration's underscores: --run.init-from is --run.init_from."""
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value if name.startswith("--") else argument


def catch_signals() -> list[str]:
    """An empty list that receives the name of a SIGTERM or SIGINT; the step at hand is finished and saved first."""
    received: list[str] = []

    def note(number: int, _: object) -> None:
        received.append(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return received


def append_line(path: Path, entry: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    run_script(main)
