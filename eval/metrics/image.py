"""Image metrics without learned parts, as defined in the field's tables: one value per view.

Both round the images to 8 bits first, like saved pictures.
"""

import torch
from jaxtyping import Float
from skimage.metrics import structural_similarity
from torch import Tensor

MAX_PSNR = 100.0  # dB; stands for identical images, whose PSNR is infinite and no number in JSON


def rounded_to_8_bits(images: Float[Tensor, "view 3 h w"]) -> Float[Tensor, "view 3 h w"]:
    """Clamps to [0, 1] and rounds to the 256 levels of a saved image."""
    return (images.clamp(0, 1) * 255).round() / 255


def psnr(predicted: Float[Tensor, "view 3 h w"], truth: Float[Tensor, "view 3 h w"]) -> Float[Tensor, " view"]:
    """Peak signal-to-noise ratio in dB of images in [0, 1]; higher is better, at most `MAX_PSNR`."""
    difference = rounded_to_8_bits(predicted) - rounded_to_8_bits(truth)
    mse = difference.square().mean(dim=(1, 2, 3))
    return -10 * mse.clamp(min=10 ** (-MAX_PSNR / 10)).log10()


def ssim(predicted: Float[Tensor, "view 3 h w"], truth: Float[Tensor, "view 3 h w"]) -> Float[Tensor, " view"]:
    """Structural similarity of images in [0, 1] (at most 1, higher is better); images are at least 7 pixels wide.

    scikit-image's, with its uniform 7x7 window, data range 1, mean over channels, as in pixelNeRF's evaluation.
    """
    pairs = zip(rounded_to_8_bits(predicted).cpu().numpy(), rounded_to_8_bits(truth).cpu().numpy(), strict=True)
    return torch.tensor([structural_similarity(a, b, data_range=1.0, channel_axis=0) for a, b in pairs]).float()
