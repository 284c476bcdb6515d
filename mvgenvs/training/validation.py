"""Validation sheets of a run, with their metrics; and the images for the codec's closed-form fit."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.config import TrainConfig
from mvgenvs.data.scenes import ObjectDataset, open_scenes
from mvgenvs.diffusion.conditions import concatenate_conditions
from mvgenvs.diffusion.options import CLEAN_SIGMA
from mvgenvs.media import contact_sheet, write_png
from mvgenvs.parts import Parts
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training.refining import sampling_options
from mvgenvs.views import ViewSet

NUM_TARGETS = 7
LEVELS = (0.3, 1.0, 2.0)  # noise levels at which views are denoised with and without the others


def training_images(scenes: ObjectDataset, views_per_object: int = 10, most: int = 1000) -> Float[Tensor, "n 3 h w"]:
    """Some views of every object, or of every n-th if there are many, evenly spread over its views."""
    images = []
    for index in range(0, len(scenes), max(1, len(scenes) * views_per_object // most)):
        count = len(scenes.objects[index].view_ids)
        images.append(scenes.load(index, range(0, count, max(1, count // views_per_object))).images)
    return torch.cat(images)


def validate(parts: Parts, config: TrainConfig, step: int) -> dict[str, float]:
    """Samples views of validation objects, writes a sheet, and returns mean metrics.

    PSNRs in dB: `codec` of the codec's reconstructions, `nerf` of the NeRF's RGB, `samples` of the samples, against the
    true views; the NeRF's geometry as in `geometry_figures`, if the data have mattes and depth; and what the denoiser
    gains from other views, as in `neighbour_figures`. Only what the stage can tell is computed.
    """
    scenes = open_scenes(
        Path(config.data.root), "val", config.data.size, config.data.category, config.data.fit_captures
    )
    pipeline = MultiViewPipeline.from_parts(parts)
    sampled = "denoiser" in config.run.train or config.loss.refine > 0
    sampling = sampling_options(config.refine) if config.loss.refine else {"num_inference_steps": 10 if sampled else 1}
    for part in parts.modules().values():
        part.eval()
    generator = torch.Generator().manual_seed(config.run.seed)
    figures: dict[str, list[float]] = {}
    rows: list[tuple[str, Tensor]] = []
    for index in range(min(config.run.validate_objects, len(scenes))):
        count = len(scenes.objects[index].view_ids)
        chosen = np.linspace(0, count - 1, NUM_TARGETS + 1).astype(int).tolist()
        views = scenes.load(index, chosen)
        known, targets = views.select([0]), views.select(slice(1, None))
        device = pipeline.device
        codec_out = parts.codec.decode(parts.codec.encode(targets.images.to(device))).clamp(0, 1).cpu()
        rows += [("known", known.images), ("truth", targets.images), ("codec", codec_out)]
        figures.setdefault("codec", []).append(_psnr(codec_out, targets.images))
        if "codec" not in config.run.train or config.loss.refine:
            out = pipeline(
                known.rgba[None], known.cameras.batched(), targets.cameras.batched(),
                generator=generator, **sampling,
            )  # fmt: skip
            if parts.denoiser.sees_rendering:  # else none are made
                rows.append(("nerf", out.renders[0].cpu()))
                figures.setdefault("nerf", []).append(_psnr(out.renders[0].cpu(), targets.images))
                for name, value in geometry_figures(out.depth[0].cpu(), targets).items():
                    figures.setdefault(name, []).append(value)
            if sampled:
                for name, value in neighbour_figures(pipeline, views, config.run.seed).items():
                    figures.setdefault(name, []).append(value)
                rows.append(("samples", out.images[0].cpu()))
                figures.setdefault("samples", []).append(_psnr(out.images[0].cpu(), targets.images))
    write_png(Path(config.run.output) / f"validation-{step:06d}.png", contact_sheet(rows))
    return {name: float(np.mean(values)) for name, values in figures.items()}


def geometry_figures(depth: Float[Tensor, "view 1 h w"], truth: ViewSet) -> dict[str, float]:
    """Of rendered z-depth, 0 where nothing is hit: silhouette IoU, and mean error where both hit something."""
    if truth.mask is None or truth.depth is None:
        return {}
    solid, there = depth > 0, truth.mask > 0.5
    both = solid & (truth.depth > 0)
    error = (depth - truth.depth).abs()[both].mean().item() if both.any() else float("nan")
    return {"nerf_iou": ((solid & there).sum() / (solid | there).sum()).item(), "nerf_depth_error": error}


@torch.no_grad()
def neighbour_figures(pipeline: MultiViewPipeline, views: ViewSet, seed: int) -> dict[str, float]:
    """Whether views are denoised better with others in sight: what a joint denoiser must show.

    Every second view is noisy, the others are true and almost clean. For each S of `LEVELS`, `x0_error_S` is the root
    mean square error of the noisy views' latents, each denoised alone, and `neighbours_S` the relative change of that
    error when all are denoised jointly; negative is better. The first of the `views` is the known one.
    """
    networks, cameras = pipeline.networks, views.cameras.to(pipeline.device).batched()
    scene = networks.lift([views.rgba[None, :1].to(pipeline.device)], cameras.select([0]))
    order = [*range(1, views.num_views, 2), *range(0, views.num_views, 2)]  # the noisy ones first
    num_noisy, num_clean = views.num_views // 2, views.num_views - views.num_views // 2
    reference = networks.reference(views.rgba[None, :1].to(pipeline.device), cameras)
    seen = [
        networks.render_view(scene, cameras.select([v]), guided=False, start=False, reference=reference) for v in order
    ]
    conditions = concatenate_conditions([view.conditions for view in seen], dim=1)
    x0 = torch.cat([networks.encode(views.images[None, v].to(pipeline.device)) for v in order], dim=1)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed)).to(x0)
    figures: dict[str, float] = {}
    for level in LEVELS:
        sigma = x0.new_tensor([[level] * num_noisy + [CLEAN_SIGMA] * num_clean])
        xt = x0 + sigma[..., None, None, None] * noise

        def error(joint: bool, xt: Tensor = xt, sigma: Tensor = sigma) -> float:
            made = networks.denoise(xt, sigma, conditions, joint=joint, num_anchors=num_clean)
            return (made[:, :num_noisy] - x0[:, :num_noisy]).square().mean().sqrt().item()

        alone = error(joint=False)
        figures |= {f"x0_error_{level:g}": alone, f"neighbours_{level:g}": error(joint=True) / alone - 1}
    return figures


def _psnr(images: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"]) -> float:
    return -10 * (images - truth).square().mean(dim=(-1, -2, -3)).log10().mean().item()
