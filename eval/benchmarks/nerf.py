"""The NeRF: lifting 1 and 3 known views, and rendering four views of 64 x 64 with 64 + 64 samples per ray.

The scene is a real one, seen by the bundled model, which knows each view's mirror image too: 1 and 3 known views are 2
and 6 volumes. `nerf/render` is compared with the same function computed plainly, `nerf/render-per-view` with the
earlier code's field, whose MLP runs once per volume: another function, so there is no difference to report.
Backward is that of a random linear function of the renderings with respect to volumes and MLP; it is compared by the
gradients of the volumes, relative to the largest of them.
"""

from collections.abc import Callable, Iterator
from types import ModuleType

import torch
from torch import Tensor

from eval.benchmarks.references import plain_reference, sample_views
from eval.benchmarks.stage import Setup, Stage
from mvgenvs.cameras import Cameras
from mvgenvs.nerf.field import Scene
from mvgenvs.nerf.model import ViewNeRF
from mvgenvs.trajectories import orbit
from mvgenvs.views import ViewSet

SIZE, SAMPLES, VIEWS = 64, 64, 4
KNOWN = {1: [0], 3: [0, 2, 4]}  # of the six views of the sample


def stages(setup: Setup) -> Iterator[Stage]:
    naive = plain_reference("naive_nerf")
    nerf = ViewNeRF.from_config(setup.pipeline.nerf.config, num_coarse=SAMPLES, num_fine=SAMPLES).to(setup.device)
    nerf.load_state_dict(setup.pipeline.nerf.state_dict())
    nerf.eval()
    for known, indices in KNOWN.items():
        yield from _stages_of(f"-{known}", nerf, naive, sample_views().select(indices), setup.device)


def _stages_of(suffix: str, nerf: ViewNeRF, naive: ModuleType, views: ViewSet, device: torch.device) -> Iterator[Stage]:
    targets = orbit(VIEWS, azimuth=30.0, hw=(SIZE, SIZE)).to(device)
    images, cameras = views.images[None].to(device), views.cameras.to(device).batched()
    yield Stage(f"nerf/encode{suffix}", lambda: lift(nerf, images, cameras))
    with torch.no_grad():
        scene = nerf.encode(images, cameras)

    def ours(view: Cameras) -> Tensor:
        rendering = nerf.render(scene, view.batched())
        return torch.cat([rendering.features, rendering.opacity], dim=2)[0]

    def plain(view: Cameras, fuse: str = "features") -> Tensor:
        return naive.render(nerf, scene, view, SAMPLES, SAMPLES, fuse)

    def per_view(view: Cameras) -> Tensor:
        return plain(view, fuse="outputs")

    yield Stage(f"nerf/render{suffix}", forward(ours, targets), forward(plain, targets))
    yield Stage(f"nerf/render-per-view{suffix}", nothing(forward(ours, targets)), forward(per_view, targets))
    yield Stage(
        f"nerf/render-backward{suffix}",
        backward(ours, [targets], nerf, scene),
        backward(plain, [targets.select([v]) for v in range(VIEWS)], nerf, scene),  # or memory would not do
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
    """Renders the cameras of each part in one go, and goes back through them."""

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
