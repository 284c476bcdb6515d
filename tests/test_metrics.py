"""PSNR and SSIM against their definitions."""

import math

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from skimage.metrics import structural_similarity
from torch import Tensor

from eval.metrics.image import MAX_PSNR, psnr, ssim


def test_psnr_of_a_known_difference() -> None:
    truth = torch.full((2, 3, 8, 8), 100 / 255)
    predicted = truth + torch.tensor([1 / 255, 10 / 255])[:, None, None, None]
    assert psnr(predicted, truth).tolist() == pytest.approx([20 * math.log10(255), 20 * math.log10(25.5)], abs=1e-3)


def test_psnr_rounds_to_8_bits_and_is_finite_for_identical_images() -> None:
    truth = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    assert psnr(truth, truth).item() == pytest.approx(MAX_PSNR)
    assert psnr(truth + 0.4 / 255, truth).item() == pytest.approx(MAX_PSNR)  # less than half a level


def some_pictures(count: int, h: int, w: int, seed: int) -> Float[Tensor, "view 3 h w"]:
    """Smooth pictures of 8 bits with white borders, like those of objects."""
    coarse = torch.rand(count, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, (h - 4, w - 4), mode="bilinear")
    return F.pad((smooth * 255).round() / 255, (2, 2, 2, 2), value=1.0)


def test_ssim_equals_its_formula_on_every_window() -> None:
    """[Wang et al. 2004] eq. 13 with sample covariances, mean over the 7x7 windows that lie within the picture."""
    a, b = (some_pictures(2, 18, 23, seed).double() for seed in (1, 2))
    x, y = (F.unfold(p, 7).unflatten(1, (3, 49)) for p in (a, b))  # (view, channel, pixel, window)
    mx, my = x.mean(2), y.mean(2)
    cov = ((x - mx[:, :, None]) * (y - my[:, :, None])).sum(2) / 48
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (x.var(2) + y.var(2) + c2))
    assert x.shape[-1] == 12 * 17
    assert ssim(a.float(), b.float()).tolist() == pytest.approx(expected.mean(dim=(1, 2)).tolist(), abs=1e-5)


def test_ssim_is_scikit_images_on_the_bytes_of_saved_pictures() -> None:
    a, b = (some_pictures(1, 32, 40, seed) for seed in (3, 4))
    saved = [(p[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy() for p in (a, b)]
    options = {"win_size": 7, "gaussian_weights": False, "use_sample_covariance": True, "channel_axis": -1}
    expected = structural_similarity(*saved, data_range=255, **options)
    assert ssim(a + 0.4 / 255, b - 0.4 / 255).item() == pytest.approx(expected, abs=1e-5)


def test_both_are_best_for_identity_and_fall_with_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 3, 16, 16, generator=generator)
    noise = torch.randn(1, 3, 16, 16, generator=generator)
    predicted = torch.cat([truth + level * noise for level in (0.0, 0.05, 0.2)])
    for metric in (psnr, ssim):
        values = metric(predicted, truth.expand(3, -1, -1, -1))
        assert values[0] > values[1] > values[2]
    assert ssim(truth, truth).item() == pytest.approx(1)
