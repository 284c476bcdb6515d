"""One step of each joint denoiser: a block of four new views, alone and with the five anchors that it may have.

`unet` is a joint UNet of the size of the H100's first recipe; `tokens` is the bundled transformer on views of a car, of
which it computes what is near the object. The reference has the same weights, and nothing that makes the step faster:
the attention to each view's single pose token is computed, and joint attention follows its definition. `everywhere`
compares the transformer with itself when it computes all tokens: another result, as views attend to background too.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from attention import AttentionBackend, attention_layers, joint_attention_reference
from attention.backends import attend
from attention.processor import project_in, project_out
from attention.rotary import rotate
from eval.benchmarks.nerf import SAMPLE, nothing
from eval.benchmarks.stage import Setup, Stage
from mvgenvs.data.scenes import open_scenes
from mvgenvs.diffusion.codec import encode_rendering
from mvgenvs.diffusion.conditions import Conditions
from mvgenvs.diffusion.denoiser import JointDenoiser
from mvgenvs.diffusion.joint_model import JointModel
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.trajectories import orbit

VIEWS = (4, 9)
Inputs = tuple[Tensor, Tensor, Conditions]  # latents, noise levels, conditions


def stages(setup: Setup) -> Iterator[Stage]:
    yield from _stages_of("unet", setup.unet, partial(random_inputs, setup.unet))
    yield from _stages_of("tokens", setup.pipeline.denoiser, partial(rendered_inputs, setup.pipeline))
    for views in VIEWS:
        xt, sigma, near = rendered_inputs(setup.pipeline, views)
        maps = near.maps.clone()
        maps[:, :, -1] = 1  # computed everywhere
        everywhere = replace(near, maps=maps)
        run, whole = (partial(step, setup.pipeline.denoiser, xt, sigma, each) for each in (near, everywhere))
        yield Stage(f"denoiser/everywhere-{views}", nothing(run), nothing(whole))


def _stages_of(name: str, denoiser: JointModel, inputs_of: Callable[[int], Inputs]) -> Iterator[Stage]:
    plain = plain_copy(denoiser)
    for views in VIEWS:
        inputs = inputs_of(views)
        yield Stage(f"denoiser/{name}-{views}", partial(step, denoiser, *inputs), partial(step, plain, *inputs))


@torch.no_grad()
def step(denoiser: JointModel, xt: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
    return denoiser(xt, sigma, conditions)


@torch.no_grad()
def rendered_inputs(pipeline: MultiViewPipeline, views: int) -> Inputs:
    """An orbit of the tests' car, lifted from one view."""
    known = open_scenes(SAMPLE, "val", 128).read(0).view_set().select([0]).to(pipeline.device)
    cameras = orbit(views, azimuth=30.0).to(pipeline.device).batched()
    scene = pipeline.nerf.encode(known.rgba[None], known.cameras.batched())
    rendering = pipeline.nerf.render(scene, cameras)
    latents = encode_rendering(pipeline.codec, rendering.rgb, pipeline.denoiser.config.latent_size)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
    sigma = torch.full((1, views), 0.5, device=latents.device)
    return latents + 0.5 * noise, sigma, pipeline.denoiser.conditions(rendering, latents, cameras)


def random_inputs(denoiser: JointDenoiser, views: int) -> Inputs:
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


def plain_copy(denoiser: JointModel) -> JointModel:
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
