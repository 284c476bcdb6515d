"""Random numbers for a batch: from one generator per set, seeded by the set.

So losses do not depend on how sets are spread over processes and accumulation steps, and a resumed run equals an
uninterrupted one.
"""

import torch
from jaxtyping import Float
from torch import Tensor


class Draws:
    """Random tensors with a leading batch axis, entry b from generator b; drawn on the CPU, the same for any device."""

    def __init__(self, seeds: list[int], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.device = device

    def normal(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators]).to(self.device)

    def uniform(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators]).to(self.device)


class DeviceDraws(Draws):
    """The same, drawn on a GPU by one generator for the whole batch: draws then depend on how sets are batched."""

    def __init__(self, seeds: list[int], device: torch.device) -> None:
        self.generator = torch.Generator(device).manual_seed(sum(seeds) % 2**62)
        self.batch, self.device = len(seeds), device

    def normal(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        return torch.randn(self.batch, *shape, generator=self.generator, device=self.device)

    def uniform(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        return torch.rand(self.batch, *shape, generator=self.generator, device=self.device)


def draws_of(seeds: list[int], device: torch.device) -> Draws:
    """On a CPU each set has its own generator; on a GPU it matters more to draw there."""
    return (Draws if device.type == "cpu" else DeviceDraws)(seeds, device)
