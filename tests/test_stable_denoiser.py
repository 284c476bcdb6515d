"""Codec and denoiser out of a Stable Diffusion checkpoint: what they keep of it, and what is joined, shown, dropped."""

from copy import deepcopy
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from tiny import ring_cameras, stacked
from tiny_sd import write_sd

from attention import PROCESSORS, AnchorCache, attention_layers
from mvgenvs.diffusion.codec import SIGMA_DATA
from mvgenvs.diffusion.conditions import Conditions, concatenate_conditions
from mvgenvs.diffusion.stable.checkpoint import load_stable_diffusion
from mvgenvs.diffusion.stable.codec import VaeCodec
from mvgenvs.diffusion.stable.conditioners import CONDITIONERS
from mvgenvs.diffusion.stable.denoiser import StableDenoiser
from mvgenvs.nerf.model import Rendering

BATCH, VIEWS, SCALE = 2, 3, 2
CAMERAS = stacked(ring_cameras(VIEWS), BATCH)
XT = torch.randn(BATCH, VIEWS, 4, 4, 4, generator=torch.Generator().manual_seed(0))
SIGMA = torch.tensor([[0.05, 0.5, 5.0], [1.0, 0.02, 7.0]])
DROPPED = torch.tensor([[True, False, True], [False, False, True]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sd")
    return {
        "tiny-sd": write_sd(root / "tiny-sd", "tiny-sd"),
        "sd15": write_sd(root / "sd15", "sd15", prediction_type="v_prediction"),
    }


@cache
def load_once(folder: Path, conditioner: str, attention: str) -> tuple[VaeCodec, StableDenoiser]:
    return load_stable_diffusion(str(folder), conditioner, "a car", 32, 16, SCALE, attention)


def load(folder: Path, conditioner: str = "controlnet", attention: str = "joint") -> tuple[VaeCodec, StableDenoiser]:
    """A copy that a test may change."""
    return deepcopy(load_once(folder, conditioner, attention))


def awake(denoiser: StableDenoiser) -> StableDenoiser:
    """The denoiser with random numbers where training starts at zero: silence would hide every mistake."""
    torch.manual_seed(1)
    for weight in denoiser.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.2)
    if denoiser.config.conditioner == "concat":
        torch.nn.init.normal_(denoiser.unet.conv_in.weight, std=0.2)
    return denoiser.eval().requires_grad_(False)


KINDS = [("tiny-sd", "controlnet"), ("sd15", "controlnet"), ("sd15", "t2i-adapter"), ("tiny-sd", "concat")]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def denoiser(request: pytest.FixtureRequest, folders: dict[str, Path]) -> StableDenoiser:
    shape, conditioner = request.param
    return awake(load(folders[shape], conditioner)[1])


def conditions(denoiser: StableDenoiser, seed: int = 1, dropped: torch.Tensor | None = None) -> Conditions:
    generator = torch.Generator().manual_seed(seed)
    features, depth, opacity = (torch.rand(BATCH, VIEWS, c, 16, 16, generator=generator) for c in (16, 1, 1))
    latents = torch.randn(XT.shape, generator=generator)
    return denoiser.conditions(Rendering(features, depth, opacity), latents, CAMERAS, dropped)


def pick(given: Conditions, views: list[int]) -> Conditions:
    return Conditions(*(getattr(given, field.name)[:, views] for field in fields(Conditions)))


@torch.no_grad()
def test_codec_is_the_vae_at_half_its_scale(folders: dict[str, Path]) -> None:
    codec, _ = load(folders["tiny-sd"])
    vae = AutoencoderKL.from_pretrained(folders["tiny-sd"] / "vae").eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    latents = vae.encode(images * 2 - 1).latent_dist.mode() * vae.config.scaling_factor  # the unit of Stable Diffusion
    assert vae.config.scaling_factor == 0.7
    torch.testing.assert_close(codec.encode(images), latents * SIGMA_DATA)
    assert codec.latent_shape((32, 32)) == codec.encode(images).shape[1:] == (4, 4, 4)
    decoded = vae.decode(latents / vae.config.scaling_factor).sample
    torch.testing.assert_close(codec.decode(codec.encode(images)), decoded / 2 + 0.5)


@torch.no_grad()
def test_codec_honours_a_shift() -> None:
    config = {"block_out_channels": [8], "norm_num_groups": 8, "scaling_factor": 0.3}
    torch.manual_seed(0)
    plain, shifted = VaeCodec(config), VaeCodec(config | {"shift_factor": 0.2})
    shifted.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(shifted.encode(images), plain.encode(images) - 0.2 * 0.3 * SIGMA_DATA)
    torch.testing.assert_close(shifted.decode(shifted.encode(images)), plain.decode(plain.encode(images)))


@pytest.mark.parametrize("shape", ["tiny-sd", "sd15"])
@torch.no_grad()
def test_one_view_equals_diffusers_own_unet_and_controlnet(shape: str, folders: dict[str, Path]) -> None:
    """The stock models with the stock processors, the checkpoint's scheduler, and the denoiser's ControlNet weights."""
    _, denoiser = load(folders[shape])
    untouched = UNet2DConditionModel.from_pretrained(folders[shape] / "unet").eval()
    given = conditions(denoiser.eval())
    ddim = DDIMScheduler.from_pretrained(folders[shape] / "scheduler")
    ddim.set_timesteps(1000)
    hint = torch.nn.functional.pixel_shuffle(given.maps[:1, 0, :-1], SCALE)
    stock = ControlNetModel.from_config(
        {**untouched.config, "_class_name": "UNet2DConditionModel"},
        mid_block_type=untouched.config.mid_block_type or "UNetMidBlock2D",
        conditioning_channels=16,
        conditioning_embedding_out_channels=(16, 32),
        num_class_embeds=2,
    ).eval()
    for wake in (False, True):  # as it starts, then with the zero convolutions trained
        if wake:
            for name, weight in denoiser.controlnet.named_parameters():
                if "controlnet_" in name:
                    torch.nn.init.normal_(weight, std=0.2)
        stock.load_state_dict(denoiser.controlnet.state_dict(), strict=False)
        for t in (20, 700):
            abar = ddim.alphas_cumprod[t]
            sigma = SIGMA_DATA * ((1 - abar) / abar).sqrt()
            xt = XT[:1, :1] * (0.25 + sigma**2).sqrt()
            inputs = xt[0] * abar.sqrt() / SIGMA_DATA
            text = denoiser.prompt_embedding
            residuals = {}
            if wake:
                down, mid = stock(inputs, t, text, hint, class_labels=torch.tensor([0]), return_dict=False)
                if untouched.mid_block is None:
                    mid = torch.zeros_like(mid)
                residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
            output = untouched(inputs, t, text, **residuals).sample
            expected = ddim.step(output, t, inputs).pred_original_sample * SIGMA_DATA
            alone = Conditions(*(getattr(pick(given, [0]), field.name)[:1] for field in fields(Conditions)))
            ours = denoiser(xt, sigma.expand(1, 1), alone)
            torch.testing.assert_close(ours[0], expected, atol=2e-3, rtol=1e-3)
            assert (ours - xt).abs().max() > 0.02


def test_every_self_attention_layer_is_joint(folders: dict[str, Path]) -> None:
    """In the UNet and in the ControlNet, however the attention was last chosen; and all of them are told of it."""
    _, denoiser = load(folders["sd15"])
    for attention in ("block-causal", "joint"):
        denoiser.set_attention(attention)
        layers = attention_layers(denoiser)
        assert {type(layer.processor) for layer in layers.values()} == {PROCESSORS[attention]}
    own = {name.split(".")[0] for name, layer in layers.items() if not layer.is_cross_attention}
    assert own == {"unet", "controlnet"}
    assert len(layers) == len(attention_layers(denoiser.unet)) + len(attention_layers(denoiser.controlnet))


def test_independent_views_are_denoised_alone_by_unet_and_controlnet(folders: dict[str, Path]) -> None:
    denoiser = awake(load(folders["sd15"])[1])
    given = conditions(denoiser)
    joint, alone = denoiser(XT, SIGMA, given), denoiser(XT, SIGMA, given, joint=False)
    denoiser.set_attention("independent")
    assert torch.equal(denoiser(XT, SIGMA, given), alone)
    assert (joint - alone).abs().max() > 1e-4


@pytest.mark.parametrize("training", [False, True])
def test_a_call_joins_every_self_attention_layer(training: bool, folders: dict[str, Path]) -> None:
    """Each self-attention layer's queries come from the tokens of all views; each cross-attention layer's from one."""
    denoiser = awake(load(folders["sd15"])[1]).train(training)
    heard: dict[str, int] = {}
    for name, layer in attention_layers(denoiser).items():
        hook = lambda module, inputs, n=name: heard.__setitem__(n, inputs[0].shape[0])  # noqa: E731
        layer.to_q.register_forward_pre_hook(hook)
    denoiser(XT, SIGMA, conditions(denoiser))
    layers = attention_layers(denoiser)
    assert heard.keys() == layers.keys()
    assert all(heard[name] == (BATCH * VIEWS if layers[name].is_cross_attention else BATCH) for name in layers)


def test_views_hear_of_one_another_within_their_set(denoiser: StableDenoiser) -> None:
    given = conditions(denoiser)
    changed = XT.clone()
    changed[0, 2] += 1
    difference = (denoiser(changed, SIGMA, given) - denoiser(XT, SIGMA, given)).abs().amax(dim=(2, 3, 4))
    assert (difference[0] > 1e-6).all()
    assert (difference[1] == 0).all()


def test_every_view_has_its_own_noise_level_and_conditions(denoiser: StableDenoiser) -> None:
    given = conditions(denoiser, dropped=DROPPED)
    together = denoiser(XT, SIGMA, given, joint=False)
    for view in range(VIEWS):
        alone = denoiser(XT[:, [view]], SIGMA[:, [view]], pick(given, [view]))
        torch.testing.assert_close(together[:, [view]], alone, atol=1e-4, rtol=1e-4)


def test_renderings_are_seen_unless_dropped(denoiser: StableDenoiser) -> None:
    first, second = (denoiser(XT, SIGMA, conditions(denoiser, s, DROPPED), joint=False) for s in (1, 2))
    assert torch.equal(first[DROPPED], second[DROPPED])
    difference = (first - second).abs().amax(dim=(2, 3, 4))[~DROPPED]
    assert (difference > 1e-5).all()
    kept = conditions(denoiser)
    assert torch.equal(kept.maps[~DROPPED], conditions(denoiser, dropped=DROPPED).maps[~DROPPED])


def test_the_class_embedding_tells_that_a_view_is_dropped(denoiser: StableDenoiser) -> None:
    nothing = Rendering(torch.full((BATCH, VIEWS, 16, 16, 16), 0.0), *(torch.zeros(BATCH, VIEWS, 1, 16, 16),) * 2)
    nothing.features[:, :, :3] = 0.5  # which is seen as zero
    seen, dropped = (
        denoiser.conditions(nothing, torch.zeros_like(XT), CAMERAS, torch.full((BATCH, VIEWS), d))
        for d in (False, True)
    )
    assert (denoiser(XT, SIGMA, seen) - denoiser(XT, SIGMA, dropped)).abs().max() > 1e-5


def test_guidance_batches_conditions(denoiser: StableDenoiser) -> None:
    kept, free = conditions(denoiser), conditions(denoiser, dropped=torch.ones_like(DROPPED))
    both = denoiser(XT.repeat(2, 1, 1, 1, 1), SIGMA.repeat(2, 1), concatenate_conditions([kept, free], dim=0))
    torch.testing.assert_close(both[:BATCH], denoiser(XT, SIGMA, kept), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both[BATCH:], denoiser(XT, SIGMA, free), atol=1e-4, rtol=1e-4)


def test_cached_anchors_of_unet_and_controlnet_give_the_same(folders: dict[str, Path]) -> None:
    denoiser = awake(load(folders["sd15"], attention="block-causal")[1])
    given, cache = conditions(denoiser), AnchorCache()
    full = denoiser(XT, SIGMA, given, num_anchors=1)[:, :2]
    for _ in range(2):
        torch.testing.assert_close(denoiser(XT, SIGMA, given, num_anchors=1, cache=cache), full, atol=1e-4, rtol=1e-4)
    assert len(cache.states[0].layers) == sum(not a.is_cross_attention for a in attention_layers(denoiser).values())


@pytest.mark.parametrize("shape", ["tiny-sd", "sd15"])
def test_a_new_denoiser_is_its_checkpoint(shape: str, folders: dict[str, Path]) -> None:
    """ControlNet and concat start out silent, and the ControlNet's encoder is a copy of the UNet's."""
    weights = UNet2DConditionModel.from_pretrained(folders[shape] / "unet").state_dict()
    outputs = []
    for conditioner in ("controlnet", "concat"):
        _, denoiser = load(folders[shape], conditioner)
        denoiser.eval()
        outputs += [denoiser(XT, SIGMA, conditions(denoiser, dropped=d), joint=False) for d in (None, DROPPED)]
        ours = denoiser.unet.state_dict()
        assert all(torch.equal(ours[name], weights[name]) for name in weights if name != "conv_in.weight")
        if denoiser.controlnet is not None:
            copied = denoiser.controlnet.state_dict()
            shared = [name for name in weights if name in copied]
            assert all(torch.equal(copied[name], weights[name]) for name in shared)
            assert any("down_blocks.1.attentions" in name for name in shared)
            assert (denoiser.controlnet.mid_block is None) == (shape == "tiny-sd")
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], atol=1e-5, rtol=1e-5)


def test_an_image_conditioned_checkpoint_keeps_its_input_channels(tmp_path: Path) -> None:
    """Zero-1-to-3 concatenates unscaled latents: what its weights make of those must not change."""
    folder = write_sd(tmp_path / "zero123", in_channels=8)
    given = UNet2DConditionModel.from_pretrained(folder / "unet").conv_in.weight
    codec, denoiser = load(folder, "concat")
    image = torch.rand(1, 3, 32, 32)
    unscaled = codec.vae.encode(image * 2 - 1).latent_dist.mode()
    ours = denoiser.unet.conv_in.weight
    assert torch.equal(ours[:, :4], given[:, :4])
    seen = codec.encode(image) / SIGMA_DATA
    torch.testing.assert_close(
        torch.conv2d(seen, ours[:, 4:]), torch.conv2d(unscaled, given[:, 4:]), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("conditioner", CONDITIONERS)
def test_saved_parts_are_the_same_bit_by_bit(conditioner: str, folders: dict[str, Path], tmp_path: Path) -> None:
    codec, denoiser = load(folders["tiny-sd"], conditioner)
    awake(denoiser).save_pretrained(tmp_path / "denoiser")
    codec.save_pretrained(tmp_path / "codec")
    again = StableDenoiser.from_pretrained(tmp_path / "denoiser", low_cpu_mem_usage=False)
    assert torch.equal(again(XT, SIGMA, conditions(again)), denoiser(XT, SIGMA, conditions(denoiser)))
    images = torch.rand(1, 3, 32, 32)
    loaded = VaeCodec.from_pretrained(tmp_path / "codec", low_cpu_mem_usage=False)
    assert torch.equal(loaded.encode(images), codec.encode(images))
    assert torch.equal(loaded.decode(loaded.encode(images)), codec.decode(codec.encode(images)))
