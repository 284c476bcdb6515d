"""Every kernel of joint attention that this machine has computes what the reference defines."""

import pytest
import torch
from diffusers.models.attention_processor import Attention

from attention import AttentionBackend, JointViewAttnProcessor, joint_attention_reference, resolve_backend
from attention.backends import attend, attend_block_causal

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HEADS, HEAD_DIM = 2, 32


def works_here(backend: AttentionBackend) -> bool:
    try:
        resolve_backend(backend.value)
    except ValueError:
        return False
    return True


@pytest.fixture(params=[backend for backend in AttentionBackend if works_here(backend)])
def backend(request: pytest.FixtureRequest) -> AttentionBackend:
    return request.param


def projections(views: int, tokens: int, batch: int = 2) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values, (batch view) tokens channels."""
    torch.manual_seed(0)
    return tuple(2 * torch.randn(batch * views, tokens, HEADS * HEAD_DIM, device=DEVICE) for _ in range(3))


def joined(x: torch.Tensor, views: int) -> torch.Tensor:
    return x.reshape(-1, views * x.shape[1], HEADS, HEAD_DIM)


@pytest.mark.parametrize(("views", "tokens"), [(1, 5), (3, 5), (4, 64)])
@torch.no_grad()
def test_joint_attention_equals_the_reference(backend: AttentionBackend, views: int, tokens: int) -> None:
    inputs = projections(views, tokens)
    expected = joint_attention_reference(*inputs, num_views=views, num_heads=HEADS)
    ours = attend(*(joined(x, views) for x in inputs), backend)
    torch.testing.assert_close(ours, joined(expected, views), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("views", "anchors", "tokens"), [(3, 0, 5), (3, 1, 5), (3, 3, 5), (4, 2, 64), (5, 4, 50)])
@torch.no_grad()
def test_block_causal_attention_equals_the_masked_reference(
    backend: AttentionBackend, views: int, anchors: int, tokens: int
) -> None:
    inputs = projections(views, tokens)
    expected = joint_attention_reference(*inputs, num_views=views, num_heads=HEADS, num_anchors=anchors)
    ours = attend_block_causal(*(joined(x, views) for x in inputs), (views - anchors) * tokens, backend)
    torch.testing.assert_close(ours, joined(expected, views), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_new_queries_may_see_more_keys_than_there_are_queries(backend: AttentionBackend) -> None:
    """As they do where the keys of anchors come from a cache."""
    query, key, value = (joined(x, 3) for x in projections(3, 5))
    ours = attend_block_causal(query[:, :5], key, value, 5, backend)
    torch.testing.assert_close(ours, attend(query, key, value, AttentionBackend.SDPA)[:, :5], atol=1e-5, rtol=1e-5)


def test_the_default_is_sdpa_and_works_everywhere() -> None:
    assert works_here(AttentionBackend.SDPA)
    assert JointViewAttnProcessor().backend is AttentionBackend.SDPA
    if DEVICE == "cpu":
        assert resolve_backend("auto") is AttentionBackend.SDPA


def test_attention_to_one_token_is_the_same_the_short_way_and_the_long_way() -> None:
    torch.manual_seed(0)
    layer = Attention(24, cross_attention_dim=7, heads=3, dim_head=8, processor=JointViewAttnProcessor())
    x, context = torch.randn(3, 5, 24), torch.randn(3, 1, 7)
    with_gradient = layer(x, context, num_views=3)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, context, num_views=3), with_gradient, atol=1e-6, rtol=0)
    with_gradient.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())  # what distributed training waits for
