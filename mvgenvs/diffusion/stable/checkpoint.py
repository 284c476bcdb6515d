"""Reads a Stable Diffusion checkpoint in diffusers' layout, from a folder or the hub, and builds our parts from it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError

from mvgenvs.diffusion.stable.codec import VaeCodec
from mvgenvs.diffusion.stable.conditioners import IMAGES, ZERO123, start_from_unet
from mvgenvs.diffusion.stable.denoiser import StableDenoiser
from mvgenvs.diffusion.stable.noise import PREDICTION_TYPES, SETTINGS, DiscreteNoise
from mvgenvs.diffusion.stable.prompt import embed, tokenize
from mvgenvs.diffusion.stable.saved_config import public_entries
from mvgenvs.diffusion.stable.zero123 import CCProjection
from mvgenvs.errors import UserError

COMPONENTS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
ZERO123_COMPONENTS = {
    "unet": "config.json",
    "vae": "config.json",
    "image_encoder": "config.json",
    "cc_projection": "config.json",
    "scheduler": "scheduler_config.json",
}
ADDITIONS = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type")  # SD 1 and 2: none


def find_stable_diffusion(name: str, components: Mapping[str, str] = COMPONENTS) -> Path:
    """The checkpoint's folder with all components; a checkpoint on the hub is downloaded. Raises `UserError`."""
    if not name:
        raise UserError("setting 'model.init_from' must name a Stable Diffusion checkpoint: a folder, or a hub id")
    folder = Path(name) if Path(name).exists() else _download(name, components)
    for component, file in components.items():
        if not (folder / component / file).is_file():
            raise UserError(
                f"{name} is no Stable Diffusion checkpoint in diffusers' layout: it has no {component}/{file}"
            )
    return folder


def _download(name: str, components: Mapping[str, str]) -> Path:
    """Downloads the components from the hub, as safetensors if available."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    wanted = [f"{component}/*" for component in components]
    others = ["*.fp16.*", "*.non_ema.*", "*.msgpack", "*.onnx*", "*.h5"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=[*others, "*.bin"]))
        if not list(folder.glob("unet/*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=others))
    except (OSError, HFValidationError) as error:
        raise UserError(f"model.init_from '{name}' is neither a folder nor a model that the hub offers") from error
    return folder


def load_stable_diffusion(
    name: str, conditioner: str, prompt: str, image_size: int, features: int, condition_scale: int, attention: str
) -> tuple[VaeCodec, StableDenoiser]:
    """Codec and denoiser that start from a checkpoint, in fp32, on the CPU.

    `image_size` is the side of the images in pixels; the rest is as in `StableDenoiser`. Raises `UserError` that names
    the component that is missing, damaged, or of another kind of model.
    """
    zero123 = conditioner in ZERO123
    folder = find_stable_diffusion(name, ZERO123_COMPONENTS if zero123 else COMPONENTS)
    vae = _read("vae", folder, lambda path: _load_model(AutoencoderKL, path))
    unet = _read("unet", folder, lambda path: _load_model(UNet2DConditionModel, path))
    settings = _read("scheduler", folder, _load_scheduler)
    encoder: Any = None
    projection: Any = None
    if zero123:
        encoder = _read("image_encoder", folder, _load_image_encoder)
        projection = _read("cc_projection", folder, lambda path: _load_model(CCProjection, path))
        embedding = torch.zeros(1, projection.config.out_channel)  # in the place of the prompt's
    else:
        tokens = _read("tokenizer", folder, lambda path: tokenize(path, prompt))
        embedding = _read("text_encoder", folder, lambda path: embed(path, tokens))
    codec = VaeCodec.from_vae(vae)
    channels, latent_size, _ = codec.latent_shape((image_size, image_size))
    _check(folder, unet, channels, channels * (1 + IMAGES.get(conditioner, 0)), embedding.shape[1],
           "cc_projection" if zero123 else "text_encoder")  # fmt: skip

    denoiser = StableDenoiser(
        public_entries(unet.config), settings, tuple(embedding.shape),
        conditioner, latent_size, features, condition_scale, attention,
        None if encoder is None else encoder.config.to_dict(),
    )  # fmt: skip
    denoiser.prompt_embedding.copy_(embedding)
    if zero123:
        denoiser.image_encoder, denoiser.cc_projection = encoder.requires_grad_(False), projection
    _start_unet(denoiser.unet, unet, channels, vae.config.scaling_factor)
    if denoiser.controlnet is not None:
        start_from_unet(denoiser.controlnet, denoiser.unet)
    return codec, denoiser


def _read(component: str, folder: Path, load: Callable[[Path], Any]) -> Any:
    """The result of `load` for a component's folder; its failures become one sentence."""
    try:
        return load(folder / component)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"cannot read the {component} of {folder}: {reason}") from error


def _load_model(cls: Any, path: Path) -> Any:
    """A diffusers model with all its weights: diffusers itself only warns if some are missing."""
    written = json.loads((path / "config.json").read_text()).get("_class_name", cls.__name__)
    if written != cls.__name__:
        raise ValueError(f"it is a {written}, not a {cls.__name__}")
    model, report = cls.from_pretrained(path, low_cpu_mem_usage=False, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
    return model


def _load_image_encoder(path: Path) -> Any:
    from transformers import CLIPVisionModelWithProjection

    model, report = CLIPVisionModelWithProjection.from_pretrained(path, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
    return model.float().eval()


def _load_scheduler(path: Path) -> dict[str, Any]:
    written = json.loads((path / COMPONENTS["scheduler"]).read_text())
    settings = {setting: written[setting] for setting in SETTINGS if setting in written}
    kind = settings.setdefault("prediction_type", "epsilon")
    if kind not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be {' or '.join(PREDICTION_TYPES)}, not {kind}")
    DiscreteNoise(settings)  # raises if its betas make no sense
    return settings


def _check(
    folder: Path, unet: UNet2DConditionModel, channels: int, inputs: int, text_channels: int, token: str
) -> None:
    """Raises `UserError` if the UNet does not fit the other components, or is not of SD 1 or 2.

    `token` is the component whose tokens of `text_channels` channels it attends to.
    """
    config = unet.config
    if added := [name for name in ADDITIONS if config.get(name) is not None]:
        raise UserError(f"the unet of {folder} is not of the Stable Diffusion 1 or 2 kind: it has {added[0]}")
    if config.out_channels != channels or config.in_channels not in range(channels, inputs + 1, channels):
        raise UserError(
            f"the unet of {folder} takes {config.in_channels} channels and returns {config.out_channels},"
            f" but its vae has {channels}"
        )
    if config.cross_attention_dim != text_channels:
        raise UserError(
            f"the {token} of {folder} has {text_channels} channels, but its unet wants {config.cross_attention_dim}"
        )


def _start_unet(unet: UNet2DConditionModel, checkpoint: UNet2DConditionModel, channels: int, scaling: float) -> None:
    """Loads the checkpoint's weights. Input channels that it lacks start at zero; the class embedding stays zero.

    Further input channels that it has expect unscaled latents [Zero-1-to-3, arXiv 2303.11328; InstructPix2Pix,
    2211.09800].
    """
    weights = checkpoint.state_dict()
    conv_in = unet.conv_in.weight.new_zeros(unet.conv_in.weight.shape)
    given = weights["conv_in.weight"]
    conv_in[:, : given.shape[1]] = given
    conv_in[:, channels:] /= scaling
    unet.load_state_dict({**weights, "conv_in.weight": conv_in}, strict=False)  # strict except for the class embedding
