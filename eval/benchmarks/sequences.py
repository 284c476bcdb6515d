"""What orbits and long sequences cost: seconds and memory against batch, views and size, and along a sequence."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mvgenvs.allocator import give_back_freed_memory
from mvgenvs.cameras import Cameras
from mvgenvs.device import clock, peak_memory
from mvgenvs.model import MultiViewModel
from mvgenvs.results import ResultsFolder
from mvgenvs.trajectories import TRAJECTORIES, canonical_camera

PEAK_RESET = Path("/proc/self/clear_refs")  # Linux forgets the peak when a 5 is written to it
STATUS = Path("/proc/self/status")
ROUND = 50  # views of an orbit, which a long sequence goes round again and again


@dataclass(frozen=True)
class Orbit:
    """The cost of some orbits in one batch."""

    size: int
    batch: int
    views: int
    seconds: float  # per orbit
    per_view: float
    peak_gbytes: float  # of the process, which holds the model and libraries, too


@dataclass(frozen=True)
class Place:
    """The cost of a sequence up to one of its views."""

    views: int
    per_view: float  # seconds, the mean from the second block on
    per_late_view: float  # seconds, the mean of the last round
    held_gbytes: float  # of memory in use: what is kept free for the next tensors is given back first


def model_of_size(checkpoint: str, size: int | None) -> MultiViewModel:
    """The model of a checkpoint, or one that differs from it in the size of its views: it costs what it would cost.

    Its weights are those of the checkpoint, so that it looks at the same places.
    """
    model = MultiViewModel.from_pretrained(checkpoint)
    if size in (None, model.size):
        return model
    assert size is not None
    denoiser = model.denoiser
    other = type(denoiser).from_config({**denoiser.config, "latent_size": size // model.codec.downscale})
    other.load_state_dict(denoiser.state_dict())
    model.denoiser = other.eval()
    return model


def measure_orbit(model: MultiViewModel, photo: torch.Tensor, batch: int, views: int) -> Orbit:
    """One run, after a short one that is not timed. `photo` is RGBA on white, (4, h, w)."""
    run_through(model, photo, batch, min(views, 4))
    reset_peak()
    seconds = run_through(model, photo, batch, views)
    each = seconds / batch
    return Orbit(model.size, batch, views, each, each / views, memory_gbytes("VmHWM"))


def run_through(model: MultiViewModel, photo: torch.Tensor, batch: int, views: int) -> float:
    """Seconds of the device's work for some orbits."""
    started = now(model.device)
    for _ in stream(model, photo, batch, TRAJECTORIES["orbit"](views, 20.0, 0.0, (model.size, model.size))):
        pass
    return now(model.device) - started


def measure_sequence(
    model: MultiViewModel, photo: torch.Tensor, places: Sequence[int], folder: Path
) -> Iterator[Place]:
    """Makes as many views as the last of the ascending `places` says, with their files, as `infer_multiview.py` does;
    yields each of the places when it is reached. All rounds are of the same cameras, so that they should cost the same.
    """
    around = TRAJECTORIES["orbit"](ROUND, 20.0, 0.0, (model.size, model.size))
    targets, wanted = around.select([view % ROUND for view in range(places[-1])]), list(places)
    with ResultsFolder(folder, targets.num_views) as results:
        results.begin()
        times: list[float] = []  # when each view was finished
        for frames in stream(model, photo, 1, targets):
            results.take(frames)
            times += [now(model.device)] * len(frames.indices)
            first = times.count(times[0])
            while wanted and len(times) >= wanted[0]:
                reached, done = wanted.pop(0), len(times)
                late = min(ROUND, done - first)
                yield Place(
                    views=reached,
                    per_view=(times[-1] - times[0]) / max(1, done - first),
                    per_late_view=(times[-1] - times[-1 - late]) / max(1, late),
                    held_gbytes=held_gbytes(),
                )


def stream(model: MultiViewModel, photo: torch.Tensor, batch: int, targets: Cameras) -> Iterator[Any]:
    """The views of `batch` equal scenes, each with its own noise."""
    hw = (model.size, model.size)
    small = torch.nn.functional.interpolate(photo[None], hw, mode="area").to(model.device)
    generators = [torch.Generator().manual_seed(seed) for seed in range(batch)]
    both = canonical_camera(), targets
    seen, targets = (each.resized(hw).to(model.device).batched().repeat(batch) for each in both)
    return model.stream(small[None].expand(batch, -1, -1, -1, -1), seen, targets, generator=generators)


def now(device: torch.device) -> float:
    """Seconds of the device's work so far."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock(device)()


def held_gbytes() -> float:
    """What the process holds, without what it has freed."""
    give_back()
    return memory_gbytes("VmRSS")


def give_back() -> None:
    """Returns all that is not in use to the system."""
    gc.collect()
    give_back_freed_memory()


def reset_peak() -> None:
    """Where the system can, the peak begins anew; elsewhere it is that of the whole process."""
    give_back()
    if PEAK_RESET.exists():
        PEAK_RESET.write_text("5")


def memory_gbytes(kind: str) -> float:
    """VmRSS, what the process holds now, or VmHWM, the most that it held. Without /proc, the latter for both."""
    if not STATUS.exists():
        return peak_memory(torch.device("cpu"))["host"] / 1e9
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[kind].split()[0]) * 1024 / 1e9
