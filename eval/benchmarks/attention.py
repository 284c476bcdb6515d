"""Joint attention by views x tokens per view, on every kernel that works here, against its definition.

Heads are those of the bundled model. The definition writes all scores to memory, as flex does without its compiler:
on a CPU both stop at 4096 tokens. Block-causal attention is that of four new views and five anchors.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from attention import AttentionBackend, joint_attention_reference, resolve_backend
from attention.backends import attend, attend_block_causal
from eval.benchmarks.stage import Setup, Stage

VIEWS, TOKENS = (4, 8, 16, 32), (64, 256)
HEADS, HEAD_DIM = 4, 36
NEW, ANCHORS = 4, 5
MOST_SCORES = 4096**2
Projections = tuple[Tensor, Tensor, Tensor]  # queries, keys and values


def stages(setup: Setup) -> Iterator[Stage]:
    works = [backend for backend in AttentionBackend if _works(backend)]
    for tokens in TOKENS:
        for views in VIEWS:
            inputs = _projections(views, tokens, setup.device)
            few = (views * tokens) ** 2 <= MOST_SCORES
            for backend in works:
                if few or backend is not AttentionBackend.FLEX or setup.device.type == "cuda":
                    yield Stage(
                        f"attention/{backend.value}-{views}x{tokens}",
                        partial(_joint, inputs, backend),
                        partial(_definition, inputs, views) if few else None,
                        flops=_flops((views * tokens) ** 2),
                    )
    tokens, views = TOKENS[-1], NEW + ANCHORS
    inputs = _projections(views, tokens, setup.device)
    for backend in works:
        yield Stage(
            f"attention/{backend.value}-causal-{views}x{tokens}",
            partial(_causal, inputs, NEW * tokens, backend),
            partial(_definition, inputs, views, ANCHORS),
            flops=_flops((NEW * views + ANCHORS**2) * tokens**2),
        )


def _works(backend: AttentionBackend) -> bool:
    try:
        resolve_backend(backend.value)
    except ValueError:
        return False
    return True


def _projections(views: int, tokens: int, device: torch.device) -> Projections:
    """Queries, keys and values of one set, (1, view x token, head, channel)."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, views * tokens, HEADS, HEAD_DIM)
    query, key, value = (torch.randn(shape, generator=generator).to(device) for _ in range(3))
    return query, key, value


def _flops(pairs: int) -> int:
    """Two products, of queries with keys and of weights with values."""
    return 4 * HEADS * HEAD_DIM * pairs


@torch.no_grad()
def _joint(inputs: Projections, backend: AttentionBackend) -> Tensor:
    return attend(*inputs, backend)


@torch.no_grad()
def _causal(inputs: Projections, num_new: int, backend: AttentionBackend) -> Tensor:
    return attend_block_causal(*inputs, num_new, backend)


@torch.no_grad()
def _definition(inputs: Projections, views: int, anchors: int = 0) -> Tensor:
    query, key, value = (x.reshape(views, -1, HEADS * HEAD_DIM) for x in inputs)
    out = joint_attention_reference(query, key, value, views, HEADS, anchors)
    return out.reshape(inputs[0].shape)
