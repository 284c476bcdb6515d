"""Which number format is the fastest on this machine and makes the same pictures, found out by a short trial."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.device import clock
from mvgenvs.diffusion.conditions import concatenate_conditions
from mvgenvs.known import check_known
from mvgenvs.model import ViewSampler

TOLERANCE = 1 / 255  # mean absolute difference of pictures in [0, 1]
GAIN = 1.1  # how many times as fast another format must be
TOO_SHORT = 0.02  # seconds of a step: whoever needs no more gains nothing, and so short times say little
FEW_STEPS = 30  # of a whole sequence: a trial is about five of them, which fewer do not earn back
SIGMA = 1.0  # the noise level of the trial


@torch.no_grad()
def fastest_precision(
    pipe: ViewSampler,
    images: Float[Tensor, "batch known c h w"] | None,
    cameras: Cameras | None,
    target_cameras: Cameras,
    num_views: int,
    num_steps: int,
) -> torch.dtype:
    """The format for a sequence of `num_steps` sampler steps of `num_views` views. Leaves `pipe` in fp32."""
    pipe.set_precision(torch.float32)
    if num_steps < FEW_STEPS:
        return torch.float32
    step = _step(pipe, images, cameras, target_cameras, num_views)
    seconds, expected = _timed(step, pipe.device)
    if seconds < TOO_SHORT:
        return torch.float32
    best, least = torch.float32, seconds / GAIN
    for dtype in (torch.bfloat16, torch.float16) if pipe.device.type == "cuda" else (torch.bfloat16,):
        pipe.set_precision(dtype)
        seconds, made = _timed(step, pipe.device)
        if seconds < least and (made - expected).abs().mean().item() <= TOLERANCE:  # not so where it is NaN
            best, least = dtype, seconds
    pipe.set_precision(torch.float32)
    return best


def _step(
    pipe: ViewSampler,
    images: Float[Tensor, "batch known c h w"] | None,
    cameras: Cameras | None,
    target_cameras: Cameras,
    num_views: int,
) -> Callable[[], Float[Tensor, "batch view 3 h w"]]:
    """Denoises and decodes the first target, `num_views` times in a set, from always the same noise."""
    networks, hw = pipe.networks, (pipe.size, pipe.size)
    known = check_known(images, cameras, target_cameras, pipe.size, unconditional=images is None)
    scene = None
    if known is not None and cameras is not None:
        scene = networks.lift([known.to(pipe.device)], cameras.to(pipe.device).resized(hw))
    camera = target_cameras.select([0]).to(pipe.device).resized(hw)
    view = networks.render_view(scene, camera, guided=False, start=True)
    assert view.latents is not None  # as they were asked for
    x0 = view.latents.repeat(1, num_views, 1, 1, 1)
    xt = x0 + SIGMA * torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)).to(x0)
    levels = torch.full(x0.shape[:2], SIGMA, device=x0.device)
    conditions = concatenate_conditions([view.conditions] * num_views, dim=1)
    detail = networks.detail(scene, view.render.repeat(1, num_views, 1, 1, 1))

    def step() -> Float[Tensor, "batch view 3 h w"]:
        networks = pipe.networks  # in the precision of now
        return networks.decode(networks.denoise(xt, levels, conditions), detail)

    return step


def _timed(step: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Seconds of work, which on a CPU others on the machine disturb little, and the pictures."""
    now = clock(device)
    step()  # the first call allocates and casts
    begun = now()
    made = step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return now() - begun, made
