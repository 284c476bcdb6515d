"""The sampler on Gaussian views with the ideal denoiser: joint views, and new views given anchors."""

import functools
import json
import math

import pytest
import torch
from diffusers import EDMEulerScheduler

from eval.report import plots
from eval.studies import conditional
from eval.studies.conditional import ConditionalFit, fit_of_sampler, fit_of_views
from eval.studies.gaussian import GaussianViews, bures, equally_correlated
from mvgenvs.diffusion.options import SamplingOptions
from mvgenvs.diffusion.renoising import sample

STD, SIGMA_MIN, SIGMA_MAX = 0.5, 0.02, 8.0
UNEQUAL = torch.tensor([[0.3, 0.2, -0.1], [0.2, 0.25, 0.05], [-0.1, 0.05, 0.2]], dtype=torch.float64)


def test_the_ideal_denoiser_leaves_an_error_that_nothing_it_saw_could_explain(generator):
    """E[x0 | x] is the one linear estimate whose error is uncorrelated with x, each view at its own noise level."""
    views = GaussianViews(UNEQUAL)
    x0, sigma = views.draw(60_000, generator), torch.tensor([[0.1, 1.0, 0.4]], dtype=torch.float64)
    x = x0 + sigma.T * torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    error = x0 - views.denoise(x.reshape(1, 3, 1, 1, -1), sigma).reshape(x0.shape)
    assert torch.corrcoef(torch.cat([error, x]))[:3, 3:].abs().max() < 0.02
    assert error.std(dim=1).max() < UNEQUAL.diagonal().sqrt().max(), "it knows something"


def test_the_conditional_is_that_of_true_views(generator):
    views = GaussianViews(UNEQUAL)
    x = views.draw(60_000, generator)
    true = fit_of_views(views, x[:2], x[2:])
    assert true.distance < 0.02
    assert (true.pull, true.spread) == pytest.approx((1, 1), abs=0.02)


def test_what_ignores_the_anchors_or_copies_them_is_found_out(generator):
    views = equally_correlated(3, 0.8, STD)
    x, other = views.draw(50_000, generator), views.draw(50_000, generator)
    ignoring = fit_of_views(views, other[:2], x[2:])
    assert ignoring.pull == pytest.approx(0, abs=0.03)
    assert ignoring.spread == pytest.approx(1 / 0.6 * math.sqrt(0.36 / (1 - 0.64)), rel=0.02)
    copying = fit_of_views(views, x[2:].repeat(2, 1), x[2:])
    assert copying.pull == pytest.approx(1 / 0.8, rel=1e-6)
    assert copying.spread == pytest.approx(0, abs=1e-6)


def test_the_distance_of_gaussians_with_common_axes_is_that_of_their_deviations():
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    first, second = (turn @ torch.diag(torch.tensor(s).double() ** 2) @ turn.T for s in ((1.0, 2, 3), (2.0, 2, 0.5)))
    assert bures(first, second) == pytest.approx(1 + 0 + 2.5**2)
    assert bures(first, first) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("sampler", "steps"), [("euler", 50), ("heun", 12), ("dpmpp-2m", 14)])
@pytest.mark.parametrize("covariance", [equally_correlated(3, 0.9, STD).covariance, UNEQUAL])
def test_joint_views_are_correlated_as_the_data_says(sampler, steps, covariance):
    scheduler = EDMEulerScheduler(sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
    options = SamplingOptions(sampler=sampler, num_inference_steps=steps)
    none = torch.zeros(1, 0, 1, 1, 8_000, dtype=torch.float64)
    *_, last = sample(GaussianViews(covariance).denoise, scheduler, options, 3, none, torch.Generator().manual_seed(0))
    x = last.latents.reshape(3, -1)
    assert (torch.cov(x) - covariance).abs().max() < 0.08 * covariance.diagonal().max()
    assert (
        torch.corrcoef(x) - torch.corrcoef(GaussianViews(covariance).draw(8_000, torch.Generator()))
    ).abs().max() < 0.05


CORRELATIONS = pytest.mark.parametrize("correlation", [0.5, 0.9, 0.99])


@functools.cache
def followed(correlation: float, steps: int, **settings) -> ConditionalFit:
    """Few enough draws for one thread: they put W2 off by up to .03."""
    views = equally_correlated(4 + 5, correlation, STD)
    return fit_of_sampler(views, 4, SamplingOptions(num_inference_steps=steps, **settings), pixels=3000)


@CORRELATIONS
@pytest.mark.parametrize(
    ("sampler", "steps", "bound"), [("euler", 50, 0.06), ("euler", 20, 0.09), ("dpmpp-2m", 5, 0.07)]
)
def test_clean_anchors_are_followed_up_to_the_errors_of_the_steps(correlation, sampler, steps, bound):
    """The bound stated in the README, W2 in standard deviations of the data."""
    found = followed(correlation, steps, sampler=sampler, anchor_level="clean")
    assert found.distance < bound
    assert found.pull == pytest.approx(1, abs=0.07)


@pytest.mark.parametrize("correlation", [0.5, 0.99])
def test_the_error_of_clean_anchors_vanishes_with_the_steps_and_that_of_renoised_ones_does_not(correlation):
    clean = [followed(correlation, steps, anchor_level="clean").distance for steps in (5, 20)]
    renoised = [followed(correlation, steps).distance for steps in (20, 60)]
    assert clean[1] < 0.45 * clean[0]
    assert renoised[1] > 0.85 * renoised[0] > 0.2


@CORRELATIONS
def test_fresh_noise_is_closer_than_fixed_a_lower_level_closer_and_clean_the_closest(correlation):
    fixed, fresh = followed(correlation, 20, renoise="fixed"), followed(correlation, 20)
    lower = followed(correlation, 20, anchor_level=0.5).distance
    clean = followed(correlation, 20, anchor_level="clean").distance
    assert fixed.spread > 1.015 * fresh.spread, "noise that stays pulls the new views to where the anchors are not"
    assert fresh.distance > 1.3 * lower
    assert lower > 1.3 * clean


def test_churn_lets_renoised_anchors_correct_what_was_settled_too_early():
    plain, churned = (followed(0.9, 50, churn=churn) for churn in (0.0, 1000.0))
    assert churned.distance < 0.35 * plain.distance
    assert churned.pull > 0.9 > 0.7 > plain.pull


@pytest.mark.parametrize("correlation", [0.9])
def test_many_steps_with_fresh_noise_reach_the_limit_that_theory_predicts(correlation):
    """One new view x, one anchor a, C = [[1, r], [r, 1]]. Fresh noise averages out over many small steps, so that
    dx/ds = ((A + B) x + (A - B) a) / 4 with s = sigma^2, A = 1 / (1 + r + s), B = 1 / (1 - r + s). Hence from a large S
    x(0) ~ N(M a, h(0)^2), h = ((1 + r + s)(1 - r + s))^(1/4), M = h(0) / 4 integral of (B - A) / h. Too wide by the
    factor (1 - r^2)^(-1/4), however many steps.
    """
    r = correlation
    s = torch.linspace(-8, math.log(SIGMA_MAX / STD) * 2, 20_001, dtype=torch.float64).exp()
    h = ((1 + r + s) * (1 - r + s)) ** 0.25
    h0 = (1 - r**2) ** 0.25
    M = h0 / 4 * torch.trapezoid((1 / (1 - r + s) - 1 / (1 + r + s)) / h, s).item()
    found = fit_of_sampler(equally_correlated(2, r, STD), 1, SamplingOptions(num_inference_steps=200), pixels=10_000)
    assert found.spread == pytest.approx((1 - r**2) ** -0.25, rel=0.04)
    assert found.pull == pytest.approx(M / r, rel=0.05)


def test_the_command_leaves_a_table_its_figures_and_a_plot(tmp_path, monkeypatch):
    monkeypatch.setattr(conditional, "STEPS", (2, 4))
    monkeypatch.setattr(conditional, "PIXELS", 200)
    monkeypatch.setattr(conditional, "CORRELATIONS", (0.9,))
    done: list[int] = []
    text = conditional.study(tmp_path, lambda: done.append(1))
    assert len(done) == conditional.num_cases() == 2 * len(conditional.TREATMENTS)
    assert (tmp_path / "conditional.md").read_text() == text + "\n"
    assert text.count("\n| ") == len(conditional.TREATMENTS) + 2, "a heading, a rule, and a row for each treatment"
    cases = json.loads((tmp_path / "conditional.json").read_text())["cases"]
    assert len(cases) == len(done)
    assert (tmp_path / "conditional.png").exists() == plots.can_plot()
