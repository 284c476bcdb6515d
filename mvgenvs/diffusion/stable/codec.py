"""The codec of a latent diffusion checkpoint: its VAE, with latents scaled to the RMS that denoisers here expect."""

from typing import Any

from diffusers import AutoencoderKL
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

from mvgenvs.diffusion.codec import SIGMA_DATA, Codec
from mvgenvs.diffusion.stable.saved_config import public_entries
from mvgenvs.offload import on_its_device


class VaeCodec(Codec):
    """An `AutoencoderKL`. Its own scaling gives latents an RMS of 1, which is scaled to 0.5 here."""

    @register_to_config
    def __init__(self, vae_config: dict[str, Any]) -> None:
        super().__init__()
        self.vae = AutoencoderKL.from_config(vae_config)
        config = self.vae.config
        self.downscale = 2 ** (len(config.block_out_channels) - 1)  # image side over latent side
        self.scale, self.shift = SIGMA_DATA * config.scaling_factor, config.shift_factor or 0.0

    @classmethod
    def from_vae(cls, vae: AutoencoderKL) -> "VaeCodec":
        """The codec of a loaded VAE, in evaluation mode."""
        codec = cls(public_entries(vae.config))
        codec.vae = vae
        return codec.eval()

    def latent_shape(self, hw: tuple[int, int]) -> tuple[int, int, int]:
        """(channel, height, width) of the latents of an image of size `hw`."""
        return self.vae.config.latent_channels, hw[0] // self.downscale, hw[1] // self.downscale

    @on_its_device
    def encode(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c lh lw"]:
        """The mean of the posterior, not a sample of it, of images in [0, 1]."""
        return (self.vae.encode(images * 2 - 1).latent_dist.mean - self.shift) * self.scale

    @on_its_device
    def decode(
        self, latents: Float[Tensor, "n c lh lw"], rendering: Float[Tensor, "n 3 h w"] | None = None
    ) -> Float[Tensor, "n 3 h w"]:
        """Images, nominally in [0, 1], not clamped. These latents do not correct a rendering, so it is ignored."""
        return (self.vae.decode(latents / self.scale + self.shift).sample + 1) / 2
