"""EDM's preconditioning agrees with diffusers', noise laws are what their names say, Min-SNR is what its paper says."""

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler

from mvgenvs.diffusion.codec import SIGMA_DATA
from mvgenvs.diffusion.noise import NOISE_LAWS, NoiseLaw, loss_weight, preconditioning, with_offset

SIGMAS = torch.tensor([0.002, 0.1, 0.5, 3.0, 80.0])


@pytest.mark.parametrize("sigma_data", [0.5, 0.1, 2.0])
def test_preconditioning_equals_diffusers(sigma_data, generator):
    scheduler = EDMEulerScheduler(sigma_data=sigma_data, prediction_type="epsilon")
    for sigma in SIGMAS:
        x, out = torch.randn(2, 4, 3, generator=generator)
        ours = preconditioning(sigma, sigma_data)
        torch.testing.assert_close(ours.c_in * x, scheduler.precondition_inputs(x, sigma))
        torch.testing.assert_close(ours.c_noise, scheduler.precondition_noise(sigma))
        torch.testing.assert_close(ours.c_skip * x + ours.c_out * out, scheduler.precondition_outputs(x, out, sigma))


def test_each_view_has_its_own_noise_level():
    sigma = SIGMAS[:4].reshape(2, 2)
    together = preconditioning(sigma)
    for name in ("c_skip", "c_out", "c_in", "c_noise"):
        alone = torch.stack([getattr(preconditioning(s), name) for s in sigma.flatten()]).reshape(2, 2)
        torch.testing.assert_close(getattr(together, name), alone)


def test_sigma_data_may_be_a_map():
    std = torch.tensor([0.05, 0.5, 0.8])
    together = preconditioning(SIGMAS[:, None], std)
    assert together.c_skip.shape == together.c_out.shape == together.c_in.shape == (5, 3)
    assert together.c_noise.shape == (5, 1)
    torch.testing.assert_close(together.c_out[3, 2], preconditioning(SIGMAS[3], 0.8).c_out)
    torch.testing.assert_close(preconditioning(SIGMAS).c_skip, together.c_skip[:, 1])


def test_loss_weight_undoes_the_output_scale():
    torch.testing.assert_close(loss_weight(SIGMAS) * preconditioning(SIGMAS).c_out ** 2, torch.ones(5))


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_untrained_loss_is_one_at_every_level(sigma, generator):
    x0 = 0.5 * torch.randn(100_000, generator=generator)
    level = torch.tensor(sigma)
    denoised = preconditioning(level).c_skip * (x0 + sigma * torch.randn(100_000, generator=generator))
    assert loss_weight(level) * (denoised - x0).square().mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("name", "mean", "std"), [("high", 1.0, 1.4), ("mid", 0.5, 1.4), ("low", -1.2, 1.2)])
def test_quoted_laws_are_log_normal(name, mean, std, generator):
    log_sigma = NOISE_LAWS[name].sigma(torch.randn(100_000, generator=generator), progress=0.7).log()
    assert log_sigma.mean() == pytest.approx(mean, abs=0.02)
    assert log_sigma.std() == pytest.approx(std, abs=0.02)


def test_mean_moves_over_training():
    law = NoiseLaw(1.0, 1.4, mean_end=-0.4)
    medians = [law.sigma(torch.zeros(1), progress).log().item() for progress in (0.0, 0.5, 1.0)]
    assert medians == pytest.approx([1.0, 0.3, -0.4], abs=1e-6)
    assert NOISE_LAWS["high-to-low"] == law


def quadratic(prediction, target):
    return (prediction - target).square().mean(dim=-1)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weight_is_that_of_its_paper(gamma, generator):
    """[Hang et al. 2023], for x_t = alpha x0 + s eps of unit variance: min(SNR, gamma) times the error of x0, which is
    min(SNR, gamma) / SNR times that of eps, and min(SNR, gamma) / (SNR + 1) times that of v.
    """
    alpha_bar = DDPMScheduler().alphas_cumprod[[5, 100, 250, 400, 990]].double()[:, None]
    alpha, s, snr = alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), alpha_bar / (1 - alpha_bar)
    x0, guess, eps = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)  # guess: a model's x0
    xt = alpha * x0 + s * eps
    eps_guess = (xt - alpha * guess) / s
    v, v_guess = alpha * eps - s * x0, alpha * eps_guess - s * guess
    capped = snr.clamp(max=gamma)[:, 0]
    theirs = capped * quadratic(guess, x0)
    torch.testing.assert_close(theirs, (capped / snr[:, 0]) * quadratic(eps_guess, eps))
    torch.testing.assert_close(theirs, (capped / (snr[:, 0] + 1)) * quadratic(v_guess, v))

    ours_x0, ours_guess, sigma = (
        SIGMA_DATA * x0,
        SIGMA_DATA * guess,
        SIGMA_DATA * s / alpha,
    )  # of x_t / alpha
    torch.testing.assert_close(loss_weight(sigma[:, 0], gamma) * quadratic(ours_guess, ours_x0), theirs)
    assert (snr > gamma).any()
    assert (snr < gamma).any()


def test_edm_weight_is_snr_plus_one():
    snr = (SIGMA_DATA / SIGMAS) ** 2
    torch.testing.assert_close(loss_weight(SIGMAS), (snr + 1) / SIGMA_DATA**2)
    torch.testing.assert_close(loss_weight(SIGMAS, 1e9), snr / SIGMA_DATA**2)


def test_offset_noise_moves_channels_of_views_as_a_whole(generator):
    noise = torch.randn(2, 3, 4, 64, 64, generator=generator)
    constants = torch.randn(2, 3, 4, generator=generator)
    moved = with_offset(noise, constants, 0.3) - noise
    torch.testing.assert_close(moved, 0.3 * constants[..., None, None].expand_as(noise), atol=1e-6, rtol=0)
    assert torch.equal(with_offset(noise, constants, 0.0), noise)
    assert len(constants.flatten().unique()) == 24, "each channel of each view moves by itself"
