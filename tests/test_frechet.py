"""Fréchet and kernel distances against closed forms, other code, and their own definitions."""

import contextlib
import io
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

from eval.metrics.frechet import KernelDistance, Moments, frechet_distance, kernel_distance, moments
from mvgenvs.errors import UserError


def gaussian(mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"], count: int = 1000) -> Moments:
    """Moments as of `count` features whose sample mean and covariance are exactly these."""
    return Moments(count, mean.double(), covariance.double() * (count - 1))


def random_covariance(d: int, generator: torch.Generator) -> Float[Tensor, "d d"]:
    a = torch.randn(d, 2 * d, generator=generator, dtype=torch.float64)
    return a @ a.T / (2 * d)


def random_rotation(d: int, generator: torch.Generator) -> Float[Tensor, "d d"]:
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q


@pytest.fixture
def features(generator: torch.Generator) -> Callable[..., Float[Tensor, "n d"]]:
    def make(count: int, d: int = 16, shift: float = 0.0, scale: float = 1.0) -> Float[Tensor, "n d"]:
        return torch.randn(count, d, generator=generator) * scale + shift

    return make


def test_moments_of_batches_are_those_of_the_whole_far_from_the_origin(features: Callable) -> None:
    x = features(101, d=5, shift=1e4).double()
    streamed = moments(x.split([1, 7, 50, 43]))
    assert streamed.count == 101
    assert np.allclose(streamed.mean, x.numpy().mean(axis=0), rtol=1e-14)
    # Sums of squares would lose 8 of 16 digits here.
    assert np.allclose(streamed.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-10, atol=1e-12)


def test_merging_in_any_order_gives_the_same(features: Callable) -> None:
    a, b, c = (Moments.of(features(n)) for n in (3, 20, 8))
    one, other = a.merged(b).merged(c), c.merged(b.merged(a))
    assert one.count == other.count == 31
    assert torch.allclose(one.mean, other.mean)
    assert torch.allclose(one.covariance, other.covariance)


def test_gaussians_along_the_axes_have_the_closed_form() -> None:
    mean_a, mean_b = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, 0.5])
    std_a, std_b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 2.0, 5.0])
    a, b = gaussian(mean_a, torch.diag(std_a**2)), gaussian(mean_b, torch.diag(std_b**2))
    # Commuting covariances: |mu_a - mu_b|^2 + |std_a - std_b|^2 = (1 + 9 + 0) + (0.25 + 0 + 4)
    assert frechet_distance(a, b) == pytest.approx(14.25, rel=1e-12)


def test_two_dimensional_gaussians_have_the_closed_form(generator: torch.Generator) -> None:
    a, b = (random_covariance(2, generator) for _ in range(2))
    # tr M^1/2 = (tr M + 2 (det M)^1/2)^1/2 for any 2 x 2 matrix with positive eigenvalues, here M = a b.
    root = ((a @ b).trace() + 2 * (a.det() * b.det()).sqrt()).sqrt()
    expected = (a.trace() + b.trace() - 2 * root).item()
    assert frechet_distance(gaussian(torch.zeros(2), a), gaussian(torch.zeros(2), b)) == pytest.approx(expected)


@pytest.mark.parametrize("d", [3, 24])
def test_agrees_with_the_matrix_square_root_of_scipy(d: int, generator: torch.Generator) -> None:
    a, b = (random_covariance(d, generator) for _ in range(2))
    mean = torch.randn(d, generator=generator, dtype=torch.float64)
    root = scipy.linalg.sqrtm((a @ b).numpy())
    expected = mean.square().sum().item() + a.trace().item() + b.trace().item() - 2 * np.trace(root).real
    assert frechet_distance(gaussian(mean, a), gaussian(torch.zeros(d), b)) == pytest.approx(expected, rel=1e-9)


def test_is_symmetric_and_invariant_under_rotation_and_common_shift(
    features: Callable, generator: torch.Generator
) -> None:
    a, b = features(60).double(), features(80, shift=0.3, scale=1.5).double()
    rotation = random_rotation(16, generator)
    distance = frechet_distance(Moments.of(a), Moments.of(b))
    assert distance > 1
    assert frechet_distance(Moments.of(b), Moments.of(a)) == pytest.approx(distance, rel=1e-10)
    moved = [Moments.of(x @ rotation + 5) for x in (a, b)]
    assert frechet_distance(*moved) == pytest.approx(distance, rel=1e-10)


def test_is_0_for_a_set_with_itself_even_with_fewer_images_than_features(features: Callable) -> None:
    for count in (2, 30, 200):
        x = features(count, d=100)
        assert frechet_distance(Moments.of(x), Moments.of(x.flip(0))) == pytest.approx(0, abs=1e-9)
    constant = Moments.of(torch.ones(5, 100))
    assert frechet_distance(constant, constant) == 0
    assert frechet_distance(constant, Moments.of(torch.zeros(5, 100))) == pytest.approx(100)


def test_null_directions_add_nothing(features: Callable, generator: torch.Generator) -> None:
    """Sets that lie in a subspace have the distance that they have within it."""
    a, b = features(40, d=8).double(), features(40, d=8, scale=2).double()
    embedding = random_rotation(100, generator)[:8]
    inside = frechet_distance(Moments.of(a), Moments.of(b))
    embedded = [Moments.of(x @ embedding) for x in (a, b)]
    assert frechet_distance(*embedded) == pytest.approx(inside, rel=1e-10)


def test_overestimates_less_with_more_images(features: Callable) -> None:
    """As the docstring warns: sets from one distribution seem apart, by an amount that falls as 1 / count."""
    few, many = (frechet_distance(Moments.of(features(n)), Moments.of(features(n))) for n in (100, 1600))
    assert few > 0.5
    assert few / many == pytest.approx(16, rel=0.5)


def test_one_image_has_no_covariance(features: Callable) -> None:
    with pytest.raises(UserError, match="at least 2 images"):
        frechet_distance(Moments.of(features(1)), Moments.of(features(5)))


def test_agrees_with_torch_fidelity(features: Callable) -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid", reason="torch-fidelity is not installed")
    kid = pytest.importorskip("torch_fidelity.metric_kid", reason="torch-fidelity is not installed")
    a, b = features(200, d=32).double(), features(150, d=32, shift=0.2, scale=1.3).double()
    theirs = fid.fid_statistics_to_metric(*(fid.fid_features_to_statistics(x) for x in (a, b)), verbose=False)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(theirs[fid.KEY_METRIC_FID], rel=1e-9)
    with contextlib.redirect_stderr(io.StringIO()):
        theirs = kid.kid_features_to_metric(a, b, kid_subsets=10, kid_subset_size=50, rng_seed=7, verbose=False)
    ours = kernel_distance(a, b, subset_size=50, subsets=10, seed=7)
    assert ours.mean == pytest.approx(theirs[kid.KEY_METRIC_KID_MEAN], rel=1e-9)
    assert ours.std == pytest.approx(theirs[kid.KEY_METRIC_KID_STD], rel=1e-9)


def test_kernel_distance_equals_its_sums_over_pairs(features: Callable) -> None:
    """[Binkowski et al. 2018], with the one subset that is the whole set, so that the draw does not matter."""
    a, b = features(6, d=4).double(), features(6, d=4, shift=0.5).double()

    def k(x: Float[Tensor, " d"], y: Float[Tensor, " d"]) -> float:
        return ((x @ y).item() / 4 + 1) ** 3

    within = [sum(k(s[i], s[j]) for i in range(6) for j in range(6) if i != j) / 30 for s in (a, b)]
    across = sum(k(x, y) for x in a for y in b) / 36
    assert kernel_distance(a, b, subset_size=6, subsets=1).mean == pytest.approx(sum(within) - 2 * across, rel=1e-12)


def test_kernel_distance_is_unbiased(features: Callable) -> None:
    """0 on average for sets of one distribution, however small; the biased estimate would be near 1.5."""
    same = [kernel_distance(features(10), features(10), subset_size=10, subsets=1).mean for _ in range(300)]
    assert np.mean(same) == pytest.approx(0, abs=4 * np.std(same) / 300**0.5)
    assert np.std(same) / 300**0.5 < 0.02
    assert min(same) < 0 < max(same)


def test_kernel_distance_of_a_set_and_itself_is_below_0_by_1_over_n(features: Callable) -> None:
    """As the docstring warns: the cross term then holds each image with itself, the others do not."""
    few, many = (kernel_distance(x, x, subsets=50).mean for x in (features(40), features(400)))
    assert few < many < 0
    assert few / many == pytest.approx(10, rel=0.5)


def test_kernel_distance_sees_what_means_and_covariances_do_not(generator: torch.Generator) -> None:
    """A third moment: a skewed distribution and its mirror image have equal means and covariances."""
    a, b = (torch.empty(2000, 2).exponential_(generator=generator) - 1 for _ in range(2))
    assert frechet_distance(Moments.of(a), Moments.of(-b)) < 0.02
    assert kernel_distance(a, b, subset_size=500, subsets=5).mean < 0.5
    assert kernel_distance(a, -b, subset_size=500, subsets=5).mean > 2


def test_kernel_distance_depends_on_the_seed_only(features: Callable) -> None:
    a, b = features(40), features(50, shift=0.5)
    first = kernel_distance(a, b, subsets=8, seed=1)
    assert first == kernel_distance(a, b, subsets=8, seed=1)
    assert first != kernel_distance(a, b, subsets=8, seed=2)
    assert (first.subsets, first.subset_size) == (8, 20)
    assert first.std > 0


def test_too_few_images_for_a_kernel_distance_give_one_sentence(features: Callable) -> None:
    with pytest.raises(UserError, match="at least 4 images in each set, not 3"):
        kernel_distance(features(3), features(9))
    with pytest.raises(UserError, match="at least 10 images in each set, not 9"):
        kernel_distance(features(30), features(9), subset_size=10)
    assert isinstance(kernel_distance(features(4), features(9), subsets=2), KernelDistance)
