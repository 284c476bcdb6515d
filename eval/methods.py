"""The rows of the table: the full system, baselines that show what each of its parts is worth, and the ground truth."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from eval.directions import direction_cosines
from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError
from mvgenvs.views import ViewSet

COPY, NERF, DISTILLED, INDEPENDENT, JOINT, TRUTH = ROWS = (
    "copy-nearest", "nerf", "distilled", "independent", "joint", "truth",
)  # fmt: skip
VIEWS = "views"  # the row of views from elsewhere, which `eval.score` measures
DESCRIPTIONS = {
    COPY: "the known view nearest in direction, unchanged",
    NERF: "the volume rendering's RGB alone (pixelNeRF-like)",
    DISTILLED: "the NeRF's RGB once tuned to what the denoiser makes of it (NerfDiff); slow: only if asked for",
    INDEPENDENT: "each view denoised alone: no joint attention, no anchors; how bad consistency can get",
    JOINT: "the full system",
    TRUTH: "the true images: the best result that a consistency metric can give on them",
    VIEWS: "the views that were given",
}
RENDER_STEPS = 2  # renderings do not depend on the sampler: the fewest steps that every sampler can take


@runtime_checkable
class SamplesViews(Protocol):
    """The evaluated model: `MultiViewPipeline`, or a test's stand-in. See `MultiViewPipeline.__call__`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def predictions(
    pipeline: SamplesViews,
    known: ViewSet,
    cameras: Cameras,
    methods: Sequence[str],
    sampling: dict[str, Any],
    seeds: Sequence[int],
) -> Iterator[tuple[str, Float[Tensor, "sample view 3 h w"]]]:
    """Yields each method's images of the views at `cameras`, in [0, 1]; one sample per seed if the method samples.

    `sampling` goes to the pipeline. Every call depends only on the noise of its seed, so the first sample is the same
    however many follow, and joint and independent denoising start alike.
    """

    @torch.no_grad()
    def sample(seed: int, **options: Any) -> Any:
        return pipeline(
            known.rgba[None],
            known.cameras.batched(),
            cameras.batched(),
            generator=torch.Generator().manual_seed(seed),
            **(sampling | options),
        )

    if COPY in methods:
        yield COPY, copy_nearest(known, cameras)[None].float().cpu()
    if INDEPENDENT in methods:
        alone = [sample(seed, joint=False) for seed in seeds]
        if NERF in methods:
            yield NERF, alone[0].renders.float().cpu()
        yield INDEPENDENT, torch.cat([output.images for output in alone]).float().cpu()
    elif NERF in methods:
        # These renderings come from the known views alone, with every plan.
        yield NERF, sample(seeds[0], joint=False, num_inference_steps=RENDER_STEPS).renders.float().cpu()
    if DISTILLED in methods:
        given = known.rgba[None], known.cameras.batched(), cameras.batched()
        whole: Any = pipeline
        tuned = [whole.distill(*given, torch.Generator().manual_seed(seed)).images for seed in seeds]
        yield DISTILLED, torch.cat(tuned).float().cpu()
    if JOINT in methods:
        yield JOINT, torch.cat([sample(seed, joint=True).images for seed in seeds]).float().cpu()


def check_rows(pipeline: Any, methods: Sequence[str]) -> None:
    """Raises `UserError` for rows of the NeRF's views, where the denoiser never sees it and none are rendered."""
    if wrong := [row for row in (NERF, DISTILLED) if row in methods and not pipeline.denoiser.sees_rendering]:
        raise UserError(f"this model's denoiser never sees its NeRF, so there is no row {wrong[0]}: choose --methods")


def copy_nearest(known: ViewSet, cameras: Cameras) -> Float[Tensor, "view 3 h w"]:
    """For each camera, the known image whose own camera is nearest in direction from the origin."""
    return known.images[direction_cosines(cameras, known.cameras).argmax(dim=1)]


def sample_seed(seed: int, name: str, number: int) -> int:
    """The seed of one sample of the object `name`: its noise does not depend on which samples come before it."""
    text = f"{seed}/{name}" if number == 0 else f"{seed}/{name}/{number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
