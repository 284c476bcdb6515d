"""From an image to a frustum-aligned feature volume, as in DeepLabV3+ (Chen et al. 2018, arXiv 1802.02611)."""

import itertools
from collections.abc import Sequence

import torch
from diffusers.models.resnet import ResnetBlock2D
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 16
DECODER_WIDTH = 64  # channels of the features
DILATIONS = (1, 2, 4)


class ResnetStage(nn.Sequential):
    """diffusers' residual blocks without a time embedding; the first one may change the number of channels."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int) -> None:
        channels = [in_channels] + [out_channels] * blocks
        super().__init__(
            *(
                ResnetBlock2D(in_channels=a, out_channels=b, temb_channels=None, groups=GROUPS)
                for a, b in itertools.pairwise(channels)
            )
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        for block in self:
            x = block(x, None)
        return x


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling: the same features at several dilations, and their global mean."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, out_channels, 3, padding=rate, dilation=rate) for rate in DILATIONS
        )
        self.pooled = nn.Linear(channels, out_channels)
        self.merge = nn.Conv2d(out_channels * (len(DILATIONS) + 1), out_channels, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        parts = [branch(x) for branch in self.branches]
        parts.append(self.pooled(x.mean(dim=(-1, -2)))[..., None, None].expand_as(parts[0]))
        return self.merge(F.silu(torch.cat(parts, dim=1)))


class ImageEncoder(nn.Module):
    """Image (H, W) -> features (H/4, W/4) -> volume (C, D, H/4, W/4).

    Patch-embedding stem, three stages, pyramid, decoder with a skip connection.
    """

    def __init__(
        self,
        widths: Sequence[int],
        volume_channels: int,
        volume_depth: int,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        stem, middle, deep = widths
        self.volume_depth = volume_depth
        self.stem = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(16 * in_channels, stem, 3, padding=1))
        self.stage1 = ResnetStage(stem, stem, 1)
        self.stage2 = nn.Sequential(nn.Conv2d(stem, middle, 3, stride=2, padding=1), ResnetStage(middle, middle, 2))
        self.stage3 = nn.Sequential(nn.Conv2d(middle, deep, 3, stride=2, padding=1), ResnetStage(deep, deep, 2))
        self.pyramid = AtrousPyramid(deep, DECODER_WIDTH)
        self.decoder = nn.Sequential(
            nn.Conv2d(DECODER_WIDTH + stem, DECODER_WIDTH, 3, padding=1), ResnetStage(DECODER_WIDTH, DECODER_WIDTH, 1)
        )
        self.head = nn.Sequential(
            nn.GroupNorm(GROUPS, DECODER_WIDTH), nn.SiLU(), nn.Conv2d(DECODER_WIDTH, volume_channels * volume_depth, 1)
        )

    def forward(
        self, images: Float[Tensor, "n i h w"]
    ) -> tuple[Float[Tensor, "n c vh vw"], Float[Tensor, "n k d vh vw"]]:
        """Features and volumes of images in [0, 1], whose sides are multiples of 16."""
        fine = self.stage1(self.stem(images * 2 - 1))
        coarse = self.pyramid(self.stage3(self.stage2(fine)))
        coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        features = self.decoder(torch.cat([coarse, fine], dim=1))
        together = rearrange(self.head(features), "n (c d) h w -> n d h w c", d=self.volume_depth).contiguous()
        return features, together.movedim(-1, 1)  # a voxel's channels are contiguous, which makes reading fast
