"""Tiny models and a tiny true world for the tests: what learns here is small, what is seen here is exact."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from mvgenvs.cameras import Cameras, look_at_origin
from mvgenvs.config import CodecConfig, DataConfig, DenoiserConfig, NerfConfig, OptimConfig, RunConfig, TrainConfig
from mvgenvs.parts import Parts, build_parts
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.views import ViewSet

STEPS = 2  # of a sampler, unless chosen otherwise
SIZE = 32  # images; the latents of the tiny codec are 4 x 4, the renderings of the tiny NeRF 8 x 8


def tiny_config(root: Path | str = "no-such-folder", output: Path | str = "no-such-run") -> TrainConfig:
    """A configuration whose model runs a step in milliseconds; `dataclasses.replace` its sections as needed."""
    return TrainConfig(
        data=DataConfig(root=str(root), size=SIZE, num_views=3, max_known=2),
        codec=CodecConfig(patch=8, channels=8, refiner_width=16, refiner_blocks=1),
        nerf=NerfConfig(encoder_widths=(16, 16, 16), volume_depth=4, num_coarse=4, num_fine=4),
        denoiser=DenoiserConfig(render_size=8, block_out_channels=(16, 32)),
        optim=OptimConfig(steps=2, batch=2, warmup=1),
        run=RunConfig(output=str(output), tracker="none", validate_every=-1, log_every=1),
    )


def tiny_parts(config: TrainConfig | None = None, seed: int = 0) -> Parts:
    """Random parts, the layers that start at zero included: a model that does nothing would hide every mistake."""
    torch.manual_seed(seed)
    parts = build_parts(tiny_config() if config is None else config)
    for last in (parts.denoiser.final_layer, *([parts.codec.refiner.leave] if parts.codec.downscale > 1 else [])):
        nn.init.normal_(last.weight, std=0.1)
        nn.init.normal_(last.bias, std=0.1)
    for part in parts.modules().values():
        part.eval()
    return parts


def without_qk_norm(config: TrainConfig) -> TrainConfig:
    return replace(config, denoiser=replace(config.denoiser, qk_norm=False))


def tiny_pipeline(seed: int = 0) -> MultiViewPipeline:
    return MultiViewPipeline.from_parts(tiny_parts(seed=seed))


def ring_cameras(count: int, size: int = SIZE, start: float = 0.3, elevation: float = 0.4) -> Cameras:
    """SRN-like cameras (focal 131.25 at 128 px, radius 1.3), evenly spread at alternating heights."""
    azimuth = start + torch.arange(count) * 2 * math.pi / max(count, 1)
    height = elevation * torch.where(torch.arange(count) % 2 == 0, 1.0, 0.3)
    directions = torch.stack([azimuth.sin() * height.cos(), height.sin(), azimuth.cos() * height.cos()], dim=-1)
    K = torch.tensor([[131.25, 0, 64], [0, 131.25, 64], [0, 0, 128]]) * (size / 128)
    K[2, 2] = 1
    return Cameras(look_at_origin(1.3 * directions), K.repeat(count, 1, 1), (size, size))


def stacked(cameras: Cameras, batch: int) -> Cameras:
    """The same cameras for every entry of a batch."""
    return Cameras(cameras.c2w.repeat(batch, 1, 1, 1), cameras.K.repeat(batch, 1, 1, 1), cameras.hw)


def inputs(targets: int = 3, known: int = 1, batch: int = 1) -> dict[str, Any]:
    """What a pipeline samples from: a toy car seen by `known` cameras, and target cameras beside them."""
    views = ray_cast(toy_car(0), ring_cameras(known))
    return {
        "images": views.images.repeat(batch, 1, 1, 1, 1),
        "cameras": stacked(views.cameras, batch),
        "target_cameras": stacked(ring_cameras(targets, start=1.0), batch),
    }


def options(seed: int = 0, **more: Any) -> dict[str, Any]:
    """How it samples."""
    return {"num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(seed)} | more


def sampled(pipeline: MultiViewPipeline, batch: int = 1, **options: Any) -> Any:
    """What the pipeline makes of `inputs`: three views in two blocks, unless chosen otherwise."""
    options = {"generator": torch.Generator().manual_seed(3), "num_inference_steps": STEPS, "block": 2} | options
    return pipeline(**inputs(3, batch=batch), **options)


@dataclass(frozen=True)
class Solid:
    """A sphere of radius `size` or an axis-aligned box of half extents `size`, in one colour."""

    center: tuple[float, float, float]
    size: float | tuple[float, float, float]
    colour: tuple[float, float, float]

    def mirrored(self) -> "Solid":
        x, y, z = self.center
        return replace(self, center=(-x, y, z))

    def hit(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Distance along each unit ray to the surface, infinite where the ray misses."""
        local = origins - torch.tensor(self.center)
        if isinstance(self.size, float):
            towards = -(local * directions).sum(dim=-1)
            squared = self.size**2 - (local.square().sum(dim=-1) - towards**2)
            return torch.where(squared > 0, towards - squared.clamp(min=0).sqrt(), torch.inf)
        half = torch.tensor(self.size)
        ends = torch.stack([(-half - local) / directions, (half - local) / directions])
        enter, leave = ends.amin(dim=0).amax(dim=-1), ends.amax(dim=0).amin(dim=-1)
        return torch.where(leave > enter, enter, torch.inf)


def toy_car(seed: int) -> list[Solid]:
    """A body, a cabin and a lamp on one side only, so that left is not right and front is not back."""
    rng = np.random.default_rng(seed)
    paint, cabin = (tuple(rng.uniform(0.1, 0.8, 3).tolist()) for _ in range(2))
    return [
        Solid((0.0, -0.05, 0.0), (0.18, 0.08, 0.4), paint),
        Solid((0.0, 0.08, 0.08), (0.15, 0.06, 0.18), cabin),
        Solid((0.12, 0.0, -0.38), 0.07, (0.9, 0.8, 0.1)),
    ]


def ray_cast(solids: list[Solid], cameras: Cameras) -> ViewSet:
    """True images, masks and z-depths of the solids on white, one ray through each pixel's centre."""
    origins, directions = cameras.rays()  # (v, h, w, 3)
    distances = torch.stack([solid.hit(origins, directions) for solid in solids])
    distance, nearest = distances.min(dim=0)
    colours = torch.tensor([solid.colour for solid in solids])[nearest]
    mask = distance.isfinite()[:, None]
    images = torch.where(mask, colours.movedim(-1, 1), 1.0)
    forward = cameras.c2w[:, None, None, :3, 2]
    depth = torch.where(mask[:, 0], distance, 0.0) * (directions * forward).sum(dim=-1)
    return ViewSet(images, cameras, mask.float(), depth[:, None])


def write_srn(
    root: Path,
    objects: dict[str, int] | None = None,
    views: int = 5,
    size: int = SIZE,
    suffix: str = ".png",
    alpha: bool = False,
    families: dict[str, str] | None = None,
) -> Path:
    """Writes a data set of toy cars in SRN layout: `objects` of each split, default 3 train, 2 val, 1 test.

    Object n of a split is called "<split>-n"; all have the same cameras. `families` becomes meta.json.
    """
    cameras = ring_cameras(views, size)
    count = 0
    for split, number in (objects or {"train": 3, "val": 2, "test": 1}).items():
        for index in range(number):
            folder = root / f"cars_{split}" / f"{split}-{index}"
            (folder / "rgb").mkdir(parents=True)
            (folder / "pose").mkdir()
            count += 1
            write_object(folder, ray_cast(toy_car(count), cameras), suffix, alpha)
    if families is not None:
        (root / "meta.json").write_text(json.dumps([{"id": k, "family": v} for k, v in families.items()]))
    return root


def write_object(folder: Path, views: ViewSet, suffix: str, alpha: bool) -> None:
    height, width = views.cameras.hw
    K = views.cameras.K[0]
    (folder / "intrinsics.txt").write_text(f"{K[0, 0]} {K[0, 2]} {K[1, 2]} 0.\n0. 0. 0.\n1.\n{height} {width}\n")
    pixels = (views.images * 255).round().byte().permute(0, 2, 3, 1).numpy()[..., ::-1]  # BGR, as OpenCV writes
    if alpha:  # colours below a transparent pixel mean nothing: here they are black
        opacity = (views.mask * 255).byte().permute(0, 2, 3, 1).numpy()
        pixels = np.concatenate([pixels * (opacity > 0), opacity], axis=-1)
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    for number, (image, pose) in enumerate(zip(pixels, views.cameras.c2w.numpy(), strict=True)):
        cv2.imwrite(str(folder / "rgb" / f"{number:06d}{suffix}"), np.ascontiguousarray(image), lossless)
        (folder / "pose" / f"{number:06d}.txt").write_text(" ".join(str(float(x)) for x in pose.flatten()) + "\n")
