"""Sampling agrees with diffusers and with EDM's algorithms, and an ideal denoiser recovers its data distribution."""

import itertools
import math

import pytest
import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler

from mvgenvs.diffusion.options import CLEAN_SIGMA, SamplingOptions
from mvgenvs.diffusion.renoising import RenoisingScheduler, SamplerState, sample

SIGMA_MIN, SIGMA_MAX, RHO = 0.02, 14.0, 7
MEAN, STD = 0.3, 0.4  # of the Gaussian data
SCHEDULER = EDMEulerScheduler(sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, sigma_data=0.5, rho=RHO)


def choose(sampler: str = "euler", steps: int = 20, churn: float = 0.0, **others) -> SamplingOptions:
    return SamplingOptions(sampler=sampler, num_inference_steps=steps, churn=churn, **others)


def gaussian_denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """E[x0 | x] for data ~ N(MEAN, STD^2)."""
    sigma = sigma.reshape(*sigma.shape, *[1] * (x.ndim - sigma.ndim))
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def two_point_denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """E[x0 | x] for data at -0.5 and 0.5, equally likely."""
    return 0.5 * torch.tanh(0.5 * x / sigma.reshape(*sigma.shape, 1, 1, 1) ** 2)


def run(denoise, options, seed: int = 0, shape=(1, 2, 1, 3, 3), dtype=torch.float32, anchors=None, guess=None):
    """All states of one run; `shape` is that of the new views."""
    batch, views, *rest = shape
    anchors = torch.zeros(batch, 0, *rest, dtype=dtype) if anchors is None else anchors
    generator = torch.Generator().manual_seed(seed)
    return list(sample(denoise, SCHEDULER, options, views, anchors, generator, start=guess))


def start(seed: int, shape, dtype=torch.float32) -> torch.Tensor:
    return SIGMA_MAX * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def karras_sigmas(steps: int) -> list[float]:
    """[EDM, eq. 5], and the final zero."""
    high, low = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return [(high + i / (steps - 1) * (low - high)) ** RHO for i in range(steps)] + [0.0]


@pytest.mark.parametrize(("name", "cls"), [("euler", EDMEulerScheduler), ("dpmpp-2m", EDMDPMSolverMultistepScheduler)])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_equals_a_plain_loop_over_diffusers(name, cls, steps):
    def network(scaled: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        """F of [EDM, eq. 7], from nothing but what diffusers hands to a network."""
        sigma = (4 * c_noise).exp()
        total = sigma**2 + 0.25
        x = scaled * total.sqrt()
        return (gaussian_denoiser(x, sigma.reshape(1)) - 0.25 / total * x) / (sigma * 0.5 / total.sqrt())

    scheduler = cls(sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, sigma_data=0.5, rho=RHO)
    scheduler.set_timesteps(steps)
    x = start(5, (1, 2, 1, 3, 3))
    states = run(gaussian_denoiser, choose(name, steps), seed=5)
    for state, timestep in zip(states, scheduler.timesteps, strict=True):
        x = scheduler.step(network(scheduler.scale_model_input(x, timestep), timestep), timestep, x).prev_sample
        torch.testing.assert_close(state.latents, x, atol=2e-4, rtol=1e-4)


def test_states_report_levels_and_estimates():
    states = run(gaussian_denoiser, choose("euler", 6))
    assert [s.step for s in states] == list(range(6))
    assert [s.sigma for s in states] == pytest.approx(karras_sigmas(6)[:-1], rel=1e-5)
    torch.testing.assert_close(states[-1].latents, states[-1].denoised, atol=1e-5, rtol=0)


def test_heun_equals_algorithm_1_of_edm():
    steps, shape = 7, (2, 2, 1, 2, 2)
    sigmas = karras_sigmas(steps)
    x = start(3, shape, torch.float64)
    for now, then in itertools.pairwise(sigmas):
        slope = (x - two_point_denoiser(x, torch.full(shape[:2], now).double())) / now
        following = x + (then - now) * slope
        if then:
            slope_then = (following - two_point_denoiser(following, torch.full(shape[:2], then).double())) / then
            following = x + (then - now) * (slope + slope_then) / 2
        x = following
    states = run(two_point_denoiser, choose("heun", steps), seed=3, shape=shape, dtype=torch.float64)
    torch.testing.assert_close(states[-1].latents, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "factor"), [("euler", 2), ("heun", 4)])
def test_order_of_convergence(name, factor):
    def error(steps: int) -> float:
        """Against the closed-form solution x - m ~ sqrt(s^2 + sigma^2), where the last finite level is reached."""
        shape = (1, 1, 1, 4, 4)
        states = run(gaussian_denoiser, choose(name, steps), shape=shape, dtype=torch.float64)
        growth = math.sqrt((STD**2 + SIGMA_MIN**2) / (STD**2 + SIGMA_MAX**2))
        exact = MEAN + (start(0, shape, torch.float64) - MEAN) * growth
        return (states[-2].latents - exact).abs().max().item()

    coarse, fine = error(24), error(47)  # 23 and 46 steps to SIGMA_MIN
    assert fine < 0.05
    assert coarse / fine == pytest.approx(factor, rel=0.15)


SAMPLERS = [("euler", 60, 0.0), ("euler", 80, 5.0), ("heun", 20, 0.0), ("heun", 20, 8.0), ("dpmpp-2m", 20, 0.0)]


@pytest.mark.parametrize(("name", "steps", "churn"), SAMPLERS)
def test_ideal_denoiser_recovers_gaussian_data(name, steps, churn):
    states = run(gaussian_denoiser, choose(name, steps, churn), shape=(1, 2, 1, 100, 100))
    samples = states[-1].latents
    assert samples.mean() == pytest.approx(MEAN, abs=0.015)
    assert samples.std() == pytest.approx(STD, rel=0.05)


@pytest.mark.parametrize(("name", "steps", "churn"), SAMPLERS)
def test_ideal_denoiser_recovers_two_points(name, steps, churn):
    samples = run(two_point_denoiser, choose(name, steps, churn), shape=(1, 1, 1, 50, 50))[-1].latents
    assert (samples > 0).float().mean() == pytest.approx(0.5, abs=0.05)
    assert (samples.abs() - 0.5).abs().mean() < 1e-3


class Recorder:
    """A denoiser that remembers what it was asked and returns `garbage` for all but the first `new` views."""

    def __init__(self, new: int, garbage: float = 0.0):
        self.new, self.garbage, self.asked = new, garbage, []

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        self.asked.append((x, sigma))
        return torch.cat(
            [gaussian_denoiser(x, sigma)[:, : self.new], torch.full_like(x[:, self.new :], self.garbage)], 1
        )


ANCHORS = torch.linspace(-1, 1, 2 * 3 * 40 * 40).reshape(2, 3, 1, 40, 40)


def record(options: SamplingOptions, garbage: float = 0.0) -> tuple[Recorder, list[SamplerState]]:
    recorder = Recorder(2, garbage)
    return recorder, run(recorder, options, shape=(2, 2, 1, 40, 40), anchors=ANCHORS)


def anchor_noise(recorder: Recorder) -> list[torch.Tensor]:
    """Eps of the anchors at each call of the denoiser."""
    return [(x[:, 2:] - ANCHORS) / sigma[:, 2:, None, None, None] for x, sigma in recorder.asked]


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp-2m"])
@pytest.mark.parametrize("renoise", ["fresh", "fixed"])
def test_anchors_come_at_the_level_of_the_new_views(name, renoise):
    recorder, _ = record(choose(name, 5, renoise=renoise))
    expected = karras_sigmas(5)[:-1]
    if name == "heun":
        expected = [s for pair in zip(expected, [*expected[1:], 0.0], strict=True) for s in pair][:-1]
    for (x, sigma), eps, level in zip(recorder.asked, anchor_noise(recorder), expected, strict=True):
        assert x.shape == (2, 5, 1, 40, 40)
        torch.testing.assert_close(sigma, torch.full((2, 5), level))
        assert eps.mean() == pytest.approx(0, abs=0.05)
        assert eps.std() == pytest.approx(1, abs=0.05)


def test_churn_raises_the_level_of_all_views():
    recorder, _ = record(choose("euler", 8, churn=2.0))
    for (_, sigma), plain in zip(recorder.asked, karras_sigmas(8), strict=False):
        torch.testing.assert_close(sigma, torch.full((2, 5), plain * 1.25), rtol=1e-5, atol=0)
    x, sigma = recorder.asked[0]
    assert x[:, :2].std() == pytest.approx(1.25 * SIGMA_MAX, rel=0.05)
    recorder, _ = record(choose("euler", 8, churn=1000.0))
    assert recorder.asked[0][1][0, 0] == pytest.approx(SIGMA_MAX * math.sqrt(2), rel=1e-5)


def test_fixed_noise_stays_and_fresh_noise_does_not():
    fixed, fresh = (anchor_noise(record(choose("euler", 4, renoise=r))[0]) for r in ("fixed", "fresh"))
    for first, second in itertools.pairwise(fixed):
        torch.testing.assert_close(first, second, atol=1e-3, rtol=0)
    for first, second in itertools.pairwise(fresh):
        assert torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].abs() < 0.05


def test_clean_anchors_never_exceed_the_clean_level():
    recorder, _ = record(choose("euler", 6, anchor_level="clean"))
    for (_, sigma), eps, level in zip(recorder.asked, anchor_noise(recorder), karras_sigmas(6), strict=False):
        torch.testing.assert_close(sigma[:, :2], torch.full((2, 2), level))
        torch.testing.assert_close(sigma[:, 2:], torch.full((2, 3), min(level, CLEAN_SIGMA)))
        assert eps.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("renoise", ["fresh", "fixed"])
def test_every_anchor_may_have_its_own_level(renoise):
    recorder, _ = record(choose("euler", 6, renoise=renoise, anchor_level=("matched", "clean", 1.5)))
    for (_, sigma), eps, level in zip(recorder.asked, anchor_noise(recorder), karras_sigmas(6), strict=False):
        torch.testing.assert_close(sigma[:, :3], torch.full((2, 3), level))
        torch.testing.assert_close(sigma[:, 3:], torch.tensor([[min(level, CLEAN_SIGMA), min(level, 1.5)]] * 2))
        assert eps.std(dim=(0, 2, 3, 4)).tolist() == pytest.approx([1] * 3, abs=0.05)


def test_one_chosen_level_holds_for_all_anchors():
    recorder, _ = record(choose("heun", 4, anchor_level=0.7))
    for _, sigma in recorder.asked:
        torch.testing.assert_close(sigma[:, 2:], sigma[:, :1].clamp(max=0.7).expand(-1, 3))


@pytest.mark.parametrize("renoise", ["fresh", "fixed"])
@pytest.mark.parametrize("level", ["matched", "clean", 0.7])
def test_anchors_are_exact_at_the_ends(renoise, level):
    scheduler = RenoisingScheduler(SCHEDULER, choose("euler", 5, renoise=renoise, anchor_level=level), ANCHORS, None)
    assert torch.equal(scheduler.anchors_at(0.0)[0], ANCHORS)
    assert (scheduler.anchors_at(0.0)[1] == 0).all()
    highest = {"matched": scheduler.sigma(0), "clean": CLEAN_SIGMA}.get(level, level)
    assert scheduler.sigma(0) == SIGMA_MAX
    noisy, levels = scheduler.anchors_at(scheduler.sigma(0))
    assert torch.equal(levels, torch.full((3,), highest))
    assert (noisy - ANCHORS).std() == pytest.approx(highest, rel=0.05)


def test_clean_anchors_with_fixed_noise_are_the_same_at_every_step():
    for name in ("euler", "heun", "dpmpp-2m"):
        recorder, _ = record(choose(name, 7, renoise="fixed", anchor_level="clean"))
        first, first_sigma = recorder.asked[0]
        for x, sigma in recorder.asked:
            assert torch.equal(x[:, 2:], first[:, 2:])
            assert torch.equal(sigma[:, 2:], first_sigma[:, 2:])


def test_the_fixed_noise_of_anchors_may_be_given():
    recorder, eps = Recorder(2), torch.randn(ANCHORS.shape, generator=torch.Generator().manual_seed(8))
    options = choose("euler", 3, renoise="fixed")
    list(sample(recorder, SCHEDULER, options, 2, ANCHORS, anchor_noise=eps))
    for used in anchor_noise(recorder):
        torch.testing.assert_close(used, eps, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="fresh noise is drawn"):
        next(sample(recorder, SCHEDULER, choose("euler", 3), 2, ANCHORS, anchor_noise=eps))


@pytest.mark.parametrize(("name", "churn"), [("euler", 3.0), ("heun", 3.0), ("dpmpp-2m", 0.0)])
@pytest.mark.parametrize("renoise", ["fresh", "fixed"])
def test_a_set_does_not_depend_on_how_sets_are_batched(name, churn, renoise):
    def averaging(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Joint: every view moves towards the mean of its set."""
        x0 = gaussian_denoiser(x, sigma)
        return 0.7 * x0 + 0.3 * x0.mean(dim=1, keepdim=True)

    options = choose(name, 4, churn, renoise=renoise, anchor_level=("matched", "clean", 0.5))

    def last(sets: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(10 + i) for i in sets]
        *_, state = sample(averaging, SCHEDULER, options, 2, ANCHORS[sets], generators)
        return state.latents

    together, apart = last([0, 1]), torch.cat([last([0]), last([1])])
    assert torch.equal(together, apart)
    assert torch.equal(together, last([1, 0]).flip(0))
    assert not torch.allclose(together, together.flip(0), atol=0.1), "two sets, two noises"
