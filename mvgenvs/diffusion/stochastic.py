"""Stochastic conditioning: each step of a sampler sees one finished view, drawn anew [3DiM, arXiv 2210.04628].

A model of two frames, one clean and one noisy, so makes use of all the views that there are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mvgenvs.diffusion.conditions import Conditions
from mvgenvs.diffusion.renoising import Generators


@dataclass(frozen=True, eq=False)
class OneAnchor:
    """Denoises the new views of a set, which come first, with one of its anchors, drawn uniformly at each call."""

    denoise: Callable[..., Tensor]
    """as `Networks.denoise`, with the arguments that do not depend on the draw"""
    conditions: Conditions
    dropped: Conditions | None
    num_new: int
    generator: Generators | None
    """of the draws; the first one, if there is one for each set"""

    def __call__(
        self, xt: Float[Tensor, "batch view c h w"], sigma: Float[Tensor, "batch view"]
    ) -> Float[Tensor, "batch shown c h w"]:
        members = self.members(xt.shape[1] - self.num_new).to(xt.device)
        dropped = None if self.dropped is None else self.dropped.select(members)
        conditions, num_anchors = self.conditions.select(members), len(members) - self.num_new
        return self.denoise(
            xt[:, members], sigma[:, members], conditions=conditions, dropped=dropped, num_anchors=num_anchors
        )

    def members(self, num_anchors: int) -> Int[Tensor, " chosen"]:
        """The new views, and one anchor if there is any."""
        new = torch.arange(self.num_new)
        if not num_anchors:
            return new
        every = [self.generator] if isinstance(self.generator, torch.Generator) else list(self.generator or ())
        first, device = (every[0], every[0].device) if every else (None, torch.device("cpu"))
        return torch.cat([new, self.num_new + torch.randint(num_anchors, (1,), generator=first, device=device).cpu()])
