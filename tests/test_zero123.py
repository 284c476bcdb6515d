"""Zero-1-to-3 and MVDream on miniature checkpoints: what they keep of the checkpoint, and what they are told."""

import json
import math
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from test_stable_denoiser import BATCH, CAMERAS, SIGMA, VIEWS, XT, awake
from test_stable_scripts import settings, train
from tiny import inputs, options, ring_cameras, stacked
from tiny_sd import TEXT_CHANNELS, write_sd, write_zero123

from mvgenvs.cameras import Cameras, look_at_origin
from mvgenvs.diffusion.conditions import Conditions, Reference
from mvgenvs.diffusion.stable.checkpoint import load_stable_diffusion
from mvgenvs.diffusion.stable.codec import VaeCodec
from mvgenvs.diffusion.stable.conditioners import ZERO123
from mvgenvs.diffusion.stable.denoiser import StableDenoiser
from mvgenvs.diffusion.stable.zero123 import CCProjection, clip_embedding, turn_between
from mvgenvs.errors import UserError
from mvgenvs.nerf.model import Rendering
from mvgenvs.parts import find_pipeline, load_parts
from mvgenvs.pipeline import MultiViewPipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zero123(tmp_path_factory.mktemp("zero123"))


@cache
def load_once(folder: Path, conditioner: str) -> tuple[VaeCodec, StableDenoiser]:
    return load_stable_diffusion(str(folder), conditioner, "a car", 32, 16, 1, "joint")


def load(folder: Path, conditioner: str) -> tuple[VaeCodec, StableDenoiser]:
    return deepcopy(load_once(folder, conditioner))


def given(
    denoiser: StableDenoiser, seed: int = 1, known: int = 5, reference: bool = True, dropped: bool = False
) -> Conditions:
    generator = torch.Generator().manual_seed(seed)
    features, depth, opacity = (torch.rand(BATCH, VIEWS, c, 4, 4, generator=generator) for c in (16, 1, 1))
    latents = torch.randn(XT.shape, generator=generator)
    image = torch.rand(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(known))
    told = Reference(image.mean(dim=1, keepdim=True)[..., :4, :4].expand(-1, 4, -1, -1), denoiser.embed(image),
                     stacked(ring_cameras(1), BATCH))  # fmt: skip
    drop = torch.full((BATCH, VIEWS), dropped)
    more = {"reference": told} if reference and denoiser.sees_reference else {}
    return denoiser.conditions(Rendering(features, depth, opacity), latents, CAMERAS, drop, **more)


@torch.no_grad()
def test_the_unet_is_called_as_the_published_model_calls_it(folder):
    """Concatenated: the noisy latents and the known image's, unscaled. Token: the projection of embedding and turn."""
    codec, denoiser = load(folder, "zero123")
    denoiser.eval()
    image, target = torch.rand(1, 3, 32, 32), CAMERAS.select([1])
    target = Cameras(target.c2w[:1], target.K[:1], target.hw)
    camera = stacked(ring_cameras(1), 1)
    reference = Reference(codec.encode(image), denoiser.embed(image), camera)
    nothing = Rendering.blank(target, 16)
    conditions = denoiser.conditions(nothing, torch.zeros(1, 1, 4, 4, 4), target, reference=reference)
    from diffusers import UNet2DConditionModel
    from transformers import CLIPVisionModelWithProjection

    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    encoder = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder").eval()
    projection = CCProjection.from_pretrained(folder / "cc_projection")
    token = projection(torch.cat([clip_embedding(encoder, image), turn_between(camera, target)[0]], dim=-1))
    mode = codec.vae.encode(image * 2 - 1).latent_dist.mode()
    sigma = torch.tensor([[0.7]])
    scale = denoiser.noise.preconditioning(sigma)
    xt = XT[:1, :1]
    noisy = scale.c_in[..., None, None, None] * xt
    expected = unet(torch.cat([noisy[0], mode], dim=1), scale.c_noise[0], token[:, None]).sample
    expected = scale.c_skip.item() * xt[0] + scale.c_out.item() * expected
    torch.testing.assert_close(denoiser(xt, sigma, conditions)[0], expected, atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_the_renderings_columns_start_at_zero_and_change_nothing(folder):
    plain, more = (load(folder, conditioner)[1].eval() for conditioner in ZERO123)
    weight = more.unet.conv_in.weight
    assert weight.shape[1] == 12 and plain.unet.conv_in.weight.shape[1] == 8
    assert not weight[:, 8:].any() and weight[:, 4:8].any()
    assert torch.equal(more(XT, SIGMA, given(more)), plain(XT, SIGMA, given(plain)))
    assert torch.equal(more(XT, SIGMA, given(more, seed=2)), more(XT, SIGMA, given(more)))
    torch.nn.init.normal_(weight[:, 8:])
    assert (more(XT, SIGMA, given(more, seed=2)) - more(XT, SIGMA, given(more))).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("conditioner", ZERO123)
def test_the_known_view_is_seen_unless_dropped(folder, conditioner):
    denoiser = awake(load(folder, conditioner)[1])
    seen = [denoiser(XT, SIGMA, given(denoiser, known=known), joint=False) for known in (5, 6)]
    assert ((seen[1] - seen[0]).abs().amax(dim=(2, 3, 4)) > 1e-5).all()
    dropped = [denoiser(XT, SIGMA, given(denoiser, known=known, dropped=True)) for known in (5, 6)]
    assert torch.equal(*dropped)
    assert torch.equal(dropped[0], denoiser(XT, SIGMA, given(denoiser, reference=False)))


def test_a_projection_that_no_checkpoint_has_starts_as_the_embedding():
    projection = CCProjection(TEXT_CHANNELS + 4, TEXT_CHANNELS)
    x = torch.randn(2, TEXT_CHANNELS + 4)
    assert torch.equal(projection(x), x[:, :TEXT_CHANNELS])


def test_turns_are_told_in_spherical_coordinates():
    def camera(polar: float, azimuth: float, radius: float) -> Cameras:
        """In a world whose vertical is z, turned so that it is our y."""
        x, y, z = (math.sin(polar) * math.cos(azimuth), math.sin(polar) * math.sin(azimuth), math.cos(polar))
        c2w = look_at_origin(radius * torch.tensor([[x, z, -y]]))
        return Cameras(c2w[None], torch.eye(3)[None, None], (32, 32))

    turn = turn_between(camera(1.2, 0.4, 1.3), camera(0.9, 2.0, 1.7))[0, 0]
    expected = torch.tensor([-0.3, math.sin(1.6), math.cos(1.6), 0.4])
    torch.testing.assert_close(turn, expected, atol=1e-5, rtol=0)


def test_the_image_encoder_is_never_trained(folder):
    denoiser = load(folder, "zero123")[1].requires_grad_(True)
    assert not any(p.requires_grad for p in denoiser.image_encoder.parameters())
    assert all(p.requires_grad for p in denoiser.cc_projection.parameters())


@torch.no_grad()
def test_cameras_alone_are_told_beside_the_noise_level(tmp_path):
    """MVDream: silent at first, then every view has its own camera, and no rendering."""
    denoiser = load(write_sd(tmp_path / "sd"), "camera")[1].eval()
    plain = load(tmp_path / "sd", "concat")[1].eval()
    start = plain(XT, SIGMA, given(plain, dropped=True))
    torch.testing.assert_close(denoiser(XT, SIGMA, given(denoiser)), start, atol=1e-5, rtol=1e-4)
    awake(denoiser)
    assert torch.equal(denoiser(XT, SIGMA, given(denoiser, seed=2)), denoiser(XT, SIGMA, given(denoiser)))
    told = given(denoiser)
    told = replace(told, poses=told.poses + torch.tensor([0.0, 0.5, 0.0])[:, None])
    changed = (denoiser(XT, SIGMA, told, joint=False) - denoiser(XT, SIGMA, given(denoiser), joint=False)).abs()
    assert (changed.amax(dim=(2, 3, 4)) > 1e-6).tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize("conditioner", [*ZERO123, "camera"])
def test_it_trains_is_saved_and_samples(conditioner, tmp_path):
    values = settings(tmp_path, f"sd_{conditioner.replace('-', '_')}.yaml", "tiny-sd")
    if conditioner in ZERO123:
        values["model.init-from"] = str(write_zero123(tmp_path / "zero123"))
    more = {"denoiser.condition_scale": "1", "optim.steps": "8", "run.validate_every": "0"}
    run = train(values | more)
    assert list(run.glob("validation-*.png"))
    losses = [json.loads(line)["denoise"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-2:]) < sum(losses[:2])
    pipeline = MultiViewPipeline.from_pretrained(run)
    with torch.no_grad():
        first, other = (pipeline(**inputs(2) | change, **options(guidance_scale=2.0, plan="joint")).images
                        for change in ({}, {"images": torch.ones(1, 1, 3, 32, 32)}))  # fmt: skip
    assert first.isfinite().all()
    assert (first - other).abs().max() > 1e-4, "the known view is seen"
    assert load_parts(find_pipeline(run)).denoiser.config.conditioner == conditioner


def test_a_checkpoint_without_its_projection_is_named(folder, tmp_path):
    with pytest.raises(UserError, match="image_encoder"):
        load_stable_diffusion(str(write_sd(tmp_path / "sd")), "zero123", "a car", 32, 16, 1, "joint")
