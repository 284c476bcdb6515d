"""Distances between two sets of images, computed from their features: Fréchet distance and kernel distance.

On Inception's features they are the FID [Heusel et al. 2017, arXiv 1706.08500, eq. 6] and the KID [Binkowski et al.
2018, arXiv 1801.01401, sec. 4]. On the features of other networks they have other names, see `eval.metrics.features`.
All sums are in float64.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.errors import UserError

SUBSETS = 100  # number and size of the KID's subsets, as in torch-fidelity
SUBSET_SIZE = 1000


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter of a set of features. Those of a union follow from those of its parts, see `merged`."""

    count: int
    mean: Float[Tensor, " feature"]
    scatter: Float[Tensor, "feature feature"]  # sum over the set of (x - mean) (x - mean)^T

    @staticmethod
    def of(features: Float[Tensor, "view feature"]) -> "Moments":
        """The moments of one or more features."""
        x = features.double()
        centred = x - x.mean(dim=0)
        return Moments(len(x), x.mean(dim=0), centred.T @ centred)

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both sets together [Chan et al. 1979, eq. 2.1]: exact, and stable far from the origin."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = torch.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Float[Tensor, "feature feature"]:
        """The unbiased covariance. Raises `UserError` for fewer than two features."""
        if self.count < 2:
            raise UserError("a Fréchet distance needs at least 2 images in each set: evaluate more objects or views")
        return self.scatter / (self.count - 1)


def moments(batches: Iterable[Float[Tensor, "_ feature"]]) -> Moments:
    """The moments of all features of one or more batches; each batch is read once and not kept."""
    stream = iter(batches)
    total = Moments.of(next(stream))
    for features in stream:
        total = total.merged(Moments.of(features))
    return total


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Fréchet distance of two Gaussians, |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2); at least 0.

    It is biased upwards: the bias falls as 1 / count and can exceed the differences between systems. Sets smaller than
    the number of features have singular covariances. The value is then finite and repeatable, but mostly bias: compare
    it only with values from the same numbers of images, and state those numbers; `kernel_distance` has no such bias.
    Raises `UserError` for sets of fewer than two images.
    """
    factor_a, factor_b = (_factor(set_.covariance) for set_ in (a, b))
    # tr (A A^T B B^T)^1/2 is the sum of the singular values of A^T B. The eigenvalues of S_a^1/2 S_b S_a^1/2 are their
    # squares; roots of those would turn rounding errors of 1e-16 into 1e-8 for each of thousands of null directions.
    overlap = torch.linalg.svdvals(factor_a.T @ factor_b).sum()
    squared = (a.mean - b.mean).square().sum() + factor_a.square().sum() + factor_b.square().sum() - 2 * overlap
    return max(squared.item(), 0.0)


def _factor(covariance: Float[Tensor, "feature feature"]) -> Float[Tensor, "feature rank"]:
    """F with F F^T equal to the covariance, by symmetric eigendecomposition; without its null directions."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values.max() * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, kept] * values[kept].sqrt()


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation over subsets. The subsets overlap: `std` is no error bar of `mean`."""

    mean: float
    std: float
    subsets: int
    subset_size: int


def kernel_distance(
    a: Float[Tensor, "n feature"],
    b: Float[Tensor, "m feature"],
    subset_size: int | None = None,
    subsets: int = SUBSETS,
    seed: int = 0,
) -> KernelDistance:
    """Squared maximum mean discrepancy under the kernel (x.y / d + 1)^3, over random subsets of equal size.

    Unbiased at any size for independent sets: 0 on average for sets from one distribution, so it can be negative. Sets
    in which each image has a partner, such as samples and ground truth from the same cameras, come out lower, by the
    order of 1 / n; a set and itself are below 0. `subset_size` is 2 or more; by default it is `SUBSET_SIZE`, and at
    most half of the smaller set, so that subsets differ. Raises `UserError` if a set has fewer images than a subset, or
    fewer than four.
    """
    smaller = min(len(a), len(b))
    if smaller < (needed := max(4, subset_size or 0)):
        raise UserError(f"a kernel distance needs at least {needed} images in each set, not {smaller}: evaluate more")
    size = subset_size or min(SUBSET_SIZE, smaller // 2)
    # The legacy generator, since numpy promises never to change it; torch-fidelity draws the same subsets.
    draw = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        x, y = (s[torch.from_numpy(draw.choice(len(s), size, replace=False)).to(s.device)].double() for s in (a, b))
        values.append(_unbiased_mmd2(x, y))
    return KernelDistance(float(np.mean(values)), float(np.std(values)), subsets, size)


def _unbiased_mmd2(x: Float[Tensor, "n feature"], y: Float[Tensor, "m feature"]) -> float:
    """[Gretton et al. 2012] eq. 3: pairs of a set leave out each element with itself."""

    def kernel(p: Float[Tensor, "i feature"], q: Float[Tensor, "j feature"]) -> Float[Tensor, "i j"]:
        return (p @ q.T / p.shape[1] + 1) ** 3

    def mean_of_pairs(k: Float[Tensor, "i i"]) -> Tensor:
        return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))

    return (mean_of_pairs(kernel(x, x)) + mean_of_pairs(kernel(y, y)) - 2 * kernel(x, y).mean()).item()
