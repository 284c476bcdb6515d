"""What the denoiser is shown in training."""

from dataclasses import replace

import torch
from test_section8 import batch_of, with_losses
from tiny import ray_cast, ring_cameras, tiny_parts, toy_car

from mvgenvs.data.sampling import Batch
from mvgenvs.diffusion.codec import encode_rendering
from mvgenvs.training.objective import Objective
from mvgenvs.views import stack


def test_sets_that_start_from_their_renderings_show_them_and_keep_their_anchors() -> None:
    options = {"noise_draws": 4, "drop_condition": 0.0, "render_start": 1.0, "render_sigma": 0.03, "clean_known": 1.0}
    objective = Objective(tiny_parts(), with_losses(("denoiser",), denoise=1.0, **options)).eval()
    batch, seen, inner = batch_of(), [], objective.denoising.denoised
    object.__setattr__(objective.denoising, "denoised", lambda *given: (seen.append(given[:2]), inner(*given))[1])
    with torch.no_grad():
        objective(batch, 0.0)
        rendering = objective.rendered(batch)
        rendered = encode_rendering(objective.codec, rendering.rgb, objective.denoiser.config.latent_size)
        true = objective.codec.encode(batch.views.images.flatten(0, 1)).unflatten(0, rendered.shape[:2])
    ((xt, sigma),) = seen
    shown = torch.where(torch.arange(rendered.shape[1])[:, None, None, None] < batch.num_known, true, rendered)
    noise = (xt - shown.repeat_interleave(4, dim=0)) / sigma[..., None, None, None]
    assert (sigma[:, batch.num_known :] - 0.03).abs().max() < 1e-6 and sigma[:, 0].max() < 0.03
    assert abs(noise.std() - 1) < 0.1 and noise.abs().max() < 6
    assert (true - rendered).abs().max() > 0.3, "else the truth would do as well"


def test_views_agree_with_the_true_ones_and_with_anchors_by_being_right() -> None:
    """Nothing for a denoiser that is right; without depth, there is no such loss."""
    options = {"drop_condition": 0.0, "agreement": 1.0, "clean_known": 1.0}
    objective = Objective(tiny_parts(), with_losses(("denoiser",), denoise=1.0, **options)).eval()
    batch = Batch(stack([ray_cast(toy_car(number), ring_cameras(12)) for number in range(2)]), 1, [0, 1])
    with torch.no_grad():
        true = objective.codec.encode(batch.views.images.flatten(0, 1)).unflatten(0, batch.views.images.shape[:2])

    def agreement(error: float) -> float:
        wrong = true.clone()
        wrong[:, batch.num_known] += error
        wrong[:, : batch.num_known] += 5.0  # what is made of anchors is thrown away
        object.__setattr__(objective.denoising, "denoised", lambda *given: wrong)
        with torch.no_grad():
            return float(objective(batch, 0.0)["agreement"])

    assert agreement(0.0) < 1e-9
    assert agreement(0.2) > 0
    assert abs(agreement(0.4) / agreement(0.2) - 4) < 1e-3
    flat = replace(batch, views=replace(batch.views, depth=None))
    assert "agreement" not in objective(flat, 0.0)
