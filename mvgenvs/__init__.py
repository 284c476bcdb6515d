"""mvgenvs: novel views of an object from one picture, with a feature field and a joint multi-view diffusion model."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvgenvs.pipeline import MultiViewPipeline
    from mvgenvs.reconstruction.reconstruct import reconstruct

__version__ = "0.1.0"
__all__ = ["MultiViewPipeline", "__version__", "reconstruct"]


def __getattr__(name: str) -> Any:
    """Imports the pipeline, and diffusers with it, or what makes meshes, on first use."""
    if name == "MultiViewPipeline":
        from mvgenvs.pipeline import MultiViewPipeline

        return MultiViewPipeline
    if name == "reconstruct":
        from mvgenvs.reconstruction.reconstruct import reconstruct

        return reconstruct
    raise AttributeError(f"module 'mvgenvs' has no attribute {name!r}")
