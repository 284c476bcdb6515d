"""From one picture of an object, or a few, to new views of it along a camera trajectory."""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

PLANS = ("joint", "sliding", "autoregressive", "keyframes", "unconditional")  # repeated: --help imports nothing heavy
EXAMPLE = "example: python infer_multiview.py --image assets/car.png --camera assets/car.json --output outputs/orbit"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script with these arguments. Raises `UserError` for what a user can mend."""
    return generate(parse_arguments(argv))


def generate(options: argparse.Namespace) -> int:
    """The whole story: inputs, model, views as they are finished, files. Raises `UserError`."""
    import torch

    from mvgenvs.cameras import concatenate
    from mvgenvs.diffusion.plan_display import plan_picture, plan_table
    from mvgenvs.diffusion.plans import make_plan, plan_sizes
    from mvgenvs.errors import UserError
    from mvgenvs.inputs import read_known_view, read_trajectory
    from mvgenvs.media import write_png
    from mvgenvs.photos import frame_photo
    from mvgenvs.results import ResultsFolder, StepReporter
    from mvgenvs.runtime import explained_failures, peak_memory, resolve_device, versions

    # What was asked for: nearly all that can be wrong with it is found before the model is loaded.
    started = time.perf_counter()
    device = resolve_device(options.device)
    known = [read_known_view(image, camera) for image, camera in options.known]
    first = known[0].camera if known else None
    targets = read_trajectory(options.trajectory, options.num_views, options.azimuth, options.elevation, first)
    options.block, options.anchors = plan_sizes(options.plan, options.block, options.anchors)
    plan = make_plan(
        options.plan,
        len(known),
        targets.num_views,
        options.block,
        options.anchors,
        centers=torch.cat([*(view.camera.centers for view in known), targets.centers]).numpy(),
        seed=options.seed,
        close_loop=options.close_loop,
    )
    results = ResultsFolder(options.output, targets.num_views)
    if options.show_plan:
        print(plan_table(plan, len(known)))
        write_png(results.path / "plan.png", plan_picture(plan, len(known)))
        return 0

    from mvgenvs.pipeline import MultiViewPipeline

    pipe = MultiViewPipeline.from_pretrained(options.checkpoint, attention_backend=options.attention_backend)
    if options.size not in (None, pipe.size):
        raise UserError(f"--size {options.size} is not the size of this model's views, {pipe.size}: leave it out.")
    pipe.to(device)
    if options.dtype != "float32":  # the precision it is loaded in
        pipe.to(dtype=getattr(torch, options.dtype))
    if options.compile:
        pipe.denoiser.compile_unet()
    options.steps = pipe.config.default_steps if options.steps is None else options.steps
    options.guidance = pipe.config.default_guidance if options.guidance is None else options.guidance
    options.sigma_max = pipe.scheduler.config.sigma_max if options.sigma_max is None else options.sigma_max
    loaded = time.perf_counter()

    photos = [frame_photo(view.image, pipe.size, reframe=not view.camera_given) for view in known]
    notes = [note for view in known for note in view.notes] + [note for photo in photos for note in photo.notes]
    for note in notes:
        print(note)
    images, cameras = None, None
    if known:
        images = torch.stack([photo.image for photo in photos])[None].to(device)
        cameras = concatenate([view.camera.resized((pipe.size, pipe.size)) for view in known]).batched().to(device)
    targets = targets.resized((pipe.size, pipe.size))

    with explained_failures(results.partial):
        results.begin()
        views = max(len(block.new) for block in plan)
        with StepReporter(results.partial if options.save_progress else None, views) as on_step:
            for frames in pipe.stream(
                images,
                cameras,
                targets.batched().to(device),
                plan=plan,
                renoise=options.renoise,
                anchor_level=options.anchor_level,
                sampler=options.sampler,
                num_inference_steps=options.steps,
                churn=options.churn,
                start=options.start,
                sigma_max=options.sigma_max,
                guidance_scale=options.guidance,
                generator=torch.Generator().manual_seed(options.seed),
                unconditional=options.unconditional,
                on_step=on_step,
            ):
                for k, index in enumerate(frames.indices):
                    results.add(index, frames.images[0, k], frames.renders[0, k], frames.depth[0, k])
        generated = time.perf_counter()

        results.summarize(None if images is None else images[0], targets)
        seconds = {
            "load": loaded - started,
            "generate": generated - loaded,
            "per_view": (generated - loaded) / targets.num_views,
            "files": time.perf_counter() - generated,
        }
        resolved = {"device": str(device), "size": pipe.size, "num_views": targets.num_views}
        record = {
            "settings": {**vars(options), **resolved},
            "notes": notes,
            "versions": versions(),
            "seconds": {stage: round(duration, 3) for stage, duration in seconds.items()},
            "peak_memory_bytes": peak_memory(device),
        }
        results.publish(record)
    print(f"{targets.num_views} views in {seconds['generate']:.0f} s: see {Path(options.output, 'orbit.mp4')}")
    return 0


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with `known` = [(image, camera or None), …]. A mistake ends the script with code 2."""
    parser = _Parser(description=__doc__, epilog=EXAMPLE, allow_abbrev=False)
    whole, positive, angle = _number(int, 1), _number(float, 0), _number(float, -360, 360)
    file: dict[str, Any] = {"action": "append", "dest": "known", "metavar": "FILE"}

    add = parser.add_argument_group("input").add_argument
    add("--image", type=_part("image"), help="a picture; repeat it, with --camera, for more known views", **file)
    add("--camera", type=_part("camera"), help="camera of the --image before it (default: 3/4 from the front)", **file)
    add("--unconditional", action="store_true", help="no input: views of an object that the model makes up")
    add("--checkpoint", default="bundled", metavar="NAME", help="bundled, a folder, or a hub id (default: %(default)s)")

    add = parser.add_argument_group("views").add_argument
    add("--output", default="outputs/run", metavar="DIR", help="folder for the results (default: %(default)s)")
    add("--trajectory", default="orbit", metavar="NAME", help="orbit, spiral, circle or a camera file (default: orbit)")
    add("--num-views", type=whole, metavar="N", help="views of a named trajectory (default: 24)")
    add("--elevation", type=_number(float, -90, 90), metavar="DEG", help="angle up (default: 20; circle: the input's)")
    add("--azimuth", type=angle, metavar="DEG", help="degrees from the front (default: 0; circle: the input's)")
    add("--size", type=_multiple_of_8, metavar="PX", help="side of the views (default, and only choice: the model's)")

    add = parser.add_argument_group("sequence: how views come to know each other").add_argument
    add("--plan", choices=PLANS, default="sliding", help="which views are made together (default: %(default)s)")
    add("--block", type=whole, metavar="N", help="views made at a time (default: 4, autoregressive 1, unconditional 2)")
    add("--anchors", type=_number(int, 0), metavar="N", help="finished views shown to each block (default: the plan's)")
    add("--close-loop", action="store_true", help="make the first views of an orbit again, to meet the last ones")
    add("--show-plan", action="store_true", help="print the plan, draw it in OUTPUT/plan.png, and stop")
    noise = ["fresh", "fixed"]
    add("--renoise", choices=noise, default="fresh", help="anchors' noise: per step, or once (default: %(default)s)")
    levels = ["matched", "clean"]
    add("--anchor-level", choices=levels, default="matched", help="noise level of anchors (default: %(default)s)")

    add = parser.add_argument_group("sampling").add_argument
    samplers = ["euler", "heun", "dpmpp-2m"]
    add("--sampler", choices=samplers, default="euler", help="solver of the diffusion ODE (default: %(default)s)")
    add("--steps", type=whole, metavar="N", help="sampler steps (default: what suits the checkpoint, usually 20)")
    add("--churn", type=positive, default=0.0, metavar="X", help="stochasticity, EDM's S_churn (default: %(default)s)")
    starts = ["noise", "render"]
    add("--start", choices=starts, default="noise", help="noise alone, or on the NeRF's views (default: %(default)s)")
    add("--sigma-max", type=positive, metavar="X", help="noise level to start from (default: the checkpoint's)")
    add("--guidance", type=positive, metavar="X", help="guidance weight, 1 is none (default: likewise, usually 1.5)")
    add("--seed", type=_number(int, 0, 2**63 - 1), default=0, metavar="N", help="seed of all noise (default: 0)")
    add("--save-progress", action="store_true", help="also progress.png and progress.mp4: the views at each step")

    add = parser.add_argument_group("machine").add_argument
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, … (default: %(default)s)")
    dtypes = ["float32", "float16", "bfloat16"]
    add("--dtype", choices=dtypes, default="float32", help="number format of the model (default: %(default)s)")
    add("--attention-backend", metavar="NAME", help="auto, sdpa, xformers or flex (default: PyTorch's own, sdpa)")
    add("--compile", action="store_true", help="compile the UNet: minutes on a CPU, which long sequences earn back")

    options = parser.parse_args(argv)
    try:
        options.known = _pair(options.known or [])
    except ValueError as error:
        parser.error(str(error))
    if options.unconditional == bool(options.known):
        parser.error(
            "--unconditional takes no --image" if options.known else "name an --image, or ask for --unconditional"
        )
    if options.unconditional and options.start == "render":
        parser.error("--start render needs a rendering, and without an --image there is none")
    return options


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one sentence, without the usage lines."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help.\n")


def _part(kind: str) -> Callable[[str], tuple[str, str]]:
    return lambda path: (kind, path)


def _pair(parts: list[tuple[str, str]]) -> list[tuple[str, str | None]]:
    """Gives each image the camera that follows it. Only the first image can do without."""
    if [kind for kind, _ in parts] == ["camera", "image"]:
        parts = parts[::-1]
    known: list[tuple[str, str | None]] = []
    for kind, path in parts:
        if kind == "image":
            known.append((path, None))
        elif not known or known[-1][1] is not None:
            raise ValueError(f"--camera {path} must follow the --image that it belongs to")
        else:
            known[-1] = (known[-1][0], path)
    for image, camera in known[1:]:
        if camera is None:
            raise ValueError(f"--image {image} needs a --camera, which can be assumed for the first image only")
    return known


def _number(kind: type[int] | type[float], low: float, high: float = math.inf) -> Callable[[str], Any]:
    """An argparse type: a finite number from `low` to `high`."""
    noun = "a whole number" if kind is int else "a number"
    span = f"from {low} to {high}" if high < math.inf else f"of at least {low}"

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or math.isinf(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {noun} {span}")
        return value

    return parse


def _multiple_of_8(text: str) -> int:
    size = _number(int, 8)(text)
    if size % 8:
        raise argparse.ArgumentTypeError(f"{size} is not divisible by 8")
    return size


if __name__ == "__main__":
    arguments = parse_arguments()  # before anything heavy is imported: --help answers at once

    from mvgenvs.errors import run_script

    run_script(lambda: generate(arguments))
