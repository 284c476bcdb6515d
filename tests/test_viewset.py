"""The denoiser that renders: views agree by construction, and every view of the set counts."""

from dataclasses import replace

import pytest
import torch
from tiny import inputs, options, ring_cameras, stacked, tiny_config, tiny_parts

from mvgenvs.config import CodecConfig, TrainConfig
from mvgenvs.diffusion.viewset import ViewsetDenoiser
from mvgenvs.errors import UserError
from mvgenvs.nerf.model import Rendering
from mvgenvs.parts import build_parts, load_parts
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training.memory import blank_batch
from mvgenvs.training.objective import Objective

CAMERAS = stacked(ring_cameras(3), 2)
XT = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SIGMA = torch.tensor([[0.05, 0.5, 5.0], [1.0, 0.02, 7.0]])


def config() -> TrainConfig:
    plain = tiny_config()
    denoiser = replace(plain.denoiser, network="viewset", rendering=False, render_prior=False)
    loss = replace(plain.loss, denoise=1.0, clean_known=1.0, drop_condition=0.0, min_snr=5.0)
    run = replace(plain.run, train=("denoiser",))
    return replace(plain, codec=CodecConfig(kind="identity"), denoiser=denoiser, loss=loss, run=run)


@pytest.fixture(scope="module")
def denoiser() -> ViewsetDenoiser:
    return tiny_parts(config()).denoiser


def conditions(denoiser):
    return denoiser.conditions(Rendering.blank(CAMERAS.resized((1, 1)), 16), torch.zeros_like(XT), CAMERAS)


@torch.no_grad()
def test_the_views_are_renderings_of_one_scene(denoiser):
    """Whatever is asked for, a camera sees the same; and white where the rays miss the scene."""
    given = conditions(denoiser)
    views = denoiser(XT, SIGMA, given)
    assert views.shape == XT.shape
    two = denoiser(XT, SIGMA, given, num_anchors=1)
    assert torch.equal(two, views[:, :2])
    corner = denoiser.pixels.encode(torch.ones(1, 3, 1, 1))[0, :, 0, 0]
    torch.testing.assert_close(views[0, 0, :, 0, 0], corner)
    assert (views - corner[:, None, None]).abs().max() > 0.01


@torch.no_grad()
def test_noise_level_and_other_views_count_within_the_set(denoiser):
    given, plain = conditions(denoiser), denoiser(XT, SIGMA, conditions(denoiser))
    changed, louder = XT.clone(), SIGMA.clone()
    changed[0, 2] += 1
    louder[0, 2] *= 4
    for other in (denoiser(changed, SIGMA, given), denoiser(XT, louder, given)):
        difference = (other - plain).abs().amax(dim=(2, 3, 4))
        assert (difference[0] > 1e-6).all()
        assert (difference[1] == 0).all()
    alone = [denoiser(x, SIGMA, given, joint=False) for x in (XT, changed)]
    assert ((alone[1] - alone[0]).abs().amax(dim=(2, 3, 4))[0] > 1e-6).tolist() == [False, False, True]


def test_it_learns_is_saved_and_samples(tmp_path):
    parts = tiny_parts(config())
    objective = Objective(parts, config()).train()
    objective.total(objective(blank_batch(2, 3, 1, 32), 0.0)).backward()
    field, encoder = objective.denoiser.scene_model.field, objective.denoiser.scene_model.encoder
    assert all(any(p.grad.abs().sum() > 0 for p in part.parameters()) for part in (field, encoder))
    pipeline = MultiViewPipeline.from_parts(parts)
    pipeline.denoiser.eval()
    pipeline.save_pretrained(tmp_path)
    loaded = load_parts(tmp_path).denoiser
    with torch.no_grad():
        assert torch.equal(loaded(XT, SIGMA, conditions(loaded)), pipeline.denoiser(XT, SIGMA, conditions(loaded)))
        assert pipeline(**inputs(3), **options(block=2)).images.isfinite().all()


def test_what_it_cannot_do_is_refused(denoiser):
    with pytest.raises(UserError, match="joint or, of each alone, independent"):
        denoiser.set_attention("block-causal")
    with pytest.raises(UserError, match=r"codec\.kind identity"):
        build_parts(replace(config(), codec=tiny_config().codec))
    with pytest.raises(UserError, match=r"wants denoiser\.rendering false"):
        build_parts(replace(config(), denoiser=replace(config().denoiser, rendering=True)))
