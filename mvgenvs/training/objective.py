"""The training objective: from a batch of view sets to named losses."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mvgenvs.config import LossConfig, TrainConfig
from mvgenvs.data.sampling import Batch
from mvgenvs.diffusion.codec import PatchCodec, encode_rendering
from mvgenvs.diffusion.conditions import Conditions
from mvgenvs.diffusion.noise import NOISE_LAWS
from mvgenvs.errors import UserError
from mvgenvs.nerf.field import Scene
from mvgenvs.nerf.model import Rendering
from mvgenvs.parts import Parts
from mvgenvs.perceptual import PerceptualDistance, Trunk, find_trunk
from mvgenvs.training.draws import Draws, draws_of
from mvgenvs.training.losses.denoising import DenoisingLoss
from mvgenvs.training.losses.field import render_images, render_rays, rendering_losses, world_losses
from mvgenvs.training.stopwatch import Stopwatch
from mvgenvs.training.trainable import choose_trainable
from mvgenvs.views import UNKNOWN, ViewSet, with_matte


@dataclass(frozen=True)
class RenderedBatch(Batch):
    """Training sets with their kept renderings."""

    rendering: Rendering

    def to(self, device: torch.device) -> "RenderedBatch":
        seen = self.rendering
        rendering = Rendering(*(x.to(device) for x in (seen.features, seen.depth, seen.opacity)))
        return replace(self, views=self.views.to(device), rendering=rendering)


@dataclass(frozen=True, eq=False)
class TrueSets:
    """Training sets as a denoiser sees them, but without noise."""

    x0: Float[Tensor, "set view c h w"]
    residual: Float[Tensor, "set view c h w"]  # x0 less the encoded renderings
    opacity: Float[Tensor, "set view 1 h w"]  # the largest within each latent
    conditions: Conditions


class Objective(nn.Module):
    """Holds the parts, so that one forward pass yields every loss of the stage."""

    def __init__(self, parts: Parts, config: TrainConfig) -> None:
        super().__init__()
        self.codec, self.nerf, self.denoiser = parts.codec, parts.nerf, parts.denoiser
        self.weights: LossConfig = config.loss
        self.render_size = config.denoiser.render_size
        self.trained = config.run.train
        self.skips_air = "nerf" not in self.trained  # in rendering: a field in training must look everywhere
        self.stopwatch = Stopwatch()  # for the NeRF's forward pass
        distance = PerceptualDistance("vgg", vgg_trunk(config)) if self.weights.perceptual else None
        law = NOISE_LAWS[self.weights.noise_law]
        self.denoising = DenoisingLoss(self.codec, self.denoiser, self.weights, law, distance)  # no module: not saved
        if self.weights.clean_views and config.denoiser.attention == "block-causal":
            raise UserError("loss.clean_views makes any view an anchor, which block-causal attention cannot: use joint")
        if "denoiser" in self.trained:
            self.denoiser.set_attention(config.denoiser.attention)  # the weights may come from another attention
        for name, part in parts.modules().items():
            part.requires_grad_(name in self.trained)
        if "denoiser" in self.trained:
            choose_trainable(self.denoiser, config.denoiser.trainable, config.denoiser.lora_rank)
            if config.run.gradient_checkpointing:
                self.denoiser.enable_gradient_checkpointing()
            if config.run.compile:
                self.denoiser.compile_network()
        if "nerf" in self.trained and config.run.compile:
            self.nerf.compile_encoders()

    def train(self, mode: bool = True) -> "Objective":
        """Frozen parts stay in evaluation mode."""
        super().train(mode)
        for name in ("codec", "nerf", "denoiser"):
            getattr(self, name).train(mode and name in self.trained)
        return self

    def forward(self, batch: Batch, progress: float) -> dict[str, Float[Tensor, ""]]:
        """Unweighted losses by name; `progress` in [0, 1] is the fraction of training that is done."""
        draws = draws_of(batch.seeds, batch.views.images.device)
        losses: dict[str, Float[Tensor, ""]] = {}
        if self.weights.reconstruction:
            losses["reconstruction"] = self._reconstruction(batch.views, draws)
        if any(self.weights.field_weights) or self.weights.denoise:
            if isinstance(batch, RenderedBatch):
                rendering = batch.rendering
            elif not self.denoiser.sees_rendering and not any(self.weights.field_weights):
                rendering = Rendering.blank(batch.views.cameras.resized((1, 1)), self.denoiser.config.features)
            else:
                scene, rendering, targets = self._render(batch, draws)
                losses |= rendering_losses(self.weights, rendering, targets, draws)
                of_voxels = self.weights.carving or self.weights.paint
                if of_voxels and batch.views.depth is not None and batch.views.mask is not None:
                    losses |= world_losses(self.nerf, scene, batch.views, self.weights)
            if self.weights.denoise:
                losses |= self.denoising.losses(batch, rendering, draws, progress)
        return losses

    def true_sets(self, batch: Batch) -> TrueSets:
        """The sets as the denoiser sees them, without noise."""
        rendering = self.rendered(batch)
        x0 = self.codec.encode(batch.views.images.flatten(0, 1)).unflatten(0, (-1, batch.views.num_views))
        latents = encode_rendering(self.codec, rendering.rgb, self.denoiser.config.latent_size)
        opacity = F.adaptive_max_pool2d(rendering.opacity.flatten(0, 1), x0.shape[-2:])
        conditions = self.denoiser.conditions(rendering, latents, batch.views.cameras)
        return TrueSets(x0, x0 - latents, opacity.unflatten(0, x0.shape[:2]), conditions)

    def rendered(self, batch: Batch) -> Rendering:
        """Whole renderings of the sets at the size that the denoiser needs."""
        if isinstance(batch, RenderedBatch):
            return batch.rendering
        return self._render(batch, draws_of(batch.seeds, batch.views.images.device))[1]

    def rendering_seconds(self) -> float:
        """Seconds of the NeRF's forward passes since the last call; its backward passes are not counted."""
        return self.stopwatch.take()

    def total(self, losses: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """The weighted sum that is minimised. Raises `UserError` if the data allow none of the requested losses."""
        if not losses:
            raise UserError("the data lack the masks or depths that the losses need: give loss.rgb or another a weight")
        return weighted_sum(self.weights, losses)

    @contextlib.contextmanager
    def _frozen(self, name: str) -> Iterator[None]:
        """No gradients if the part is not trained."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and name in self.trained):
            yield

    def _render(self, batch: Batch, draws: Draws) -> tuple[Scene, Rendering, ViewSet]:
        """The lifted sets, their renderings, whole or of random rays, and the targets of these."""
        with self.stopwatch(batch.views.images.device), self._frozen("nerf"):
            scene = self._lifted(batch, draws)
            if self.weights.denoise or not self.weights.rays:
                return scene, *render_images(self.nerf, scene, batch.views, draws, self.render_size)
            return scene, *render_rays(self.nerf, scene, batch.views, draws, self.weights)

    def _lifted(self, batch: Batch, draws: Draws) -> Scene:
        """Scenes of the known views; half of the sets get Gaussian noise of amplitude U(0, input_noise) [GeNVS].

        Some sets come without their mattes.
        """
        known = batch.views.select(slice(0, batch.num_known))
        chance = draws.uniform(2)
        amplitude = torch.where(chance[:, 0] < 0.5, chance[:, 1] * self.weights.input_noise, 0.0)
        noise = amplitude[:, None, None, None, None] * draws.normal(*known.images.shape[1:])
        images = known.images
        if self.nerf.config.matte and known.mask is not None:
            told = draws.uniform(1)[:, :, None, None, None] >= self.weights.drop_matte
            images = with_matte(images, torch.where(told, known.mask, UNKNOWN))
        return self.nerf.encode(images, known.cameras, self.skips_air, noise)

    def _reconstruction(self, views: ViewSet, draws: Draws) -> Float[Tensor, ""]:
        images = rearrange(views.images, "b v c h w -> (b v) c h w")
        latents = self.codec.encode(images)
        amplitude = draws.uniform(views.num_views).flatten() * self.weights.latent_noise
        noise = draws.normal(views.num_views, *latents.shape[1:]).flatten(0, 1)
        return (self.codec.decode(latents + amplitude[:, None, None, None] * noise) - images).abs().mean()


def weighted_sum(weights: LossConfig, losses: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
    """Losses have the names of their weights."""
    return torch.stack([getattr(weights, name) * value for name, value in losses.items()]).sum()


def check_perceptual(config: TrainConfig) -> None:
    """Raises `UserError` if LPIPS has a weight, but its package or VGG's weights are missing."""
    if config.loss.perceptual:
        PerceptualDistance("vgg", vgg_trunk(config))


def vgg_trunk(config: TrainConfig) -> Trunk:
    folder = config.loss.perceptual_trunk
    return find_trunk("vgg", Path(folder) if folder else None)


def fit_codec(codec: nn.Module, images: Float[Tensor, "n 3 h w"]) -> None:
    """Fits the closed-form part of a codec, if it has one."""
    if isinstance(codec, PatchCodec):
        codec.fit(images)
