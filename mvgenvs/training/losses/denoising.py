"""Losses of the denoiser: EDM's weighted error of sets denoised jointly, and LPIPS of what they decode to."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvgenvs.config import LossConfig
from mvgenvs.data.sampling import Batch
from mvgenvs.diffusion.codec import Codec, decode_with_detail, encode_rendering
from mvgenvs.diffusion.conditions import Conditions, Reference
from mvgenvs.diffusion.joint_model import JointModel
from mvgenvs.diffusion.noise import NoiseLaw, loss_weight, with_offset
from mvgenvs.diffusion.options import CLEAN_SIGMA
from mvgenvs.nerf.model import Rendering
from mvgenvs.perceptual import PerceptualDistance
from mvgenvs.training.draws import Draws
from mvgenvs.training.losses.agreement import differences
from mvgenvs.views import ViewSet


@dataclass(frozen=True, eq=False)
class DenoisingLoss:
    """What it takes to compute these losses."""

    codec: Codec
    denoiser: JointModel
    weights: LossConfig
    noise_law: NoiseLaw
    distance: PerceptualDistance | None  # where loss.perceptual has a weight

    def losses(self, batch: Batch, rendering: Rendering, draws: Draws, progress: float) -> dict[str, Float[Tensor, ""]]:
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
        sigma, anchors, from_render = self._levels(num_views, batch.num_known, draws, progress)
        dropped = draws.uniform(repeats).flatten()[:, None].expand(-1, num_views) < self.weights.drop_condition
        noise = draws.normal(repeats, *x0.shape[1:]).flatten(0, 1)
        if self.weights.offset_noise:
            noise = with_offset(noise, draws.normal(repeats, *x0.shape[1:3]).flatten(0, 1), self.weights.offset_noise)
        needed = self.denoiser.sees_render_latents or from_render is not None
        render_latents = encode_rendering(self.codec, rendering.rgb, self.denoiser.config.latent_size, needed)
        conditions = self._conditions(batch.views, x0, rendering, render_latents, dropped)
        x0 = x0.repeat_interleave(repeats, dim=0)
        xt = x0 + sigma[..., None, None, None] * noise
        if from_render is not None:
            lacking = render_latents.repeat_interleave(repeats, dim=0) - x0
            xt = xt + (from_render & ~anchors)[..., None, None, None] * lacking
        denoised = self.denoised(xt, sigma, conditions, batch.num_known)
        error = denoised - x0
        losses = {"denoise": self._weighed(error.square().mean(dim=(-1, -2, -3)), sigma, anchors)}
        if self.weights.agreement and batch.views.depth is not None:
            # Anchors are given, so their errors are 0: views agree with them by being right.
            error = torch.where(anchors[..., None, None, None], 0.0, error)
            losses["agreement"] = self._weighed(differences(error, batch.views), sigma, anchors)
        if self.weights.perceptual:
            losses["perceptual"] = self._perceptual(denoised, sigma, ~anchors, batch.views, rendering, draws)
        return losses

    def _levels(
        self, num_views: int, num_known: int, draws: Draws, progress: float
    ) -> tuple[Float[Tensor, "set view"], Bool[Tensor, "set view"], Bool[Tensor, "set 1"] | None]:
        """Noise levels, which views are anchors, and which sets start from their renderings, if any may."""
        weights, repeats = self.weights, self.weights.noise_draws
        sigma = self.noise_law.sigma(draws.normal(repeats).flatten(), progress)[:, None].expand(-1, num_views)
        is_known = torch.arange(num_views, device=sigma.device) < num_known
        anchors = is_known & (draws.uniform(repeats).flatten()[:, None] < weights.clean_known)  # (b r, v)
        if weights.clean_views:
            some = draws.uniform(repeats).flatten()[:, None] < weights.clean_views
            anchors = anchors | (some & (draws.uniform(repeats, num_views).flatten(0, 1) < 0.5))
            anchors = anchors & ~anchors.all(dim=1, keepdim=True)
        from_render = None
        if weights.render_start:
            from_render = draws.uniform(repeats).flatten()[:, None] < weights.render_start
            sigma = torch.where(from_render, weights.render_sigma, sigma)
        return torch.where(anchors, CLEAN_SIGMA, sigma), anchors, from_render

    def _conditions(
        self,
        views: ViewSet,
        x0: Float[Tensor, "batch view c h w"],
        rendering: Rendering,
        render_latents: Float[Tensor, "batch view c h w"],
        dropped: Bool[Tensor, "set view"],
    ) -> Conditions:
        """Those of each set, or of each draw of it if some of them lose their renderings."""
        cameras, reference = views.cameras, self.reference(views, x0)
        if not dropped.any():
            told = {} if reference is None else {"reference": reference}
            return self.denoiser.conditions(rendering, render_latents, cameras, **told)
        repeats = self.weights.noise_draws
        told = {} if reference is None else {"reference": reference.repeat(repeats)}
        latents = render_latents.repeat_interleave(repeats, dim=0)
        return self.denoiser.conditions(rendering.repeat(repeats), latents, cameras.repeat(repeats), dropped, **told)

    def reference(self, views: ViewSet, x0: Float[Tensor, "batch view c h w"]) -> Reference | None:
        """The first known view of each set, if the denoiser is shown it; `x0` are the latents of all views."""
        if not self.denoiser.sees_reference:
            return None
        return Reference(x0[:, 0], self.denoiser.embed(views.images[:, 0]), views.cameras.select([0]))

    def _weighed(
        self, errors: Float[Tensor, "set view"], sigma: Float[Tensor, "set view"], anchors: Bool[Tensor, "set view"]
    ) -> Float[Tensor, ""]:
        """The mean of squared errors over the views that are no anchors, weighed by their noise levels."""
        counted = (~anchors).to(errors.dtype)
        weighted = loss_weight(sigma, self.weights.min_snr) * errors * counted
        return weighted.sum(dim=1).div(counted.sum(dim=1).clamp(min=1)).mean()

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
        assert self.distance is not None
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
        return (weight * self.distance.losses(crop(decoded), crop(truth))).mean()

    def denoised(
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
