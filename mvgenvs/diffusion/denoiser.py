"""The joint denoiser: a diffusers UNet under EDM preconditioning, whose self-attention spans all views of a set.

There is one class and one constructor, used by training and inference alike, so both run the same processors.

EDM preconditions for data of mean 0 and standard deviation 0.5. Here much more is known: the rendering, encoded, is
a good guess of the latents, and its opacity tells where it may be wrong. So the preconditioning is centred on the
rendering (D = mean + c_skip (x - mean) + c_out F) and its sigma_data is a map, small on the background and large on
the object. An untrained denoiser then returns the rendering, and the background needs no learning. EDM's derivation
holds unchanged, pixel by pixel; views whose rendering is dropped get mean 0 and 0.5, EDM's own.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention import AnchorCache, AnchorState, add_qk_norm
from mvgenvs.cameras import Cameras
from mvgenvs.diffusion.conditions import Conditions
from mvgenvs.diffusion.joint_model import JointUNet, which_dropped
from mvgenvs.diffusion.noise import preconditioning
from mvgenvs.diffusion.rendered_prior import prior_deviation, surface_points
from mvgenvs.diffusion.shared_volume import SharedVolume, normalised_projections
from mvgenvs.errors import UserError
from mvgenvs.nerf.model import Rendering

POSE_TOKEN_DIM = 64
TIMESTEP_SCALE = 1000  # c_noise spans about [-1.5, 1.2]; diffusers' sinusoids resolve steps of 1 within [0, 1000]


def token_points(
    points: Float[Tensor, "batch_view 3 h w"], attention_levels: Sequence[bool]
) -> dict[int, Float[Tensor, "batch_view n 3"]]:
    """The points of the tokens at each level of the UNet, by their number; the level below has a quarter of them."""
    by_level = {}
    for _ in attention_levels:
        by_level[points.shape[-1] * points.shape[-2]] = points.flatten(2).mT
        points = F.avg_pool2d(points, 2)
    return by_level


class JointDenoiser(JointUNet):
    """D(x_t; sigma, conditions) for the latents of all views of a set at once."""

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        latent_size: int = 16,
        features: int = 16,
        condition_scale: int = 2,
        rendering: bool = True,
        plucker: bool = True,
        render_prior: bool = True,
        block_out_channels: Sequence[int] = (144, 128),
        attention_levels: Sequence[bool] = (True, True),
        layers_per_block: int = 1,
        transformer_layers: int = 1,
        num_heads: int = 4,
        qk_norm: bool = True,
        attention: str = "joint",
        show_prior: bool = False,
        rotary_points: bool = False,
        shared_volume: int = 0,
        std_floor: float = 0.05,
        std_slope: float = 0.9,
        std_ceiling: float = 0.8,
        std_air: float = 0.004,
        air_distance: int = 2,
        std_channels: Sequence[float] | None = None,
    ) -> None:
        """The arguments, so many of them, are the model's saved configuration. `latent_size` is the side of the
        latents, `condition_scale` that of the condition maps over it. Without `rendering` the network sees cameras and
        views alone; then `render_prior`, which centres the preconditioning on the rendering, and `show_prior`, which
        gives the encoded rendering to the network besides the maps, must be off: raises `UserError`.
        `attention_levels` says at which levels, finest first, transformer blocks attend across the views; `attention`
        which views see which, see `set_attention`; `rotary_points` lets tokens know the point that they show, see
        `attention.rotary`. `shared_volume` is the side of a `SharedVolume` in voxels, 0 for none; raises `UserError`
        with block-causal attention, whose anchors must not depend on the new views.

        The prior's deviation is `std_floor` + `std_slope` sqrt(opacity), up to `std_ceiling`, times the channel's of
        `std_channels`, and `std_air` where no latent within `air_distance` sees anything. They belong to the data,
        the codec and the field: `fit_prior` measures them.
        """
        super().__init__()
        if not rendering and (render_prior or show_prior):
            raise UserError(
                "denoiser.rendering false leaves no prior: set denoiser.render_prior and show_prior to false"
            )
        render_channels = (features + 1) * condition_scale**2 if rendering else 0
        map_channels = render_channels + 1 + 6 * plucker + latent_channels * show_prior
        self.unet = UNet2DConditionModel(
            sample_size=latent_size,
            in_channels=latent_channels + map_channels,
            out_channels=latent_channels,
            block_out_channels=tuple(block_out_channels),
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention_levels),
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention_levels)),
            layers_per_block=layers_per_block,
            transformer_layers_per_block=transformer_layers,
            attention_head_dim=num_heads,  # which diffusers reads as the number of heads
            cross_attention_dim=POSE_TOKEN_DIM,
            norm_num_groups=16,
            use_linear_projection=True,
        )
        self.pose_token = nn.Sequential(
            nn.Linear(12, POSE_TOKEN_DIM), nn.SiLU(), nn.Linear(POSE_TOKEN_DIM, POSE_TOKEN_DIM)
        )
        nn.init.zeros_(self.unet.conv_out.weight)  # F = 0: the untrained denoiser is EDM's c_skip x
        nn.init.zeros_(self.unet.conv_out.bias)
        if qk_norm:
            add_qk_norm(self.unet)
        self.voxels: SharedVolume | None = None
        if shared_volume:
            inputs = latent_channels + map_channels
            self.voxels = SharedVolume(inputs, shared_volume, self.unet, block_out_channels)
        self.render_prior, self.sees_rendering = render_prior, rendering
        self.sees_render_latents = render_prior or show_prior
        self.set_attention(attention)

    def set_attention(self, attention: str) -> None:
        if attention == "block-causal" and self.voxels is not None:
            raise UserError("denoiser.shared_volume mixes all views of a set, which block-causal attention forbids")
        super().set_attention(attention)

    @property
    def sees_other_views(self) -> bool:
        return super().sees_other_views or self.voxels is not None

    def conditions(
        self,
        rendering: Rendering,
        render_latents: Float[Tensor, "batch view l h w"],
        cameras: Cameras,
        dropped: Bool[Tensor, "batch view"] | None = None,
    ) -> Conditions:
        """Stacks the rendering, its opacity, the Plücker map and a flag; a dropped view sees zeros and a flag of 1.
        A denoiser without `rendering` takes all views for dropped.

        The rendering is pooled to `condition_scale` times the latents' side and its pixels are folded into channels.
        `render_latents` is its RGB, encoded.
        """
        scale, latent_size = self.config.condition_scale, self.config.latent_size
        hw = (latent_size, latent_size)
        if not self.config.rendering:
            dropped = torch.ones(rendering.opacity.shape[:2], dtype=torch.bool, device=rendering.opacity.device)
        dropped, keep = which_dropped(dropped, rendering.opacity)
        maps = [(1 - keep).expand(*keep.shape[:2], 1, *hw)]
        if self.config.rendering:
            rgb, rest = rendering.features[:, :, :3] * 2 - 1, rendering.features[:, :, 3:]
            render = torch.cat([rgb, rest, rendering.opacity], dim=2)
            pooled = F.avg_pool2d((render * keep).flatten(0, 1), render.shape[-1] // (latent_size * scale))
            maps.insert(0, F.pixel_unshuffle(pooled, scale).unflatten(0, keep.shape[:2]))
        if self.config.plucker:
            maps.append(cameras.resized(hw).plucker().to(keep.dtype))
        if self.config.show_prior:
            maps.append(keep * render_latents)
        matrices = cameras.c2w[..., :3, :] if self.voxels is None else normalised_projections(cameras)
        poses = matrices.flatten(-2).to(keep.dtype)
        if not self.config.render_prior:
            keep = torch.zeros_like(keep)
        std = prior_deviation(rendering.opacity, hw, self.config, keep)
        points = surface_points(rendering, cameras, hw, dropped)
        return Conditions(torch.cat(maps, dim=2), poses, keep * render_latents, std, points.to(std.dtype))

    def forward(
        self,
        xt: Float[Tensor, "batch view c h w"],
        sigma: Float[Tensor, "batch view"],
        conditions: Conditions,
        joint: bool = True,
        num_anchors: int | None = None,
        cache: AnchorCache | None = None,
    ) -> Float[Tensor, "batch out c h w"]:
        """The denoised latents x0. `joint=False` denoises every view alone: the baseline, not a mode of training.

        `conditions` may be of fewer sets than `xt`: each then serves as many draws, one after another.
        The last `num_anchors` views of each set are its anchors; block-causal attention raises `TypeError` if it is
        not told how many. It may be given a `cache`: then x0 is that of the new views alone, and what the cache holds
        of the anchors is not computed again. The cache serves inference, and must not outlive a change of the weights.
        """
        conditions = conditions.for_draws(len(xt) // len(conditions.mean))
        scale = preconditioning(sigma[..., None, None, None], conditions.std)
        centred = xt - conditions.mean
        views = (
            torch.cat([scale.c_in * centred, conditions.maps], dim=2),
            rearrange(scale.c_noise * TIMESTEP_SCALE, "b v 1 1 1 -> b v"),
            self.pose_token(conditions.poses),
            conditions.points,
            conditions.poses,
        )
        network = self.attend(views, joint, num_anchors, cache)
        shown = network.shape[1]
        return (conditions.mean + scale.c_skip * centred)[:, :shown] + scale.c_out[:, :shown] * network

    def _network(self, views: tuple[Tensor, ...], **attention: int | AnchorState) -> Float[Tensor, "batch view c h w"]:
        """F of [EDM eq. 7]; `views` holds inputs, timesteps, tokens, points and poses, each (batch, view, ...)."""
        inputs, timesteps, tokens, points, poses = (x.flatten(0, 1) for x in views)
        given: dict[str, Any] = dict(attention)
        if self.config.rotary_points:
            given["points"] = token_points(points, self.config.attention_levels)
        volume: AbstractContextManager[None] = nullcontext()
        if self.voxels is not None:
            sets = (-1, attention["num_views"])
            levels, matrices = timesteps / TIMESTEP_SCALE, poses.unflatten(-1, (3, 4))
            volume = self.voxels.seen(*(x.unflatten(0, sets) for x in (inputs, levels, matrices)))
        with volume:
            hidden = {"encoder_hidden_states": tokens[:, None], "cross_attention_kwargs": given}
            out = self.unet(inputs, timesteps, **hidden).sample
        return out.unflatten(0, views[0].shape[:2])
