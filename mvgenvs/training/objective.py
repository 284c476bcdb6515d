"""The training objective: from a batch of view sets to named losses.

All randomness comes from one generator per set, seeded by the set: the losses do not depend on how sets are spread
over processes and accumulation steps, and a resumed run continues exactly.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from mvgenvs.config import LossConfig, TrainConfig
from mvgenvs.data.sampling import Batch
from mvgenvs.diffusion.codec import PatchCodec, decode_with_detail, encode_rendering
from mvgenvs.diffusion.denoiser import Conditions
from mvgenvs.diffusion.noise import NOISE_LAWS, loss_weight, with_offset
from mvgenvs.diffusion.renoising import CLEAN_SIGMA
from mvgenvs.errors import UserError
from mvgenvs.nerf.field import Scene
from mvgenvs.nerf.model import Rendering
from mvgenvs.parts import Parts
from mvgenvs.perceptual import PerceptualDistance, Trunk, find_trunk
from mvgenvs.training.carving import carve, carving_loss
from mvgenvs.training.stopwatch import Stopwatch
from mvgenvs.training.trainable import choose_trainable
from mvgenvs.views import ViewSet

SHELL = 1.5  # voxels behind a surface that carving calls solid
SURROUNDINGS = 4  # pixels around the object that count as near it


class Draws:
    """Random tensors with a leading batch axis, entry b from generator b; drawn on the CPU, the same on any device."""

    def __init__(self, seeds: list[int], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.device = device

    def normal(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators]).to(self.device)

    def uniform(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators]).to(self.device)


class DeviceDraws(Draws):
    """The same, drawn on a GPU by one generator for the whole batch: draws then depend on how sets are batched."""

    def __init__(self, seeds: list[int], device: torch.device) -> None:
        self.generator = torch.Generator(device).manual_seed(sum(seeds) % 2**62)
        self.batch, self.device = len(seeds), device

    def normal(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        return torch.randn(self.batch, *shape, generator=self.generator, device=self.device)

    def uniform(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        return torch.rand(self.batch, *shape, generator=self.generator, device=self.device)


def draws_of(seeds: list[int], device: torch.device) -> Draws:
    """On a CPU each set has its own generator; on a GPU drawing there is worth more than that."""
    return (Draws if device.type == "cpu" else DeviceDraws)(seeds, device)


@dataclass(frozen=True)
class RenderedBatch(Batch):
    """Training sets that have been rendered before."""

    rendering: Rendering

    def to(self, device: torch.device) -> "RenderedBatch":
        seen = self.rendering
        rendering = Rendering(*(x.to(device) for x in (seen.features, seen.depth, seen.opacity)))
        return replace(self, views=self.views.to(device), rendering=rendering)


class Objective(nn.Module):
    """Holds the parts, so that one forward pass through it yields every loss that the stage asks for."""

    def __init__(self, parts: Parts, config: TrainConfig) -> None:
        super().__init__()
        self.codec, self.nerf, self.denoiser = parts.codec, parts.nerf, parts.denoiser
        self.weights: LossConfig = config.loss
        self.render_size = config.denoiser.render_size
        self.trained = config.run.train
        self.skips_air = "nerf" not in self.trained  # in rendering: a field that learns must look everywhere
        self.stopwatch = Stopwatch()  # of the NeRF's forward pass
        if self.weights.noise_law not in NOISE_LAWS:
            raise UserError(f"setting 'loss.noise_law' must be one of {', '.join(NOISE_LAWS)}")
        self.noise_law = NOISE_LAWS[self.weights.noise_law]
        if self.weights.perceptual:
            self.perceptual_distance = PerceptualDistance("vgg", vgg_trunk(config))  # no module: not saved
        if self.weights.clean_views and config.denoiser.attention == "block-causal":
            raise UserError("loss.clean_views makes any view an anchor, which block-causal attention cannot: use joint")
        if "denoiser" in self.trained:
            self.denoiser.set_attention(config.denoiser.attention)  # which the weights it started from may not have had
        for name, part in parts.modules().items():
            part.requires_grad_(name in self.trained)
        if "denoiser" in self.trained:
            choose_trainable(self.denoiser, config.denoiser.trainable, config.denoiser.lora_rank)
            if config.run.gradient_checkpointing:
                self.denoiser.enable_gradient_checkpointing()
            if config.run.compile:
                self.denoiser.compile_unet()
        if "nerf" in self.trained and config.run.compile:
            self.nerf.compile_encoders()

    def train(self, mode: bool = True) -> "Objective":
        """Frozen parts stay in evaluation mode."""
        super().train(mode)
        for name in ("codec", "nerf", "denoiser"):
            getattr(self, name).train(mode and name in self.trained)
        return self

    def forward(self, batch: Batch, progress: float) -> dict[str, Float[Tensor, ""]]:
        """Unweighted losses by name; `progress` in [0, 1] is how far the training has come."""
        draws = draws_of(batch.seeds, batch.views.images.device)
        losses: dict[str, Float[Tensor, ""]] = {}
        if self.weights.reconstruction:
            losses["reconstruction"] = self._reconstruction(batch.views, draws)
        if self._needs_nerf():
            if isinstance(batch, RenderedBatch):
                rendering = batch.rendering
            else:
                scene, rendering, targets = self._render(batch, draws)
                losses |= self._rendering_losses(rendering, targets, draws)
                if self.weights.carving and batch.views.depth is not None and batch.views.mask is not None:
                    losses["carving"] = self._carving(scene, batch.views)
            if self.weights.denoise:
                losses |= self._denoise(batch, rendering, draws, progress)
        return losses

    def residual(self, batch: Batch) -> tuple[Float[Tensor, "set view c h w"], Float[Tensor, "set view 1 h w"]]:
        """What the encoded renderings of sets lack of the true latents, and the largest opacity within each latent."""
        rendering = self.rendered(batch)
        x0 = self.codec.encode(batch.views.images.flatten(0, 1)).unflatten(0, (-1, batch.views.num_views))
        latents = encode_rendering(self.codec, rendering.rgb, self.denoiser.config.latent_size)
        opacity = F.adaptive_max_pool2d(rendering.opacity.flatten(0, 1), x0.shape[-2:])
        return x0 - latents, opacity.unflatten(0, x0.shape[:2])

    def rendered(self, batch: Batch) -> Rendering:
        """Whole renderings of sets at the size that the denoiser wants."""
        if isinstance(batch, RenderedBatch):
            return batch.rendering
        return self._render(batch, draws_of(batch.seeds, batch.views.images.device))[1]

    def rendering_seconds(self) -> float:
        """How long the NeRF's forward passes took since this was asked last; its backward passes are not counted."""
        return self.stopwatch.take()

    def total(self, losses: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """The weighted sum that is minimised. Raises `UserError` where the data allow none of the losses asked for."""
        if not losses:
            raise UserError("the data lack the masks or depths that the losses need: give loss.rgb or another a weight")
        return weighted_sum(self.weights, losses)

    def _needs_nerf(self) -> bool:
        weights = self.weights
        return any(
            (
                weights.rgb,
                weights.mask,
                weights.depth,
                weights.distance,
                weights.carving,
                weights.opacity,
                weights.denoise,
            )
        )

    @contextlib.contextmanager
    def _frozen(self, name: str) -> Iterator[None]:
        """No gradients where the part does not learn."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and name in self.trained):
            yield

    def _render(self, batch: Batch, draws: Draws) -> tuple[Scene, Rendering, ViewSet]:
        """The lifted sets, their renderings, whole or of random rays, and what these should show."""
        with self.stopwatch(batch.views.images.device), self._frozen("nerf"):
            scene = self._lifted(batch, draws)
            if self.weights.denoise or not self.weights.rays:
                return scene, *self._render_images(scene, batch.views, draws)
            return scene, *self._render_rays(scene, batch.views, draws)

    def _lifted(self, batch: Batch, draws: Draws) -> Scene:
        """The known views; half of the sets with Gaussian noise of amplitude U(0, input_noise) [GeNVS]."""
        known = batch.views.select(slice(0, batch.num_known))
        chance = draws.uniform(2)
        amplitude = torch.where(chance[:, 0] < 0.5, chance[:, 1] * self.weights.input_noise, 0.0)
        noise = amplitude[:, None, None, None, None] * draws.normal(*known.images.shape[1:])
        return self.nerf.encode(known.images, known.cameras, self.skips_air, noise)

    def _reconstruction(self, views: ViewSet, draws: Draws) -> Float[Tensor, ""]:
        images = rearrange(views.images, "b v c h w -> (b v) c h w")
        latents = self.codec.encode(images)
        amplitude = draws.uniform(views.num_views).flatten() * self.weights.latent_noise
        noise = draws.normal(views.num_views, *latents.shape[1:]).flatten(0, 1)
        return (self.codec.decode(latents + amplitude[:, None, None, None] * noise) - images).abs().mean()

    def _render_images(self, scene: Scene, views: ViewSet, draws: Draws) -> tuple[Rendering, ViewSet]:
        """Whole renderings at the size that the denoiser wants, and the views shrunk to it."""
        hw = (self.render_size, self.render_size)
        jitter = draws.uniform(views.num_views * hw[0] * hw[1]) if self.nerf.training else None

        def shrink(x: Tensor) -> Tensor:
            return F.interpolate(x.flatten(0, 1), hw, mode="area").unflatten(0, x.shape[:2])

        def shrink_depth(depth: Tensor) -> Tensor:
            """The mean over the object's part of each pixel: the background's 0 is no depth."""
            return shrink(depth) / shrink((depth > 0).to(depth.dtype)).clamp(min=1e-6)

        cameras = views.cameras.resized(hw)
        targets = ViewSet(
            shrink(views.images),
            cameras,
            mask=None if views.mask is None else shrink(views.mask),
            depth=None if views.depth is None else shrink_depth(views.depth),
        )
        return self.nerf.render(scene, cameras, jitter), targets

    def _render_rays(self, scene: Scene, views: ViewSet, draws: Draws) -> tuple[Rendering, ViewSet]:
        """Random rays of full-size views, as images of one row, with the pixels that they should see."""
        rays = self.weights.rays
        chosen = self._chosen_pixels(views, draws.uniform(views.num_views, rays))  # (b, v, r)

        def pick(x: Tensor) -> Tensor:  # (b, v, c, h, w) -> (b, v, c, 1, r)
            return x.flatten(-2).gather(-1, chosen[:, :, None].expand(-1, -1, x.shape[2], -1))[:, :, :, None]

        origins, directions = (rearrange(x, "b v h w d -> b v d h w") for x in views.cameras.rays())
        forward = views.cameras.c2w[..., :3, 2]
        cosine = (pick(directions) * forward[..., :, None, None]).sum(dim=2, keepdim=True)
        mask = None if views.mask is None else pick(views.mask)
        depth = None if views.depth is None else pick(views.depth)

        def flat(x: Tensor) -> Tensor:
            return rearrange(x, "b v d 1 r -> b (v r) d")

        def image(x: Tensor) -> Tensor:
            return rearrange(x if x.ndim == 3 else x[..., None], "b (v r) f -> b v f 1 r", r=rays)

        flat_origins = flat(pick(origins))
        out = self.nerf.render_rays(
            scene,
            flat_origins,
            flat(pick(directions)),
            draws.uniform(flat_origins.shape[1]),
            true_distance=flat(depth / cosine)[..., 0] if depth is not None and self.weights.distance else None,
        )
        rendering = Rendering(
            image(out.features),
            image(out.distance) * cosine,
            image(out.opacity),
            None if out.distance_error is None else image(out.distance_error),
        )
        return rendering, ViewSet(pick(views.images), views.cameras, mask, depth)

    def _chosen_pixels(
        self, views: ViewSet, uniform: Float[Tensor, "batch view ray"]
    ) -> Int64[Tensor, "batch view ray"]:
        """Pixels of each view at random: a share `object_rays` of them from the object and some pixels around it."""
        height, width = views.cameras.hw
        share = self.weights.object_rays
        if views.mask is None or not share:
            return (uniform * (height * width)).long().clamp(max=height * width - 1)
        near = F.max_pool2d(views.mask.flatten(0, 1), 2 * SURROUNDINGS + 1, stride=1, padding=SURROUNDINGS)
        near = (near > 0).float().flatten(1)
        odds = share * near / near.sum(dim=1, keepdim=True).clamp(min=1) + (1 - share) / near.shape[1]
        cumulative = odds.double().cumsum(dim=1)
        places = uniform.flatten(0, 1).double() * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, places.contiguous(), right=True).clamp(max=height * width - 1)
        return chosen.unflatten(0, uniform.shape[:2])

    def _rendering_losses(self, rendering: Rendering, targets: ViewSet, draws: Draws) -> dict[str, Float[Tensor, ""]]:
        weights, losses = self.weights, {}
        if weights.rgb:
            error = rendering.rgb - targets.images
            if weights.random_background and targets.mask is not None:
                change = draws.uniform(3)[:, None, :, None, None] - 1  # from white
                error = error + (targets.mask - rendering.opacity) * change
            losses["rgb"] = error.square().mean()
        if weights.mask and targets.mask is not None:
            losses["mask"] = (rendering.opacity - targets.mask).square().mean()
        if weights.depth and targets.depth is not None:
            on_object = (targets.depth > 0).to(targets.depth.dtype)
            error = (rendering.depth - targets.depth).abs() * on_object
            losses["depth"] = error.sum() / on_object.sum().clamp(min=1)
        if weights.distance and targets.depth is not None and rendering.distance_error is not None:
            on_object = (targets.depth > 0).to(targets.depth.dtype)
            losses["distance"] = (rendering.distance_error * on_object).sum() / on_object.sum().clamp(min=1)
        if weights.opacity:
            losses["opacity"] = rendering.opacity.mean()
        return losses

    def _carving(self, scene: Scene, views: ViewSet) -> Float[Tensor, ""]:
        """Of the world volume's own density, at every voxel."""
        assert self.nerf.world is not None
        voxels = self.nerf.world.fine_centers.flatten(1).T
        side = (math.prod(2 * half for half in self.nerf.world.extent) / len(voxels)) ** (1 / 3)
        return carving_loss(scene.world_logits.flatten(1), carve(voxels, views, SHELL * side))

    def _denoise(
        self, batch: Batch, rendering: Rendering, draws: Draws, progress: float
    ) -> dict[str, Float[Tensor, ""]]:
        """EDM's weighted denoising error [EDM eq. 8] over the views of a set, denoised jointly.

        All views share the set's noise level, but in some sets the known views, and in some others too, are nearly
        clean anchors, which are given and so carry no loss: what they show beyond the renderings, only attention to
        them can tell. Some sets lose their renderings, for classifier-free guidance.

        Under block-causal attention all known views are anchors to their neighbours, the noisy ones too: sampling
        has nearly clean anchors and anchors at the level of the new views.
        """
        num_views, repeats = batch.views.num_views, self.weights.noise_draws
        with torch.no_grad():
            x0 = self.codec.encode(batch.views.images.flatten(0, 1)).unflatten(0, (-1, num_views))
        x0 = x0.repeat_interleave(repeats, dim=0)
        sigma = self.noise_law.sigma(draws.normal(repeats).flatten(), progress)[:, None].expand(-1, num_views)
        is_known = torch.arange(num_views, device=x0.device) < batch.num_known
        anchors = is_known & (draws.uniform(repeats).flatten()[:, None] < self.weights.clean_known)  # (b r, v)
        if self.weights.clean_views:
            some = draws.uniform(repeats).flatten()[:, None] < self.weights.clean_views
            anchors = anchors | (some & (draws.uniform(repeats, num_views).flatten(0, 1) < 0.5))
            anchors = anchors & ~anchors.all(dim=1, keepdim=True)
        sigma = torch.where(anchors, CLEAN_SIGMA, sigma)
        dropped = draws.uniform(repeats).flatten()[:, None].expand(-1, num_views) < self.weights.drop_condition
        noise = draws.normal(repeats, *x0.shape[1:]).flatten(0, 1)
        if self.weights.offset_noise:
            noise = with_offset(noise, draws.normal(repeats, *x0.shape[1:3]).flatten(0, 1), self.weights.offset_noise)
        xt = x0 + sigma[..., None, None, None] * noise
        needed = self.denoiser.sees_render_latents
        render_latents = encode_rendering(self.codec, rendering.rgb, self.denoiser.config.latent_size, needed)
        conditions = self.denoiser.conditions(
            rendering.repeat(repeats),
            render_latents.repeat_interleave(repeats, dim=0),
            batch.views.cameras.repeat(repeats),
            dropped,
        )
        denoised = self._denoised(xt, sigma, conditions, batch.num_known)
        error = (denoised - x0).square().mean(dim=(-1, -2, -3))
        counted = (~anchors).to(error.dtype)
        weighted = loss_weight(sigma, self.weights.min_snr) * error * counted
        losses = {"denoise": weighted.sum(dim=1).div(counted.sum(dim=1).clamp(min=1)).mean()}
        if self.weights.perceptual:
            losses["perceptual"] = self._perceptual(denoised, sigma, ~anchors, batch.views, rendering, draws)
        return losses

    def _perceptual(
        self,
        denoised: Float[Tensor, "set view c h w"],
        sigma: Float[Tensor, "set view"],
        counted: Bool[Tensor, "set view"],
        views: ViewSet,
        rendering: Rendering,
        draws: Draws,
    ) -> Float[Tensor, ""]:
        """LPIPS-VGG of a random crop of one random view of each set, decoded, that counts.

        Weighed by 1 / (1 + sigma^2): under much noise the denoised view is rightly the mean of all that may be.
        """
        repeats, side = self.weights.noise_draws, self.weights.perceptual_crop
        sets = torch.arange(len(denoised), device=denoised.device)
        view = (draws.uniform(repeats, views.num_views).flatten(0, 1) * counted).argmax(dim=1)
        of_set = sets // repeats
        truth = views.images[of_set, view]
        detail = rendering.rgb[of_set, view][:, None] if self.denoiser.render_prior else None
        decoded = decode_with_detail(self.codec, denoised[sets, view][:, None], detail)[:, 0]
        room = truth.shape[-1] - side + 1
        corner = (draws.uniform(repeats, 2).flatten(0, 1) * room).long().clamp(max=room - 1)
        steps = torch.arange(side, device=truth.device)
        rows, columns = (corner[:, :1] + steps)[:, :, None], (corner[:, 1:] + steps)[:, None]

        def crop(images: Float[Tensor, "set 3 h w"]) -> Float[Tensor, "set 3 s s"]:
            return images[sets[:, None, None], :, rows, columns].movedim(-1, 1)

        weight = 1 / (1 + sigma[sets, view].square())
        return (weight * self.perceptual_distance.losses(crop(decoded), crop(truth))).mean()

    def _denoised(
        self,
        xt: Float[Tensor, "set view c h w"],
        sigma: Float[Tensor, "set view"],
        conditions: Conditions,
        num_known: int,
    ) -> Float[Tensor, "set view c h w"]:
        """x0 of sets whose first views are the known ones, which block-causal attention wants last."""
        if self.denoiser.config.attention != "block-causal":
            return self.denoiser(xt, sigma, conditions)
        order = torch.arange(xt.shape[1], device=xt.device).roll(-num_known)
        x0 = self.denoiser(xt[:, order], sigma[:, order], conditions.select(order), num_anchors=num_known)
        return x0.roll(num_known, dims=1)


def weighted_sum(weights: LossConfig, losses: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
    """Losses have the names of their weights."""
    return torch.stack([getattr(weights, name) * value for name, value in losses.items()]).sum()


def check_perceptual(config: TrainConfig) -> None:
    """Raises `UserError` where LPIPS has a weight, and its package or VGG's weights are not there."""
    if config.loss.perceptual:
        PerceptualDistance("vgg", vgg_trunk(config))


def vgg_trunk(config: TrainConfig) -> Trunk:
    folder = config.loss.perceptual_trunk
    return find_trunk("vgg", Path(folder) if folder else None)


def fit_codec(codec: nn.Module, images: Float[Tensor, "n 3 h w"]) -> None:
    """Fits the closed-form part of a codec that has one."""
    if isinstance(codec, PatchCodec):
        codec.fit(images)
