"""PSNR and SSIM against their definitions."""

import math

import pytest
import torch

from eval.metrics import MAX_PSNR, psnr, ssim


def test_psnr_of_a_known_difference() -> None:
    truth = torch.full((2, 3, 8, 8), 100 / 255)
    predicted = truth + torch.tensor([1 / 255, 10 / 255])[:, None, None, None]
    assert psnr(predicted, truth).tolist() == pytest.approx([20 * math.log10(255), 20 * math.log10(25.5)], abs=1e-3)


def test_psnr_rounds_to_8_bits_and_is_finite_for_identical_images() -> None:
    truth = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    assert psnr(truth, truth).item() == pytest.approx(MAX_PSNR)
    assert psnr(truth + 0.4 / 255, truth).item() == pytest.approx(MAX_PSNR)  # less than half a level


def test_ssim_equals_its_formula_on_a_single_window() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 3, 7, 7, generator=generator).mul(255).round() / 255 for _ in range(2))
    x, y = a.double().flatten(2), b.double().flatten(2)  # [Wang et al. 2004] eq. 13, sample covariances
    mx, my = x.mean(2), y.mean(2)
    cov = ((x - mx[..., None]) * (y - my[..., None])).sum(2) / 48
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (x.var(2) + y.var(2) + c2))
    assert ssim(a, b).item() == pytest.approx(expected.mean().item(), abs=1e-5)


def test_both_are_best_for_identity_and_fall_with_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 3, 16, 16, generator=generator)
    noise = torch.randn(1, 3, 16, 16, generator=generator)
    predicted = torch.cat([truth + level * noise for level in (0.0, 0.05, 0.2)])
    for metric in (psnr, ssim):
        values = metric(predicted, truth.expand(3, -1, -1, -1))
        assert values[0] > values[1] > values[2]
    assert ssim(truth, truth).item() == pytest.approx(1)
