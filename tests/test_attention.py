"""Joint attention equals its definition, never leaks between sets, and is the same in training and inference."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from tiny import ring_cameras, stacked, tiny_config, tiny_parts, without_qk_norm
from torch import nn

import attention.backends
from attention import (
    AnchorCache,
    AttentionBackend,
    BlockCausalAttnProcessor,
    IndependentViewAttnProcessor,
    JointViewAttnProcessor,
    add_qk_norm,
    attention_layers,
    install_joint_attention,
    joint_attention_reference,
    resolve_backend,
)
from mvgenvs.config import TrainConfig
from mvgenvs.errors import UserError
from mvgenvs.nerf.model import Rendering
from mvgenvs.parts import Parts
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training.memory import blank_batch
from mvgenvs.training.objective import Objective

CHANNELS, HEADS, TOKENS = 24, 3, 5


def make_layer(
    qk_norm: bool = False, backend: AttentionBackend = AttentionBackend.SDPA, attention: str = "joint"
) -> Attention:
    torch.manual_seed(0)
    holder = nn.Sequential(Attention(CHANNELS, heads=HEADS, dim_head=CHANNELS // HEADS, bias=True))
    if qk_norm:
        add_qk_norm(holder)
        nn.init.uniform_(holder[0].norm_q.weight, 0.5, 2)
        nn.init.uniform_(holder[0].norm_k.weight, 0.5, 2)
    install_joint_attention(holder, backend, attention)
    return holder[0].eval()


def tokens(views: int, sets: int = 2, seed: int = 1) -> torch.Tensor:
    return 2 * torch.randn(sets * views, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("views", [1, 2, 4])
@torch.no_grad()
def test_processor_equals_the_reference(views):
    layer, x = make_layer(), tokens(views)
    expected = joint_attention_reference(layer.to_q(x), layer.to_k(x), layer.to_v(x), views, HEADS)
    torch.testing.assert_close(layer(x, num_views=views), layer.to_out[0](expected), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_reference_is_softmax_attention_over_the_tokens_of_all_views():
    query, key, value = tokens(2, sets=1, seed=1), tokens(2, sets=1, seed=2), tokens(2, sets=1, seed=3)
    out = joint_attention_reference(query, key, value, num_views=2, num_heads=1)
    all_keys, all_values = key.flatten(0, 1), value.flatten(0, 1)
    for view in range(2):
        for token in range(TOKENS):
            weights = (all_keys @ query[view, token] / CHANNELS**0.5).softmax(dim=0)
            torch.testing.assert_close(out[view, token], weights @ all_values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
@torch.no_grad()
def test_one_view_equals_stock_diffusers(qk_norm):
    layer, x = make_layer(qk_norm), tokens(views=1)
    ours = layer(x, num_views=1)
    layer.set_processor(AttnProcessor2_0())
    torch.testing.assert_close(ours, layer(x), atol=1e-5, rtol=0)


@torch.no_grad()
def test_cross_attention_equals_stock_diffusers_and_stays_within_its_view():
    torch.manual_seed(0)
    layer = Attention(CHANNELS, cross_attention_dim=7, heads=HEADS, dim_head=8)
    x, context = tokens(views=3, sets=1), torch.randn(3, 2, 7)
    stock = layer(x, context)
    install_joint_attention(nn.Sequential(layer))
    torch.testing.assert_close(layer(x, context, num_views=3), stock, atol=1e-5, rtol=0)


@torch.no_grad()
def test_permuting_views_permutes_outputs():
    layer, x, order = make_layer(qk_norm=True), tokens(views=4, sets=1), [2, 0, 3, 1]
    torch.testing.assert_close(layer(x[order], num_views=4), layer(x, num_views=4)[order], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_sets_never_leak():
    layer, x = make_layer(), tokens(views=3, sets=2)
    changed = torch.cat([x[:3], tokens(views=3, sets=1, seed=9)])
    before, after = layer(x, num_views=3), layer(changed, num_views=3)
    assert torch.equal(before[:3], after[:3])
    assert not torch.equal(before[3:], after[3:])


@torch.no_grad()
def test_views_of_a_set_see_one_another():
    layer, x = make_layer(), tokens(views=3, sets=1)
    changed = torch.cat([x[:2], tokens(views=1, sets=1, seed=9)])
    difference = (layer(x, num_views=3) - layer(changed, num_views=3)).abs().amax(dim=(1, 2))
    assert (difference > 1e-2).all()


def test_a_call_without_num_views_fails():
    with pytest.raises(TypeError, match="num_views"):
        make_layer()(tokens(views=2))


def test_masks_are_refused():
    with pytest.raises(ValueError, match="mask"):
        JointViewAttnProcessor().__call__.__wrapped__(  # below the shape checks, which refuse it as well
            JointViewAttnProcessor(), make_layer(), tokens(2), None, torch.ones(1), num_views=2
        )


# Block-causal attention


@pytest.mark.parametrize(("views", "anchors"), [(1, 0), (3, 0), (2, 1), (4, 1), (4, 3), (3, 3)])
@torch.no_grad()
def test_two_attention_calls_equal_the_masked_reference(views, anchors):
    layer, x = make_layer(attention="block-causal"), tokens(views)
    expected = joint_attention_reference(layer.to_q(x), layer.to_k(x), layer.to_v(x), views, HEADS, anchors)
    ours = layer(x, num_views=views, num_anchors=anchors)
    torch.testing.assert_close(ours, layer.to_out[0](expected), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_masked_reference_is_softmax_attention_over_what_a_view_may_see():
    query, key, value = tokens(3, sets=1, seed=1), tokens(3, sets=1, seed=2), tokens(3, sets=1, seed=3)
    out = joint_attention_reference(query, key, value, num_views=3, num_heads=1, num_anchors=2)
    for view, seen in ((0, [0, 1, 2]), (1, [1, 2]), (2, [1, 2])):
        for token in range(TOKENS):
            weights = (key[seen].flatten(0, 1) @ query[view, token] / CHANNELS**0.5).softmax(dim=0)
            torch.testing.assert_close(out[view, token], weights @ value[seen].flatten(0, 1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_without_anchors_block_causal_is_joint():
    x = tokens(views=3)
    causal = make_layer(qk_norm=True, attention="block-causal")(x, num_views=3, num_anchors=0)
    torch.testing.assert_close(causal, make_layer(qk_norm=True)(x, num_views=3), atol=1e-6, rtol=0)


@torch.no_grad()
def test_anchors_do_not_see_new_views():
    layer, x = make_layer(attention="block-causal"), tokens(views=4, sets=1)
    before = layer(x, num_views=4, num_anchors=2)
    for changed_view, hearers in ((0, [True, True, False, False]), (3, [True, True, True, True])):
        changed = x.clone()
        changed[changed_view] = tokens(views=1, sets=1, seed=9)
        difference = (layer(changed, num_views=4, num_anchors=2) - before).abs().amax(dim=(1, 2))
        assert (difference > 1e-2).tolist() == hearers
        assert (difference[~torch.tensor(hearers)] == 0).all()


@torch.no_grad()
def test_block_causal_cross_attention_stays_within_its_view():
    torch.manual_seed(0)
    layer = Attention(CHANNELS, cross_attention_dim=7, heads=HEADS, dim_head=8)
    x, context = tokens(views=3, sets=1), torch.randn(3, 2, 7)
    stock = layer(x, context)
    install_joint_attention(nn.Sequential(layer), attention="block-causal")
    torch.testing.assert_close(layer(x, context, num_views=3, num_anchors=1), stock, atol=1e-5, rtol=0)


def test_block_causal_calls_must_say_how_many_anchors_there_are():
    layer = make_layer(attention="block-causal")
    with pytest.raises(TypeError, match="num_anchors"):
        layer(tokens(views=2), num_views=2)
    for impossible in (3, -1):
        with pytest.raises(ValueError, match="cannot have"):
            layer(tokens(views=2), num_views=2, num_anchors=impossible)
    with pytest.raises(ValueError, match="mask"):
        BlockCausalAttnProcessor().__call__.__wrapped__(
            BlockCausalAttnProcessor(), layer, tokens(2), None, torch.ones(1), num_views=2, num_anchors=1
        )


# Independent attention


@torch.no_grad()
def test_independent_views_are_sets_of_one_view():
    layer, x = make_layer(qk_norm=True, attention="independent"), tokens(views=3)
    assert torch.equal(layer(x, num_views=3), make_layer(qk_norm=True)(x, num_views=1))
    assert not torch.allclose(layer(x, num_views=3), make_layer(qk_norm=True)(x, num_views=3), atol=1e-2)
    with pytest.raises(TypeError, match="num_views"):
        layer(x)


# The UNet of the denoiser


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


# Backends


def test_unknown_backend_is_one_sentence():
    with pytest.raises(ValueError, match="no attention backend 'flash9': choose auto, sdpa, xformers, flex"):
        resolve_backend("flash9")


def test_a_backend_that_does_not_work_here_is_one_sentence(monkeypatch):
    monkeypatch.setattr(attention.backends, "_failure", lambda backend: "ImportError on cpu")
    with pytest.raises(ValueError, match=r"'xformers' does not work on this machine \(ImportError on cpu\): use sdpa"):
        resolve_backend("xformers")
    assert resolve_backend("auto") is AttentionBackend.SDPA


def test_a_backend_is_judged_by_a_trial(monkeypatch):
    def broken(*_):
        raise OSError("built for another torch")

    attention.backends._failure.cache_clear()
    monkeypatch.setattr(attention.backends, "attend", broken)
    with pytest.raises(ValueError, match="OSError"):
        resolve_backend("xformers")
    monkeypatch.undo()
    attention.backends._failure.cache_clear()
    assert resolve_backend("sdpa") is AttentionBackend.SDPA


@pytest.mark.parametrize("views", [1, 3])
@torch.no_grad()
def test_xformers_equals_sdpa(views):
    if failure := attention.backends._failure(AttentionBackend.XFORMERS):
        pytest.skip(f"xformers does not work on this machine: {failure}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    x = tokens(views).to(device, dtype)
    sdpa = make_layer().to(device, dtype)(x, num_views=views)
    xformers = make_layer(backend=AttentionBackend.XFORMERS).to(device, dtype)(x, num_views=views)
    torch.testing.assert_close(xformers, sdpa, atol=2e-3 if device == "cuda" else 1e-5, rtol=1e-2)
