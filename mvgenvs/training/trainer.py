"""One stage of training, from its configuration to its last checkpoint: data, model, accelerate, and training loop."""

import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from diffusers.training_utils import EMAModel
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from mvgenvs.cli import explained_failures
from mvgenvs.config import TrainConfig
from mvgenvs.data.mixture import open_mixture, parse_sources
from mvgenvs.data.sampling import TrainingSets
from mvgenvs.data.stored import CachedScenes
from mvgenvs.data.streamed import ShardScenes
from mvgenvs.data.streamed_sets import StreamedSets
from mvgenvs.errors import UserError
from mvgenvs.folders import OwnFolder
from mvgenvs.nerf.field import PAINT_CHANNELS
from mvgenvs.parts import CHECKPOINT_PREFIX, PARTS, Parts, build_parts, checkpoints, find_checkpoint, load_parts
from mvgenvs.precision import best_mixed_precision, low_precision_norms
from mvgenvs.processes import join_processes, on_main
from mvgenvs.training import checkpoint, loop
from mvgenvs.training.log import note
from mvgenvs.training.objective import Objective, fit_codec
from mvgenvs.training.optimizer import make_optimizer
from mvgenvs.training.prior import first_sets, fit_prior, recall_prior
from mvgenvs.training.refining import Refinement, forget_refiner, made_views, refiner_of
from mvgenvs.training.rendered import check_rendered, rendered_sets
from mvgenvs.training.schedule import ENDLESS, StageLength
from mvgenvs.training.validation import training_images, validate


def train(config: TrainConfig, resume: bool) -> int:
    """One stage, from its first step or its newest checkpoint to its last. Raises `UserError`."""
    run = Path(config.run.output)
    if not resume and checkpoints(run):
        raise UserError(f"{run} holds checkpoints already: add --resume auto, or choose another --run.output")
    check(config)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    accelerator = make_accelerator(config)
    with ExitStack() as lock:  # until it is closed, no other process may train into the folder
        on_main(accelerator.state, lambda: lock.enter_context(OwnFolder(run, "--run.output")))
        on_main(accelerator.state, lambda: checkpoint.clear_unfinished_checkpoints(run))
        return run_stage(config, accelerator)


def run_stage(config: TrainConfig, accelerator: Accelerator) -> int:
    """Trains a stage that has been checked, in its own folder; 1 if it was stopped before its end."""
    run = Path(config.run.output)
    length = StageLength(config, lambda steps: agreed(accelerator, steps, "min"))
    scenes, sets = open_data(config, accelerator.num_processes)
    set_seed(config.run.seed)
    parts, taken = make_parts(config, scenes)
    objective = Refinement(parts, config) if config.loss.refine else Objective(parts, config)
    low_precision_norms(objective)
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = make_optimizer(trained, config.optim, accelerator.device)
    schedule = LambdaLR(optimizer, lambda step: length.rate(step))  # a lambda has no state to save
    ema = EMAModel(trained, decay=config.optim.ema, foreach=True)
    prepared, optimizer = accelerator.prepare(objective, optimizer)
    ema.to(accelerator.device)
    for part in parts.modules().values():  # including those that the objective does not use
        part.to(accelerator.device)
    accelerator.register_for_checkpointing(schedule, ema)
    with explained_failures(run, resumes=True):
        items = kept_items(accelerator, objective, sets, scenes, config, length)
    start, skipped = checkpoint.resume(accelerator, config, ema)
    data = loop.batches(items, config, accelerator, start)
    if config.denoiser.fit_prior and "denoiser" in config.run.train and "denoiser" not in taken:
        give_prior(objective, items, config, start, accelerator.device)
    if config.run.tracker != "none":
        accelerator.init_trackers("logs")

    stopped = catch_signals()
    stop, last = False, True  # for a finished run that is resumed
    steps = loop.train(accelerator, prepared, optimizer, schedule, ema, data, config, length, start, skipped)
    with tqdm(steps, initial=start, unit="step", disable=not accelerator.is_main_process) as bar:
        for report in bar:
            bar.total = None if length.end == ENDLESS else length.end
            last = report.step == length.end
            note(bar, accelerator, report, config, last)
            stop = agreed(accelerator, len(stopped), "sum") > 0
            if last or stop or report.step % config.run.checkpoint_every == 0:
                checkpoint.save_checkpoint(accelerator, config, parts, ema, report.step, report.skipped)
            every = config.run.validate_every
            if (every > 0 and report.step % every == 0) or (last and every >= 0):
                note_validation(bar, accelerator, parts, ema, config, report.step)
            if stop:
                bar.write(f"stopped by {', '.join(stopped)} after step {report.step}; continue with --resume auto")
                break
    for tracker in accelerator.trackers:  # `end_training` would also separate the processes, which may have more to do
        tracker.finish()
    return 1 if stop and not last else 0


def give_prior(
    objective: Objective | Refinement, items: loop.Items, config: TrainConfig, start: int, device: torch.device
) -> None:
    """Fits the denoiser's prior to the first sets, or recalls that of the checkpoint at step `start`."""
    if not isinstance(objective, Objective):
        return
    if start:
        recall_prior(objective.denoiser, Path(config.run.output) / f"{CHECKPOINT_PREFIX}{start:06d}" / "pipeline")
    else:
        fit_prior(objective, first_sets(items, config.optim.batch // config.optim.accumulation, device))


def note_validation(
    bar: tqdm, accelerator: Accelerator, parts: Parts, ema: EMAModel, config: TrainConfig, step: int
) -> None:
    """Validates the averaged weights, in the main process, and reports the result."""
    if not accelerator.is_main_process:
        return
    with checkpoint.ema_weights(ema, parts):
        metrics = validate(parts, config, step)
    accelerator.log({f"val/{name}": value for name, value in metrics.items()}, step=step)
    bar.write(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))


def check(config: TrainConfig) -> None:
    """Raises `UserError` for settings that do not make a stage."""
    if unknown := {*config.run.train, *config.run.init_parts} - set(PARTS):
        raise UserError(f"there is no part '{unknown.pop()}' for run.train or run.init_parts: use {', '.join(PARTS)}")
    loss = config.loss
    others = (*loss.field_weights, loss.reconstruction, loss.denoise)
    if not any((*others, loss.refine)):
        raise UserError("there is nothing to learn: give a loss a weight, such as loss.denoise 1")
    if not (config.nerf.world_channels and config.nerf.world_density):
        for name, wanted in (("loss.carving", loss.carving), ("nerf.visibility", config.nerf.visibility)):
            if wanted:
                raise UserError(f"{name} needs a world volume with a density: nerf.world_channels and world_density")
    if config.nerf.world_paint and not (config.nerf.visibility and config.nerf.source_colour):
        raise UserError("nerf.world_paint colours what known views do not see: it needs nerf.visibility, source_colour")
    if config.nerf.world_paint and config.nerf.world_channels < PAINT_CHANNELS + 2:
        raise UserError(
            f"nerf.world_paint takes {PAINT_CHANNELS} of nerf.world_channels, and density and trust one each"
        )
    if loss.paint and not config.nerf.world_paint:
        raise UserError("loss.paint needs colours in the world volume: nerf.world_paint")
    if loss.refine:
        check_refining(config, others)
    if config.data.renderings:
        check_rendered(config)
    taken = config.run.init_parts if config.run.init_from else ()
    if config.denoiser.trainable != "all" and config.model.kind == "latent" and "denoiser" not in taken:
        raise UserError(f"denoiser.trainable {config.denoiser.trainable} needs a trained denoiser: give run.init_from")


def check_refining(config: TrainConfig, others: Sequence[float]) -> None:
    """Raises `UserError` for settings that do not make a refiner's stage."""
    if tuple(config.run.train) != ("codec",) or any(others):
        raise UserError("loss.refine is a stage of its own: give it run.train [codec], and no loss but loss.perceptual")
    if not config.run.init_from or {*config.run.init_parts} != {*PARTS}:
        raise UserError("loss.refine needs a finished model: give run.init_from, and take all its parts")


def kept_items(
    accelerator: Accelerator,
    objective: Objective | Refinement,
    sets: TrainingSets,
    scenes: CachedScenes,
    config: TrainConfig,
    length: StageLength,
) -> loop.Items:
    """What the stage learns from: training sets, or what was made of them before the first step."""
    items: loop.Items
    if isinstance(objective, Refinement):
        items, kept = made_views(accelerator, scenes, config)
    elif config.data.renderings:
        items, kept = rendered_sets(accelerator, objective, sets, scenes, config)
    else:
        return sets
    length.spent(kept.earlier_seconds)
    return items


def open_data(config: TrainConfig, world: int = 1) -> tuple[CachedScenes, TrainingSets]:
    """The training scenes, and the endless sequence of sets that `world` processes draw from them."""
    data = config.data
    roots = parse_sources(data.root, data.sources)
    scenes = open_mixture(roots, "train", data.size, data.category, data.fit_captures)
    make: Callable[..., TrainingSets] = TrainingSets
    if isinstance(scenes, ShardScenes):
        share = max(1, config.optim.batch // config.optim.accumulation // world)
        make = partial(StreamedSets, world=world, share=share)
    sets = make(
        scenes,
        data.num_views,
        (data.min_known, data.max_known),
        config.optim.batch,
        config.run.seed,
        ENDLESS,
        data.recolour,
        data.mirror,
        data.known_odds,
        data.expose,
        data.neighbours,
    )
    return scenes, sets


def make_parts(config: TrainConfig, scenes: CachedScenes) -> tuple[Parts, tuple[str, ...]]:
    """The parts, new or from `run.init_from`, and the names of those that were taken from there."""
    taken = config.run.init_parts if config.run.init_from else ()
    if config.loss.refine:
        parts = load_parts(find_checkpoint(config.run.init_from))
        refiner_of(parts)
        if config.refine.from_scratch:
            forget_refiner(parts.codec)
        return parts, taken
    parts = build_parts(config)
    if taken:
        parts = parts.replaced(load_parts(find_checkpoint(config.run.init_from)), taken)
    if "codec" not in taken and config.model.kind == "latent":
        fit_codec(parts.codec, training_images(scenes))
    return parts, taken


def make_accelerator(config: TrainConfig) -> Accelerator:
    """The engine of accelerate; says how many processes it runs in."""
    state = join_processes()
    precision = [best_mixed_precision() if config.run.mixed_precision == "auto" else config.run.mixed_precision]
    if state.num_processes > 1:
        broadcast_object_list(precision)  # the machines they run on may differ
    torch.backends.cudnn.benchmark = True  # shapes do not change
    accelerator = Accelerator(
        mixed_precision=precision[0],
        gradient_accumulation_steps=config.optim.accumulation,
        log_with=None if config.run.tracker == "none" else config.run.tracker,
        project_dir=config.run.output,
    )
    processes = "1 process" if accelerator.num_processes == 1 else f"{accelerator.num_processes} processes"
    accelerator.print(f"training on {processes}, {accelerator.device.type}, {accelerator.mixed_precision}")
    return accelerator


def agreed(accelerator: Accelerator, value: int, how: str) -> int:
    """One number out of all processes': their sum, or the smallest."""
    if accelerator.num_processes == 1:
        return value
    values = accelerator.gather(torch.tensor([value], device=accelerator.device))
    return int(values.sum() if how == "sum" else values.min())


def catch_signals() -> list[str]:
    """An empty list that receives the name of a SIGTERM or SIGINT; the current step is finished and saved first."""
    received: list[str] = []

    def take(number: int, _: object) -> None:
        received.append(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, take)
    return received
