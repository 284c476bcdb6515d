"""Joint attention equals its definition, never leaks between sets, and is the same in training and inference."""

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn

import attention.backends
from attention import (
    AttentionBackend,
    BlockCausalAttnProcessor,
    JointViewAttnProcessor,
    add_qk_norm,
    install_joint_attention,
    joint_attention_reference,
    resolve_backend,
)

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
