"""The three learned parts of the system, built from a configuration or read from a pipeline folder."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from mvgenvs.config import TrainConfig
from mvgenvs.diffusion.codec import IdentityCodec, PatchCodec
from mvgenvs.diffusion.denoiser import JointDenoiser
from mvgenvs.errors import UserError
from mvgenvs.nerf.model import ViewNeRF

Codec = IdentityCodec | PatchCodec
BUNDLED = Path(__file__).parent / "pretrained"
CHECKPOINT_PREFIX = "checkpoint-"
PARTS = ("codec", "nerf", "denoiser")
CLASSES = {cls.__name__: cls for cls in (IdentityCodec, PatchCodec, ViewNeRF, JointDenoiser)}


@dataclass(frozen=True, eq=False)
class Parts:
    """Codec, NeRF and denoiser of one model."""

    codec: Codec
    nerf: ViewNeRF
    denoiser: JointDenoiser

    def modules(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in PARTS}

    def replaced(self, others: "Parts", names: Iterable[str]) -> "Parts":
        """These parts, with those called `names` taken from others."""
        return replace(self, **{name: getattr(others, name) for name in names})


def build_parts(config: TrainConfig) -> Parts:
    """New parts with random weights."""
    codec: Codec
    if config.codec.kind == "identity":
        codec = IdentityCodec()
    elif config.codec.kind == "patch":
        codec = PatchCodec(config.codec.patch, config.codec.channels, config.codec.refiner_channels)
    else:
        raise UserError(f"setting 'codec.kind' must be patch or identity, not '{config.codec.kind}'")
    channels, latent_side, _ = codec.latent_shape((config.data.size, config.data.size))
    condition_side = latent_side * config.denoiser.condition_scale
    if config.denoiser.render_size % condition_side or config.data.size % condition_side:
        raise UserError(f"'denoiser.render_size' and 'data.size' must be multiples of {condition_side} here")
    nerf = ViewNeRF(
        encoder_widths=config.nerf.encoder_widths,
        volume_depth=config.nerf.volume_depth,
        num_coarse=config.nerf.num_coarse,
        num_fine=config.nerf.num_fine,
        fusion=config.nerf.fusion,
        world_coordinates=config.nerf.world_coordinates,
        source_colour=config.nerf.source_colour,
        mirror_known=config.nerf.mirror_known,
    )
    denoiser = JointDenoiser(
        latent_channels=channels,
        latent_size=latent_side,
        features=nerf.config.features,
        condition_scale=config.denoiser.condition_scale,
        plucker=config.denoiser.plucker,
        render_prior=config.denoiser.render_prior,
        block_out_channels=config.denoiser.block_out_channels,
        attention_levels=config.denoiser.attention_levels,
        layers_per_block=config.denoiser.layers_per_block,
        transformer_layers=config.denoiser.transformer_layers,
        num_heads=config.denoiser.num_heads,
        qk_norm=config.denoiser.qk_norm,
    )
    return Parts(codec, nerf, denoiser)


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a training run, oldest first. Unfinished ones carry a temporary name and do not count."""
    return sorted(p for p in run.glob(f"{CHECKPOINT_PREFIX}*") if p.name.removeprefix(CHECKPOINT_PREFIX).isdigit())


def find_pipeline(path: Path) -> Path:
    """The pipeline folder that `path` means: itself, the one in a checkpoint, or the newest one of a training run."""
    newest = checkpoints(path)
    for folder in (path, path / "pipeline", *([newest[-1] / "pipeline"] if newest else [])):
        if (folder / "model_index.json").exists():
            return folder
    raise UserError(f"found no mvgenvs pipeline in {path}: give a pipeline, checkpoint or run folder")


def resolve_checkpoint(name: str) -> Path:
    """The pipeline folder of "bundled", of a folder (see `find_pipeline`), or of a hub id, which is downloaded."""
    if name == "bundled":
        return find_pipeline(BUNDLED)
    if Path(name).exists():
        return find_pipeline(Path(name))
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return find_pipeline(Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"])))
    except (OSError, HFValidationError) as error:
        raise UserError(f"checkpoint '{name}' is neither a folder nor a model that the hub gives us") from error


def load_parts(folder: Path) -> Parts:
    """The parts saved in a pipeline folder, in fp32.

    Raises `UserError` where the folder is not one of ours or a part does not load.
    """
    loaded = {}
    for name in PARTS:
        try:
            class_name = json.loads((folder / name / "config.json").read_text())["_class_name"]
            loaded[name] = CLASSES[class_name].from_pretrained(folder / name, low_cpu_mem_usage=False)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(
                f"{folder} is not an mvgenvs pipeline: cannot read its '{name}' ({type(error).__name__})"
            ) from error
    return Parts(**loaded)
