"""Sampling that starts from a guess, has levels of its own, or is asked for what does not go together."""

import math

import pytest
import torch
from diffusers import EDMEulerScheduler
from test_renoising import (
    ANCHORS,
    MEAN,
    SCHEDULER,
    SIGMA_MAX,
    SIGMA_MIN,
    STD,
    Recorder,
    choose,
    gaussian_denoiser,
    karras_sigmas,
    record,
    run,
    start,
)

from mvgenvs.diffusion.renoising import sample
from mvgenvs.errors import UserError


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp-2m"])
def test_the_first_noise_is_added_to_the_guess(name):
    guess = torch.linspace(-1, 1, 2 * 2 * 40 * 40).reshape(2, 2, 1, 40, 40)
    first = []
    for given in (None, torch.zeros_like(guess), guess):
        recorder = Recorder(2)
        run(recorder, choose(name, 3, sigma_max=0.5), shape=guess.shape, anchors=ANCHORS, guess=given)
        first.append(recorder.asked[0])
    (alone, level), (from_zero, _), (x, _) = first
    torch.testing.assert_close(level, torch.full((2, 5), 0.5))
    assert torch.equal(alone, from_zero)
    assert torch.equal(x[:, :2], guess + alone[:, :2])
    assert torch.equal(x[:, 2:], alone[:, 2:]), "the anchors are what they were"
    assert alone[:, :2].std() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_the_temperature_scales_the_first_noise_and_not_the_level_that_is_told(temperature):
    guess = torch.linspace(-1, 1, 2 * 2 * 4 * 4).reshape(2, 2, 1, 4, 4)
    asked = []
    for chosen in (None, temperature):
        recorder = Recorder(2)
        run(recorder, choose(steps=3, sigma_max=0.5, temperature=chosen), shape=guess.shape, guess=guess)
        asked.append(recorder.asked[0])
    (usual, level), (x, told) = asked
    torch.testing.assert_close(x - guess, temperature * (usual - guess))
    assert torch.equal(level, told)


@pytest.mark.parametrize("sigma_max", [0.1, 0.8, 5.0])
def test_an_ideal_denoiser_leads_the_guess_to_the_data_as_far_as_the_noise_allows(sigma_max):
    """The ODE's solution is known: what it starts from shrinks towards the mean by the ratio of the deviations."""
    shape, guess = (1, 1, 1, 4, 4), torch.linspace(-2, 2, 16, dtype=torch.float64).reshape(1, 1, 1, 4, 4)
    options = choose("heun", 60, sigma_max=sigma_max)
    states = run(gaussian_denoiser, options, shape=shape, dtype=torch.float64, guess=guess)
    begun = guess + sigma_max / SIGMA_MAX * start(0, shape, torch.float64)
    exact = MEAN + (begun - MEAN) * math.sqrt((STD**2 + SIGMA_MIN**2) / (STD**2 + sigma_max**2))
    torch.testing.assert_close(states[-2].latents, exact, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp-2m"])
def test_with_hardly_any_noise_the_guess_comes_back(name):
    guess = torch.linspace(-1, 1, 9).reshape(1, 1, 1, 3, 3).expand(1, 2, 1, 3, 3)
    low = choose(name, 2, sigma_max=1.01 * SIGMA_MIN)
    assert (run(gaussian_denoiser, low, guess=guess)[-1].latents - guess).abs().max() < 4 * SIGMA_MIN
    assert (run(gaussian_denoiser, low)[-1].latents - guess).abs().max() > 0.5, "which noise alone does not know"
    assert (run(gaussian_denoiser, choose(name, 20), guess=guess)[-1].latents - guess).abs().max() > 0.5


@pytest.mark.parametrize("levels", [{"sigma_max": 3.0}, {"rho": 3.0}, {"sigma_max": 0.7, "rho": 4.0}])
def test_levels_of_ones_own_are_those_of_a_scheduler_that_has_them(levels):
    own = EDMEulerScheduler.from_config(SCHEDULER.config, **levels)
    expected = sample(gaussian_denoiser, own, choose("heun", 5), 3, ANCHORS, torch.Generator().manual_seed(3))
    options = choose("heun", 5, **levels)
    found = sample(gaussian_denoiser, SCHEDULER, options, 3, ANCHORS, torch.Generator().manual_seed(3))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.sigma == theirs.sigma
        assert torch.equal(ours.latents, theirs.latents)
    assert [ours.sigma for ours in run(gaussian_denoiser, options)] != pytest.approx(karras_sigmas(5)[:-1], rel=0.01)


@pytest.mark.parametrize("sigma_max", [SIGMA_MIN, 0.0, -1.0, math.inf, math.nan])
def test_the_highest_level_must_lie_above_the_lowest(sigma_max):
    says = r"above .* 0\.02" if 0 <= sigma_max < 1 else "a number of at least 0"
    with pytest.raises(UserError, match=f"sigma_max must be {says}, but is"):
        run(gaussian_denoiser, choose(sigma_max=sigma_max))


def test_generators_and_levels_must_be_as_many_as_sets_and_anchors():
    with pytest.raises(UserError, match="3 generators cannot serve 2 sets"):
        next(sample(gaussian_denoiser, SCHEDULER, choose(), 1, ANCHORS, [torch.Generator()] * 3))
    with pytest.raises(UserError, match="2 levels for 3 anchors"):
        next(sample(gaussian_denoiser, SCHEDULER, choose(anchor_level=("clean", 0.3)), 1, ANCHORS))


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp-2m"])
def test_outputs_for_anchors_are_thrown_away(name):
    zeros, huge = (record(choose(name, 5), garbage)[1] for garbage in (0.0, 1e9))
    for first, second in zip(zeros, huge, strict=True):
        assert first.latents.shape == (2, 2, 1, 40, 40)
        assert torch.equal(first.latents, second.latents)


@pytest.mark.parametrize("churn", [0.0, 3.0])
def test_the_seed_decides(churn):
    options = choose("euler", 5, churn)
    first, again, other = (
        run(gaussian_denoiser, options, seed, anchors=torch.ones(1, 1, 1, 3, 3)) for seed in (1, 1, 2)
    )
    assert torch.equal(first[-1].latents, again[-1].latents)
    assert not torch.allclose(first[-1].latents, other[-1].latents)
