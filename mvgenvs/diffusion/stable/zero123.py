"""What Zero-1-to-3 tells a Stable Diffusion UNet: one token of the input image and of the turn to the new view.

[Zero-1-to-3, Liu et al. 2023, arXiv 2303.11328]. Checkpoints in diffusers' layout hold a CLIP `image_encoder` and a
`cc_projection` beside unet, vae and scheduler, and no text encoder.
"""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError
from mvgenvs.modules import Module

TURN = 4  # numbers that tell where the new view is


class CCProjection(Module):
    """From [CLIP's embedding, the turn] to a token of the cross-attention. The class's name is that of checkpoints."""

    @register_to_config
    def __init__(self, in_channel: int = 772, out_channel: int = 768) -> None:
        """Starts as the embedding alone, where no checkpoint provides it."""
        super().__init__()
        self.projection = nn.Linear(in_channel, out_channel)
        nn.init.eye_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n k"]:
        return self.projection(x)


def turn_between(known: Cameras, targets: Cameras) -> Float[Tensor, "batch view 4"]:
    """From one known camera of each set to its targets: the change of the polar angle, sine and cosine of that of the
    azimuth, and the change of the distance from the origin. Angles in radians about our vertical, +y.
    """
    x, y, z = known.centers.unbind(dim=-1)
    tx, ty, tz = targets.centers.unbind(dim=-1)
    radius, target_radius = (centers.norm(dim=-1) for centers in (known.centers, targets.centers))
    polar = torch.arccos((ty / target_radius).clamp(-1, 1)) - torch.arccos((y / radius).clamp(-1, 1))
    azimuth = torch.atan2(-tz, tx) - torch.atan2(-z, x)
    return torch.stack([polar, azimuth.sin(), azimuth.cos(), target_radius - radius], dim=-1)


def make_image_encoder(config: dict[str, Any]) -> nn.Module:
    """CLIP's image encoder, with random weights. Raises `UserError` without transformers."""
    transformers = _transformers()
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**config)).requires_grad_(False)


@torch.no_grad()
def clip_embedding(encoder: nn.Module, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
    """CLIP's embedding of images in [0, 1], resized as the published model had them."""
    utils = _transformers().image_utils
    mean, std = (images.new_tensor(x)[:, None, None] for x in (utils.OPENAI_CLIP_MEAN, utils.OPENAI_CLIP_STD))
    about: Any = encoder.config
    size = (about.image_size, about.image_size)
    resized = F.interpolate(images, size, mode="bicubic", align_corners=True).clamp(0, 1)
    return encoder((resized - mean) / std).image_embeds.to(images.dtype)


def _transformers() -> Any:
    try:
        import transformers
        import transformers.image_utils
    except ImportError as error:
        raise UserError("Zero123's image encoder needs transformers: pip install 'mvgenvs[train]'") from error
    return transformers
