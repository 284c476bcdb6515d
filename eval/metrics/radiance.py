"""3-D consistency score [Watson et al. 2022 (3DiM), arXiv 2210.04628, section 3.2]: can one scene explain the views?

A radiance field is fitted to nine tenths of a sequence, and its renderings are compared with the held-out tenth. Here
the field is a small voxel grid whose colours do not depend on the viewing direction, so that a sequence takes seconds
on one CPU core. It shows no fine detail, and even true images score far below a perfect match. Compare a score with
that of the true images under the same `FitSettings`, never with other papers' scores. Blurred images are easier to
explain than sharp ones.
"""

from dataclasses import dataclass
from typing import TypedDict

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from eval.metrics.image import psnr, rounded_to_8_bits, ssim
from eval.metrics.pairs import Distance
from mvgenvs.cameras import Cameras
from mvgenvs.device import torch_threads
from mvgenvs.nerf.renderer import RayRendering, box_bounds, render_rays, sphere_bounds

HELD_OUT_SHARE = 0.1
RADIUS = 0.5  # world units: the sphere around any object whose bounding-box diagonal is 1; the grid is its cube
INITIAL_LOGIT = -6.0  # of the density, so that the scene starts out nearly empty
EMPTY = 0.01  # voxels with a smaller opacity are not evaluated
PRUNE_EVERY = 25  # steps
FINAL_RATE = 0.1  # the learning rate decays to this share of its start
CHUNK = 4096  # rays rendered at once


@dataclass(frozen=True)
class FitSettings:
    """How the field is fitted. Scores under different settings are not comparable."""

    image_size: int = 64  # pixels of the longer side; larger images are first scaled down to it
    resolutions: tuple[int, ...] = (24, 48)  # voxels along each side, coarse to fine
    steps: tuple[int, ...] = (150, 350)  # of Adam at each resolution
    rays: tuple[int, ...] = (512, 1024)  # per step at each resolution
    learning_rate: float = 0.2
    seed: int = 0


class RadianceFigures(TypedDict):
    """3-D consistency of one sequence; lists have one entry per held-out view."""

    held_out: list[int]  # positions in the sequence
    psnr: list[float]  # dB, higher is more consistent
    ssim: list[float]
    lpips: list[float] | None  # None without a perceptual distance
    mean_psnr: float


def held_out_views(count: int) -> list[int]:
    """Positions of the tenth of `count` views that is held out, at least one, evenly spaced."""
    number = max(1, round(HELD_OUT_SHARE * count))
    return [int((k + 0.5) * count / number) for k in range(number)]


def consistency_3d(
    images: Float[Tensor, "view 3 h w"],
    cameras: Cameras,
    distance: Distance | None = None,
    settings: FitSettings = FitSettings(),
) -> RadianceFigures | None:
    """3-D consistency score of one sequence: images in [0, 1] on white, an object of unit size at the origin.

    Runs on one thread of the CPU and is deterministic for equal settings. None for fewer than three views.
    """
    count, _, height, width = images.shape
    if count < 3:
        return None
    scale = min(1.0, settings.image_size / max(height, width))
    hw = (round(height * scale), round(width * scale))
    cameras = cameras.to("cpu").resized(hw)
    small = rounded_to_8_bits(F.interpolate(rounded_to_8_bits(images.float().cpu()), size=hw, mode="area"))
    held_out = held_out_views(count)
    rest = [i for i in range(count) if i not in held_out]
    # With one thread, sums are the same whatever the number of cores; tensors this small gain nothing from more.
    with torch.enable_grad(), torch_threads(1):
        field = fit(small[rest], cameras.select(rest), settings)
        renders, expected = field.render(cameras.select(held_out)), small[held_out]
    figures = psnr(renders, expected).tolist()
    perceptual = None
    if distance is not None:
        perceptual = distance(renders.to(images.device), expected.to(images.device)).tolist()
    return {
        "held_out": held_out,
        "psnr": figures,
        "ssim": ssim(renders, expected).tolist(),
        "lpips": perceptual,
        "mean_psnr": sum(figures) / len(figures),
    }


def fit(images: Float[Tensor, "view 3 h w"], cameras: Cameras, settings: FitSettings) -> "VoxelField":
    """Fits a field to the images by gradient descent on the squared error of random rays."""
    origins, directions = (rearrange(x, "v h w xyz -> 1 (v h w) xyz") for x in cameras.rays())
    colours = rearrange(images, "v c h w -> (v h w) c")
    hits = sphere_bounds(origins, directions, RADIUS)[2][0] > 0  # other rays see the background whatever the field
    origins, directions, colours = origins[:, hits], directions[:, hits], colours[hits]
    generator = torch.Generator().manual_seed(settings.seed)
    field = VoxelField(settings.resolutions[0])
    decay = FINAL_RATE ** (1 / sum(settings.steps))
    done = 0
    for resolution, steps, rays in zip(settings.resolutions, settings.steps, settings.rays, strict=True):
        field.refine(resolution)
        optimiser = torch.optim.Adam([field.grid], lr=settings.learning_rate * decay**done, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, decay)
        first_pruning = 2 * PRUNE_EVERY if resolution == settings.resolutions[0] else 0  # by then something is there
        for step in range(steps):
            if step >= first_pruning and step % PRUNE_EVERY == 0:
                field.prune()
            batch = torch.randint(len(colours), (rays,), generator=generator)
            jitter = torch.rand(1, rays, generator=generator)
            seen = field.render_rays(origins[:, batch], directions[:, batch], resolution, jitter)
            loss = (seen.features[0] - colours[batch]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        done += steps
    return field


class VoxelField:
    """Density and colour on a regular grid over the cube [-`RADIUS`, `RADIUS`]^3, trilinear in between."""

    def __init__(self, resolution: int) -> None:
        grid = torch.zeros(1, 4, resolution, resolution, resolution)  # logits of density and RGB; axes z, y, x
        grid[:, 0] = INITIAL_LOGIT
        self.grid = grid.requires_grad_()
        self.occupied: Bool[Tensor, " n"] | None = None  # per voxel, x fastest; None for everywhere

    def refine(self, resolution: int) -> None:
        """Resamples the grid to another resolution; the opacity of a voxel stays the same."""
        size = (resolution,) * 3
        grid = F.interpolate(self.grid.detach(), size=size, mode="trilinear", align_corners=False)
        self.grid = grid.requires_grad_()
        self.occupied = None

    def density(self, logits: Tensor) -> Tensor:
        """Per world unit; a logit of 0 gives a voxel of any size an opacity of three quarters."""
        return F.softplus(logits) * (self.grid.shape[-1] / RADIUS)

    @torch.no_grad()
    def prune(self) -> None:
        """From now on only voxels that are not empty, and their neighbours, are evaluated."""
        opacity = 1 - torch.exp(-self.density(self.grid[:, :1]) * (2 * RADIUS / self.grid.shape[-1]))
        self.occupied = (F.max_pool3d(opacity, 3, stride=1, padding=1) > EMPTY).flatten()

    def __call__(self, points: Float[Tensor, "1 n 3"]) -> tuple[Float[Tensor, "1 n"], Float[Tensor, "1 n 3"]]:
        """Density per world unit and RGB in [0, 1]."""
        inside = points[0]
        if self.occupied is not None:
            n = self.grid.shape[-1]
            voxel = ((inside / (2 * RADIUS) + 0.5) * n).long().clamp(0, n - 1)
            kept = self.occupied[(voxel[:, 2] * n + voxel[:, 1]) * n + voxel[:, 0]].nonzero()[:, 0]
            inside = inside[kept]
        sampled = F.grid_sample(
            self.grid, inside[None, None, None] / RADIUS, padding_mode="border", align_corners=False
        )[0, :, 0, 0]
        density, colour = self.density(sampled[0]), sampled[1:].sigmoid().T
        if self.occupied is not None:
            density = torch.zeros(points.shape[1]).index_copy(0, kept, density)
            colour = torch.zeros(points.shape[1], 3).index_copy(0, kept, colour)
        return density[None], colour[None]

    def render_rays(
        self,
        origins: Float[Tensor, "1 ray 3"],
        directions: Float[Tensor, "1 ray 3"],
        samples: int,
        jitter: Float[Tensor, "1 ray"] | None = None,
    ) -> RayRendering:
        return render_rays(self, origins, directions, box_bounds(origins, directions, RADIUS), samples, 0, jitter)

    @torch.no_grad()
    def render(self, cameras: Cameras) -> Float[Tensor, "view 3 h w"]:
        """Whole images on white, with two samples per voxel."""
        origins, directions = (rearrange(x, "v h w xyz -> 1 (v h w) xyz").split(CHUNK, dim=1) for x in cameras.rays())
        samples = 2 * self.grid.shape[-1]
        parts = [self.render_rays(o, d, samples).features for o, d in zip(origins, directions, strict=True)]
        colours = torch.cat(parts, dim=1)
        height, width = cameras.hw
        return rearrange(colours, "1 (v h w) c -> v c h w", h=height, w=width)
