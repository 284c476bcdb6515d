"""Conditioners, through which a Stable Diffusion UNet sees the NeRF's feature renderings: ControlNet or T2I adapter."""

from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from torch import nn

CONDITIONERS = ("controlnet", "t2i-adapter", "concat")  # of the rendering alone
ZERO123 = ("zero123", "zero123-rendering")  # of the known view and the turn from it
ALL_CONDITIONERS = (*CONDITIONERS, *ZERO123, "camera")
IMAGES = {"concat": 1, "zero123": 1, "zero123-rendering": 2}  # whose latents are further input channels of the UNet
HINT_CHANNELS = (16, 32, 96, 256)  # of the ControlNet's hint embedding, which halves the side between them
HINT_SCALES = tuple(2**i for i in range(len(HINT_CHANNELS)))  # sides of hints divided by that of the latents


def make_controlnet(unet: UNet2DConditionModel, features: int, hint_scale: int) -> ControlNetModel:
    """A ControlNet of the UNet's shape for hints of `features` channels and `hint_scale` times the latents' side.

    It equals `ControlNetModel.from_unet` but accepts any UNet: that function refuses a UNet without a mid block, such
    as tiny-sd's. The ControlNet of such a UNet has no mid block either, and no convolution behind it.
    """
    controlnet = ControlNetModel.from_config(
        {**unet.config, "_class_name": "UNet2DConditionModel"},  # settings that it does not know are silently ignored
        mid_block_type=unet.config.mid_block_type or "UNetMidBlock2D",
        conditioning_channels=features,
        conditioning_embedding_out_channels=HINT_CHANNELS[: 1 + HINT_SCALES.index(hint_scale)],
    )
    if unet.mid_block is None:
        controlnet.mid_block, controlnet.controlnet_mid_block = None, nn.Identity()
    return controlnet


def start_from_unet(controlnet: ControlNetModel, unet: UNet2DConditionModel) -> None:
    """Copies the UNet's encoder into the ControlNet; the convolutions between the two stay zero."""
    shared = {name: weight for name, weight in unet.state_dict().items() if name in controlnet.state_dict()}
    controlnet.load_state_dict(shared, strict=False)


def make_adapter(unet: UNet2DConditionModel, features: int, hint_scale: int) -> T2IAdapter:
    """A T2I adapter of the UNet's widths; it starts with random weights [Mou et al. 2023, arXiv 2302.08453]."""
    return T2IAdapter(in_channels=features, channels=list(unet.config.block_out_channels), downscale_factor=hint_scale)
