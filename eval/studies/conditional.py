"""How well do new views follow their anchors? The sampler alone, on Gaussian views with the ideal denoiser.

Re-noised anchors ("replacement" [Song et al. 2021, score-based models, appendix I.2]) are an approximation even with a
perfect network. At a high noise level the denoiser is told that the anchors are as uncertain as the new views. So the
new views are partly settled before the anchors can be seen [Ho et al. 2022, video diffusion models, section 3.1]. With
one noise level per view, anchors can stay clean: the denoiser then returns E[new | noisy new, anchors], as the true
conditional requires.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import EDMEulerScheduler
from jaxtyping import Float
from torch import Tensor

from eval.report import plots
from eval.report.records import write_json
from eval.report.tables import markdown_table
from eval.studies.gaussian import GaussianViews, bures, equally_correlated
from mvgenvs.diffusion.codec import SIGMA_DATA
from mvgenvs.diffusion.options import CLEAN_SIGMA, SamplingOptions
from mvgenvs.diffusion.renoising import sample
from mvgenvs.files import write_text
from mvgenvs.pipeline import SIGMA_MAX

NEW, ANCHORS = 4, 5  # a set of the default plan: four new views, the input and the four views before
CORRELATIONS = (0.5, 0.9, 0.99)
STEPS = (2, 3, 5, 10, 20, 50)
PIXELS = 40_000  # draws; the W2 distance of as many true ones is about .01
TREATMENTS: dict[str, dict[str, Any]] = {
    "fresh": {"renoise": "fresh"},
    "fixed": {"renoise": "fixed"},
    "fresh, churn": {"renoise": "fresh", "churn": 1000.0},  # as much as EDM allows
    "fresh, up to 0.5": {"renoise": "fresh", "anchor_level": 0.5},
    "clean": {"anchor_level": "clean"},
    "clean, dpmpp-2m": {"anchor_level": "clean", "sampler": "dpmpp-2m"},
}


@dataclass(frozen=True)
class ConditionalFit:
    """How well the distribution of sampled new views, given their anchors, matches the true conditional."""

    distance: float  # W2 to the true conditional, root mean square over anchors, in standard deviations of the data
    pull: float  # how far their mean follows the anchors, as a share of the true dependence; 1 is right
    spread: float  # their standard deviation around that mean, as a share of the true one; 1 is right


def fit_of_sampler(
    views: GaussianViews, num_new: int, options: SamplingOptions, pixels: int | None = None
) -> ConditionalFit:
    """Samples new views given true anchors, and compares them with the conditional.

    Sampler and denoiser are linear, so new = M a + noise: M is found by regression, and with it the mean square of W2
    over anchors, E |(M - B) a|^2 + W2(residuals, S)^2, where B and S are the truth.
    """
    generator = torch.Generator().manual_seed(0)
    pixels = PIXELS if pixels is None else pixels
    a = views.draw(pixels, generator)[num_new:]
    scheduler = EDMEulerScheduler(sigma_min=CLEAN_SIGMA, sigma_max=SIGMA_MAX)
    anchors = a.reshape(1, len(a), 1, 1, pixels)
    *_, last = sample(views.denoise, scheduler, options, num_new, anchors, generator)
    new = last.latents.reshape(num_new, pixels)
    return fit_of_views(views, new, a)


def fit_of_views(
    views: GaussianViews, new: Float[Tensor, "new pixel"], a: Float[Tensor, "anchor pixel"]
) -> ConditionalFit:
    """Compares new views, sampled given the anchors `a`, with the true conditional."""
    B, S = views.conditional(len(new))
    M = torch.linalg.lstsq(a.T, new.T).solution.T
    rest = new - M @ a
    mean_error = ((M - B) @ a).square().sum() / a.shape[1]
    squared = mean_error.item() + bures(rest @ rest.T / a.shape[1], S)
    variance = views.covariance.diagonal()[: len(new)].sum().item()
    along = ((M @ a) * (B @ a)).sum() / (B @ a).square().sum()
    spread = (rest.square().sum() / a.shape[1] / S.trace()).sqrt()
    return ConditionalFit((squared / variance) ** 0.5, along.item(), spread.item())


def study(output: Path, on_case: Callable[[], object] = lambda: None) -> str:
    """Writes conditional.json, .md and .png into `output` and returns the table."""
    found: list[dict[str, Any]] = []
    for correlation in CORRELATIONS:
        views = equally_correlated(NEW + ANCHORS, correlation, SIGMA_DATA)
        for treatment, settings in TREATMENTS.items():
            for steps in STEPS:
                fit = fit_of_sampler(views, NEW, SamplingOptions(num_inference_steps=steps, **settings))
                found.append({"correlation": correlation, "treatment": treatment, "steps": steps, **asdict(fit)})
                on_case()
    text = "\n\n".join(_sections(found))
    write_json(output / "conditional.json", {"new": NEW, "anchors": ANCHORS, "pixels": PIXELS, "cases": found})
    write_text(output / "conditional.md", text + "\n")
    if plots.can_plot():
        _plot(output / "conditional.png", found)
    return text


def num_cases() -> int:
    return len(CORRELATIONS) * len(TREATMENTS) * len(STEPS)


def _sections(found: Sequence[dict[str, Any]]) -> list[str]:
    """A table for each correlation: W2, and pull and spread at the most steps."""
    sections = []
    for correlation in CORRELATIONS:
        rows = []
        for treatment in TREATMENTS:
            cases = [c for c in found if (c["correlation"], c["treatment"]) == (correlation, treatment)]
            figures = [*(case["distance"] for case in cases), cases[-1]["pull"], cases[-1]["spread"]]
            rows.append([treatment, *(f"{figure:.3f}" for figure in figures)])
        header = ["anchors", *(f"{steps} steps" for steps in STEPS), f"pull, {STEPS[-1]}", f"spread, {STEPS[-1]}"]
        sections += [f"Correlation {correlation}: W2 to the true conditional ↓", markdown_table(header, rows)]
    return sections


def _plot(path: Path, found: Sequence[dict[str, Any]]) -> None:
    with plots.panel_picture(path, len(CORRELATIONS), (3.4, 3.0)) as panels:
        for correlation, axes in zip(CORRELATIONS, panels, strict=True):
            for treatment in TREATMENTS:
                cases = [c for c in found if (c["correlation"], c["treatment"]) == (correlation, treatment)]
                axes.plot(STEPS, [case["distance"] for case in cases], marker="o", label=treatment)
            axes.set_xscale("log")
            axes.set_xticks(STEPS, [str(steps) for steps in STEPS])
            axes.minorticks_off()
            axes.set(yscale="log", xlabel="sampler steps", title=f"correlation {correlation}")
        panels[0].set_ylabel("W2 to the true conditional")
        panels[0].figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=6)
