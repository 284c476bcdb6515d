"""The joint denoiser around a Stable Diffusion UNet, with its conditioners."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention import AnchorCache, AnchorState
from mvgenvs.cameras import Cameras
from mvgenvs.diffusion.codec import SIGMA_DATA
from mvgenvs.diffusion.conditions import Conditions, Reference
from mvgenvs.diffusion.joint_model import JointUNet, which_dropped
from mvgenvs.diffusion.stable.conditioners import (
    ALL_CONDITIONERS,
    HINT_SCALES,
    IMAGES,
    ZERO123,
    make_adapter,
    make_controlnet,
)
from mvgenvs.diffusion.stable.noise import DiscreteNoise
from mvgenvs.diffusion.stable.zero123 import TURN, CCProjection, clip_embedding, make_image_encoder, turn_between
from mvgenvs.errors import UserError
from mvgenvs.nerf.model import Rendering

MATRIX = 12  # entries of a camera-to-world matrix


class StableDenoiser(JointUNet):
    """D(x_t; sigma, conditions) for the latents of all views of a set at once, with a checkpoint's UNet.

    The UNet, and the ControlNet with it, has a class embedding: 0 for a view whose rendering is seen, 1 for one whose
    rendering is dropped. It starts at zero, so that the UNet starts out equal to its checkpoint. The prompt is the same
    for every view: its embedding is a buffer, so the text encoder is not needed again.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        unet_config: dict[str, Any],
        scheduler_config: dict[str, Any],
        prompt_shape: Sequence[int],
        conditioner: str = "controlnet",
        latent_size: int = 16,
        features: int = 16,
        condition_scale: int = 4,
        attention: str = "joint",
        image_encoder_config: dict[str, Any] | None = None,
    ) -> None:
        """Random weights, except for those that start at zero. `unet_config` and `scheduler_config` are the
        checkpoint's, `prompt_shape` is the (tokens, channels) of its prompts; the rest is as in `JointDenoiser`.

        controlnet and t2i-adapter see the NeRF's `features` at `condition_scale` times the latents' resolution; concat
        sees its encoded RGB in additional input channels. zero123 sees the first known view there, and a token of its
        CLIP embedding and of the turn from it instead of the prompt; zero123-rendering sees the rendering in yet more
        channels. camera sees no rendering, and the cameras' matrices beside the noise level [MVDream, Shi et al. 2023,
        arXiv 2308.16512]. `image_encoder_config` is CLIP's, for zero123. Raises `UserError` for another conditioner.
        """
        super().__init__()
        if conditioner not in ALL_CONDITIONERS:
            raise UserError(f"setting 'model.conditioner' must be {' or '.join(ALL_CONDITIONERS)}, not '{conditioner}'")
        if condition_scale not in HINT_SCALES:
            raise UserError(f"setting 'denoiser.condition_scale' must be one of {HINT_SCALES} here")
        self.render_prior, self.sees_render_latents = False, conditioner in ("concat", "zero123-rendering")
        self.sees_rendering, self.sees_reference = conditioner not in ("zero123", "camera"), conditioner in ZERO123
        self.noise = DiscreteNoise(scheduler_config)
        channels = unet_config["out_channels"]
        inputs = channels * (1 + IMAGES.get(conditioner, 0))
        told: dict[str, Any] = {"num_class_embeds": 2}
        if conditioner == "camera":
            told = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": MATRIX}
        self.unet = UNet2DConditionModel.from_config(unet_config, in_channels=inputs, **told)
        for silent in getattr(self.unet.class_embedding, "linear_2", self.unet.class_embedding).parameters():
            nn.init.zeros_(silent)
        self.controlnet: ControlNetModel | None = None
        self.adapter: T2IAdapter | None = None
        if conditioner == "controlnet":
            self.controlnet = make_controlnet(self.unet, features, condition_scale)
        elif conditioner == "t2i-adapter":
            self.adapter = make_adapter(self.unet, features, condition_scale)
        self.image_encoder: nn.Module | None = None
        self.cc_projection: CCProjection | None = None
        if conditioner in ZERO123:
            assert image_encoder_config is not None
            self.image_encoder = make_image_encoder(image_encoder_config)
            token = image_encoder_config["projection_dim"]
            self.cc_projection = CCProjection(token + TURN, unet_config["cross_attention_dim"])
        self.register_buffer("prompt_embedding", torch.zeros(1, *prompt_shape))
        self.set_attention(attention)

    @property
    def conditioner(self) -> nn.Module:
        """The layers through which the rendering, the known view or the camera is seen."""
        if self.cc_projection is not None:
            return nn.ModuleList([self.cc_projection, self.unet.conv_in])
        if self.config.conditioner == "camera":
            return self.unet.class_embedding
        return self.controlnet or self.adapter or self.unet.conv_in

    def requires_grad_(self, requires_grad: bool = True) -> "StableDenoiser":
        """As torch's own, but CLIP's image encoder always stays as it is."""
        super().requires_grad_(requires_grad)
        if self.image_encoder is not None:
            self.image_encoder.requires_grad_(False)
        return self

    def embed(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        """CLIP's embedding, for zero123."""
        return super().embed(images) if self.image_encoder is None else clip_embedding(self.image_encoder, images)

    def conditions(
        self,
        rendering: Rendering,
        render_latents: Float[Tensor, "batch view l h w"],
        cameras: Cameras,
        dropped: Bool[Tensor, "batch view"] | None = None,
        reference: Reference | None = None,
    ) -> Conditions:
        """The maps are the conditioner's input, zero for a dropped view, and a last channel that is 1 for it.
        `reference` is for zero123, whose views are all dropped without it.

        Feature maps are pooled to `condition_scale` times the latents' side, and their pixels folded into channels.
        """
        if self.sees_reference and reference is None:
            dropped = torch.ones(render_latents.shape[:2], dtype=torch.bool, device=render_latents.device)
        dropped, keep = which_dropped(dropped, render_latents)
        if self.config.conditioner in (*IMAGES, "camera"):
            shown = [reference.latents[:, None].expand_as(render_latents)] if reference is not None else []
            if self.sees_reference and reference is None:
                shown = [torch.zeros_like(render_latents)]
            shown += [render_latents] if self.sees_render_latents else []
            none = render_latents[:, :, :0]
            seen = keep * torch.cat([none, *shown], dim=2) / SIGMA_DATA
        else:
            scale = self.config.condition_scale
            features = torch.cat([rendering.rgb * 2 - 1, rendering.features[:, :, 3:]], dim=2) * keep
            pooled = F.avg_pool2d(features.flatten(0, 1), features.shape[-1] // (self.config.latent_size * scale))
            seen = F.pixel_unshuffle(pooled, scale).unflatten(0, dropped.shape)
        flag = (1 - keep).expand(*seen.shape[:2], 1, *seen.shape[-2:])
        poses = cameras.c2w[..., :3, :].flatten(-2).to(seen.dtype)  # used by the conditioner camera alone
        if self.cc_projection is not None:
            poses = seen.new_zeros(*dropped.shape, self.cc_projection.config.in_channel)
        if reference is not None:
            embedding = reference.embedding[:, None].expand(-1, dropped.shape[1], -1)
            poses = torch.cat([embedding, turn_between(reference.camera, cameras)], dim=-1).to(seen.dtype)
        std = torch.full_like(flag, SIGMA_DATA)
        points = flag.expand(-1, -1, 3, -1, -1)  # likewise
        return Conditions(torch.cat([seen, flag], dim=2), poses, torch.zeros_like(render_latents), std, points)

    def forward(
        self,
        xt: Float[Tensor, "batch view c h w"],
        sigma: Float[Tensor, "batch view"],
        conditions: Conditions,
        joint: bool = True,
        num_anchors: int | None = None,
        cache: AnchorCache | None = None,
    ) -> Float[Tensor, "batch out c h w"]:
        """The denoised latents x0; the arguments are those of `JointDenoiser.forward`."""
        conditions = conditions.for_draws(len(xt) // len(conditions.mean))
        scale = self.noise.preconditioning(sigma)
        c_skip, c_out, c_in = (x[..., None, None, None] for x in (scale.c_skip, scale.c_out, scale.c_in))
        maps, flag = conditions.maps[:, :, :-1], conditions.maps[:, :, -1, 0, 0]
        views = (c_in * xt, scale.c_noise, maps, flag, conditions.poses)
        network = self.attend(views, joint, num_anchors, cache)
        shown = network.shape[1]
        return (c_skip * xt)[:, :shown] + c_out[:, :shown] * network

    def _network(self, views: tuple[Tensor, ...], **attention: int | AnchorState) -> Float[Tensor, "batch view c h w"]:
        """F, the checkpoint's prediction; `views` holds inputs, timesteps, the conditioner's input, flags and poses."""
        inputs, timesteps, seen, flags, poses = (x.flatten(0, 1) for x in views)
        tokens = self.prompt_embedding.expand(len(inputs), -1, -1)
        if self.cc_projection is not None:
            tokens = ((1 - flags)[:, None] * self.cc_projection(poses))[:, None]
        given: dict[str, Any] = {
            "encoder_hidden_states": tokens,
            "class_labels": poses if self.config.conditioner == "camera" else flags.round().long(),
            "cross_attention_kwargs": attention,
        }
        residuals: dict[str, Any] = {}
        if self.controlnet is not None:
            hint = F.pixel_shuffle(seen, self.config.condition_scale)
            down, mid = self.controlnet(inputs, timesteps, controlnet_cond=hint, return_dict=False, **given)
            if self.unet.mid_block is None:  # diffusers takes the others for an adapter's if there is no mid residual
                mid = torch.zeros_like(mid)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        elif self.adapter is not None:
            hint = F.pixel_shuffle(seen, self.config.condition_scale)
            residuals = {"down_intrablock_additional_residuals": self.adapter(hint)}
        else:
            inputs = torch.cat([inputs, seen], dim=1)
        return self.unet(inputs, timesteps, **given, **residuals).sample.unflatten(0, views[0].shape[:2])
