"""What diffusers' users expect of a pipeline: output types, callbacks, generators, keywords of loading, schedulers."""

import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EDMDPMSolverMultistepScheduler, EDMEulerScheduler
from diffusers.callbacks import PipelineCallback
from PIL import Image
from tiny import ray_cast, ring_cameras, tiny_parts, tiny_pipeline, toy_car

from mvgenvs.diffusion.options import SamplingOptions
from mvgenvs.errors import UserError
from mvgenvs.pipeline import MultiViewPipeline

STEPS = 2
CAMERAS = ring_cameras(4)
CAR = ray_cast(toy_car(1), CAMERAS).images[None]
KNOWN, TARGETS = CAMERAS.select([0]).batched(), CAMERAS.select([1, 2, 3]).batched()


@pytest.fixture(autouse=True)
def no_grad():
    """Sampling asks for it, but the shape checks of the tests hide from torch that `frames` is a generator."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def pipeline() -> MultiViewPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def saved(pipeline, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    pipeline.save_pretrained(folder)
    return folder


def sampled(pipeline, batch=1, **options):
    options = {"generator": torch.Generator().manual_seed(3), "num_inference_steps": STEPS, "block": 2} | options
    known = CAR[:, :1].repeat(batch, 1, 1, 1, 1)
    return pipeline(known, KNOWN.repeat(batch), TARGETS.repeat(batch), **options)


def test_the_signature_names_every_option_once():
    parameters = list(inspect.signature(MultiViewPipeline.__call__).parameters)
    assert parameters[:6] == ["self", "images", "cameras", "target_cameras", "num_inference_steps", "guidance_scale"]
    assert {"generator", "output_type", "return_dict", "callback_on_step_end"} < set(parameters)
    assert set(SamplingOptions().keywords()) < set(parameters)
    assert "options" not in parameters
    for name in SamplingOptions().keywords():
        assert f"    {name}: " in str(MultiViewPipeline.__call__.__doc__)


def test_an_unknown_option_is_refused_with_the_nearest_name(pipeline):
    with pytest.raises(UserError, match="no sampling option 'guidence_scale': did you mean 'guidance_scale'"):
        sampled(pipeline, guidence_scale=2.0)
    with pytest.raises(UserError, match="no sampling option 'resume'"):
        sampled(pipeline, resume=None)


def test_output_types_show_the_same_views(pipeline):
    tensors, arrays, pictures = (sampled(pipeline, batch=2, output_type=kind) for kind in ("pt", "np", "pil"))
    for name in ("images", "renders"):
        tensor, array, picture = tensors[name], arrays[name], pictures[name]
        assert tensor.shape == (2, 3, 3, 32, 32)
        assert isinstance(array, np.ndarray) and array.shape == (2, 3, 32, 32, 3)
        assert np.array_equal(array, tensor.movedim(2, -1).numpy())
        assert [len(views) for views in picture] == [3, 3]
        assert isinstance(picture[0][0], Image.Image) and picture[0][0].size == (32, 32)
        assert np.abs(np.stack([np.asarray(views) for views in picture[1]]) / 255 - array[1]).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(arrays.depth, tensors.depth.movedim(2, -1).numpy())
    assert np.array_equal(arrays.depth, pictures.depth)
    with pytest.raises(UserError, match="no output_type 'latent': choose one of pt, np, pil"):
        sampled(pipeline, output_type="latent")


def test_without_a_dictionary_a_tuple_comes_back(pipeline):
    out = sampled(pipeline)
    images, renders, depth = sampled(pipeline, return_dict=False)
    assert torch.equal(images, out.images) and torch.equal(renders, out.renders) and torch.equal(depth, out.depth)


def test_callbacks_see_every_step_of_every_block(pipeline):
    calls = []

    def callback(pipe, step, timestep, kwargs):
        assert pipe is pipeline
        calls.append((step, timestep.item(), tuple(kwargs["latents"].shape)))
        return kwargs

    shape = pipeline.networks.latent_shape
    watched = sampled(pipeline, callback_on_step_end=callback)
    assert [step for step, _, _ in calls] == list(range(pipeline.num_timesteps)) == [0, 1, 2, 3]
    scheduler = EDMEulerScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(STEPS)
    assert [timestep for _, timestep, _ in calls] == pytest.approx(scheduler.timesteps.tolist() * 2)
    assert [shape for _, _, shape in calls] == [(1, 2, *shape)] * 2 + [(1, 1, *shape)] * 2
    assert torch.equal(watched.images, sampled(pipeline).images), "who only looks changes nothing"


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp-2m"])
def test_a_callback_may_replace_the_latents(pipeline, sampler):
    def zeroed(pipe, step, timestep, kwargs):
        last = step % STEPS == STEPS - 1
        return {"latents": torch.zeros_like(kwargs["latents"])} if last else {}

    out = sampled(pipeline, callback_on_step_end=zeroed, sampler=sampler)
    expected = pipeline.networks.decode(torch.zeros(1, 3, *pipeline.networks.latent_shape), out.renders)
    torch.testing.assert_close(out.images, expected, atol=1e-5, rtol=0)

    def first_zeroed(pipe, step, timestep, kwargs):
        return {"latents": 0 * kwargs["latents"]} if step == 0 else {}

    changed = sampled(pipeline, callback_on_step_end=first_zeroed, sampler=sampler)
    assert not torch.equal(changed.images, sampled(pipeline, sampler=sampler).images)


def test_callbacks_of_diffusers_own_class(pipeline):
    class Watcher(PipelineCallback):
        tensor_inputs = ("latents",)

        def callback_fn(self, pipeline, step_index, timesteps, callback_kwargs):
            self.last = step_index
            return callback_kwargs

    watcher = Watcher()
    sampled(pipeline, callback_on_step_end=watcher)
    assert watcher.last == pipeline.num_timesteps - 1


def test_callbacks_that_ask_for_or_give_what_there_is_not(pipeline):
    with pytest.raises(UserError, match="callbacks cannot have 'prompt_embeds', but latents"):
        sampled(pipeline, callback_on_step_end=print, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    with pytest.raises(UserError, match="a callback made latents"):
        sampled(pipeline, callback_on_step_end=lambda *_: {"latents": torch.zeros(1, 1, 1, 1, 1)})
    states = []
    sampled(pipeline, callback_on_step_end=lambda *_: None, on_step=states.append)
    assert len(states) == pipeline.num_timesteps


def test_a_list_of_generators_is_one_for_each_set(pipeline):
    seeds = (3, 4)
    both = sampled(pipeline, batch=2, generator=[torch.Generator().manual_seed(seed) for seed in seeds]).images
    for i, seed in enumerate(seeds):
        alone = sampled(pipeline, generator=[torch.Generator().manual_seed(seed)]).images
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="0 generators cannot serve 1 sets"):
        sampled(pipeline, generator=[])


# Loading


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_loaded_in_the_format_asked_for(saved, pipeline, dtype):
    loaded = MultiViewPipeline.from_pretrained(saved, torch_dtype=dtype)
    assert {loaded.codec.dtype, loaded.nerf.dtype, loaded.denoiser.dtype} == {dtype}
    images = sampled(loaded).images
    assert images.dtype == torch.float32 and images.isfinite().all()
    assert (images - sampled(pipeline).images).abs().mean() < 0.02
    assert MultiViewPipeline.from_pretrained(saved).denoiser.dtype == torch.float32


def test_a_saved_variant_loads_again(tmp_path):
    half = MultiViewPipeline.from_parts(tiny_parts()).to(torch.float16)
    half.save_pretrained(tmp_path, variant="fp16")
    loaded = MultiViewPipeline.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float16)
    assert torch.equal(loaded.denoiser.unet.conv_in.weight, half.denoiser.unet.conv_in.weight)
    assert torch.equal(sampled(loaded).images, sampled(half).images)
    with pytest.raises(UserError, match=r"no variant None of the 'codec' of .*: choose one of fp16"):
        MultiViewPipeline.from_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no variant ema of the 'codec' of .*: choose one of fp16"):
        MultiViewPipeline.from_pretrained(tmp_path, variant="ema")


def test_keywords_for_the_hub_reach_it(saved, monkeypatch, tmp_path):
    asked = {}

    def snapshot(name, **keywords):
        asked.update(keywords, name=name)
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    MultiViewPipeline.from_pretrained("someone/cars", revision="v2", cache_dir=tmp_path, local_files_only=True)
    found = {name: asked[name] for name in ("name", "revision", "cache_dir", "local_files_only")}
    assert found == {"name": "someone/cars", "revision": "v2", "cache_dir": tmp_path, "local_files_only": True}


def test_keywords_that_would_be_ignored_are_refused(saved):
    with pytest.raises(UserError, match="takes no 'safety_checker'"):
        MultiViewPipeline.from_pretrained(saved, safety_checker=None)
    with pytest.raises(UserError, match=r"torch_dtype must be torch\.float32, bfloat16 or float16, not torch\.int8"):
        MultiViewPipeline.from_pretrained(saved, torch_dtype=torch.int8)


def test_pickled_weights_are_not_loaded(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "pickled")
    weights = tmp_path / "pickled/denoiser/diffusion_pytorch_model.safetensors"
    torch.save(MultiViewPipeline.from_pretrained(saved).denoiser.state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(UserError, match="cannot read its 'denoiser'"):
        MultiViewPipeline.from_pretrained(tmp_path / "pickled")


def test_a_pipeline_is_made_of_another_ones_parts(pipeline):
    ours = MultiViewPipeline.from_parts(tiny_parts(seed=2), default_steps=3, default_render_sigma=0.5)
    other = MultiViewPipeline.from_pipe(ours)
    assert other.denoiser is ours.denoiser and other.defaults == ours.defaults
    assert torch.equal(sampled(other).images, sampled(ours).images)


# Schedulers


MISREAD = {
    "sigma_data": (EDMEulerScheduler(sigma_data=1.0), r"sigma_data must be 0\.5, .* but is 1\.0"),
    "prediction_type": (EDMEulerScheduler(prediction_type="v_prediction"), "prediction_type must be epsilon"),
    "noise of its own": (EDMDPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), "algorithm_type must be"),
    "another kind": (DDIMScheduler(), "must be one of EDMDPMSolverMultistepScheduler, EDMEulerScheduler, but is DDIM"),
}


@pytest.mark.parametrize("name", MISREAD)
def test_a_scheduler_that_would_be_misread_is_refused(saved, tmp_path, name):
    scheduler, sentence = MISREAD[name]
    pipeline = tiny_pipeline()
    pipeline.scheduler = scheduler
    with pytest.raises(UserError, match=sentence):
        sampled(pipeline)
    shutil.copytree(saved, tmp_path / "other")
    scheduler.save_pretrained(tmp_path / "other/scheduler")
    with pytest.raises(UserError, match=sentence):
        MultiViewPipeline.from_pretrained(tmp_path / "other")
    config = json.loads((saved / "scheduler/scheduler_config.json").read_text())
    assert config["_class_name"] == "EDMEulerScheduler"


def test_the_other_scheduler_of_edm_serves_as_well(saved, pipeline):
    other = MultiViewPipeline.from_pretrained(saved)
    other.scheduler = EDMDPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    for sampler in ("euler", "dpmpp-2m"):
        assert torch.equal(sampled(other, sampler=sampler).images, sampled(pipeline, sampler=sampler).images)
