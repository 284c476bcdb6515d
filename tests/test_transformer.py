"""The transformer over the tokens of a set: what it leaves alone, who sees whom, and that it trains and samples."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import SIZE, ray_cast, ring_cameras, stacked, tiny_config, tiny_parts, toy_car, write_srn
from torch import nn

from attention import AnchorCache, AttentionBackend
from mvgenvs.cameras import Cameras
from mvgenvs.config import CodecConfig
from mvgenvs.diffusion.conditions import concatenate_conditions
from mvgenvs.diffusion.networks import Networks
from mvgenvs.diffusion.noise import preconditioning
from mvgenvs.errors import UserError
from mvgenvs.nerf.model import Rendering
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training.memory import step_memory
from mvgenvs.training.trainer import train
from mvgenvs.training.validation import neighbour_figures


def config(*folders, **denoiser):
    made = tiny_config(*folders)
    settings = {"network": "transformer", "width": 48, "layers": 2, "num_heads": 2, "rotary_points": True} | denoiser
    return replace(
        made,
        codec=CodecConfig(patch=1, channels=3, whitening=0.0, refiner_cell=2, refiner_width=16, refiner_blocks=1),
        denoiser=replace(made.denoiser, **settings),
    )


def parts(seed=0, **denoiser):
    """Its modulation, which starts at zero, is random as well."""
    made = tiny_parts(config(**denoiser), seed)
    for block in made.denoiser.blocks:
        nn.init.normal_(block.modulation.weight, std=0.1)
    return made


def rendering(cameras, batch=1, radius=0.25, seed=0):
    """A sphere in the middle of each picture."""
    generator = torch.Generator().manual_seed(seed)
    views = cameras.num_views
    row, column = torch.meshgrid(*[torch.arange(SIZE) + 0.5 - SIZE / 2] * 2, indexing="ij")
    opacity = ((row**2 + column**2).sqrt() < radius * SIZE / 1.3 * 0.9).float().expand(batch, views, 1, -1, -1)
    features = torch.rand(batch, views, 16, SIZE, SIZE, generator=generator)
    return Rendering(features * opacity + (1 - opacity), depth=1.1 * opacity + 1.8 * (1 - opacity), opacity=opacity)


def inputs(denoiser, batch=1, views=4, seed=0):
    cameras = stacked(ring_cameras(views), batch)
    seen = rendering(cameras, batch, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(batch, views, 3, SIZE, SIZE, generator=generator)
    sigma = torch.rand(batch, views, generator=generator) + 0.2
    return x0, sigma, denoiser.conditions(seen, seen.rgb * 2 - 1, cameras)


@torch.no_grad()
def test_only_tokens_near_the_object_are_computed():
    denoiser = parts().denoiser
    xt, sigma, conditions = inputs(denoiser)
    look = conditions.maps[:, :, -1]
    assert 0.2 < look.mean() < 0.9
    out = denoiser(xt, sigma, conditions)
    scale = preconditioning(sigma[..., None, None, None], conditions.std)
    prior = conditions.mean + scale.c_skip * (xt - conditions.mean)
    near = look[:, :, None].repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2).bool().expand_as(xt)
    torch.testing.assert_close(out[~near], prior[~near])
    assert (out - prior)[near].abs().mean() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("reproject", [True, False])
def test_permuting_views_permutes_outputs(reproject):
    denoiser = parts(reproject=reproject).denoiser
    xt, sigma, conditions = inputs(denoiser)
    order = torch.tensor([2, 0, 3, 1])
    out = denoiser(xt, sigma, conditions)
    permuted = denoiser(xt[:, order], sigma[:, order], conditions.select(order))
    torch.testing.assert_close(permuted, out[:, order], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("reproject", [True, False])
def test_views_of_a_set_see_one_another_and_no_other_set(reproject):
    denoiser = parts(reproject=reproject).denoiser
    xt, sigma, conditions = inputs(denoiser, batch=2)
    out = denoiser(xt, sigma, conditions)
    changed = xt.clone()
    changed[0, 1] += 1
    other = denoiser(changed, sigma, conditions)
    assert torch.equal(other[1], out[1])
    assert (other[0, 0] - out[0, 0]).abs().max() > 1e-4
    alone = [denoiser(x, sigma, conditions, joint=False) for x in (xt, changed)]
    assert torch.equal(alone[0][0, 0], alone[1][0, 0])


@torch.no_grad()
def test_one_view_is_the_same_alone_and_jointly():
    denoiser = parts().denoiser
    xt, sigma, conditions = inputs(denoiser, views=1)
    together, alone = (denoiser(xt, sigma, conditions, joint=joint) for joint in (True, False))
    torch.testing.assert_close(together, alone)


@torch.no_grad()
def test_independent_attention_is_never_joint():
    denoiser = parts(attention="independent").denoiser
    xt, sigma, conditions = inputs(denoiser)
    torch.testing.assert_close(denoiser(xt, sigma, conditions), denoiser(xt, sigma, conditions, joint=False))


@torch.no_grad()
def test_draws_of_a_set_may_share_its_conditions():
    denoiser = parts().denoiser
    xt, sigma, conditions = inputs(denoiser, batch=2)
    draws, levels = torch.cat([xt, -xt])[[0, 2, 1, 3]], torch.cat([sigma, 2 * sigma])[[0, 2, 1, 3]]
    shared = denoiser(draws, levels, conditions)
    torch.testing.assert_close(shared, denoiser(draws, levels, conditions.for_draws(2)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_kernels_agree():
    denoiser = parts().denoiser
    xt, sigma, conditions = inputs(denoiser)
    expected = denoiser(xt, sigma, conditions)
    denoiser.set_attention_backend(AttentionBackend.FLEX)
    torch.testing.assert_close(denoiser(xt, sigma, conditions), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_dropped_views_have_no_prior_and_are_computed_everywhere():
    denoiser = parts().denoiser
    cameras = stacked(ring_cameras(3), 1)
    seen = rendering(cameras)
    dropped = torch.tensor([[True, False, True]])
    conditions = denoiser.conditions(seen, seen.rgb, cameras, dropped)
    assert conditions.maps[0, 0, -1].all() and not conditions.maps[0, 1, -1].all()
    assert (conditions.mean[0, [0, 2]] == 0).all() and (conditions.std[0, [0, 2]] == 0.5).all()
    opacity = conditions.maps[0, :, :64]
    assert (opacity[[0, 2]] == 0).all() and opacity[1].max() == 1  # so that nobody is told what they do not show


@torch.no_grad()
def test_a_view_in_which_nothing_is_seen_stays_its_prior():
    denoiser = parts().denoiser
    cameras = stacked(ring_cameras(1), 1)
    empty = Rendering(torch.ones(1, 1, 16, SIZE, SIZE), *(torch.zeros(1, 1, 1, SIZE, SIZE) for _ in range(2)))
    conditions = denoiser.conditions(empty, empty.rgb, cameras)
    out = denoiser(torch.ones(1, 1, 3, SIZE, SIZE), torch.ones(1, 1), conditions)
    torch.testing.assert_close(out, torch.ones_like(out))


def test_gradient_checkpointing_changes_no_gradient():
    found = []
    for checkpointed in (False, True):
        denoiser = parts().denoiser.train()
        if checkpointed:
            denoiser.enable_gradient_checkpointing()
        xt, sigma, conditions = inputs(denoiser)
        denoiser(xt, sigma, conditions).square().mean().backward()
        found.append(denoiser.enter.weight.grad)
    torch.testing.assert_close(found[0], found[1])
    assert found[0].abs().max() > 0


def test_what_it_cannot_do_is_refused():
    for wrong in ({"attention": "block-causal"}, {"patch": 5}, {"width": 49}, {"network": "mamba"}):
        with pytest.raises(UserError, match=r"UNet|denoiser\.(patch|width|network)"):
            tiny_parts(config(**wrong))
    denoiser = parts().denoiser
    with pytest.raises(ValueError, match="block-causal"):
        denoiser(*inputs(denoiser), cache=AnchorCache())


def test_it_trains_on_kept_renderings_and_its_loss_goes_down(tmp_path):
    stage = config(write_srn(tmp_path / "data"), tmp_path / "run")
    stage = replace(
        stage,
        data=replace(stage.data, renderings=3),
        loss=replace(stage.loss, denoise=1.0, rgb=0.0, noise_draws=4, drop_condition=0.0, clean_views=0.5),
        optim=replace(stage.optim, steps=100, lr=3e-3, ema=0.5),
        run=replace(stage.run, train=("denoiser",), threads=1),
    )
    assert train(stage, resume=False) == 0
    losses = [json.loads(line)["denoise"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
    pipeline = MultiViewPipeline.from_pretrained(tmp_path / "run")
    assert type(pipeline.denoiser).__name__ == "ViewTransformer"
    cameras = stacked(ring_cameras(6), 1)
    for plan in ("sliding", "joint", "keyframes"):
        out = pipeline(
            torch.rand(1, 1, 3, SIZE, SIZE), cameras.select([0]), cameras.select(slice(1, None)),
            num_inference_steps=2, guidance_scale=1.0, plan=plan, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        assert out.images.shape == (1, 5, 3, SIZE, SIZE) and out.images.isfinite().all()


def test_conditions_join_along_both_axes():
    denoiser = parts().denoiser
    _, _, conditions = inputs(denoiser, batch=2)
    again = concatenate_conditions([conditions.of_set(0), conditions.of_set(1)], dim=0)
    assert torch.equal(again.maps, conditions.maps)
    views = [conditions.select(torch.tensor([v])) for v in range(4)]
    assert torch.equal(concatenate_conditions(views, dim=1).points, conditions.points)


def test_validation_tells_what_other_views_are_worth(monkeypatch):
    """A NeRF that knows the geometry and no colour: views learn their colours from one another, or not at all."""
    car, cameras = toy_car(2), ring_cameras(8, elevation=0.2)

    def render(networks, scene, camera):
        seen = ray_cast(car, Cameras(camera.c2w[0], camera.K[0], camera.hw))
        grey = torch.where(seen.mask > 0, 0.5, 1.0).expand(-1, 16, -1, -1)
        return Rendering(grey[None], seen.depth[None], seen.mask[None])

    monkeypatch.setattr(Networks, "_render", render)
    pipeline = MultiViewPipeline.from_parts(parts(std_ceiling=0.5))
    nn.init.zeros_(pipeline.denoiser.leave.weight)
    nn.init.zeros_(pipeline.denoiser.leave.bias)
    found = neighbour_figures(pipeline, ray_cast(car, cameras), seed=0)
    assert all(found[f"neighbours_{level}"] < -0.05 for level in ("1", "2"))
    pipeline.denoiser.set_attention("independent")
    alone = neighbour_figures(pipeline, ray_cast(car, cameras), seed=0)
    for level in ("0.3", "1", "2"):
        assert alone[f"neighbours_{level}"] == pytest.approx(0, abs=1e-6)
        assert alone[f"x0_error_{level}"] == pytest.approx(found[f"x0_error_{level}"], rel=1e-5)


def test_its_memory_can_be_estimated_without_data():
    """Of a step that computes every token, as which are near the object depends on the weights."""
    stage = config()
    stage = replace(stage, loss=replace(stage.loss, denoise=1.0, rgb=0.0), run=replace(stage.run, train=("denoiser",)))
    keeping, saving = step_memory(tiny_parts(stage), stage)
    assert 0 < saving.activations < keeping.activations
