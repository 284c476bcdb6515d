"""Cached anchors give the result of uncached ones, pass through the network once, and are never those of another
call.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diffusers import EDMEulerScheduler
from tiny import ring_cameras, stacked, tiny_parts, tiny_pipeline

import mvgenvs.diffusion.sequence
from attention import AnchorCache
from mvgenvs.diffusion.conditions import Conditions, concatenate_conditions
from mvgenvs.diffusion.denoiser import JointDenoiser
from mvgenvs.diffusion.options import SamplingOptions
from mvgenvs.diffusion.renoising import sample
from mvgenvs.nerf.model import Rendering

BATCH, NEW, ANCHORS = 2, 2, 3
LATENT = (8, 4, 4)
SCHEDULER = EDMEulerScheduler(sigma_min=0.02, sigma_max=8.0)


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X0 = 0.5 * draw(BATCH, ANCHORS, *LATENT, seed=1)
NOISE = draw(BATCH, ANCHORS, *LATENT, seed=2)
XT = draw(BATCH, NEW + ANCHORS, *LATENT, seed=3)
SIGMA = torch.tensor([0.9, 0.9, 0.02, 0.3, 0.9]).repeat(BATCH, 1)


@pytest.fixture(scope="module")
def denoiser() -> JointDenoiser:
    denoiser = tiny_parts().denoiser
    denoiser.set_attention("block-causal")
    return denoiser


@pytest.fixture
def passes(denoiser: JointDenoiser):
    """The number of views in each pass through the UNet."""
    counts: list[int] = []
    hook = denoiser.unet.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[0]))
    yield counts
    hook.remove()


def make_conditions(denoiser: JointDenoiser, seed: int = 1, dropped: bool = False) -> Conditions:
    views = NEW + ANCHORS
    generator = torch.Generator().manual_seed(seed)
    features, depth, opacity = (torch.rand(BATCH, views, c, 8, 8, generator=generator) for c in (16, 1, 1))
    latents = draw(BATCH, views, *LATENT, seed=seed + 100)
    cameras = stacked(ring_cameras(views, start=0.1 * seed), BATCH)
    return denoiser.conditions(
        Rendering(features, depth, opacity), latents, cameras, torch.full((BATCH, views), dropped)
    )


def with_new_views_of(conditions: Conditions, others: Conditions) -> Conditions:
    """The anchors of `conditions` beside other new views."""
    new, anchors = torch.arange(NEW), torch.arange(NEW, NEW + ANCHORS)
    return concatenate_conditions([others.select(new), conditions.select(anchors)], dim=1)


def guided(denoiser: JointDenoiser, weight: float, cache: AnchorCache | None, conditions: Conditions) -> Callable:
    """Classifier-free guidance with both branches in one batch."""
    both = concatenate_conditions([conditions, make_conditions(denoiser, dropped=True)], dim=0)

    def denoise(xt: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if weight == 1:
            return denoiser(xt, sigma, conditions, num_anchors=ANCHORS, cache=cache)
        out = denoiser(xt.repeat(2, 1, 1, 1, 1), sigma.repeat(2, 1), both, num_anchors=ANCHORS, cache=cache)
        with_render, without = out.chunk(2)
        return without + weight * (with_render - without)

    return denoise


@torch.no_grad()
def test_new_views_are_the_same_with_cached_anchors(denoiser, passes):
    conditions, cache = make_conditions(denoiser), AnchorCache()
    others = with_new_views_of(conditions, make_conditions(denoiser, seed=2))
    other_xt, other_sigma = XT.clone(), SIGMA.clone()
    other_xt[:, :NEW], other_sigma[:, :NEW] = draw(BATCH, NEW, *LATENT, seed=9), 0.1
    for xt, sigma, known in ((XT, SIGMA, conditions), (other_xt, other_sigma, others)):
        whole = denoiser(xt, sigma, known, num_anchors=ANCHORS)
        cached = denoiser(xt, sigma, known, num_anchors=ANCHORS, cache=cache)
        assert whole.shape[1] == NEW + ANCHORS
        assert cached.std() > 0.1
        torch.testing.assert_close(cached, whole[:, :NEW], atol=1e-5, rtol=0)
    assert passes == [BATCH * (NEW + ANCHORS)] * 3 + [BATCH * NEW]  # whole, filling; whole, cached


@torch.no_grad()
def test_cached_anchors_matter(denoiser):
    """The equality above would also hold of a model that ignores its anchors."""
    conditions = make_conditions(denoiser)
    alone = denoiser(XT[:, :NEW], SIGMA[:, :NEW], conditions.select(torch.arange(NEW)), num_anchors=0)
    beside = denoiser(XT, SIGMA, conditions, num_anchors=ANCHORS)[:, :NEW]
    assert (alone - beside).abs().max() > 1e-3


@torch.no_grad()
def test_other_anchors_are_not_taken_from_the_cache(denoiser, passes):
    conditions, cache = make_conditions(denoiser), AnchorCache()
    other = make_conditions(denoiser, seed=2)
    last = torch.arange(NEW + ANCHORS) == NEW + ANCHORS - 1
    calls = {
        "latents": (XT + 0.1 * last[:, None, None, None], SIGMA, conditions),
        "noise level": (XT, torch.where(last, SIGMA * 1.01, SIGMA), conditions),
        "poses": (XT, SIGMA, replace(conditions, poses=other.poses)),
        "maps": (XT, SIGMA, replace(conditions, maps=other.maps)),
        "mean": (XT, SIGMA, replace(conditions, mean=other.mean)),
        "std": (XT, SIGMA, replace(conditions, std=other.std)),
        "batch": (XT[:1], SIGMA[:1], Conditions(*(getattr(conditions, n)[:1] for n in conditions.__slots__))),
    }
    denoiser(XT, SIGMA, conditions, num_anchors=ANCHORS, cache=cache)
    for name, call in calls.items():
        passes.clear()
        denoiser(*call, num_anchors=ANCHORS, cache=cache)
        assert passes == [call[0].shape[0] * (NEW + ANCHORS)], name
    passes.clear()
    denoiser(
        XT[:, : NEW + 1], SIGMA[:, : NEW + 1], conditions.select(torch.arange(NEW + 1)), num_anchors=1, cache=cache
    )
    assert passes == [BATCH * (NEW + 1)]


def assert_equal(cached: torch.Tensor, uncached: torch.Tensor) -> None:
    """To 1e-5 of the largest latent: a random network with guidance leaves the range of trained ones."""
    assert uncached.std() > 0.1
    torch.testing.assert_close(cached, uncached, atol=1e-5 * max(1.0, uncached.abs().max().item()), rtol=0)


@pytest.mark.parametrize("level", ["clean", ("clean", 0.5, 0.3)])
@pytest.mark.parametrize(
    ("name", "churn", "weight"), [("euler", 0.0, 2.5), ("euler", 2.0, 1.0), ("heun", 1.0, 2.5), ("dpmpp-2m", 0.0, 2.5)]
)
@torch.no_grad()
def test_sampling_is_the_same_with_cached_anchors(denoiser, passes, name, churn, weight, level):
    options = SamplingOptions(sampler=name, num_inference_steps=3, churn=churn, renoise="fixed", anchor_level=level)
    results, conditions = [], make_conditions(denoiser)
    for cache in (None, AnchorCache()):
        passes.clear()
        denoise = guided(denoiser, weight, cache, conditions)
        *_, state = sample(denoise, SCHEDULER, options, NEW, X0, torch.Generator().manual_seed(4))
        results.append(state.latents)
    assert_equal(*reversed(results))
    sets = BATCH * (1 if weight == 1 else 2)
    if level == "clean":
        assert passes == [sets * (NEW + ANCHORS)] + [sets * NEW] * (len(passes) - 1)
    else:  # the noise level falls below those that were chosen
        assert passes[:2] == [sets * (NEW + ANCHORS), sets * NEW]
        assert sets * (NEW + ANCHORS) in passes[2:]


@torch.no_grad()
def test_heun_meets_each_level_of_matched_anchors_twice(denoiser, passes):
    options = SamplingOptions(sampler="heun", num_inference_steps=3, renoise="fixed")
    results, conditions = [], make_conditions(denoiser)
    for cache in (None, AnchorCache()):
        passes.clear()
        denoise = guided(denoiser, 1.0, cache, conditions)
        *_, state = sample(denoise, SCHEDULER, options, NEW, X0, torch.Generator().manual_seed(4))
        results.append(state.latents)
    assert_equal(*reversed(results))
    whole, new = BATCH * (NEW + ANCHORS), BATCH * NEW
    assert passes == [whole, whole, new, whole, new]  # a level comes up in a correction, then in the next step


@pytest.mark.parametrize(("level", "capacity"), [("clean", 1), ("matched", 3)])
@torch.no_grad()
def test_a_second_block_with_the_same_anchors_computes_nothing_of_them(denoiser, passes, level, capacity):
    conditions, cache = make_conditions(denoiser), AnchorCache(capacity)
    options = SamplingOptions(sampler="euler", num_inference_steps=3, renoise="fixed", anchor_level=level)
    for block in range(2):
        passes.clear()
        here = with_new_views_of(conditions, make_conditions(denoiser, seed=5 + block))
        ends = []
        for used in (cache, None):
            denoise, seed = guided(denoiser, 1.0, used, here), torch.Generator().manual_seed(block)
            *_, state = sample(denoise, SCHEDULER, options, NEW, X0, seed, NOISE)
            ends.append(state.latents)
        assert_equal(*ends)
    assert passes[:3] == [BATCH * NEW] * 3


@torch.no_grad()
def test_the_oldest_state_makes_room(denoiser):
    conditions, cache = make_conditions(denoiser), AnchorCache(2)
    for factor in (1.0, 0.5, 0.25):
        denoiser(XT, SIGMA * factor, conditions, num_anchors=ANCHORS, cache=cache)
    assert len(cache.states) == 2
    newest = cache.states[-1]
    denoiser(XT, SIGMA * 0.25, conditions, num_anchors=ANCHORS, cache=cache)
    assert cache.states[-1] is newest


@torch.no_grad()
def test_without_anchors_there_is_nothing_to_cache(denoiser):
    conditions, cache = make_conditions(denoiser), AnchorCache()
    out = denoiser(XT, SIGMA, conditions, num_anchors=0, cache=cache)
    assert torch.equal(out, denoiser(XT, SIGMA, conditions, num_anchors=0))
    assert not cache.states


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_the_pipeline_caches_fixed_anchors_of_a_block_causal_model(monkeypatch, guidance):
    """Two blocks with the same anchor, the known view, which passes through the network once in each."""
    pipeline, rows = tiny_pipeline(), []
    pipeline.denoiser.set_attention("block-causal")
    pipeline.denoiser.unet.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0]))
    picture = torch.rand(1, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def images(**options) -> torch.Tensor:
        rows.clear()
        options = {"anchors": 0, "block": 2, "num_inference_steps": 2, "guidance_scale": guidance} | options
        cameras, targets = stacked(ring_cameras(1), 1), stacked(ring_cameras(4, start=1.0), 1)
        return pipeline(picture, cameras, targets, generator=torch.Generator().manual_seed(2), **options).images

    sets = 1 if guidance == 1 else 2
    cached = images(renoise="fixed", anchor_level="clean")
    assert rows == [3 * sets, 2 * sets] * 2
    images(renoise="fixed", anchor_level="matched")
    assert rows == [3 * sets] * 4, "every step has another noise level, and so have its anchors"
    images(renoise="fixed", anchor_level="matched", sampler="heun", num_inference_steps=3)
    assert rows == [3 * sets, 3 * sets, 2 * sets, 3 * sets, 2 * sets] * 2, "but Heun's steps begin where others ended"
    fresh = images(renoise="fresh", anchor_level="clean")
    assert rows == [3 * sets] * 4
    assert (fresh - cached).abs().max() > 1e-4
    images(renoise="fixed", joint=False)
    assert rows == [2 * sets] * 4
    monkeypatch.setattr(mvgenvs.diffusion.sequence, "AnchorCache", lambda: None)
    torch.testing.assert_close(cached, images(renoise="fixed", anchor_level="clean"), atol=1e-5, rtol=0)
    assert rows == [3 * sets] * 4


def test_anchors_of_joint_attention_cannot_be_cached():
    joint = tiny_parts().denoiser
    with pytest.raises(ValueError, match="cannot be cached"):
        joint(XT, SIGMA, make_conditions(joint), num_anchors=ANCHORS, cache=AnchorCache())
