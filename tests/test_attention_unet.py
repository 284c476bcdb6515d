"""Joint attention within the denoiser's UNet: what training and inference run."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from tiny import ring_cameras, stacked, tiny_config, tiny_parts, without_qk_norm
from torch import nn

from attention import (
    AnchorCache,
    AttentionBackend,
    BlockCausalAttnProcessor,
    IndependentViewAttnProcessor,
    JointViewAttnProcessor,
    attention_layers,
)
from mvgenvs.config import TrainConfig
from mvgenvs.errors import UserError
from mvgenvs.nerf.model import Rendering
from mvgenvs.parts import Parts
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training.memory import blank_batch
from mvgenvs.training.objective import Objective


def unet_inputs(unet: UNet2DConditionModel, batch_views: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {
        "sample": torch.randn(batch_views, unet.config.in_channels, 4, 4),
        "timestep": torch.linspace(-500, 200, batch_views),
        "encoder_hidden_states": torch.randn(batch_views, 1, unet.config.cross_attention_dim),
    }


@torch.no_grad()
def test_whole_unet_with_one_view_equals_the_stock_model():
    unet = tiny_parts(without_qk_norm(tiny_config())).denoiser.unet
    stock = UNet2DConditionModel.from_config(unet.config).eval()
    stock.load_state_dict(unet.state_dict())
    assert all(isinstance(layer.processor, AttnProcessor2_0) for layer in attention_layers(stock).values())
    inputs = unet_inputs(unet, 2)
    ours = unet(**inputs, cross_attention_kwargs={"num_views": 1}).sample
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, stock(**inputs).sample, atol=1e-5, rtol=0)


@torch.no_grad()
def test_whole_unet_sets_never_leak_and_views_see_one_another():
    unet = tiny_parts().denoiser.unet
    inputs = unet_inputs(unet, 4)
    changed = {**inputs, "sample": inputs["sample"].clone()}
    changed["sample"][3] += 1
    before = unet(**inputs, cross_attention_kwargs={"num_views": 2}).sample
    after = unet(**changed, cross_attention_kwargs={"num_views": 2}).sample
    assert torch.equal(before[:2], after[:2])
    assert (before[2] - after[2]).abs().max() > 1e-4  # its own inputs are unchanged: only attention tells it


def test_a_unet_call_without_num_views_fails():
    unet = tiny_parts().denoiser.unet
    with pytest.raises(TypeError, match="num_views"):
        unet(**unet_inputs(unet, 2))


def processors(model: nn.Module) -> dict[str, tuple[type, AttentionBackend | None]]:
    layers = attention_layers(model).items()
    return {name: (type(layer.processor), getattr(layer.processor, "backend", None)) for name, layer in layers}


def test_every_self_attention_layer_is_joint():
    unet = tiny_parts().denoiser.unet
    assert len(processors(unet)) >= 6  # down, mid and up, each with self- and cross-attention
    assert set(processors(unet).values()) == {(JointViewAttnProcessor, AttentionBackend.SDPA)}


def random_denoiser_inputs(parts: Parts, batch: int = 2, views: int = 3) -> tuple:
    torch.manual_seed(4)
    rendering = Rendering(
        torch.rand(batch, views, 16, 8, 8), torch.rand(batch, views, 1, 8, 8), torch.rand(batch, views, 1, 8, 8)
    )
    render_latents = torch.randn(batch, views, 8, 4, 4)
    conditions = parts.denoiser.conditions(rendering, render_latents, stacked(ring_cameras(views), batch))
    return torch.randn(batch, views, 8, 4, 4), torch.rand(batch, views) + 0.1, conditions


@torch.no_grad()
def test_training_and_inference_run_identical_processors(tmp_path):
    parts = tiny_parts()
    in_training = Objective(parts, tiny_config()).train().denoiser
    MultiViewPipeline.from_parts(parts).save_pretrained(tmp_path)
    in_inference = MultiViewPipeline.from_pretrained(tmp_path).denoiser
    assert processors(in_training) == processors(in_inference)
    assert len(processors(in_training)) == len(attention_layers(in_training.unet)) > 0
    inputs = random_denoiser_inputs(parts)
    assert torch.equal(in_training(*inputs), in_inference(*inputs))
    assert not torch.allclose(in_inference(*inputs), in_inference(*inputs, joint=False), atol=1e-4)


def config_of(attention: str) -> TrainConfig:
    config = tiny_config()
    return replace(config, denoiser=replace(config.denoiser, attention=attention))


@torch.no_grad()
def test_an_independent_model_is_the_joint_one_that_denoises_every_view_alone(tmp_path):
    """Bit for bit, on the same weights, in training and in inference; anchors do nothing and cannot be cached."""
    parts = tiny_parts()
    inputs = random_denoiser_inputs(parts)
    alone = parts.denoiser(*inputs, joint=False)
    assert not torch.allclose(parts.denoiser(*inputs), alone, atol=1e-4)
    in_training = Objective(parts, config_of("independent")).train().denoiser
    MultiViewPipeline.from_parts(parts).save_pretrained(tmp_path)
    in_inference = MultiViewPipeline.from_pretrained(tmp_path).denoiser
    for denoiser in (in_training, in_inference):
        assert set(processors(denoiser).values()) == {(IndependentViewAttnProcessor, AttentionBackend.SDPA)}
        assert torch.equal(denoiser(*inputs), alone)
        assert torch.equal(denoiser(*inputs, num_anchors=1), alone)
    with pytest.raises(ValueError, match="independent attention cannot be cached"):
        in_inference(*inputs, num_anchors=1, cache=AnchorCache())


def test_a_training_step_of_independent_views():
    """The gradient of one view's error comes from that view alone, and reaches the attention."""
    config = config_of("independent")
    config = replace(config, loss=replace(config.loss, denoise=1.0), run=replace(config.run, train=("denoiser",)))
    objective = Objective(tiny_parts(), config).train()
    objective.total(objective(blank_batch(2, 3, 1, 32), 0.0)).backward()
    layers = [layer for layer in attention_layers(objective.denoiser).values() if not layer.is_cross_attention]
    assert all(layer.to_q.weight.grad.abs().max() > 0 for layer in layers)
    xt, sigma, conditions = random_denoiser_inputs(Parts(objective.codec, objective.nerf, objective.denoiser))
    xt.requires_grad_()
    objective.denoising.denoised(xt, sigma, conditions, num_known=1)[0, 1].square().sum().backward()
    assert (xt.grad.abs().amax(dim=(2, 3, 4)) > 0).tolist() == [[False, True, False], [False, False, False]]


@torch.no_grad()
def test_block_causal_training_and_inference_run_identical_processors(tmp_path):
    """Training makes block-causal what started as joint, and what it saves stays so."""
    parts = tiny_parts()
    inputs = random_denoiser_inputs(parts)
    as_joint = parts.denoiser(*inputs)
    in_training = Objective(parts, config_of("block-causal")).train().denoiser
    MultiViewPipeline.from_parts(parts).save_pretrained(tmp_path)
    in_inference = MultiViewPipeline.from_pretrained(tmp_path).denoiser
    assert processors(in_training) == processors(in_inference)
    assert set(processors(in_inference).values()) == {(BlockCausalAttnProcessor, AttentionBackend.SDPA)}
    assert torch.equal(in_training(*inputs, num_anchors=1), in_inference(*inputs, num_anchors=1))
    assert not torch.allclose(in_inference(*inputs, num_anchors=1), as_joint, atol=1e-4)
    with pytest.raises(TypeError, match="num_anchors"):
        in_inference(*inputs)
    with pytest.raises(TypeError, match="num_anchors"):
        in_inference.unet(**unet_inputs(in_inference.unet, 2), cross_attention_kwargs={"num_views": 2})


@torch.no_grad()
def test_in_training_the_known_views_are_the_anchors():
    objective = Objective(tiny_parts(), config_of("block-causal"))
    xt, sigma, conditions = random_denoiser_inputs(Parts(objective.codec, objective.nerf, objective.denoiser), views=4)
    before = objective.denoising.denoised(xt, sigma, conditions, num_known=2)
    for changed_view, hearers in ((3, [False, False, True, True]), (0, [True] * 4)):
        changed = xt.clone()
        changed[0, changed_view] += 1
        difference = (
            (objective.denoising.denoised(changed, sigma, conditions, num_known=2) - before)[0]
            .abs()
            .amax(dim=(1, 2, 3))
        )
        assert (difference > 1e-5).tolist() == hearers


def test_a_frozen_denoiser_keeps_its_attention():
    config = config_of("block-causal")
    parts = tiny_parts()
    Objective(parts, replace(config, run=replace(config.run, train=("nerf",))))
    assert set(processors(parts.denoiser).values()) == {(JointViewAttnProcessor, AttentionBackend.SDPA)}


def test_unknown_attention_is_one_sentence():
    with pytest.raises(
        UserError, match=r"'denoiser\.attention' must be joint or block-causal or independent, not 'causal'"
    ):
        tiny_parts().denoiser.set_attention("causal")


def test_another_backend_leaves_the_attention_as_it_is():
    denoiser = tiny_parts().denoiser
    denoiser.set_attention("block-causal")
    denoiser.set_attention_backend(AttentionBackend.XFORMERS)
    assert set(processors(denoiser).values()) == {(BlockCausalAttnProcessor, AttentionBackend.XFORMERS)}
    denoiser.set_attention("joint")
    assert set(processors(denoiser).values()) == {(JointViewAttnProcessor, AttentionBackend.XFORMERS)}
