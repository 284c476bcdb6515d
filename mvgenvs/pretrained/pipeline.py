"""Lets diffusers' `DiffusionPipeline.from_pretrained` find the class of this pipeline; needs the package mvgenvs."""

from mvgenvs.pipeline import MultiViewPipeline

__all__ = ["MultiViewPipeline"]
