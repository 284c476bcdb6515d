"""Discrete timesteps and predictions as D(x; sigma), against the closed form and against diffusers' own conversions."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from mvgenvs.diffusion.codec import SIGMA_DATA
from mvgenvs.diffusion.stable.noise import DiscreteNoise

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KINDS = ["epsilon", "v_prediction"]
SIGMA = torch.tensor([0.02, 0.3, 1.0, 6.0])


def noise(kind: str = "epsilon") -> DiscreteNoise:
    return DiscreteNoise(BETAS | {"prediction_type": kind})


def draw(seed: int) -> torch.Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))


def test_timesteps_invert_the_checkpoints_levels() -> None:
    """Latents of RMS 0.5 have half the noise level of the checkpoint's, whose RMS is 1."""
    alphas = DDIMScheduler(**BETAS).alphas_cumprod
    chosen = torch.tensor([0, 1, 250, 998, 999])
    sigma = 0.5 * ((1 - alphas) / alphas).sqrt()[chosen]
    torch.testing.assert_close(noise().timestep(sigma), chosen.float(), atol=2e-2, rtol=0)


def test_levels_between_timesteps_agree_with_diffusers() -> None:
    euler = EulerDiscreteScheduler(**BETAS)
    ascending = euler.sigmas.flip(0)[1:]  # without its zero
    expected = torch.from_numpy(euler._sigma_to_t(2 * SIGMA.numpy(), ascending.log().numpy())).float()
    torch.testing.assert_close(noise().timestep(SIGMA), expected, atol=0.02, rtol=0)


def test_levels_beyond_the_table_take_its_ends() -> None:
    sigma = torch.tensor([0.0, 1e-6, 100.0, 1e6])
    assert noise().timestep(sigma).tolist() == [0, 0, 999, 999]


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_network_is_a_perfect_denoiser(kind: str) -> None:
    """Whatever sigma is: with the true eps, or the true v, D is x0."""
    x0, eps, sigma = SIGMA_DATA * draw(0), draw(1), SIGMA[:, None]
    scale = noise(kind).preconditioning(sigma)
    alpha = (1 + (sigma / SIGMA_DATA) ** 2).rsqrt()  # sqrt(abar) at this noise level
    target = eps if kind == "epsilon" else alpha * eps - (1 - alpha**2).sqrt() * x0 / SIGMA_DATA
    torch.testing.assert_close(scale.c_skip * (x0 + sigma * eps) + scale.c_out * target, x0, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_denoised_agrees_with_diffusers(kind: str) -> None:
    """For any output of the network, x0 is what DDIM's scheduler says of the same input at the same timestep."""
    ddim = DDIMScheduler(**BETAS, prediction_type=kind, clip_sample=False)
    ddim.set_timesteps(1000)
    for t in (3, 400, 990):
        abar = ddim.alphas_cumprod[t]
        sigma = SIGMA_DATA * ((1 - abar) / abar).sqrt()
        xt, output = draw(2) * (sigma**2 + 0.25).sqrt(), draw(3)
        scale = noise(kind).preconditioning(sigma)
        assert scale.c_noise == pytest.approx(t, abs=0.05)
        expected = ddim.step(output, t, scale.c_in * xt).pred_original_sample
        torch.testing.assert_close(
            (scale.c_skip * xt + scale.c_out * output) / SIGMA_DATA, expected, atol=1e-3, rtol=1e-4
        )


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_the_input_is_returned(kind: str) -> None:
    x, sigma = draw(4), torch.zeros(4, 1)
    scale = noise(kind).preconditioning(sigma)
    assert torch.equal(scale.c_skip * x + scale.c_out * draw(5), x)


def test_zero_terminal_snr_stays_finite() -> None:
    table = DiscreteNoise(BETAS | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}).log_sigmas
    assert table.isfinite().all()
    assert (table.diff() > 0).all()
