"""NeRF-guided distillation brings the field's renderings towards the denoised views, and touches nothing else."""

from dataclasses import replace

import pytest
import torch
from tiny import inputs, tiny_config, tiny_parts

from mvgenvs.diffusion.distillation import Distillation, DistillationOptions
from mvgenvs.errors import UserError
from mvgenvs.pipeline import MultiViewPipeline

pytestmark = pytest.mark.usefixtures("no_grad")

FAST = {"rounds": 2, "updates": 10, "rays": 256, "block": 2, "field_rate": 1e-2, "volume_rate": 0.1}


def weights(pipeline: MultiViewPipeline) -> dict[str, torch.Tensor]:
    parts = {name: getattr(pipeline, name) for name in ("codec", "nerf", "denoiser")}
    return {f"{name}.{key}": x.clone() for name, part in parts.items() for key, x in part.state_dict().items()}


def guided(pipeline: MultiViewPipeline, **options: float) -> Distillation:
    given = inputs(3)
    chosen, generator = DistillationOptions(**FAST | options), torch.Generator().manual_seed(0)
    known = given["images"], given["cameras"]
    return Distillation(pipeline.networks, *known, given["target_cameras"], chosen, generator)


def test_it_lowers_the_distance_between_renderings_and_views(pipeline, monkeypatch):
    """Here the denoiser says the same of every view, so that a field, even a tiny one in a few updates, can follow."""
    monkeypatch.setattr(pipeline.codec.refiner, "forward", torch.zeros_like)
    monkeypatch.setattr(pipeline.denoiser, "forward", lambda xt, sigma, conditions, **_: 0 * conditions.mean - 0.3)
    before, distillation = weights(pipeline), guided(pipeline, updates=80)
    first = distillation.render(distillation.cameras).rgb
    for made in distillation.rounds():
        now = distillation.render(distillation.cameras).rgb
        assert sum(made.losses[-5:]) < sum(made.losses[:5])
    apart = [(x - made.views).square().mean() for x in (first, now)]
    assert apart[1] < 0.98 * apart[0]
    assert all(torch.equal(x, before[name]) for name, x in weights(pipeline).items()), "the model itself stays"


def test_a_heavy_rendering_leaves_the_views_where_they_are(pipeline):
    """With gamma without end, the views are the renderings, as the codec shows them."""
    one = {"updates": 1, "rounds": 1}
    free, held = (next(guided(pipeline, gamma=gamma, **one).rounds()).views for gamma in (1e-6, 1e6))
    distillation = guided(pipeline)
    renders = distillation.render(distillation.cameras).rgb
    shown = pipeline.networks.decode(distillation.latents_of(renders), renders)
    torch.testing.assert_close(held, shown, atol=2e-3, rtol=0)
    assert (free - shown).abs().max() > 0.05


def test_levels_go_from_high_to_low():
    levels = DistillationOptions(rounds=3, sigma_max=4.0, sigma_min=1.0).levels()
    assert levels == pytest.approx([4.0, 2.0, 1.0])


def test_the_pipeline_gives_renderings_before_and_after(pipeline):
    options = FAST | {"rounds": 1, "updates": 3}
    out = pipeline.distill(**inputs(3), generator=torch.Generator().manual_seed(0), **options)
    plain = pipeline(**inputs(3), num_inference_steps=1, generator=torch.Generator().manual_seed(0))
    assert out.images.shape == (1, 3, 3, 32, 32)
    torch.testing.assert_close(out.renders, plain.renders, atol=1e-4, rtol=0)
    assert (out.images - out.renders).abs().max() > 1e-3


def test_what_cannot_be_distilled_is_refused(pipeline):
    for wrong in ({"rounds": 0}, {"gamma": -1.0}, {"sigma_min": float("nan")}):
        with pytest.raises(UserError, match="above 0"):
            pipeline.distill(**inputs(3), **wrong)
    with pytest.raises(UserError, match="no option 'steps'"):
        pipeline.distill(**inputs(3), steps=3)
    config = tiny_config()
    blind = replace(config, denoiser=replace(config.denoiser, rendering=False, render_prior=False))
    with pytest.raises(UserError, match="never sees the NeRF"):
        MultiViewPipeline.from_parts(tiny_parts(blind)).distill(**inputs(3))
