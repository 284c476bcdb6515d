"""What makes a step of the denoiser faster does not change its results."""

import torch
from tiny import ring_cameras, stacked, tiny_parts

from attention import attention_layers
from mvgenvs.nerf.model import Rendering
from mvgenvs.pipeline import MultiViewPipeline


def inputs(pipeline: MultiViewPipeline, views: int = 3) -> tuple:
    torch.manual_seed(4)
    rendering = Rendering(torch.rand(1, views, 16, 8, 8), torch.rand(1, views, 1, 8, 8), torch.rand(1, views, 1, 8, 8))
    cameras = stacked(ring_cameras(views), 1)
    conditions = pipeline.denoiser.conditions(rendering, torch.randn(1, views, 8, 4, 4), cameras)
    return torch.randn(1, views, 8, 4, 4), torch.rand(1, views) + 0.1, conditions


def test_a_step_without_gradient_equals_one_with_it() -> None:
    """Without, the attention to the one pose token of each view is not worked out."""
    pipeline = MultiViewPipeline.from_parts(tiny_parts())
    denoiser = pipeline.denoiser.eval()
    with_gradient = denoiser(*inputs(pipeline))
    queries = [layer.to_q for layer in attention_layers(denoiser).values() if layer.is_cross_attention]
    calls: list[None] = []
    for query in queries:
        query.register_forward_hook(lambda *_: calls.append(None))
    with torch.no_grad():
        torch.testing.assert_close(denoiser(*inputs(pipeline)), with_gradient, atol=1e-5, rtol=0)
    assert queries and not calls
    with_gradient.sum().backward()
    assert all(query.weight.grad is not None for query in queries)
