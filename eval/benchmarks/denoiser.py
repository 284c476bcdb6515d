"""One step of the joint denoiser: a block of four new views, alone and with the five anchors that it may have.

The reference has the same weights, and nothing of what makes the step faster: the attention to each view's single pose
token is computed, and joint attention follows its definition.
"""

import copy
from collections.abc import Iterator, Mapping
from functools import partial

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from attention import AttentionBackend, attention_layers, joint_attention_reference
from attention.backends import attend
from attention.processor import project_in, project_out
from attention.rotary import rotate
from eval.benchmarks.stage import Setup, Stage
from mvgenvs.diffusion.conditions import Conditions
from mvgenvs.diffusion.denoiser import JointDenoiser

VIEWS = (4, 9)


def stages(setup: Setup) -> Iterator[Stage]:
    denoiser = setup.pipeline.denoiser
    plain = plain_copy(denoiser)
    for views in VIEWS:
        inputs = random_inputs(denoiser, views)
        yield Stage(f"denoiser/step-{views}", partial(step, denoiser, *inputs), partial(step, plain, *inputs))


@torch.no_grad()
def step(denoiser: JointDenoiser, xt: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
    return denoiser(xt, sigma, conditions)


def random_inputs(denoiser: JointDenoiser, views: int) -> tuple[Tensor, Tensor, Conditions]:
    """Latents, noise levels and conditions of one set; the time of a step does not depend on their values."""
    config, unet = denoiser.config, denoiser.unet
    generator = torch.Generator().manual_seed(0)

    def maps(channels: int) -> Tensor:
        shape = (1, views, channels, config.latent_size, config.latent_size)
        return torch.randn(shape, generator=generator).to(unet.device)

    sigma = torch.full((1, views), 0.5, device=unet.device)
    poses = torch.randn(1, views, 12, generator=generator).to(unet.device)
    channels = config.latent_channels
    conditions = Conditions(
        maps(unet.config.in_channels - channels), poses, maps(channels), maps(1).abs() + 0.1, 0.3 * maps(3)
    )
    return maps(channels), sigma, conditions


def plain_copy(denoiser: JointDenoiser) -> JointDenoiser:
    plain = copy.deepcopy(denoiser)
    for layer in attention_layers(plain).values():
        layer.set_processor(PlainProcessor())
    return plain


class PlainProcessor:
    """Attention by its definition: joint over the views of a set, and to a view's own context."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,  # which diffusers always passes
        *,
        num_views: int,
        points: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        if encoder_hidden_states is not None:
            out = attend(*project_in(attn, hidden_states, encoder_hidden_states), AttentionBackend.SDPA)
        else:
            query, key, value = project_in(attn, hidden_states, hidden_states)
            if points is not None:
                places = points[hidden_states.shape[1]]
                query, key = rotate(query, places), rotate(key, places)
            query, key, value = (x.flatten(-2) for x in (query, key, value))
            out = joint_attention_reference(query, key, value, num_views, attn.heads)
            out = out.unflatten(-1, (attn.heads, -1))
        return project_out(attn, out)
