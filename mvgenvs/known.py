"""Checks of what callers give the pipeline: input that would be misunderstood is refused in one sentence."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError

SHAPE = "a tensor of shape (batch, known, 3 or 4, height, width)"


def check_known(
    images: Any, cameras: Cameras | None, target_cameras: Cameras, size: int, unconditional: bool
) -> Float[Tensor, "batch known c h w"] | None:
    """The known images in fp32, or None if there are none (`unconditional`); a fourth channel is a matte.

    Raises `UserError`.
    """
    if target_cameras.c2w.ndim != 4:
        raise UserError("target_cameras need a batch axis, (batch, view): see Cameras.batched")
    check_cameras(target_cameras, "target_cameras")
    if unconditional:
        if images is not None or cameras is not None:
            raise UserError("unconditional views take no images and no cameras: pass None for both")
        return None
    if images is None or cameras is None:
        raise UserError("known views are needed: give images and their cameras, or ask for unconditional views")
    if not isinstance(images, Tensor):
        raise UserError(f"images must be {SHAPE}, not {type(images).__name__}")
    if images.ndim != 5 or images.shape[2] not in (3, 4):
        raise UserError(f"images must be {SHAPE}, not {tuple(images.shape)}")
    if tuple(images.shape[-2:]) != (size, size):
        raise UserError(f"images must be {size} x {size} pixels, not {tuple(images.shape[-2:])}")
    if not images.is_floating_point():
        raise UserError(f"images must be in [0, 1] and of a floating type, not {images.dtype}: divide them by 255")
    low, high = (x.item() for x in images.aminmax()) if images.numel() else (0.0, 0.0)
    if not (low >= -0.01 and high <= 1.01):
        raise UserError(f"images must be in [0, 1], but go from {low:.3g} to {high:.3g}")
    if cameras.c2w.ndim != 4 or cameras.c2w.shape[:2] != images.shape[:2]:
        raise UserError(
            f"images are (batch, known) = {tuple(images.shape[:2])}, but their cameras {tuple(cameras.c2w.shape[:-2])}"
        )
    if target_cameras.c2w.shape[0] != images.shape[0]:
        raise UserError(f"there are images of {images.shape[0]} objects, but targets of {target_cameras.c2w.shape[0]}")
    check_cameras(cameras, "cameras")
    return images.to(torch.float32)


def check_cameras(cameras: Cameras, name: str) -> None:
    """Raises `UserError` unless all poses and intrinsics are finite, and all focal lengths above 0."""
    if not (cameras.c2w.isfinite().all() and cameras.K.isfinite().all()):
        raise UserError(f"{name} must hold finite numbers only")
    if not (cameras.K[..., [0, 1], [0, 1]] > 0).all():
        raise UserError(f"{name} must have focal lengths above 0")
