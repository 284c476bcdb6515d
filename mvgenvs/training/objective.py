"""The training objective: from a batch of view sets to named losses.

All randomness comes from one generator per set, seeded by the set: the losses do not depend on how sets are spread
over processes and accumulation steps, and a resumed run continues exactly.
"""

import contextlib
from collections.abc import Iterator

import torch
from einops import rearrange
from jaxtyping import Bool, Float
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
from mvgenvs.perceptual import PerceptualDistance, find_trunk
from mvgenvs.training.trainable import choose_trainable
from mvgenvs.views import ViewSet


class Draws:
    """Random tensors with a leading batch axis, entry b from generator b; drawn on the CPU, the same on any device."""

    def __init__(self, seeds: list[int], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.device = device

    def normal(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators]).to(self.device)

    def uniform(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators]).to(self.device)


class Objective(nn.Module):
    """Holds the parts, so that one forward pass through it yields every loss that the stage asks for."""

    def __init__(self, parts: Parts, config: TrainConfig) -> None:
        super().__init__()
        self.codec, self.nerf, self.denoiser = parts.codec, parts.nerf, parts.denoiser
        self.weights: LossConfig = config.loss
        self.render_size = config.denoiser.render_size
        self.trained = config.run.train
        if self.weights.noise_law not in NOISE_LAWS:
            raise UserError(f"setting 'loss.noise_law' must be one of {', '.join(NOISE_LAWS)}")
        self.noise_law = NOISE_LAWS[self.weights.noise_law]
        if self.weights.perceptual:
            self.perceptual_distance = PerceptualDistance("vgg", find_trunk("vgg"))  # no module: not saved
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

    def train(self, mode: bool = True) -> "Objective":
        """Frozen parts stay in evaluation mode."""
        super().train(mode)
        for name in ("codec", "nerf", "denoiser"):
            getattr(self, name).train(mode and name in self.trained)
        return self

    def forward(self, batch: Batch, progress: float) -> dict[str, Float[Tensor, ""]]:
        """Unweighted losses by name; `progress` in [0, 1] is how far the training has come."""
        draws = Draws(batch.seeds, batch.views.images.device)
        losses: dict[str, Float[Tensor, ""]] = {}
        if self.weights.reconstruction:
            losses["reconstruction"] = self._reconstruction(batch.views, draws)
        if self._needs_nerf():
            with self._frozen("nerf"):
                known = self._noisy_known(batch, draws)
                scene = self.nerf.encode(known.images, known.cameras)
                if self.weights.denoise or not self.weights.rays:
                    rendering, targets = self._render_images(scene, batch.views, draws)
                else:
                    rendering, targets = self._render_rays(scene, batch.views, draws)
            losses |= self._rendering_losses(rendering, targets)
            if self.weights.denoise:
                losses |= self._denoise(batch, rendering, draws, progress)
        return losses

    def total(self, losses: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """The weighted sum that is minimised."""
        return torch.stack([getattr(self.weights, name) * value for name, value in losses.items()]).sum()

    def _needs_nerf(self) -> bool:
        weights = self.weights
        return any((weights.rgb, weights.mask, weights.depth, weights.opacity, weights.denoise))

    @contextlib.contextmanager
    def _frozen(self, name: str) -> Iterator[None]:
        """No gradients where the part does not learn."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and name in self.trained):
            yield

    def _noisy_known(self, batch: Batch, draws: Draws) -> ViewSet:
        """The known views; half of the sets with Gaussian noise of amplitude U(0, input_noise) [GeNVS]."""
        known = batch.views.select(slice(0, batch.num_known))
        chance = draws.uniform(2)
        amplitude = torch.where(chance[:, 0] < 0.5, chance[:, 1] * self.weights.input_noise, 0.0)
        noise = draws.normal(*known.images.shape[1:])
        return known.with_images(known.images + amplitude[:, None, None, None, None] * noise)

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
        height, width = views.cameras.hw
        rays = self.weights.rays
        chosen = (draws.uniform(views.num_views, rays) * (height * width)).long()  # (b, v, r)
        chosen = chosen.clamp(max=height * width - 1)

        def pick(x: Tensor) -> Tensor:  # (b, v, c, h, w) -> (b, v, c, 1, r)
            return x.flatten(-2).gather(-1, chosen[:, :, None].expand(-1, -1, x.shape[2], -1))[:, :, :, None]

        origins, directions = (rearrange(x, "b v h w d -> b v d h w") for x in views.cameras.rays())
        forward = views.cameras.c2w[..., :3, 2]
        flat_origins, flat_directions = (rearrange(pick(x), "b v d 1 r -> b (v r) d") for x in (origins, directions))
        out = self.nerf.render_rays(scene, flat_origins, flat_directions, draws.uniform(flat_origins.shape[1]))

        def image(x: Tensor) -> Tensor:
            return rearrange(x if x.ndim == 3 else x[..., None], "b (v r) f -> b v f 1 r", r=rays)

        cosine = (pick(directions) * forward[..., :, None, None]).sum(dim=2, keepdim=True)
        rendering = Rendering(image(out.features), image(out.distance) * cosine, image(out.opacity))
        mask = None if views.mask is None else pick(views.mask)
        depth = None if views.depth is None else pick(views.depth)
        return rendering, ViewSet(pick(views.images), views.cameras, mask, depth)

    def _rendering_losses(self, rendering: Rendering, targets: ViewSet) -> dict[str, Float[Tensor, ""]]:
        weights, losses = self.weights, {}
        if weights.rgb:
            losses["rgb"] = (rendering.rgb - targets.images).square().mean()
        if weights.mask and targets.mask is not None:
            losses["mask"] = (rendering.opacity - targets.mask).square().mean()
        if weights.depth and targets.depth is not None:
            on_object = (targets.depth > 0).to(targets.depth.dtype)
            error = (rendering.depth - targets.depth).abs() * on_object
            losses["depth"] = error.sum() / on_object.sum().clamp(min=1)
        if weights.opacity:
            losses["opacity"] = rendering.opacity.mean()
        return losses

    def _denoise(
        self, batch: Batch, rendering: Rendering, draws: Draws, progress: float
    ) -> dict[str, Float[Tensor, ""]]:
        """EDM's weighted denoising error [EDM eq. 8] over the views of a set, denoised jointly.

        All views share the set's noise level, but in some sets the known views are nearly clean anchors, which are
        given and so carry no loss. Some views lose their rendering, for classifier-free guidance.

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
        sigma = torch.where(anchors, CLEAN_SIGMA, sigma)
        dropped = draws.uniform(repeats, num_views).flatten(0, 1) < self.weights.drop_condition
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
        losses = {"denoise": weighted.sum(dim=1).div(counted.sum(dim=1)).mean()}
        if self.weights.perceptual:
            losses["perceptual"] = self._perceptual(denoised, ~anchors, batch.views, rendering, draws)
        return losses

    def _perceptual(
        self,
        denoised: Float[Tensor, "set view c h w"],
        counted: Bool[Tensor, "set view"],
        views: ViewSet,
        rendering: Rendering,
        draws: Draws,
    ) -> Float[Tensor, ""]:
        """LPIPS-VGG between the decoded views that count and the true images, in one random crop of each set."""
        repeats, side = self.weights.noise_draws, self.weights.perceptual_crop
        detail = rendering.rgb.repeat_interleave(repeats, dim=0) if self.denoiser.render_prior else None
        decoded = decode_with_detail(self.codec, denoised, detail)
        truth = views.images.repeat_interleave(repeats, dim=0)
        height, width = truth.shape[-2:]
        pairs = []
        for i, (across, down) in enumerate(draws.uniform(repeats, 2).flatten(0, 1).tolist()):
            top, left = int(down * (height - side + 1)), int(across * (width - side + 1))
            crop = (counted[i].nonzero()[:, 0], slice(None), slice(top, top + side), slice(left, left + side))
            pairs.append((decoded[i][crop], truth[i][crop]))
        predicted, true = (torch.cat(images) for images in zip(*pairs, strict=True))
        return self.perceptual_distance.loss(predicted, true)

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


def fit_codec(codec: nn.Module, images: Float[Tensor, "n 3 h w"]) -> None:
    """Fits the closed-form part of a codec that has one."""
    if isinstance(codec, PatchCodec):
        codec.fit(images)
