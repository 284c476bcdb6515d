"""The rows of the table: the full system, and baselines that show what each of its parts is worth."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.views import ViewSet

COPY, NERF, INDEPENDENT, JOINT = METHODS = ("copy-nearest", "nerf", "independent", "joint")
DESCRIPTIONS = {
    COPY: "the known view nearest in direction, unchanged",
    NERF: "the volume rendering's RGB alone (pixelNeRF-like)",
    INDEPENDENT: "each view denoised alone: no joint attention, no anchors",
    JOINT: "the full system",
}
RENDER_STEPS = 2  # renders do not depend on the sampler: the fewest steps that every sampler can take


@runtime_checkable
class SamplesViews(Protocol):
    """What is evaluated: `MultiViewPipeline`, or a test's stand-in. See `MultiViewPipeline.__call__`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def predict(
    pipeline: SamplesViews,
    known: ViewSet,
    targets: ViewSet,
    methods: tuple[str, ...],
    sampling: dict[str, Any],
    seed: int,
) -> dict[str, Float[Tensor, "view 3 h w"]]:
    """Predicts the images of `targets`, of which only the cameras are used, by each of `methods`: values in [0, 1].

    `sampling` goes to the pipeline; every call starts from the same noise, that of `seed`.
    """

    def sample(**options: Any) -> Any:
        return pipeline(
            known.images[None],
            known.cameras.batched(),
            targets.cameras.batched(),
            generator=torch.Generator().manual_seed(seed),
            **(sampling | options),
        )

    predicted = {}
    if COPY in methods:
        predicted[COPY] = copy_nearest(known, targets)
    if JOINT in methods:
        predicted[JOINT] = sample(joint=True).images[0]
    if INDEPENDENT in methods or NERF in methods:
        # Renders of this call come from the known views alone, under every plan.
        steps = {} if INDEPENDENT in methods else {"num_inference_steps": RENDER_STEPS}
        alone = sample(joint=False, **steps)
        predicted |= {INDEPENDENT: alone.images[0], NERF: alone.renders[0]}
    return {name: predicted[name].float().cpu() for name in methods}


def copy_nearest(known: ViewSet, targets: ViewSet) -> Float[Tensor, "view 3 h w"]:
    """For each target the known image whose camera lies nearest in direction from the origin."""
    directions = [torch.nn.functional.normalize(views.cameras.centers, dim=-1) for views in (targets, known)]
    return known.images[(directions[0] @ directions[1].T).argmax(dim=1)]
