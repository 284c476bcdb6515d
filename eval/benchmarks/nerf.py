"""The NeRF: lifting 1 and 3 known views, and rendering four views of 64 x 64 with 64 + 64 samples per ray.

The bundled model lifts views of a car from the tests' sample, each with its mirror image: 1 and 3 known views make 2
and 6 volumes. `nerf/render` is compared with `mvgenvs.nerf.reference`. `nerf/render-per-view` is compared with the
field of genvs_unofficial, whose MLP runs once for each volume; that is another function, so no difference is reported.
`nerf/render-occupied` is how sampling renders: no samples where the scene is empty, and fewer elsewhere.
`nerf/render-backward` runs the backward pass from a random linear function of the renderings to the volumes and the
MLP. The gradients of the volumes are compared, relative to the largest of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from eval.benchmarks.stage import Setup, Stage
from mvgenvs.cameras import Cameras
from mvgenvs.data.scenes import open_scenes
from mvgenvs.nerf.field import Scene
from mvgenvs.nerf.model import ViewNeRF
from mvgenvs.nerf.reference import render_plainly
from mvgenvs.trajectories import orbit
from mvgenvs.views import ViewSet

SAMPLE = Path(__file__).resolve().parents[2] / "tests" / "data" / "opencars_sample"  # six views all around a car
SIZE, SAMPLES, VIEWS = 64, 64, 4
KNOWN = {1: [0], 3: [0, 2, 4]}  # of the six views of the sample


def stages(setup: Setup) -> Iterator[Stage]:
    nerf = ViewNeRF.from_config(setup.pipeline.nerf.config, num_coarse=SAMPLES, num_fine=SAMPLES).to(setup.device)
    nerf.load_state_dict(setup.pipeline.nerf.state_dict())
    nerf.eval()
    views = open_scenes(SAMPLE, "val", 128).read(0).view_set()
    for known, indices in KNOWN.items():
        yield from _stages_of(f"-{known}", nerf, views.select(indices), setup.device)


def _stages_of(suffix: str, nerf: ViewNeRF, views: ViewSet, device: torch.device) -> Iterator[Stage]:
    targets = orbit(VIEWS, azimuth=30.0, hw=(SIZE, SIZE)).to(device)
    images, cameras = views.images[None].to(device), views.cameras.to(device).batched()
    yield Stage(f"nerf/encode{suffix}", lambda: lift(nerf, images, cameras))
    with torch.no_grad():
        scene = nerf.encode(images, cameras)
        occupied = replace(scene, occupancy=nerf.occupancy(scene))

    def ours(view: Cameras, scene: Scene = scene) -> Tensor:
        rendering = nerf.render(scene, view.batched())
        return torch.cat([rendering.features, rendering.opacity], dim=2)[0]

    def plain(view: Cameras, fuse: str = "features") -> Tensor:
        return render_plainly(nerf, scene, view, SAMPLES, SAMPLES, fuse)

    def per_view(view: Cameras) -> Tensor:
        return plain(view, fuse="outputs")

    yield Stage(f"nerf/render{suffix}", forward(ours, targets), forward(plain, targets))
    skipping = forward(partial(ours, scene=occupied), targets)
    yield Stage(f"nerf/render-occupied{suffix}", nothing(skipping), forward(plain, targets))
    yield Stage(f"nerf/render-per-view{suffix}", nothing(forward(ours, targets)), forward(per_view, targets))
    yield Stage(
        f"nerf/render-backward{suffix}",
        backward(ours, [targets], nerf, scene),
        backward(plain, [targets.select([v]) for v in range(VIEWS)], nerf, scene),  # one by one, to save memory
    )


def lift(nerf: ViewNeRF, images: Tensor, cameras: Cameras) -> Tensor:
    with torch.no_grad():
        return nerf.encode(images, cameras).volumes


def forward(render: Callable[[Cameras], Tensor], targets: Cameras) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.no_grad():
            return render(targets)

    return run


def nothing(run: Callable[[], Tensor]) -> Callable[[], None]:
    """The same work, with nothing to compare."""

    def quietly() -> None:
        run()

    return quietly


def backward(
    render: Callable[[Cameras], Tensor], parts: list[Cameras], nerf: ViewNeRF, scene: Scene
) -> Callable[[], Tensor]:
    """Renders the cameras of each part together, and runs the backward pass through them."""

    def run() -> Tensor:
        nerf.zero_grad()
        scene.volumes.requires_grad_().grad = None
        generator = torch.Generator(scene.volumes.device).manual_seed(0)
        for part in parts:
            rendered = render(part)
            weights = torch.randn(rendered.shape, generator=generator, device=rendered.device)
            (rendered * weights).sum().backward()
        gradient = scene.volumes.grad
        assert gradient is not None  # the renderings depend on the volumes
        scene.volumes.requires_grad_(False)
        return gradient / gradient.abs().max()

    return run
