"""The denoiser's error on noised true views, without sampling.

Sampled pictures accumulate the errors of all steps and the chance of the noise. Here every mode of denoising gets the
same true views with the same noise, and the network is evaluated once. So small differences are visible: between a view
alone and four at once, with anchors and without, with renderings and without.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eval.methods import sample_seed
from eval.progress import progress_bar
from eval.protocols import ORBIT_TARGETS, choose_views
from eval.studies.plans import BLOCK
from mvgenvs.data.stored import CachedScenes
from mvgenvs.diffusion.codec import encode_rendering
from mvgenvs.diffusion.conditions import Conditions, concatenate_conditions
from mvgenvs.diffusion.options import ANCHOR_LEVELS
from mvgenvs.diffusion.plans import make_plan
from mvgenvs.pipeline import MultiViewPipeline

SIGMAS = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
SETS = [block.new for block in make_plan("sliding", 1, ORBIT_TARGETS, BLOCK)]  # 0 is the input, from 1 on the targets
RENDERING = "the rendering itself"


@dataclass(frozen=True)
class Mode:
    """One way to denoise a set of views. Its anchors are true views."""

    name: str
    network: bool = True  # False: the network's output is zero, as in an untrained denoiser; its preconditioning alone
    joint: bool = True  # False: each view is denoised alone
    input: bool = False  # whether the input is an anchor
    neighbours: int = 0  # how many targets before the set are anchors; the orbit is closed, so the first set has some
    anchor_level: str = "clean"  # as in `SamplingOptions`
    rendered: bool = True  # False: no view of the set sees its rendering, as in guidance's unconditional branch

    def anchors(self, new: Sequence[int]) -> list[int]:
        """The anchors of the set `new`: 0 is the input, and the targets count from 1, as in `SETS`."""
        before = [(new[0] - 1 + offset) % ORBIT_TARGETS + 1 for offset in range(-self.neighbours, 0)]
        return [0] * self.input + before


UNTRAINED, ALONE = Mode("F = 0", network=False, joint=False), Mode("alone", joint=False)
MODES = (
    UNTRAINED,
    ALONE,
    Mode("joint"),
    Mode("joint + input", input=True),
    Mode("joint + input + 4 neighbours", input=True, neighbours=4),
    Mode("joint + input, matched", input=True, anchor_level="matched"),
    Mode("rendering dropped, joint + input", input=True, rendered=False),
)


@dataclass(frozen=True, eq=False)
class DenoiserInputs:
    """The denoiser's inputs for one object: its input view, then its targets, in a batch of one."""

    latents: Float[Tensor, "1 view c h w"]  # of the true views
    renders: Float[Tensor, "1 view c h w"]  # of the renderings
    conditions: Conditions
    dropped: Conditions  # without the renderings
    noise: Float[Tensor, "sigma view c h w"]  # standard normal, for each of `SIGMAS`; the same for every mode


@dataclass(frozen=True)
class SetErrors:
    """Root mean square errors of the latents x0 of the views of one set."""

    object: str
    view_ids: list[int]
    rmse: dict[str, list[list[float]]]  # name of the mode -> for each of `SIGMAS` -> for each view


@torch.no_grad()
def measure(
    pipeline: MultiViewPipeline, scenes: CachedScenes, num_objects: int, seed: int = 0, modes: Sequence[Mode] = MODES
) -> list[SetErrors]:
    """The errors of all targets of the orbit of the first objects, with a progress bar.

    Raises `UserError` if an object lacks the views of the orbit.
    """
    found = []
    with progress_bar(num_objects * len(SETS) * len(modes), "denoising") as progress:
        for number in range(num_objects):
            name = scenes.objects[number].name
            progress.set_postfix_str(name)
            view_ids, inputs = prepare_inputs(pipeline, scenes, number, seed)
            for new in SETS:
                chosen = list(new)
                rmse = {RENDERING: _rmse(inputs.renders[:, chosen], inputs.latents[:, chosen]).tolist() * len(SIGMAS)}
                for mode in modes:
                    rmse[mode.name] = denoised_error(pipeline, inputs, new, mode).tolist()
                    progress.update()
                found.append(SetErrors(name, [view_ids[v] for v in new], rmse))
    return found


def prepare_inputs(
    pipeline: MultiViewPipeline, scenes: CachedScenes, number: int, seed: int
) -> tuple[list[int], DenoiserInputs]:
    """The ids of the views on the orbit of an object, and the denoiser's inputs for them, as in sampling."""
    item, views = scenes.objects[number], scenes.read(number).view_set()
    chosen = choose_views(item, views.cameras)
    members = [*chosen.inputs, *chosen.targets]
    views = views.select(members).to(pipeline.device)
    images, cameras = views.images[None], views.cameras.batched()
    codec, nerf, denoiser = pipeline.codec, pipeline.nerf, pipeline.denoiser
    rendering = nerf.render(nerf.encode(views.rgba[None, :1], cameras.select([0]), find_empty=True), cameras)
    renders = encode_rendering(codec, rendering.rgb, denoiser.config.latent_size)
    seen = renders if denoiser.sees_render_latents else torch.zeros_like(renders)
    dropped = torch.ones(1, len(members), dtype=torch.bool, device=pipeline.device)
    latents = codec.encode(images[0])
    draws = [torch.Generator().manual_seed(sample_seed(seed, f"{item.name}/{sigma}", 0)) for sigma in SIGMAS]
    inputs = DenoiserInputs(
        latents[None],
        renders,
        denoiser.conditions(rendering, seen, cameras),
        denoiser.conditions(rendering, seen, cameras, dropped),
        torch.stack([torch.randn(latents.shape, generator=draw) for draw in draws]).to(latents),
    )
    return [item.view_ids[i] for i in members], inputs


def denoised_error(
    pipeline: MultiViewPipeline, inputs: DenoiserInputs, new: Sequence[int], mode: Mode
) -> Float[Tensor, "sigma new"]:
    """The error of the `new` views, with all noise levels in one batch."""
    anchors = mode.anchors(new)
    members = torch.tensor([*new, *anchors], device=pipeline.device)
    x0, noise = inputs.latents[:, members], inputs.noise[:, members]
    sigma = torch.tensor(SIGMAS, dtype=x0.dtype, device=x0.device)[:, None].repeat(1, len(members))
    sigma[:, len(new) :].clamp_(max=ANCHOR_LEVELS[mode.anchor_level])
    conditions = (inputs.conditions if mode.rendered else inputs.dropped).select(members)
    xt, each = x0 + sigma[..., None, None, None] * noise, concatenate_conditions([conditions] * len(SIGMAS), dim=0)
    with nullcontext() if mode.network else pipeline.denoiser.final_layer.register_forward_hook(_zeroed):
        made = pipeline.denoiser(xt, sigma, each, joint=mode.joint, num_anchors=len(anchors))
    return _rmse(made[:, : len(new)], x0[:, : len(new)])


def _zeroed(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """A forward hook: the output of an untrained network, whose last layer is zero."""
    return torch.zeros_like(output)


def _rmse(a: Float[Tensor, "#set view c h w"], b: Float[Tensor, "#set view c h w"]) -> Float[Tensor, "set view"]:
    return (a - b).square().mean(dim=(-1, -2, -3)).sqrt()
