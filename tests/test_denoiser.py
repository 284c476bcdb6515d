"""The joint denoiser: EDM preconditioning per view, conditions that can be dropped, views without an order."""

from dataclasses import fields, replace

import pytest
import torch
from tiny import ring_cameras, stacked, tiny_config, tiny_parts, tiny_pipeline

from mvgenvs.diffusion.conditions import Conditions, concatenate_conditions
from mvgenvs.diffusion.denoiser import JointDenoiser
from mvgenvs.diffusion.noise import preconditioning
from mvgenvs.nerf.model import Rendering
from mvgenvs.parts import build_parts

BATCH, VIEWS = 2, 3
SIGMA = torch.tensor([[0.05, 0.5, 5.0], [1.0, 0.02, 14.0]])
XT = torch.randn(BATCH, VIEWS, 8, 4, 4, generator=torch.Generator().manual_seed(0))
CAMERAS = stacked(ring_cameras(VIEWS), BATCH)


@pytest.fixture(scope="module")
def denoiser() -> JointDenoiser:
    return tiny_parts().denoiser


def random_rendering(seed: int = 1) -> Rendering:
    generator = torch.Generator().manual_seed(seed)
    features, depth, opacity = (torch.rand(BATCH, VIEWS, c, 8, 8, generator=generator) for c in (16, 1, 1))
    return Rendering(features, depth, opacity)


def make_conditions(denoiser: JointDenoiser, seed: int = 1, cameras=CAMERAS, dropped=None) -> Conditions:
    render_latents = torch.randn(XT.shape, generator=torch.Generator().manual_seed(seed + 100))
    return denoiser.conditions(random_rendering(seed), render_latents, cameras, dropped)


def pick(conditions: Conditions, views: list[int]) -> Conditions:
    return Conditions(*(tensor[:, views] for tensor in tensors(conditions).values()))


def tensors(conditions: Conditions) -> dict[str, torch.Tensor]:
    return {field.name: getattr(conditions, field.name) for field in fields(Conditions)}


@torch.no_grad()
def test_untrained_denoiser_is_the_skip_connection():
    """EDM's own where the rendering is dropped, and centred on the encoded rendering where it is not."""
    denoiser = build_parts(tiny_config()).denoiser.eval()
    sigma = SIGMA[..., None, None, None]
    dropped = make_conditions(denoiser, dropped=torch.ones(BATCH, VIEWS, dtype=torch.bool))
    torch.testing.assert_close(denoiser(XT, SIGMA, dropped), preconditioning(sigma).c_skip * XT)
    seen = make_conditions(denoiser)
    c_skip = preconditioning(sigma, seen.std).c_skip
    torch.testing.assert_close(denoiser(XT, SIGMA, seen), c_skip * XT + (1 - c_skip) * seen.mean)


def test_empty_background_is_expected_to_be_as_rendered(denoiser):
    """The fewer the rendering's opacity, the less may the latents differ from it."""
    rendering = random_rendering()
    opacity = torch.zeros_like(rendering.opacity)
    opacity[..., 2:4, 4:6] = torch.tensor([0.01, 0.25]).repeat(2, 1)  # one latent's pixels; the most opaque one counts
    conditions = denoiser.conditions(Rendering(rendering.features, rendering.depth, opacity), XT, CAMERAS)
    assert torch.equal(conditions.mean, XT)
    floor, slope = denoiser.config.std_floor, denoiser.config.std_slope
    assert (conditions.std[..., 1, 2] - floor - 0.5 * slope).abs().max() < 1e-6
    assert (conditions.std == floor).sum() == BATCH * VIEWS * 15


def test_rendering_prior_is_a_switch():
    config = tiny_config()
    without = build_parts(replace(config, denoiser=replace(config.denoiser, render_prior=False))).denoiser
    conditions = make_conditions(without)
    assert (conditions.mean == 0).all()
    assert (conditions.std == 0.5).all()
    assert conditions.maps.abs().max() > 0  # the rendering is still seen


@torch.no_grad()
def test_every_view_has_its_own_noise_level(denoiser):
    conditions = make_conditions(denoiser)
    together = denoiser(XT, SIGMA, conditions, joint=False)
    for view in range(VIEWS):
        alone = denoiser(XT[:, [view]], SIGMA[:, [view]], pick(conditions, [view]))
        torch.testing.assert_close(together[:, [view]], alone, atol=1e-5, rtol=1e-4)
    changed = SIGMA.clone()
    changed[0, 1] = 1.5
    difference = (denoiser(XT, changed, conditions, joint=False) - together).abs().amax(dim=(2, 3, 4))
    assert difference[0, 1] > 1e-3
    difference[0, 1] = 0
    assert difference.max() < 1e-5


@torch.no_grad()
def test_joint_views_hear_of_one_another(denoiser):
    conditions = make_conditions(denoiser)
    before = denoiser(XT, SIGMA, conditions)
    changed = XT.clone()
    changed[0, 2] += 1
    difference = (denoiser(changed, SIGMA, conditions) - before).abs().amax(dim=(2, 3, 4))
    assert (difference[0] > 1e-5).all()
    assert (difference[1] == 0).all()


@torch.no_grad()
def test_permuting_views_permutes_outputs(denoiser):
    conditions, order = make_conditions(denoiser), [2, 0, 1]
    permuted = denoiser(XT[:, order], SIGMA[:, order], pick(conditions, order))
    torch.testing.assert_close(permuted, denoiser(XT, SIGMA, conditions)[:, order], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_conditions_reach_the_output(denoiser):
    first, second = (make_conditions(denoiser, seed) for seed in (1, 2))
    turned = make_conditions(denoiser, cameras=stacked(ring_cameras(VIEWS, start=1.0), BATCH))
    out = denoiser(XT, SIGMA, first)
    others = {"maps": second, "poses": turned, "mean": second, "std": second}
    for name, other in others.items():
        changed = replace(first, **{name: getattr(other, name)})
        assert (denoiser(XT, SIGMA, changed) - out).abs().max() > 1e-5, name
    assert (denoiser(XT, SIGMA, replace(first, maps=turned.maps)) - out).abs().max() > 1e-5


@torch.no_grad()
def test_dropped_views_do_not_see_the_rendering(denoiser):
    dropped = torch.tensor([[True, False, True], [False, False, True]])
    first, second = (make_conditions(denoiser, seed, dropped=dropped) for seed in (1, 2))
    for name, tensor in tensors(first).items():
        assert torch.equal(tensor[dropped], tensors(second)[name][dropped]), name
    assert not torch.equal(first.maps[~dropped], second.maps[~dropped])
    alone_first, alone_second = (denoiser(XT, SIGMA, c, joint=False) for c in (first, second))
    assert torch.equal(alone_first[dropped], alone_second[dropped])
    assert not torch.allclose(alone_first[~dropped], alone_second[~dropped], atol=1e-4)


def test_dropped_views_are_flagged(denoiser):
    dropped = torch.tensor([[True, False, True], [False, False, True]])
    flag = make_conditions(denoiser, dropped=dropped).maps[:, :, 17 * 4]
    torch.testing.assert_close(flag, dropped.float()[..., None, None].expand(-1, -1, 4, 4))
    assert (make_conditions(denoiser).maps[:, :, 17 * 4] == 0).all()


def test_conditions_align_the_rendering_with_the_latents(denoiser):
    rendering = random_rendering()
    maps = make_conditions(denoiser).maps
    folded = maps[:, :, : 16 * 4].unflatten(2, (16, 2, 2))  # channel, row and column within a latent
    for row in range(8):
        for column in range(8):
            seen = folded[:, :, :, row % 2, column % 2, row // 2, column // 2]
            torch.testing.assert_close(seen[..., 3:], rendering.features[:, :, 3:, row, column])
            torch.testing.assert_close(seen[..., :3], rendering.rgb[..., row, column] * 2 - 1)


def test_plucker_is_a_switch():
    config = tiny_config()
    without = build_parts(replace(config, denoiser=replace(config.denoiser, plucker=False))).denoiser
    with_plucker = build_parts(config).denoiser
    maps = [make_conditions(d).maps for d in (without, with_plucker)]
    assert torch.equal(maps[0], maps[1][:, :, :-6])
    torch.testing.assert_close(maps[1][:, :, -6:], CAMERAS.resized((4, 4)).plucker())


def test_concatenated_conditions_are_those_of_all_views(denoiser):
    conditions = make_conditions(denoiser)
    joined = concatenate_conditions([pick(conditions, [0]), pick(conditions, [1, 2])], dim=1)
    twice = concatenate_conditions([conditions, conditions], dim=0)
    for name, tensor in tensors(conditions).items():
        assert torch.equal(tensors(joined)[name], tensor)
        assert torch.equal(tensors(twice)[name], tensor.repeat(2, *[1] * (tensor.ndim - 1)))


@torch.no_grad()
def test_guidance():
    pipeline = tiny_pipeline()
    guided = make_conditions(pipeline.denoiser)
    free = make_conditions(pipeline.denoiser, dropped=torch.ones(BATCH, VIEWS, dtype=torch.bool))

    def at(weight: float, dropped: Conditions | None = free) -> torch.Tensor:
        return pipeline.networks.denoise(XT, SIGMA, guided, dropped, weight)

    with_render, without = pipeline.denoiser(XT, SIGMA, guided), pipeline.denoiser(XT, SIGMA, free)
    assert not torch.allclose(with_render, without, atol=1e-3)
    assert torch.equal(at(1.0, dropped=None), with_render)
    torch.testing.assert_close(at(1.0), with_render, atol=1e-5, rtol=1e-5)
    assert torch.equal(at(0.0), without)
    torch.testing.assert_close(at(2.5), without + 2.5 * (with_render - without), atol=1e-4, rtol=1e-4)
