"""Codecs: round trips, the best linear reconstruction there is, and latents with the statistics that EDM expects."""

import numpy as np
import pytest
import torch
from tiny import ray_cast, ring_cameras, toy_car

from mvgenvs.diffusion.codec import IdentityCodec, PatchCodec
from mvgenvs.diffusion.refiner import Refiner

PATCH, CHANNELS = 4, 6


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Toy cars with a little noise, so that no principal component is empty."""
    cars = torch.cat([ray_cast(toy_car(seed), ring_cameras(4)).images for seed in range(3)])
    return (cars + 0.02 * torch.randn(cars.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


@pytest.fixture
def codec(images) -> PatchCodec:
    codec = PatchCodec(PATCH, CHANNELS, 16, 1).eval()
    codec.fit(images)
    return codec


def test_identity_round_trip(images):
    codec = IdentityCodec()
    assert codec.latent_shape((32, 32)) == (3, 32, 32)
    torch.testing.assert_close(codec.decode(codec.encode(images)), images)
    matched = IdentityCodec(mean=(images * 2 - 1).mean().item(), rms=(images * 2 - 1).std().item())
    latents = matched.encode(images)
    assert latents.mean() == pytest.approx(0, abs=1e-4)
    assert latents.std() == pytest.approx(0.5, abs=1e-4)


@torch.no_grad()
def test_reconstruction_is_the_best_of_its_rank(codec, images):
    patches = (
        images.numpy().astype(np.float64).reshape(-1, 3, 8, PATCH, 8, PATCH).transpose(0, 2, 4, 1, 3, 5)
    ).reshape(-1, 3 * PATCH**2)
    singular_values = np.linalg.svd(patches - patches.mean(axis=0), compute_uv=False)
    best = (singular_values[CHANNELS:] ** 2).sum()
    error = (codec.decode_linear(codec.encode(images)) - images).double().square().sum().item()
    assert error == pytest.approx(best, rel=1e-3)


@torch.no_grad()
def test_latents_are_centred_with_an_rms_of_one_half(codec, images):
    latents = codec.encode(images)
    assert latents.shape == (12, *codec.latent_shape((32, 32))) == (12, CHANNELS, 8, 8)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(CHANNELS), atol=1e-4, rtol=0)
    assert latents.square().mean().sqrt() == pytest.approx(0.5, rel=1e-3)
    flat = latents.movedim(1, 0).flatten(1)
    covariance = torch.cov(flat)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-3  # principal components are uncorrelated
    assert (covariance.diag().diff() < 0).all()  # and the strong ones come first


@torch.no_grad()
def test_latents_survive_decoding_and_encoding(codec):
    latents = torch.randn(2, CHANNELS, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(codec.encode(codec.decode_linear(latents)), latents, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_untrained_decoder_is_linear_and_a_trained_one_is_not(codec, images):
    latents = codec.encode(images)
    assert torch.equal(codec.decode(latents), codec.decode_linear(latents).clamp(0, 1))
    torch.nn.init.normal_(codec.refiner.leave.weight, std=0.1)
    assert not torch.allclose(codec.decode(latents), codec.decode_linear(latents), atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_fitting_few_kinds_of_patches_stays_finite(seed):
    """Patches of one colour each span three dimensions: the other components have no variance at all."""
    flat = torch.rand(5, 3, 1, 1, generator=torch.Generator().manual_seed(seed)).expand(-1, -1, 32, 32)
    codec = PatchCodec(PATCH, CHANNELS, 16, 1)
    codec.fit(flat)
    latents = codec.encode(flat)
    assert latents.isfinite().all()
    assert latents.square().mean().sqrt() == pytest.approx(0.5, rel=0.01)
    torch.testing.assert_close(codec.decode_linear(latents), flat, atol=1e-3, rtol=0)


@pytest.mark.parametrize("patch", [1, 2, 8])
def test_refiners_fit_any_patch(patch):
    codec = PatchCodec(patch, 3, 16, 1)
    assert codec.decode(torch.zeros(1, 3, 2, 2)).shape == (1, 3, 2 * patch, 2 * patch)


@torch.no_grad()
def test_a_refiner_sees_its_neighbourhood_and_no_further():
    """No statistics of the whole picture: a change in one corner stays there."""
    refiner = Refiner(cell=2, width=8, blocks=1)
    torch.nn.init.normal_(refiner.leave.weight)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    changed = images.clone()
    changed[..., :2, :2] = 1 - changed[..., :2, :2]  # one cell
    difference = (refiner(changed) - refiner(images)).abs().amax(dim=(0, 1))
    reach = 2 * (1 + 4)  # the cell itself, and one more for each of four convolutions
    assert difference[:reach, :reach].max() > 0
    assert difference[reach:].max() == 0 and difference[:, reach:].max() == 0


@torch.no_grad()
def test_saved_codec_is_the_same(codec, images, tmp_path):
    torch.nn.init.normal_(codec.refiner.leave.weight, std=0.1)
    codec.save_pretrained(tmp_path)
    loaded = PatchCodec.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    latents = codec.encode(images)
    assert torch.equal(loaded.encode(images), latents)
    assert torch.equal(loaded.decode(latents), codec.decode(latents))
