"""The perceptual loss of training: what it compares, and what it leaves out."""

from dataclasses import replace

import pytest
import torch
from tiny import ray_cast, ring_cameras, tiny_config, tiny_parts, toy_car

from mvgenvs.config import CodecConfig, DenoiserConfig, LossConfig
from mvgenvs.data.sampling import Batch
from mvgenvs.diffusion.codec import PatchCodec, decode_with_detail
from mvgenvs.perceptual import PerceptualDistance, Trunk
from mvgenvs.training import objective as module
from mvgenvs.training.losses.denoising import DenoisingLoss
from mvgenvs.training.objective import Objective
from mvgenvs.views import stack


class SquaredError(PerceptualDistance):
    """Stands in for LPIPS, whose weights a test should not need."""

    def __init__(self, *_: object) -> None: ...

    def losses(self, predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        assert predicted.shape == truth.shape and predicted.shape[1:] == (3, 16, 16)
        return (predicted - truth).square().mean(dim=(1, 2, 3))


@pytest.fixture
def objective(monkeypatch: pytest.MonkeyPatch) -> Objective:
    """In pixels, so that true latents decode to the true images."""
    monkeypatch.setattr(module, "PerceptualDistance", SquaredError)
    monkeypatch.setattr(module, "find_trunk", lambda net, folder: Trunk([], "", ""))
    config = replace(
        tiny_config(),
        codec=CodecConfig(kind="identity"),
        denoiser=DenoiserConfig(
            render_size=32,
            condition_scale=1,
            block_out_channels=(16, 32),
            attention_levels=(False, True),
            render_prior=False,
        ),
        loss=LossConfig(denoise=1.0, perceptual=1.0, perceptual_crop=16, noise_draws=2, clean_known=1.0),
    )
    return Objective(tiny_parts(config), config)


@pytest.fixture
def batch() -> Batch:
    return Batch(stack([ray_cast(toy_car(seed), ring_cameras(3)) for seed in (1, 2)]), num_known=1, seeds=[3, 4])


def test_the_truth_has_no_perceptual_loss(objective, batch, monkeypatch):
    truth = objective.codec.encode(batch.views.images.flatten(0, 1)).unflatten(0, (2, 3)).repeat_interleave(2, dim=0)
    monkeypatch.setattr(DenoisingLoss, "denoised", lambda *_: truth)
    assert objective(batch, 0.0)["perceptual"] < 1e-10


def test_views_that_are_anchors_do_not_count(objective, batch, monkeypatch):
    truth = objective.codec.encode(batch.views.images.flatten(0, 1)).unflatten(0, (2, 3)).repeat_interleave(2, dim=0)
    wrong = torch.cat([truth[:, :1] + 1, truth[:, 1:]], dim=1)  # the known view, nearly clean in every set
    monkeypatch.setattr(DenoisingLoss, "denoised", lambda *_: wrong)
    assert objective(batch, 0.0)["perceptual"] < 1e-10
    wrong = torch.cat([truth[:, :2], truth[:, 2:] + 1], dim=1)
    assert objective(batch, 0.0)["perceptual"] > 1e-3


def test_a_frozen_denoiser_leaves_the_decoder_to_learn(batch, monkeypatch):
    monkeypatch.setattr(module, "PerceptualDistance", SquaredError)
    monkeypatch.setattr(module, "find_trunk", lambda net, folder: Trunk([], "", ""))
    config = tiny_config()
    config = replace(
        config,
        loss=LossConfig(denoise=1.0, perceptual=1.0, perceptual_crop=16),
        run=replace(config.run, train=("codec",)),
    )
    objective = Objective(tiny_parts(config), config)
    losses = objective(batch, 0.0)
    assert losses["perceptual"] > 0
    objective.total(losses).backward()
    assert objective.codec.refiner.enter.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in objective.denoiser.parameters())


def test_gradients_reach_the_denoiser(objective, batch):
    objective(batch, 0.0)["perceptual"].backward()
    assert objective.denoiser.unet.conv_out.weight.grad.abs().max() > 0


def test_what_a_rendering_lends_leaves_latents_alone(generator):
    codec = PatchCodec(patch=8, channels=8, refiner_width=16, refiner_blocks=1)
    codec.fit(torch.rand(8, 3, 32, 32, generator=generator))
    latents, rendering = torch.randn(3, 8, 4, 4, generator=generator), torch.rand(3, 3, 32, 32, generator=generator)
    images = codec.unrefined(latents, rendering)
    assert torch.allclose(codec.encode(images), latents, atol=1e-5)
    assert not torch.allclose(images, codec.unrefined(latents), atol=1e-2)


def test_an_untouched_rendering_decodes_to_itself(generator):
    codec = PatchCodec(patch=8, channels=8, refiner_width=16, refiner_blocks=1)
    codec.fit(torch.rand(8, 3, 32, 32, generator=generator))
    renders = torch.rand(1, 3, 3, 32, 32, generator=generator)
    latents = codec.encode(renders[0])[None]
    assert torch.allclose(decode_with_detail(codec, latents, renders), renders, atol=1e-5)
