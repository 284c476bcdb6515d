"""Networks may compute in half precision: the pictures stay those of fp32 to 1/255 in the mean."""

from dataclasses import replace

import pytest
import torch
from tiny import ray_cast, ring_cameras, tiny_parts, tiny_pipeline, toy_car
from tiny_sd import write_sd

import mvgenvs.trial
from mvgenvs.diffusion.stable.checkpoint import load_stable_diffusion
from mvgenvs.errors import UserError
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.precision import best_mixed_precision
from mvgenvs.trial import fastest_precision

HALVES = (torch.bfloat16, torch.float16)
CAMERAS = ring_cameras(5)
CAR = ray_cast(toy_car(1), CAMERAS).images[None]


pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def pipeline() -> MultiViewPipeline:
    """Random, but with a codec fitted to the picture, and corrections as small as training makes them."""
    pipeline = tiny_pipeline()
    pipeline.codec.fit(CAR[0])
    for last in (pipeline.denoiser.unet.conv_out, pipeline.codec.refiner.leave):
        for parameter in last.parameters():
            parameter.mul_(0.2)
    return pipeline


def sampled(pipeline: MultiViewPipeline, **options):
    known, targets = CAMERAS.select([0]).batched(), CAMERAS.select([1, 2, 3, 4]).batched()
    options = {"num_inference_steps": 3, "block": 2} | options
    generator = torch.Generator().manual_seed(0)
    return pipeline(CAR[:, :1], known, targets, generator=generator, **options)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().mean().item()


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp-2m"])
@pytest.mark.parametrize("dtype", HALVES)
def test_pictures_stay_within_one_level_of_fp32(pipeline, dtype, sampler):
    expected = sampled(pipeline, sampler=sampler)
    pipeline.set_precision(dtype)
    found = sampled(pipeline, sampler=sampler)
    for name in ("images", "renders"):
        assert getattr(found, name).dtype == torch.float32
        assert 0 < difference(getattr(found, name), getattr(expected, name)) <= 1 / 255
    assert (found.depth - expected.depth).abs().median() < 0.01


@pytest.mark.parametrize("dtype", HALVES)
def test_weights_may_be_half_as_well(pipeline, dtype):
    """`pipe.to(torch.float16)`, as diffusers' users do, crashed where an fp32 rendering met a half codec."""
    expected = sampled(pipeline, start="render", renoise="fixed")
    pipeline.to(dtype)
    assert 0 < difference(sampled(pipeline, start="render", renoise="fixed").images, expected.images) <= 1 / 255


@pytest.mark.parametrize("how", ["set_precision", "to"])
@pytest.mark.parametrize(
    ("conditioner", "dtype"), [("controlnet", HALVES[0]), ("t2i-adapter", HALVES[1]), ("concat", HALVES[0])]
)
def test_stable_diffusion_in_half_precision(tmp_path, conditioner, dtype, how):
    codec, denoiser = load_stable_diffusion(str(write_sd(tmp_path)), conditioner, "a car", 32, 16, 2, "joint")
    parts = replace(tiny_parts(), codec=codec.eval(), denoiser=denoiser.eval())
    pipeline = MultiViewPipeline.from_parts(parts)
    expected = sampled(pipeline, num_inference_steps=2)
    getattr(pipeline, how)(dtype)
    assert 0 < difference(sampled(pipeline, num_inference_steps=2).images, expected.images) <= 1 / 255


@pytest.mark.parametrize("dtype", HALVES)
def test_unconditional_views_in_half_precision(pipeline, dtype):
    def sampled() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        options = {"plan": "unconditional", "unconditional": True, "num_inference_steps": 2, "generator": generator}
        return pipeline(None, None, CAMERAS.batched(), **options).images

    expected = sampled()
    pipeline.set_precision(dtype)
    assert 0 < difference(sampled(), expected) <= 2 / 255


def test_networks_compute_in_what_was_chosen_and_geometry_and_latents_in_fp32(pipeline):
    seen: dict[str, torch.dtype] = {}
    pipeline.denoiser.unet.conv_out.register_forward_hook(lambda *args: seen.update(unet=args[2].dtype))
    pipeline.nerf.encoder.stem[1].register_forward_hook(lambda *args: seen.update(encoder=args[2].dtype))
    field = pipeline.nerf.field
    field.register_forward_hook(lambda *args: seen.update(field=args[2][0].dtype, points=args[1][1].dtype))
    pipeline.codec.refiner.leave.register_forward_hook(lambda *args: seen.update(codec=args[2].dtype))
    pipeline.set_precision(torch.bfloat16)
    cameras = CAMERAS.batched()
    for frames in pipeline.stream(CAR[:, :1], cameras.select([0]), cameras.select([1]), num_inference_steps=1):
        assert frames.images.dtype == torch.float32
    assert {seen[name] for name in ("unet", "encoder", "codec")} == {torch.bfloat16}
    assert {seen[name] for name in ("field", "points")} == {torch.float32}


def test_normalisations_work_in_bf16_as_in_training(pipeline):
    seen: dict[str, set[torch.dtype]] = {}
    norms = [m for m in pipeline.denoiser.modules() if isinstance(m, torch.nn.GroupNorm | torch.nn.LayerNorm)]
    for norm in norms:
        norm.register_forward_hook(lambda m, _, out: seen.setdefault(type(m).__name__, set()).add(out.dtype))
    before = sampled(pipeline).images
    pipeline.set_precision(torch.bfloat16)
    seen.clear()
    sampled(pipeline)
    assert seen == {"GroupNorm": {torch.bfloat16}, "LayerNorm": {torch.bfloat16}}
    pipeline.set_precision(torch.float32)
    assert torch.equal(sampled(pipeline).images, before)


@pytest.mark.parametrize(
    ("seconds", "error", "expected"),
    [
        ((1.0, 0.5), 0.001, torch.bfloat16),
        ((1.0, 0.95), 0.001, torch.float32),  # no gain worth a difference
        ((1.0, 0.5), 0.005, torch.float32),  # other pictures
        ((1.0, 2.0), 0.001, torch.float32),
        ((0.01, 0.001), 0.001, torch.float32),  # nothing to gain: small things are measured badly
        ((1.0, 0.5), float("nan"), torch.float32),
    ],
)
def test_the_fastest_format_is_taken_if_it_makes_the_same_pictures(monkeypatch, pipeline, seconds, error, expected):
    def timed(*_):
        half = pipeline.precision != torch.float32
        return seconds[half], torch.full((1, 3, 4, 4), 0.5 + error * half)

    monkeypatch.setattr(mvgenvs.trial, "_timed", timed)
    cameras = CAMERAS.batched()
    found = [fastest_precision(pipeline, CAR[:, :1], cameras.select([0]), cameras, 4, steps) for steps in (29, 30)]
    assert found == [torch.float32, expected], "few steps do not earn the trial back"
    assert pipeline.precision == torch.float32


def test_the_trial_runs_on_the_model_itself(pipeline, monkeypatch):
    monkeypatch.setattr(mvgenvs.trial, "TOO_SHORT", 0.0)
    cameras = CAMERAS.batched()
    for known, of_known in ((CAR[:, :1], cameras.select([0])), (None, None)):
        assert fastest_precision(pipeline, known, of_known, cameras, 2, 99) in (torch.float32, *HALVES)


@pytest.mark.parametrize(
    ("gpu", "gpu_bf16", "cpu_bf16", "expected"),
    [(True, True, False, "bf16"), (True, False, True, "fp16"), (False, True, True, "bf16"), (False, True, False, "no")],
)
def test_what_trains_is_decided_by_the_machine_and_not_by_a_clock(monkeypatch, gpu, gpu_bf16, cpu_bf16, expected):
    """A trial of milliseconds chose before, and two processes of one command could differ."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: gpu_bf16)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu_bf16)

    def clock():
        raise AssertionError("a trial")

    for name in ("perf_counter", "process_time", "monotonic", "time"):
        monkeypatch.setattr(f"time.{name}", clock)
    found = best_mixed_precision()
    monkeypatch.undo()
    assert found == expected


WRONG = {
    "numpy": (lambda images: images.numpy(), "not ndarray"),
    "unbatched": (lambda images: images[0], "must be a tensor of shape"),
    "one picture": (lambda images: images[0, 0], "must be a tensor of shape"),
    "bytes": (lambda images: (images * 255).byte(), "divide them by 255"),
    "0 to 255": (lambda images: images * 255, "go from 0 to 255"),
    "-1 to 1": (lambda images: images * 2 - 1, "go from -1 to 1"),
    "not a number": (lambda images: images * torch.nan, "go from nan to nan"),
    "two pictures, one camera": (lambda images: images.repeat(1, 2, 1, 1, 1), r"\(1, 2\), but their cameras \(1, 1\)"),
    "two objects": (lambda images: images.repeat(2, 1, 1, 1, 1), r"\(2, 1\), but their cameras \(1, 1\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_images_that_would_be_misunderstood_are_refused_at_once(pipeline, name):
    change, sentence = WRONG[name]
    cameras = CAMERAS.batched()
    images = CAR[:, :1].clone()
    images[..., 0, 0] = 0
    with pytest.raises(UserError, match=sentence):
        pipeline.stream(change(images), cameras.select([0]), cameras.select([1]))


def test_double_images_are_taken_and_known_views_are_not_ignored(pipeline):
    cameras = CAMERAS.batched()
    given = (cameras.select([0]), cameras.select([1]))
    options = {"num_inference_steps": 1}
    single, double = (
        pipeline(CAR[:, :1].to(dtype), *given, generator=torch.Generator().manual_seed(0), **options).images
        for dtype in (torch.float32, torch.float64)
    )
    assert torch.equal(single, double)
    with pytest.raises(UserError, match="take no images"):
        pipeline.stream(CAR[:, :1], *given, unconditional=True)
    with pytest.raises(UserError, match="batch axis"):
        pipeline.stream(CAR[:, :1], given[0], CAMERAS)


@pytest.mark.parametrize("options", [{}, {"renoise": "fixed"}, {"plan": "autoregressive"}])
def test_each_entry_of_a_batch_may_have_its_own_generator(pipeline, options):
    """A list of generators failed at `initial_seed`."""
    known, targets = CAMERAS.select([0]), CAMERAS.select([1, 2, 3])
    single = []
    for seed in (3, 4):
        generator = [torch.Generator().manual_seed(seed)]
        given = (CAR[:, :1], known.batched(), targets.batched())
        single.append(pipeline(*given, generator=generator, num_inference_steps=1, **options).images)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    both = (CAR[:, :1].repeat(2, 1, 1, 1, 1), known.batched().repeat(2), targets.batched().repeat(2))
    if "plan" not in options:  # whose choice of views is the first generator's
        out = pipeline(*both, generator=generators, num_inference_steps=1, **options).images
        torch.testing.assert_close(out, torch.cat(single), atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="2 generators cannot serve 1 sets"):
        pipeline.stream(*given, generator=generators)
