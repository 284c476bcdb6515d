"""A stage of the system to be measured, with its plain reference and its ceiling."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Stage:
    """One piece of work, which `run` does once on inputs that are already made.

    If `run` and `reference` return tensors, these are compared. Work that is bound by memory states the bytes that it
    must read and write; its ceiling is then the copy rate.
    """

    name: str  # "<family>/<what>"
    run: Callable[[], Any]
    reference: Callable[[], Any] | None = None  # the same result, computed the plain way
    flops: int | None = None  # of one run; by default counted by `measure.count_flops`
    moved_bytes: int | None = None
    ceiling: str = "matmul-fp32"  # a key of `ceilings.ceilings`


@dataclass(frozen=True, eq=False)
class Setup:
    """What the stages of all families have in common."""

    device: torch.device

    @cached_property
    def pipeline(self) -> Any:
        """The bundled pipeline on the device."""
        from mvgenvs.pipeline import MultiViewPipeline

        pipeline = MultiViewPipeline.from_pretrained("bundled").to(self.device)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @cached_property
    def unet(self) -> Any:
        """A joint UNet on the device, of the size of the one that an H100 trained first; its weights are random."""
        from mvgenvs.diffusion.denoiser import JointDenoiser

        torch.manual_seed(0)
        return JointDenoiser(
            latent_channels=48,
            latent_size=32,
            condition_scale=1,
            block_out_channels=(96, 128, 160),
            attention_levels=(False, True, True),
            show_prior=True,
            rotary_points=True,
        ).to(self.device)
