"""The pipeline: shapes, plans, saving and loading, and mistakes that are answered in one sentence."""

import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from tiny import ray_cast, ring_cameras, stacked, tiny_config, tiny_parts, tiny_pipeline, toy_car

import mvgenvs.diffusion.plans
import mvgenvs.pipeline
from mvgenvs.cameras import Cameras
from mvgenvs.diffusion.codec import encode_rendering
from mvgenvs.diffusion.plans import PLANS, Block, make_plan
from mvgenvs.errors import UserError
from mvgenvs.nerf.model import Rendering
from mvgenvs.parts import CHECKPOINT_PREFIX
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.views import with_matte

STEPS = 2


@pytest.fixture(autouse=True)
def no_grad():
    """`stream` asks for it, but the shape checks of the tests hide from torch that it is a generator."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def pipeline() -> MultiViewPipeline:
    pipeline = tiny_pipeline()
    pipeline.codec.fit(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    return pipeline


@pytest.fixture(scope="module")
def saved(pipeline, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    pipeline.save_pretrained(folder)
    return folder


def inputs(targets: int = 3, known: int = 1, batch: int = 1) -> dict:
    views = ray_cast(toy_car(0), ring_cameras(known))
    return {
        "images": views.images.repeat(batch, 1, 1, 1, 1),
        "cameras": stacked(views.cameras, batch),
        "target_cameras": stacked(ring_cameras(targets, start=1.0), batch),
    }


def options(seed: int = 0, **more) -> dict:
    return {"num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(seed)} | more


@pytest.mark.parametrize(("known", "batch"), [(1, 1), (2, 2)])
def test_outputs_have_the_promised_shapes_and_ranges(pipeline, known, batch):
    out = pipeline(**inputs(3, known, batch), **options(block=2))
    assert out.images.shape == out.renders.shape == (batch, 3, 3, 32, 32)
    assert out.depth.shape == (batch, 3, 1, 32, 32)
    for pictures in (out.images, out.renders):
        assert pictures.isfinite().all() and pictures.min() >= 0 and pictures.max() <= 1
    assert out.images.std() > 0.01
    assert out.depth.isfinite().all()


def test_joint_differs_from_independent(pipeline):
    joint = pipeline(**inputs(), **options()).images
    independent = pipeline(**inputs(), **options(joint=False)).images
    assert (joint - independent).abs().max() > 1e-3


def test_independent_views_do_not_depend_on_the_block(pipeline):
    """Alone and without anchors, the first view of a block is what it is in a block of its own."""
    one, three = (pipeline(**inputs(n), **options(joint=False, guidance_scale=1.0)) for n in (1, 3))
    torch.testing.assert_close(ring_cameras(1, start=1.0).c2w, ring_cameras(3, start=1.0).c2w[:1])
    torch.testing.assert_close(one.renders[:, 0], three.renders[:, 0])


def test_renders_are_those_of_the_cameras_asked_for(pipeline):
    given = inputs(5)
    renders = pipeline(**given, **options(block=2)).renders
    scene = pipeline.nerf.encode(given["images"], given["cameras"], find_empty=True)
    with torch.no_grad():
        direct = pipeline.nerf.render(scene, given["target_cameras"].resized((32, 32))).rgb
    torch.testing.assert_close(renders, direct.clamp(0, 1), atol=1e-4, rtol=0)  # float32, other batch sizes
    assert (renders[:, 0] - renders[:, 1]).abs().max() > 0.01


def test_anchors_shape_the_later_blocks(pipeline):
    """With memory, the second block knows the first: a changed first block changes it."""
    with_memory, without = (pipeline(**inputs(4), **options(block=2, anchors=n)).images for n in (2, 0))
    assert torch.equal(with_memory[:, :2], without[:, :2])
    assert not torch.allclose(with_memory[:, 2:], without[:, 2:], atol=1e-3)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp-2m"])
def test_a_saved_pipeline_samples_bit_equal(pipeline, saved, sampler):
    loaded = MultiViewPipeline.from_pretrained(saved)
    assert not any(part.training for part in (loaded.codec, loaded.nerf, loaded.denoiser))
    choices = {"sampler": sampler, "churn": 0.0 if sampler == "dpmpp-2m" else 0.5, "block": 2}
    before, after = (p(**inputs(), **options(3, **choices)) for p in (pipeline, loaded))
    for name in ("images", "renders", "depth"):
        assert torch.equal(before[name], after[name])


def test_the_seed_decides(pipeline):
    first, again, other = (pipeline(**inputs(1), **options(seed)).images for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


def test_saved_files_are_safetensors_and_json(saved):
    files = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert files == {".json", ".safetensors"}
    assert json.loads((saved / "model_index.json").read_text())["_class_name"] == "MultiViewPipeline"


def test_a_run_or_checkpoint_folder_means_its_newest_pipeline(pipeline, saved, tmp_path):
    older, newest = tmp_path / f"{CHECKPOINT_PREFIX}000002", tmp_path / f"{CHECKPOINT_PREFIX}000010"
    MultiViewPipeline.from_parts(tiny_parts(seed=1)).save_pretrained(older / "pipeline")
    newest.mkdir()
    (newest / "pipeline").symlink_to(saved)
    (tmp_path / f".{CHECKPOINT_PREFIX}000011.tmp").mkdir()
    expected = pipeline.denoiser.unet.conv_in.weight
    for folder in (tmp_path, newest, saved):
        assert torch.equal(MultiViewPipeline.from_pretrained(folder).denoiser.unet.conv_in.weight, expected)
    assert not torch.equal(MultiViewPipeline.from_pretrained(older).denoiser.unet.conv_in.weight, expected)


def test_unconditional(pipeline):
    cameras = stacked(ring_cameras(3), 2)
    out = pipeline(None, None, cameras, **options(unconditional=True, block=2))
    assert out.images.shape == (2, 3, 3, 32, 32)
    assert out.images.isfinite().all() and out.images.std() > 0.01
    assert not torch.allclose(out.images[0], out.images[1], atol=1e-2)  # each entry of the batch has its own noise
    assert (out.depth == 0).all()


def test_each_step_can_be_watched(pipeline):
    states = []
    pipeline(**inputs(3), **options(block=2, on_step=states.append))
    assert [(s.block, s.step) for s in states] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {(s.num_blocks, s.num_steps) for s in states} == {(2, STEPS)}
    assert [s.sigma for s in states[:2]] == pytest.approx([mvgenvs.pipeline.SIGMA_MAX, 0.02], rel=1e-4)
    assert states[0].denoised().shape == (1, 2, 3, 32, 32)
    assert states[-1].denoised().shape == (1, 1, 3, 32, 32)


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


# Mistakes


def test_wrong_images_are_user_errors(pipeline):
    given = inputs()
    with pytest.raises(UserError, match="32 x 32 pixels, not"):
        pipeline(given["images"][..., :16], given["cameras"], given["target_cameras"])
    with pytest.raises(UserError, match="known views are needed"):
        pipeline(None, None, given["target_cameras"])
    with pytest.raises(UserError, match="known views are needed"):
        pipeline(given["images"], None, given["target_cameras"])


WRONG = [
    {"plan": "zigzag"}, {"sampler": "ddim"}, {"num_inference_steps": 0}, {"block": 0}, {"start": "zeros"},
    {"sigma_max": 0.01}, {"rho": -1.0}, {"start": "render", "plan": [Block((1, 2, 3), (0,), ())]},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_options_are_user_errors(pipeline, wrong):
    with pytest.raises(UserError):
        pipeline(**inputs(), **(options() | wrong))


def test_unknown_checkpoints_are_user_errors(monkeypatch, tmp_path):
    def no_hub(*_, **__):
        raise OSError("no network in the tests")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_hub)
    with pytest.raises(UserError, match="neither a folder nor a model"):
        MultiViewPipeline.from_pretrained("no/such-checkpoint")
    with pytest.raises(UserError, match="found no mvgenvs pipeline"):
        MultiViewPipeline.from_pretrained(tmp_path)


def test_folders_of_another_kind_are_user_errors(saved, tmp_path):
    unet = UNet2DModel(8, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    with pytest.raises(UserError, match="not an mvgenvs pipeline"):
        MultiViewPipeline.from_pretrained(tmp_path / "ddpm")


@pytest.mark.parametrize("missing", ["codec/config.json", "nerf/diffusion_pytorch_model.safetensors", "scheduler"])
def test_incomplete_folders_are_user_errors(saved, tmp_path, missing):
    for path in saved.rglob("*"):
        relative = path.relative_to(saved)
        if path.is_file() and not str(relative).startswith(missing):
            (tmp_path / relative).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / relative).symlink_to(path)
    with pytest.raises(UserError):
        MultiViewPipeline.from_pretrained(tmp_path)


def test_a_backend_that_does_not_exist_is_a_user_error(saved):
    with pytest.raises(UserError, match="flash9"):
        MultiViewPipeline.from_pretrained(saved, attention_backend="flash9")


def test_a_part_that_lacks_weights_is_refused(saved, tmp_path):
    """Otherwise whatever lies in memory would take their place."""
    shutil.copytree(saved, tmp_path / "old")
    weights = tmp_path / "old" / "codec" / "diffusion_pytorch_model.safetensors"
    save_file({key: value for key, value in load_file(weights).items() if "leave" not in key}, weights)
    with pytest.raises(UserError, match=r"the 'codec' of .*old lacks weights, refiner\.leave"):
        MultiViewPipeline.from_pretrained(tmp_path / "old")
