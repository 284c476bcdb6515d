"""What a joint denoiser is told of the views of a set besides their noisy latents."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mvgenvs.cameras import Cameras


@dataclass(frozen=True, eq=False, slots=True)
class Reference:
    """The first known view of each set, for denoisers that are shown it beside every view (`sees_reference`)."""

    latents: Float[Tensor, "batch l h w"]
    embedding: Float[Tensor, "batch k"]  # by the denoiser's `embed`
    camera: Cameras  # (batch, 1)

    def repeat(self, times: int) -> "Reference":
        """Each entry of the batch `times` times in a row."""
        latents, embedding = (x.repeat_interleave(times, dim=0) for x in (self.latents, self.embedding))
        return Reference(latents, embedding, self.camera.repeat(times))


@dataclass(frozen=True, eq=False, slots=True)
class Conditions:
    """All that the denoiser knows of the views besides their noisy latents. Made once per sequence."""

    maps: Float[Tensor, "batch view c mh mw"]  # what the network is shown, at a resolution of its choice
    poses: Float[Tensor, "batch view p"]  # the cameras, as 3 x 4 matrices of the denoiser's choice, or what it needs
    mean: Float[Tensor, "batch view l h w"]  # what the latents are expected to be
    std: Float[Tensor, "batch view k h w"]  # and by how much they may differ: alike (k = 1), or each channel by its own
    points: Float[Tensor, "batch view 3 h w"]  # where in the world the surface is that each latent shows

    def of_set(self, number: int) -> "Conditions":
        """Those of one set, in a batch of 1."""
        return self._map(lambda x: x[number : number + 1])

    def for_draws(self, draws: int) -> "Conditions":
        """Each set's `draws` times in a row."""
        return self if draws == 1 else self._map(lambda x: x.repeat_interleave(draws, dim=0))

    def select(self, views: Int[Tensor, " chosen"]) -> "Conditions":
        """Those of the chosen views, in that order."""
        return self._map(lambda x: x[:, views])

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Conditions":
        return Conditions(*(change(getattr(self, field.name)) for field in dataclasses.fields(Conditions)))


def concatenate_conditions(parts: Sequence[Conditions], dim: int) -> Conditions:
    """Joins conditions along the batch axis (0) or the view axis (1)."""
    names = [field.name for field in dataclasses.fields(Conditions)]
    return Conditions(*(torch.cat([getattr(part, name) for part in parts], dim=dim) for name in names))
