"""Rotary points: attention then hears of differences of points alone, and of nothing where they are equal."""

from dataclasses import replace

import pytest
import torch
from einops import rearrange
from test_attention import CHANNELS, HEADS, TOKENS, make_layer, tokens
from test_denoiser import BATCH, CAMERAS, SIGMA, VIEWS, XT, pick, random_rendering
from tiny import tiny_config, tiny_parts

from attention.rotary import rotate
from mvgenvs.diffusion.denoiser import JointDenoiser
from mvgenvs.nerf.model import Rendering


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def products(query: torch.Tensor, key: torch.Tensor, of_query: torch.Tensor, of_key: torch.Tensor) -> torch.Tensor:
    return (rotate(query, of_query) * rotate(key, of_key)).sum(dim=-1)


@pytest.mark.parametrize("channels", [6, 12, 32])
def test_products_depend_on_the_difference_of_points_alone(channels: int) -> None:
    query, key = random(2, 7, 3, channels), random(2, 7, 3, channels, seed=1)
    here, there, shift = random(2, 7, 3, seed=2), random(2, 7, 3, seed=3), random(1, 1, 3, seed=4)
    seen = products(query, key, here, there)
    torch.testing.assert_close(products(query, key, here + shift, there + shift), seen)
    torch.testing.assert_close(products(query, key, here - there, torch.zeros_like(here)), seen)
    for axis in range(3):  # and on that along each axis
        moved = there + torch.eye(3, dtype=torch.float64)[axis] / 4
        assert (products(query, key, here, moved) - seen).abs().amax(dim=(0, 1)).min() > 0.01


def test_equal_points_leave_products_as_they_are() -> None:
    query, key, points = random(2, 7, 3, 20), random(2, 7, 3, 20, seed=1), random(2, 7, 3, seed=2)
    torch.testing.assert_close(products(query, key, points, points), (query * key).sum(dim=-1))


def test_left_over_channels_stay_and_the_others_turn() -> None:
    x, points = random(2, 7, 3, 20), random(2, 7, 3, seed=1)
    turned = rotate(x, points)
    assert torch.equal(turned[..., 18:], x[..., 18:])
    assert (turned[..., :18] - x[..., :18]).abs().amax(dim=(0, 1, 2)).min() > 0.1
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


@torch.no_grad()
def test_joint_attention_with_points_is_the_softmax_of_turned_products() -> None:
    layer, x, points = make_layer(), tokens(2), random(4, TOKENS, 3).float()
    query, key, value = (
        rearrange(project(x), "(b v) n (h d) -> b (v n) h d", v=2, h=HEADS)
        for project in (layer.to_q, layer.to_k, layer.to_v)
    )
    places = rearrange(points, "(b v) n xyz -> b (v n) xyz", v=2)
    logits = torch.einsum("bqhd,bkhd->bhqk", rotate(query, places), rotate(key, places))
    mixed = torch.einsum("bhqk,bkhd->bqhd", (logits / (CHANNELS // HEADS) ** 0.5).softmax(dim=-1), value)
    expected = layer.to_out[0](rearrange(mixed, "b (v n) h d -> (b v) n (h d)", v=2))
    torch.testing.assert_close(layer(x, num_views=2, points={TOKENS: points}), expected, atol=1e-5, rtol=1e-5)
    assert (layer(x, num_views=2) - expected).abs().max() > 0.01


@torch.no_grad()
def test_views_permute_together_with_their_points() -> None:
    layer, views, order = make_layer(qk_norm=True), 3, [2, 0, 1]
    x, points = tokens(views, sets=1), random(views, TOKENS, 3).float()
    out = layer(x, num_views=views, points={TOKENS: points})
    permuted = layer(x[order], num_views=views, points={TOKENS: points[order]})
    torch.testing.assert_close(permuted, out[order], atol=1e-5, rtol=1e-5)
    without = layer(x[order], num_views=views, points={TOKENS: points})
    assert (without - out[order]).abs().max() > 1e-3, "points belong to their views"


@torch.no_grad()
def test_one_view_equals_attention_of_each_view_by_itself() -> None:
    x, points = tokens(3), random(6, TOKENS, 3).float()
    joint = make_layer()
    independent = make_layer(attention="independent")(x, num_views=3, points={TOKENS: points})
    torch.testing.assert_close(joint(x, num_views=1, points={TOKENS: points}), independent)
    for view in range(6):
        alone = joint(x[[view]], num_views=1, points={TOKENS: points[[view]]})
        torch.testing.assert_close(independent[[view]], alone, atol=1e-5, rtol=1e-5)
    assert (joint(x, num_views=3, points={TOKENS: points}) - independent).abs().max() > 0.01


@pytest.fixture(scope="module")
def denoiser() -> JointDenoiser:
    config = tiny_config()
    return tiny_parts(replace(config, denoiser=replace(config.denoiser, rotary_points=True, num_heads=2))).denoiser


@torch.no_grad()
def test_points_reach_the_output_and_never_another_set(denoiser: JointDenoiser) -> None:
    conditions = denoiser.conditions(random_rendering(), torch.zeros_like(XT), CAMERAS)
    before = denoiser(XT, SIGMA, conditions)
    points = conditions.points.clone()
    points[0, 2, 0, :2] += 0.3  # half of one view: a shift of all points of a set changes nothing
    difference = (denoiser(XT, SIGMA, replace(conditions, points=points)) - before).abs().amax(dim=(2, 3, 4))
    assert (difference[0] > 1e-6).all()
    assert (difference[1] == 0).all()
    shifted = denoiser(XT, SIGMA, replace(conditions, points=conditions.points + 0.3))
    torch.testing.assert_close(shifted, before, atol=1e-5, rtol=1e-4)
    order = [1, 2, 0]
    permuted = denoiser(XT[:, order], SIGMA[:, order], pick(conditions, order))
    torch.testing.assert_close(permuted, before[:, order], atol=1e-5, rtol=1e-4)


def test_no_gradient_reaches_the_rendering_through_points(denoiser: JointDenoiser) -> None:
    given = random_rendering()
    rendering = Rendering(*(x.clone().requires_grad_() for x in (given.features, given.depth, given.opacity)))
    conditions = denoiser.conditions(rendering, torch.zeros_like(XT), CAMERAS)
    assert not conditions.points.requires_grad
    denoiser(XT, SIGMA, conditions).square().sum().backward()
    assert rendering.depth.grad is None, "depth is seen through points alone"
    assert rendering.features.grad.abs().sum() > 0


def test_points_lie_where_the_rendering_sees_a_surface(denoiser: JointDenoiser) -> None:
    """Constant depth: on that plane of each camera. Nothing hit, or dropped: where the ray is nearest to the origin."""
    features, ones = torch.rand(BATCH, VIEWS, 16, 8, 8), torch.ones(BATCH, VIEWS, 1, 8, 8)
    dropped = torch.zeros(BATCH, VIEWS, dtype=torch.bool)
    dropped[1] = True
    points = denoiser.conditions(Rendering(features, 1.1 * ones, ones), torch.zeros_like(XT), CAMERAS, dropped).points
    flat = points.flatten(-2).mT  # (batch, view, n, 3)
    pixels, depth = CAMERAS.resized((4, 4)).project(flat)
    centres = torch.stack(torch.meshgrid(torch.arange(4) + 0.5, torch.arange(4) + 0.5, indexing="xy"), dim=-1)
    torch.testing.assert_close(pixels, centres.reshape(1, 1, 16, 2).expand_as(pixels), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(depth[0], torch.full((VIEWS, 16), 1.1))
    air = denoiser.conditions(Rendering(features, 1.1 * ones, 0 * ones), torch.zeros_like(XT), CAMERAS).points
    torch.testing.assert_close(air[1], points[1])
    directions = CAMERAS.resized((4, 4)).rays()[1].movedim(-1, 2)
    assert (air * directions).sum(dim=2).abs().max() < 1e-5
