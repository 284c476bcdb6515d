"""Views for which sampling is known in closed form: jointly Gaussian, with their ideal denoiser.

Every pixel is an independent draw, and the views of one pixel are correlated. The ideal denoiser, the conditional of
some views given others, and the distance of two Gaussians have closed forms, so the sampler's errors can be measured
without any weights.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class GaussianViews:
    """Views x ~ N(0, covariance), pixel by pixel; the first ones are new, the others anchors."""

    covariance: Float[Tensor, "view view"]

    def draw(self, pixels: int, generator: torch.Generator) -> Float[Tensor, "view pixel"]:
        """True views, anchors and new ones."""
        noise = torch.randn(len(self.covariance), pixels, generator=generator, dtype=self.covariance.dtype)
        return torch.linalg.cholesky(self.covariance) @ noise

    def denoise(
        self, x: Float[Tensor, "batch view c h w"], sigma: Float[Tensor, "batch view"]
    ) -> Float[Tensor, "batch view c h w"]:
        """E[x0 | x] = C (C + diag(sigma^2))^-1 x, with a noise level per view: what a perfect network would return."""
        C = self.covariance.to(x)
        gain = torch.linalg.solve(C + torch.diag_embed(sigma**2), C.expand(len(x), -1, -1)).mT
        return torch.einsum("bvu,buchw->bvchw", gain, x)

    def conditional(self, num_new: int) -> tuple[Float[Tensor, "new anchor"], Float[Tensor, "new new"]]:
        """The true conditional of new views given anchors: mean B a, covariance S [Bishop 2006, eq. 2.81-2.82]."""
        C = self.covariance
        B = torch.linalg.solve(C[num_new:, num_new:], C[num_new:, :num_new]).T
        return B, C[:num_new, :num_new] - B @ C[num_new:, :num_new]


def equally_correlated(views: int, correlation: float, std: float) -> GaussianViews:
    """Views with a common part, of share `correlation` of the variance, and an independent part each."""
    C = torch.full((views, views), correlation, dtype=torch.float64)
    return GaussianViews(std**2 * C.fill_diagonal_(1.0))


def bures(first: Float[Tensor, "n n"], second: Float[Tensor, "n n"]) -> float:
    """The squared 2-Wasserstein distance of two centred Gaussians, tr(A + B - 2 (A^1/2 B A^1/2)^1/2)."""
    root = _root(first)
    return max(0.0, (first.trace() + second.trace() - 2 * _root(root @ second @ root).trace()).item())


def _root(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return vectors * values.clamp(min=0).sqrt() @ vectors.mT
