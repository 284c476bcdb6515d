"""Codecs map images to latents, which the denoiser denoises: of zero mean and an RMS of 0.5, EDM's sigma_data.

The codecs are diffusers models with a common interface, `Codec`.
"""

import torch
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mvgenvs.diffusion.refiner import Refiner
from mvgenvs.modules import Module
from mvgenvs.offload import on_its_device
from mvgenvs.precision import without_autocast

SIGMA_DATA = 0.5


class Codec(Module):
    """The interface of all codecs."""

    downscale: int
    """image side over latent side"""

    def latent_shape(self, hw: tuple[int, int]) -> tuple[int, int, int]:
        """(channel, height, width) of the latents of an image of size `hw`."""
        raise NotImplementedError

    def encode(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c lh lw"]:
        """Latents of images in [0, 1]."""
        raise NotImplementedError

    def decode(
        self, latents: Float[Tensor, "n c lh lw"], rendering: Float[Tensor, "n 3 h w"] | None = None
    ) -> Float[Tensor, "n 3 h w"]:
        """Images, nominally in [0, 1], not clamped.

        Given a rendering of the images, its detail that latents cannot carry is kept. Latents that correct a rendering
        leave this detail unchanged; decoding them alone would lose it.
        """
        raise NotImplementedError


def encode_rendering(
    codec: Codec, rgb: Float[Tensor, "batch view 3 rh rw"], latent_size: int, needed: bool = True
) -> Float[Tensor, "batch view c h w"]:
    """Latents of a low-resolution rendering, resized to the image size first; zeros if they are not `needed`."""
    side = latent_size * codec.downscale
    if not needed:
        return rgb.new_zeros(*rgb.shape[:2], *codec.latent_shape((side, side)))
    images = nn.functional.interpolate(rgb.flatten(0, 1), (side, side), mode="bicubic")
    return codec.encode(images).unflatten(0, rgb.shape[:2])


def decode_with_detail(
    codec: Codec,
    latents: Float[Tensor, "batch view c h w"],
    rgb: Float[Tensor, "batch view 3 rh rw"] | None,
) -> Float[Tensor, "batch view 3 ih iw"]:
    """Images, not clamped, of latents that correct the renderings `rgb`, of any size, if there are any."""
    side = latents.shape[-1] * codec.downscale
    renders = None if rgb is None else nn.functional.interpolate(rgb.flatten(0, 1), (side, side), mode="bicubic")
    return codec.decode(latents.flatten(0, 1), renders).unflatten(0, latents.shape[:2])


class IdentityCodec(Codec):
    """Pixels as latents, mapped from [0, 1] to zero mean and an RMS of 0.5 by the data's mean and RMS."""

    @register_to_config
    def __init__(self, mean: float = 0.79, rms: float = 0.51) -> None:
        """Defaults: OpenCars on white (mean .79, standard deviation .51 on the [-1, 1] scale)."""
        super().__init__()
        self.register_buffer("shift", torch.tensor(mean))  # buffers, since diffusers saves no model without weights
        self.register_buffer("scale", torch.tensor(SIGMA_DATA / rms))
        self.downscale = 1  # image side over latent side

    def latent_shape(self, hw: tuple[int, int]) -> tuple[int, int, int]:
        """(channel, height, width) of the latents of an image of size `hw`."""
        return 3, *hw

    def encode(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        return (images * 2 - 1 - self.shift) * self.scale

    def decode(
        self, latents: Float[Tensor, "n 3 h w"], rendering: Float[Tensor, "n 3 h w"] | None = None
    ) -> Float[Tensor, "n 3 h w"]:
        """Images, nominally in [0, 1], not clamped. Latents carry everything, so the rendering is ignored."""
        return (latents / self.scale + self.shift + 1) / 2


class PatchCodec(Codec):
    """A closed-form encoder and a trained decoder: 128x128x3 pixels <-> 16x16xC latents. The closed form is in fp32.

    The encoder projects every patch onto the leading principal components of the training patches: it needs no
    training, its statistics are known, and later stages need not wait for it. Component i is divided by sd_i^0.7, which
    keeps strong components larger than weak ones. The decoder is the transposed projection, followed by a `Refiner` of
    the resulting pictures: an untrained codec is exactly the linear one.
    """

    @register_to_config
    def __init__(
        self,
        patch: int = 8,
        channels: int = 16,
        refiner_width: int = 48,
        refiner_blocks: int = 6,
        whitening: float = 0.7,
        refiner_cell: int | None = None,
    ) -> None:
        """`refiner_cell` is the side in pixels of the refiner's cells, by default a quarter of the patch's."""
        super().__init__()
        self.downscale = patch  # image side over latent side
        pixels = 3 * patch * patch
        self.register_buffer("mean", torch.full((pixels,), 0.5))
        self.register_buffer("basis", torch.eye(channels, pixels))  # rows are orthonormal
        self.register_buffer("scale", torch.ones(channels))
        self.refiner = Refiner(refiner_cell or max(1, patch // 4), refiner_width, refiner_blocks)

    def latent_shape(self, hw: tuple[int, int]) -> tuple[int, int, int]:
        """(channel, height, width) of the latents of an image of size `hw`."""
        return self.config.channels, hw[0] // self.config.patch, hw[1] // self.config.patch

    @torch.no_grad()
    def fit(self, images: Float[Tensor, "n 3 h w"]) -> None:
        """Sets the projection from the principal components of the images' patches, in closed form."""
        patches = rearrange(self._patches(images), "n p h w -> (n h w) p").double()
        mean = patches.mean(dim=0)
        covariance = torch.cov((patches - mean).T)
        ascending, vectors = torch.linalg.eigh(covariance)
        floor = 1e-8 * ascending[-1].clamp(min=1e-8)  # rounding may make the variance of an empty component negative
        variances = ascending.flip(0)[: self.config.channels].clamp(min=floor)
        components = vectors.T.flip(0)[: self.config.channels]
        scaled_variances = variances ** (1 - self.config.whitening)  # of z_i = component_i / sd_i^whitening
        scale = variances.sqrt() ** -self.config.whitening * SIGMA_DATA / scaled_variances.mean().sqrt()
        self.mean.copy_(mean)
        self.basis.copy_(components)
        self.scale.copy_(scale)

    @on_its_device
    @without_autocast
    def encode(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c lh lw"]:
        """Latents of images in [0, 1]."""
        centred = self._patches(images.float()) - self.mean[:, None, None]
        return torch.einsum("cp,nphw->nchw", self.basis.float() * self.scale[:, None], centred)

    @without_autocast
    def decode_linear(self, latents: Float[Tensor, "n c lh lw"]) -> Float[Tensor, "n 3 h w"]:
        """The transposed projection alone: the closed-form part of `decode`."""
        basis = self.basis.float() / self.scale[:, None]
        patches = torch.einsum("cp,nchw->nphw", basis, latents.float()) + self.mean[:, None, None]
        return nn.functional.pixel_shuffle(patches, self.config.patch)

    def unrefined(
        self, latents: Float[Tensor, "n c lh lw"], rendering: Float[Tensor, "n 3 h w"] | None = None
    ) -> Float[Tensor, "n 3 h w"]:
        """The closed form of `decode`, not clamped; a rendering supplies the part orthogonal to the projection."""
        images = self.decode_linear(latents)
        if rendering is None:
            return images
        return images + rendering - self.decode_linear(self.encode(rendering))

    @on_its_device
    def decode(
        self, latents: Float[Tensor, "n c lh lw"], rendering: Float[Tensor, "n 3 h w"] | None = None
    ) -> Float[Tensor, "n 3 h w"]:
        """Images, nominally in [0, 1]: the closed form, clamped, plus the refiner's correction."""
        images = self.unrefined(latents, rendering).clamp(0, 1)
        return images + self.refiner(images)

    def _patches(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n p lh lw"]:
        return nn.functional.pixel_unshuffle(images, self.config.patch)
