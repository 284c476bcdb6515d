"""One denoising step of four new views whose anchors' keys and values are cached, against computing them anew.

Anchors can be cached if they attend only to anchors. The weights are random, which changes the result but not the time.
"""

import copy
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from attention import AnchorCache
from eval.benchmarks.denoiser import random_inputs
from eval.benchmarks.stage import Setup, Stage
from mvgenvs.device import torch_threads
from mvgenvs.diffusion.conditions import Conditions
from mvgenvs.diffusion.denoiser import JointDenoiser

NEW = 4
ANCHORS = (1, 4, 8)


def stages(setup: Setup) -> Iterator[Stage]:
    denoiser = copy.deepcopy(setup.unet)
    denoiser.set_attention("block-causal")
    for anchors in ANCHORS:
        inputs = random_inputs(denoiser, NEW + anchors)
        cache = AnchorCache()
        with torch_threads(1):  # as when work is counted: the cache compares anchors bit by bit
            step(denoiser, *inputs, anchors=anchors, cache=cache)  # so that there is something to recall
        yield Stage(
            f"anchor_cache/{anchors}-anchors",
            partial(step, denoiser, *inputs, anchors=anchors, cache=cache),
            partial(step, denoiser, *inputs, anchors=anchors, cache=None),
        )


@torch.no_grad()
def step(
    denoiser: JointDenoiser, xt: Tensor, sigma: Tensor, conditions: Conditions, anchors: int, cache: AnchorCache | None
) -> Tensor:
    """The denoised new views."""
    return denoiser(xt, sigma, conditions, num_anchors=anchors, cache=cache)[:, :NEW]
