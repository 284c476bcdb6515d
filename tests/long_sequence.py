"""Makes a long sequence with a tiny model under a limit of memory: `long_sequence.py FOLDER VIEWS forgetful|hoarding`.

A process of its own, without the tests' shape checks, which keep what they have checked. Prints JSON: the tensors alive
and the GB held at a tenth of the views and at the end, and seconds per view until then.
"""

import gc
import json
import resource
import sys
from pathlib import Path

import torch
from diffusers import EDMEulerScheduler
from tiny import SIZE, tiny_parts

from eval.benchmarks.sequences import measure_sequence, memory_gbytes
from mvgenvs.diffusion.state import Memory
from mvgenvs.model import MultiViewModel
from mvgenvs.nerf.model import Rendering
from mvgenvs.trajectories import canonical_camera

ROOM = 100_000_000  # bytes of addresses that may be added after a tenth of the views


def tiny_model() -> MultiViewModel:
    """Its NeRF shows nothing, as what is shown does not matter here."""
    parts = tiny_parts()
    blank = Rendering.blank(canonical_camera().resized((SIZE, SIZE)).batched(), parts.nerf.config.features)
    parts.nerf.render = lambda *_: blank
    scheduler = EDMEulerScheduler(sigma_min=0.02, sigma_max=8.0)
    return MultiViewModel(parts.codec, parts.nerf, parts.denoiser, scheduler, default_steps=1, default_guidance=1.0)


def tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def main(folder: Path, views: int, manner: str) -> None:
    if manner == "hoarding":
        Memory.forget = lambda *_: None  # type: ignore[method-assign]
    photo = torch.rand(4, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    places = []
    for place in measure_sequence(tiny_model(), photo, (views // 10, views), folder):
        places.append({"tensors": tensors_alive(), "gbytes": place.held_gbytes, "per_view": place.per_view})
        if len(places) == 1:
            room = int(1e9 * memory_gbytes("VmSize")) + ROOM
            resource.setrlimit(resource.RLIMIT_AS, (room, room))
    print(json.dumps(places))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
