"""What diffusers' users expect of a pipeline's calls: their signature, output types, callbacks, generators."""

import inspect

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler
from diffusers.callbacks import PipelineCallback
from PIL import Image
from tiny import STEPS, inputs, sampled

from mvgenvs.diffusion.options import SamplingOptions
from mvgenvs.errors import UserError
from mvgenvs.pipeline import MultiViewPipeline

pytestmark = pytest.mark.usefixtures("no_grad")


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


def test_a_callback_may_stop_the_call(pipeline):
    def stopping_at(last):
        calls = []

        def callback(pipe, step, timestep, kwargs):
            calls.append(step)
            pipe._interrupt = step == last
            return kwargs

        return sampled(pipeline, callback_on_step_end=callback), calls

    whole = sampled(pipeline)
    out, calls = stopping_at(1)  # the end of the first of two blocks
    assert calls == [0, 1] and pipeline.interrupt
    assert out.images.shape == whole.images.shape and torch.equal(out.renders, whole.renders)
    assert torch.equal(out.images[:, 2], out.renders[:, 2]), "no step was made for the last view"
    assert not torch.equal(whole.images[:, 2], whole.renders[:, 2])
    torch.testing.assert_close(out.images[:, :2], whole.images[:, :2])  # where no noise is left, the estimate is all
    out, calls = stopping_at(0)
    assert calls == [0] and out.images.isfinite().all()
    assert not torch.equal(out.images[:, :2], whole.images[:, :2])
    assert torch.equal(sampled(pipeline).images, whole.images) and not pipeline.interrupt, "each call begins anew"


def test_steps_of_a_sequence_may_be_stopped_too(pipeline):
    def stop(state):
        states.append(state)
        state.stop = True

    states = []
    frames = list(pipeline.stream(**inputs(3), num_inference_steps=STEPS, block=1, on_step=stop))
    assert len(states) == 1 and [frame.indices for frame in frames] == [[0], [1], [2]]
    assert not torch.equal(frames[0].images, frames[0].renders)
    assert all(torch.equal(frame.images, frame.renders) for frame in frames[1:])


def test_callbacks_that_ask_for_or_give_what_there_is_not(pipeline):
    with pytest.raises(UserError, match="callbacks cannot have 'prompt_embeds', only latents"):
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
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-4, rtol=0)  # float32, other batch sizes
    with pytest.raises(UserError, match="0 generators cannot serve 1 sets"):
        sampled(pipeline, generator=[])
