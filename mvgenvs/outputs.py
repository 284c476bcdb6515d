"""What a pipeline returns: pictures as tensors, arrays or PIL images, as in diffusers; and its callbacks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput, numpy_to_pil
from jaxtyping import Float
from PIL import Image
from torch import Tensor, stack

from mvgenvs.diffusion.sequence import OnStep
from mvgenvs.diffusion.state import Frames, StepState
from mvgenvs.errors import UserError

OUTPUT_TYPES = ("pt", "np", "pil")
CALLBACK_TENSORS = ("latents",)
Callback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]

if TYPE_CHECKING:  # the actual type depends on the value of `output_type`
    Pictures = Depth = Any
else:
    Pictures = Float[Tensor, "batch view 3 h w"] | Float[np.ndarray, "batch view h w 3"] | list[list[Image.Image]]
    Depth = Float[Tensor, "batch view 1 h w"] | Float[np.ndarray, "batch view h w 1"]


@dataclass
class MultiViewOutput(BaseOutput):
    """All target views. Pictures are in [0, 1]; if `output_type` is "pil", they are lists of lists of PIL images."""

    images: Pictures
    renders: Pictures
    """the NeRF's RGB alone"""
    depth: Depth
    """the NeRF's z-depth in world units, 0 where nothing is hit; an array if `output_type` is "pil", too"""


def gather_views(blocks: Sequence[Frames], output_type: str) -> MultiViewOutput:
    """The views of all blocks in their order; of views made twice, the later ones."""
    places = {view: (block, i) for block in blocks for i, view in enumerate(block.indices)}

    def gather(name: str) -> Any:
        parts = [getattr(places[view][0], name)[:, places[view][1]] for view in sorted(places)]
        pictures = stack(parts, dim=1)
        return pictures if output_type == "pt" else pictures.movedim(2, -1).cpu().numpy()

    images, renders, depth = (gather(name) for name in ("images", "renders", "depth"))
    if output_type == "pil":
        images, renders = ([numpy_to_pil(views) for views in sets] for sets in (images, renders))
    return MultiViewOutput(images=images, renders=renders, depth=depth)


BLACK = 1 / 255  # a view without a brighter pixel shows nothing


def check_shown(frames: Frames) -> None:
    """Raises `UserError` if a finished view is not finite or all black: half precision or sampling has overflowed."""
    why = "use --dtype float32, less --guidance or --churn, or another --checkpoint"
    for name in ("images", "renders", "depth"):
        if not getattr(frames, name).isfinite().all():
            raise UserError(f"the model made {name} that are not finite numbers: {why}")
    if (frames.images.flatten(2).amax(dim=2) <= BLACK).any():
        raise UserError(f"the model made a view that is all black: {why}")


def check_output_type(output_type: str) -> None:
    """Raises `UserError` for an unknown output type."""
    if output_type not in OUTPUT_TYPES:
        raise UserError(f"there is no output_type '{output_type}': choose one of {', '.join(OUTPUT_TYPES)}")


def step_callback(pipeline: Any, callback: Callback, tensors: Sequence[str]) -> OnStep:
    """Calls back as diffusers' pipelines do, counting steps over all blocks; returned latents replace the current ones.

    Raises `UserError` for tensors that a callback cannot have, and for latents of another shape.
    """
    if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        tensors = callback.tensor_inputs
    for name in tensors:
        if name not in CALLBACK_TENSORS:
            raise UserError(f"callbacks cannot have '{name}', only {', '.join(CALLBACK_TENSORS)}")

    def on_step(state: StepState) -> None:
        step = state.block * state.num_steps + state.step
        returned = callback(pipeline, step, state.timestep, {name: getattr(state, name) for name in tensors}) or {}
        latents = returned.get("latents", state.latents)
        if latents.shape != state.latents.shape:
            raise UserError(f"a callback made latents {tuple(latents.shape)} of {tuple(state.latents.shape)}")
        state.latents, state.stop = latents, pipeline.interrupt

    return on_step
