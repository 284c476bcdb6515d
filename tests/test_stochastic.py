"""Stochastic conditioning, and denoisers that see cameras and views but no NeRF: what 3DiM is made of."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from tiny import inputs, options, tiny_config, tiny_parts

from mvgenvs.config import TrainConfig
from mvgenvs.diffusion.conditions import Conditions
from mvgenvs.diffusion.options import CLEAN_SIGMA
from mvgenvs.diffusion.plans import make_plan
from mvgenvs.diffusion.stochastic import OneAnchor
from mvgenvs.errors import UserError
from mvgenvs.parts import build_parts
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training.memory import blank_batch
from mvgenvs.training.objective import Objective

DRAWS = 4000


def blind_config() -> TrainConfig:
    """A denoiser that sees no rendering."""
    config = tiny_config()
    denoiser = replace(config.denoiser, rendering=False, render_prior=False)
    loss = replace(config.loss, denoise=1.0, clean_known=1.0, drop_condition=0.0)
    return replace(config, denoiser=denoiser, loss=loss, run=replace(config.run, train=("denoiser",)))


@pytest.fixture(scope="module")
def blind() -> MultiViewPipeline:
    return MultiViewPipeline.from_parts(tiny_parts(blind_config()))


def test_draws_are_uniform_over_all_anchors():
    conditions = Conditions(torch.zeros(1, 7, 1, 1, 1), *_rest(7))
    drawn: Counter[int] = Counter()

    def denoise(xt, sigma, conditions, **_):
        assert xt.shape[1] == 3, "two new views and one anchor"
        assert xt[0, :2].flatten().tolist() == [0.0, 1.0]
        drawn[int(xt[0, 2])] += 1
        return xt

    one = OneAnchor(denoise, conditions, None, num_new=2, generator=torch.Generator().manual_seed(0))
    views = torch.arange(7.0).view(1, 7, 1, 1, 1)
    for _ in range(DRAWS):
        one(views, torch.ones(1, 7))
    share = DRAWS / 5
    assert sorted(drawn) == [2, 3, 4, 5, 6]
    assert all(abs(count - share) < 5 * (share * 0.8) ** 0.5 for count in drawn.values())
    assert sum((count - share) ** 2 / share for count in drawn.values()) < 18.5  # chi-square of 4, at 1 in 1000


def _rest(views: int) -> tuple[torch.Tensor, ...]:
    mean = torch.zeros(1, views, 1, 1, 1)
    return torch.zeros(1, views, 12), mean, mean, mean.expand(-1, -1, 3, -1, -1)


@torch.no_grad()
def test_each_step_sees_one_clean_finished_view_of_input_and_earlier_ones(blind, monkeypatch):
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    forward = blind.denoiser.forward

    def watched(xt, sigma, conditions, **named):
        seen.append((xt, sigma))
        return forward(xt, sigma, conditions, **named)

    monkeypatch.setattr(blind.denoiser, "forward", watched)
    chosen = {"plan": "stochastic", "guidance_scale": 1.0, "num_inference_steps": 12}
    states: list = []
    blind(**inputs(3), **options(**chosen, on_step=states.append))
    finished = [blind.codec.encode(inputs(3)["images"][:, 0]), *(state.latents[:, 0] for state in states[11::12])]
    latest = seen[-12:]  # of the third view, with the input and two more to see
    drawn = set()
    for xt, sigma in latest:
        assert xt.shape[1] == 2
        assert sigma[0, 1] == pytest.approx(CLEAN_SIGMA)
        errors = [(xt[:, 1] - x0).abs().mean().item() for x0 in finished[:3]]
        drawn.add(errors.index(min(errors)))
        assert min(errors) < 0.1, "it is one of them, almost without noise"
    assert drawn == {0, 1, 2}


def test_a_plan_draws_from_the_inputs_and_all_views_before():
    plan = make_plan("stochastic", 2, 4)
    assert [block.anchors for block in plan] == [(0, 1), (0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3, 4)]
    assert all(block.stochastic and block.known == (0, 1) for block in plan)


def test_a_denoiser_without_rendering_never_has_the_nerf_rendered(blind, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("nothing is lifted, nothing is rendered")

    monkeypatch.setattr(blind.nerf, "encode", fail)
    monkeypatch.setattr(blind.nerf, "render", fail)
    with torch.no_grad():
        images = blind(**inputs(2), **options(plan="stochastic")).images
    assert images.isfinite().all() and images.std() > 0.01
    config = blind_config()
    objective = Objective(tiny_parts(config), config).train()
    monkeypatch.setattr(objective.nerf, "encode", fail)
    loss = objective.total(objective(blank_batch(2, 3, 1, 32), 0.0))
    loss.backward()
    assert loss > 0
    assert objective.denoiser.unet.conv_in.weight.grad.abs().sum() > 0


def test_views_that_see_no_others_are_denoised_without_anchors(monkeypatch):
    config = tiny_config()
    config = replace(config, denoiser=replace(config.denoiser, attention="independent"))
    pipe, sizes = MultiViewPipeline.from_parts(tiny_parts(config)), []
    forward = pipe.denoiser.forward

    def watched(xt, sigma, conditions, **named):
        sizes.append(xt.shape[1])
        return forward(xt, sigma, conditions, **named)

    monkeypatch.setattr(pipe.denoiser, "forward", watched)
    lifted: list[int] = []
    encode = pipe.nerf.encode
    monkeypatch.setattr(
        pipe.nerf, "encode", lambda x, *rest, **more: lifted.append(x.shape[1]) or encode(x, *rest, **more)
    )
    with torch.no_grad():
        pipe(**inputs(3), **options(plan="autoregressive", guidance_scale=1.0))
    assert set(sizes) == {1}
    assert lifted == [1, 2, 3], "the NeRF is lifted from what was made all the same"


def test_what_needs_a_rendering_is_refused_without_one(blind):
    with pytest.raises(UserError, match="start 'render' is for denoisers that see a rendering"):
        blind(**inputs(2), **options(start="render", sigma_max=1.0))
    config = tiny_config()
    for change in ({"render_prior": True}, {"network": "transformer", "render_prior": False}):
        with pytest.raises(UserError, match=r"denoiser\.rendering"):
            build_parts(replace(config, denoiser=replace(config.denoiser, rendering=False, **change)))
