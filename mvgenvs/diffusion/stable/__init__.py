"""The Stable Diffusion branch: its VAE as a codec, its UNet with a conditioner as a joint denoiser."""
