"""Sequences of views through the pipeline: plans, anchors, where sampling starts, what is kept and forgotten."""

import gc
from dataclasses import replace

import pytest
import torch
from tiny import STEPS, inputs, options, ring_cameras, stacked, tiny_config, tiny_parts

import mvgenvs.diffusion.plans
import mvgenvs.pipeline
from mvgenvs.cameras import Cameras
from mvgenvs.diffusion.codec import encode_rendering
from mvgenvs.diffusion.plans import PLANS, Block, make_plan
from mvgenvs.errors import UserError
from mvgenvs.nerf.model import Rendering
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.views import with_matte

pytestmark = pytest.mark.usefixtures("no_grad")


# Starting from the renderings


@pytest.mark.parametrize("render_prior", [True, False])
def test_sampling_starts_from_the_noised_renderings(monkeypatch, render_prior):
    config = tiny_config()
    config = replace(config, denoiser=replace(config.denoiser, render_prior=render_prior))
    pipe, asked = MultiViewPipeline.from_parts(tiny_parts(config)), []
    forward = pipe.denoiser.forward

    def watched(xt, sigma, conditions, **named):
        asked.append((xt, sigma, conditions))
        return forward(xt, sigma, conditions, **named)

    monkeypatch.setattr(pipe.denoiser, "forward", watched)
    common = {"block": 2, "guidance_scale": 1.0, "sigma_max": 0.7, "num_inference_steps": 1}
    pipe(**inputs(4), **options(**common))
    out = pipe(**inputs(4), **options(**common, start="render"))
    (noise, sigma, noise_conditions), (later_noise, _, _), (xt, _, conditions), (later_xt, _, _) = asked
    assert sigma[0].tolist() == pytest.approx([0.7] * 3)
    assert noise[:, :2].std() == pytest.approx(0.7, rel=0.1)
    latents = encode_rendering(pipe.codec, out.renders, pipe.denoiser.config.latent_size)
    torch.testing.assert_close(xt[:, :2], latents[:, :2] + noise[:, :2], atol=1e-5, rtol=0)
    assert latents.abs().max() > 0.1
    for name in ("maps", "mean", "std"):
        assert torch.equal(getattr(conditions, name), getattr(noise_conditions, name)), "the denoiser sees no more"
    torch.testing.assert_close(later_xt[:, :2], latents[:, 2:] + later_noise[:, :2], atol=1e-5, rtol=0)


def test_with_hardly_any_noise_the_renderings_come_back(quick):
    faint = {"sigma_max": 0.021, "guidance_scale": 1.0}
    made, lost = (quick(**inputs(4), **options(start=start, **faint)) for start in ("render", "noise"))
    expected = quick.networks.decode(encode_rendering(quick.codec, made.renders, 4), made.renders)
    near, far = ((out.images - expected).square().mean().sqrt() for out in (made, lost))
    assert near < 0.3 * far


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_can_start_from_renderings_or_says_why_not(quick, plan):
    choices = {"plan": plan, "block": 2, "start": "render", "sigma_max": 1.0}
    if plan == "unconditional":
        with pytest.raises(UserError, match="needs a rendering of every view"):
            quick(**given(plan, 5), **options(**choices))
    else:
        images = quick(**given(plan, 5), **options(**choices)).images
        assert images.isfinite().all()
        assert not torch.equal(images, quick(**given(plan, 5), **options(**choices | {"start": "noise"})).images)


# Plans


@pytest.fixture
def quick(pipeline, monkeypatch) -> MultiViewPipeline:
    """The pipeline with a toy denoiser, in which each view leans to the mean of its set, and a toy NeRF, which shows
    the mean colour of the views that it is lifted from: for long sequences.
    """

    def denoise(xt, sigma, conditions, joint=True, num_anchors=None, cache=None):
        shared = xt.mean(dim=1, keepdim=True) if joint else xt
        return 0.5 * conditions.mean + 0.3 * xt + 0.2 * shared

    def render(scene, camera):
        colour = scene.images.mean(dim=(1, 3, 4))[:, None, :, None, None].expand(-1, 1, -1, *camera.hw)
        features = torch.cat([colour, colour.new_zeros(*colour.shape[:2], 13, *camera.hw)], dim=2)
        return Rendering(features, torch.ones_like(features[:, :, :1]), torch.full_like(features[:, :, :1], 0.6))

    monkeypatch.setattr(pipeline.denoiser, "forward", denoise)
    monkeypatch.setattr(pipeline.nerf, "render", render)
    return pipeline


def given(plan: str, targets: int) -> dict:
    if plan != "unconditional":
        return inputs(targets)
    return {**inputs(targets), "images": None, "cameras": None, "unconditional": True}


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_samples_with_the_real_parts(pipeline, plan):
    out = pipeline(**given(plan, 5), **options(plan=plan, block=2))
    assert out.images.shape == (1, 5, 3, 32, 32)
    assert out.images.isfinite().all() and out.images.std() > 0.01
    assert min((out.images[:, i] - out.images[:, i - 1]).abs().max() for i in range(5)) > 1e-3


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("sampler", "churn", "targets", "block", "guidance"),
    [
        ("euler", 0.0, 1, None, 1.0),
        ("euler", 0.8, 2, 4, 2.0),
        ("heun", 0.0, 5, 2, 1.0),
        ("heun", 0.8, 7, 3, 0.0),
        ("dpmpp-2m", 0.0, 24, None, 1.5),
    ],
)
def test_every_plan_works_with_every_sampler_and_at_any_length(quick, plan, sampler, churn, targets, block, guidance):
    states: list = []
    choices = {"plan": plan, "block": block, "sampler": sampler, "churn": churn, "guidance_scale": guidance}
    frames = list(quick.stream(**given(plan, targets), **options(**choices, on_step=states.append)))
    assert sorted(index for frame in frames for index in frame.indices) == list(range(targets))
    assert all(frame.images.shape[1] == len(frame.indices) for frame in frames)
    assert all(frame.images.isfinite().all() for frame in frames)
    assert len(states) == STEPS * len(frames)


@pytest.mark.parametrize("plan", PLANS)
def test_the_call_gathers_what_the_stream_yields_and_the_seed_decides(quick, plan):
    runs = [{"plan": plan, "block": 2, "close_loop": True, "seed": seed} for seed in (4, 4, 5)]
    made = {}
    for frame in quick.stream(**given(plan, 9), **options(**runs[0])):
        for i, index in enumerate(frame.indices):
            made[index] = {name: getattr(frame, name)[:, i] for name in ("images", "renders", "depth")}
    out, other = (quick(**given(plan, 9), **options(**run)) for run in runs[1:])
    for name in ("images", "renders", "depth"):
        assert torch.equal(torch.stack([made[index][name] for index in range(9)], dim=1), out[name])
    assert not torch.allclose(out.images, other.images, atol=1e-3)


def test_a_plan_of_ones_own(quick):
    own = [Block((6,), (0,), (0,)), *make_plan("sliding", 1, 5, 3), Block((1, 6), (0, 3), (0, 2), again=True)]
    frames = list(quick.stream(**inputs(6), **options(plan=own)))
    assert [frame.indices for frame in frames] == [[5], [0, 1, 2], [3, 4], [0, 5]]
    named, given = (quick(**inputs(5), **options(plan=p, block=3)) for p in ("sliding", make_plan("sliding", 1, 5, 3)))
    assert torch.equal(named.images, given.images)
    with pytest.raises(UserError, match="names view 7"):
        quick(**inputs(6), **options(plan=[Block((1, 2, 3, 4, 5, 6), (7,), (0,))]))
    with pytest.raises(UserError, match="from 9 views, the model takes 8"):
        quick(**inputs(2, known=9), **options())


def test_closing_the_loop_makes_the_first_views_again_and_leaves_the_others(quick):
    open_loop, closed = (quick(**inputs(7), **options(block=3, close_loop=close)).images for close in (False, True))
    assert torch.equal(open_loop[:, 3:], closed[:, 3:])
    assert (open_loop[:, :3] - closed[:, :3]).abs().amax(dim=(2, 3, 4)).min() > 1e-3


def test_resampling_stays_near_what_it_starts_from(quick, monkeypatch):
    monkeypatch.setattr(quick.denoiser, "forward", lambda xt, *_, **__: xt)  # what it starts from is what it makes
    # Later views have other noise, as blocks made again draw some too.
    once, near, far = (
        quick(**inputs(6), **options(block=2, resample=sigma)).images[:, :2] for sigma in (None, 0.021, 2.0)
    )
    assert 0 < (near - once).abs().mean() < 0.1 * (far - once).abs().mean()
    encoded: list[int] = []
    encode = quick.nerf.encode
    monkeypatch.setattr(quick.nerf, "encode", lambda *args, **how: encoded.append(1) or encode(*args, **how))
    quick(**inputs(6), **options(block=2, resample=0.1))
    assert len(encoded) == 1, "the NeRF is lifted once"


def test_resampling_needs_a_level_above_the_lowest(quick):
    with pytest.raises(UserError, match="the level to resample from must be above this model's lowest noise level"):
        quick(**inputs(6), **options(block=2, resample=0.001))


def test_autoregressive_lifts_the_nerf_from_the_views_that_it_made(quick, monkeypatch):
    lifted: list[tuple[torch.Tensor, Cameras]] = []
    encode = quick.nerf.encode

    def watched(images, cameras, **_):
        lifted.append((images, cameras))
        return encode(images, cameras)

    monkeypatch.setattr(quick.nerf, "encode", watched)
    data = inputs(4)
    images = quick(**data, **options(plan="autoregressive")).images
    assert [known.shape[1] for known, _ in lifted] == [1, 2, 3, 4]
    expected = with_matte(torch.cat([data["images"], images[:, :3]], dim=1))
    torch.testing.assert_close(lifted[-1][0], expected, rtol=0, atol=0)
    places = torch.cat([data["cameras"].centers, data["target_cameras"].centers[:, :3]], dim=1)
    torch.testing.assert_close(lifted[-1][1].centers, places)
    lifted.clear()
    quick(**data, **options(plan="sliding", block=1))
    assert len(lifted) == 1, "the known views do not change, nor does their NeRF"


def test_without_an_image_the_second_view_has_a_nerf_of_the_first(quick):
    out = quick(None, None, inputs(3)["target_cameras"], **options(plan="autoregressive", unconditional=True))
    seen = (out.renders > 0).flatten(2).any(dim=2)[0]
    assert seen.tolist() == [False, True, True]
    torch.testing.assert_close(out.renders[0, 1].mean(dim=(1, 2)), out.images[0, 0].mean(dim=(1, 2)))


def test_the_baseline_knows_the_input_views_only(quick):
    out = quick(**inputs(4), **options(plan="autoregressive", joint=False))
    assert torch.equal(out.renders, out.renders[:, :1].expand_as(out.renders)), "the colour of the known view"


@pytest.mark.parametrize(("guidance", "dropped", "batch"), [(1.0, 0, 1), (2.0, 5, 2)])
def test_conditions_without_the_rendering_are_made_for_guidance_only(quick, monkeypatch, guidance, dropped, batch):
    masks, batches = [], set()
    conditions, forward = quick.denoiser.conditions, quick.denoiser.forward

    def watched_conditions(rendering, latents, cameras, drop=None):
        masks.append(drop)
        return conditions(rendering, latents, cameras, drop)

    def watched_forward(xt, *arguments, **named):
        batches.add(len(xt))
        return forward(xt, *arguments, **named)

    monkeypatch.setattr(quick.denoiser, "conditions", watched_conditions)
    monkeypatch.setattr(quick.denoiser, "forward", watched_forward)
    quick(**inputs(4), **options(block=2, guidance_scale=guidance))
    assert len([mask for mask in masks if mask is None]) == 5
    assert len([mask for mask in masks if mask is not None]) == dropped
    assert batches == {batch}


def live_bytes() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) is torch.Tensor:
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.mark.parametrize(
    ("plan", "views", "early", "late"),
    [("sliding", 80, 3, 18), ("autoregressive", 40, 10, 38), ("keyframes", 80, 5, 20)],
)
def test_memory_does_not_grow_with_the_sequence(quick, monkeypatch, plan, views, early, late):
    monkeypatch.setattr(mvgenvs.diffusion.plans, "MAX_KEYFRAMES", 8)
    data = {**inputs(1), "target_cameras": stacked(ring_cameras(views, start=1.0), 1)}
    sizes = [
        live_bytes()
        for number, _ in enumerate(quick.stream(**data, **options(num_inference_steps=1, plan=plan)))
        if number in (early, late)
    ]
    assert sizes[1] - sizes[0] < 3 * 32 * 32 * 4, "not even one image more"
