"""The three learned parts of the system, built from a configuration or read from a pipeline folder."""

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from mvgenvs.config import TrainConfig
from mvgenvs.diffusion.codec import Codec, IdentityCodec, PatchCodec
from mvgenvs.diffusion.joint_model import JointModel
from mvgenvs.diffusion.renoising import check_scheduler
from mvgenvs.errors import UserError
from mvgenvs.nerf.model import ViewNeRF

BUNDLED = Path(__file__).parent / "pretrained"
CAMERA_NETWORK = BUNDLED / "camera"
CHECKPOINT_PREFIX = "checkpoint-"
SHARD = r"-\d+-of-\d+(?=\.safetensors$)"  # the number of one of several files of weights, in its name
PARTS = ("codec", "nerf", "denoiser")
# How calls sample that do not say it.
DEFAULTS = ("default_steps", "default_guidance", "default_render_sigma", "default_temperature")
MODULES = {
    "IdentityCodec": "mvgenvs.diffusion.codec",
    "PatchCodec": "mvgenvs.diffusion.codec",
    "VaeCodec": "mvgenvs.diffusion.stable.codec",
    "ViewNeRF": "mvgenvs.nerf.model",
    "JointDenoiser": "mvgenvs.diffusion.denoiser",
    "ViewTransformer": "mvgenvs.diffusion.transformer",
    "ViewsetDenoiser": "mvgenvs.diffusion.viewset",
    "StableDenoiser": "mvgenvs.diffusion.stable.denoiser",
}  # of the classes of parts; a module is imported when a part is of it, as the import of a UNet takes seconds
DENOISERS = {"unet": "JointDenoiser", "transformer": "ViewTransformer", "viewset": "ViewsetDenoiser"}


def part_class(name: str) -> Any:
    """The class of a part. Raises `KeyError` for a name that is not in `MODULES`."""
    return getattr(import_module(MODULES[name]), name)


@dataclass(frozen=True, eq=False)
class Parts:
    """Codec, NeRF and denoiser of one model, and its default sampling options."""

    codec: Codec
    nerf: ViewNeRF
    denoiser: JointModel
    defaults: Mapping[str, Any] = field(default_factory=dict)  # by the names in `DEFAULTS`

    def modules(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in PARTS}

    def replaced(self, others: "Parts", names: Iterable[str]) -> "Parts":
        """These parts, with those in `names` taken from `others`; the sampling defaults go with the denoiser."""
        taken = {name: getattr(others, name) for name in names}
        return replace(self, **taken, defaults=others.defaults if "denoiser" in taken else self.defaults)


def build_parts(config: TrainConfig) -> Parts:
    """New parts with random weights or, if `model.kind` is stable-diffusion, from a checkpoint.

    Raises `UserError` if the configuration does not make a model.
    """
    try:
        return _built(config)
    except UserError:
        raise
    except (ValueError, TypeError, RuntimeError, AssertionError, ArithmeticError) as error:  # of torch and diffusers
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"this configuration does not make a model: {reason:.200}") from error


def _built(config: TrainConfig) -> Parts:
    codec: Codec
    denoiser: JointModel
    if config.model.kind == "latent":
        codec = build_codec(config)
        nerf = ViewNeRF(**asdict(config.nerf))
        denoiser = build_denoiser(config, codec, nerf.config.features)
    else:
        if "codec" in config.run.train:
            raise UserError("Stable Diffusion's VAE stays as it is: leave codec out of run.train")
        from mvgenvs.diffusion.stable.checkpoint import load_stable_diffusion

        nerf = ViewNeRF(**asdict(config.nerf))
        codec, denoiser = load_stable_diffusion(
            config.model.init_from,
            config.model.conditioner,
            config.model.prompt,
            config.data.size,
            nerf.config.features,
            config.denoiser.condition_scale,
            config.denoiser.attention,
        )
    condition_side = denoiser.condition_side
    if config.denoiser.render_size % condition_side or config.data.size % condition_side:
        raise UserError(f"'denoiser.render_size' and 'data.size' must be multiples of {condition_side} here")
    return Parts(codec, nerf, denoiser)


def build_codec(config: TrainConfig) -> Codec:
    """The codec of a model of kind latent."""
    if config.codec.kind == "identity":
        return IdentityCodec()
    shape = config.codec
    return PatchCodec(
        shape.patch,
        shape.channels,
        shape.refiner_width,
        shape.refiner_blocks,
        shape.whitening,
        refiner_cell=shape.refiner_cell or None,
    )


def build_denoiser(config: TrainConfig, codec: Codec, features: int) -> JointModel:
    """The denoiser of a model of kind latent, for renderings with `features` channels. Raises `UserError`."""
    channels, latent_size, _ = codec.latent_shape((config.data.size, config.data.size))
    kind = config.denoiser.network
    if kind != "unet" and (config.denoiser.shared_volume or config.denoiser.rendering != (kind == "transformer")):
        wanted = "true" if kind == "transformer" else "false"
        raise UserError(f"denoiser.network {kind} wants denoiser.rendering {wanted} and denoiser.shared_volume 0")
    network = part_class(DENOISERS[kind])
    taken = inspect.signature(network).parameters
    given = asdict(config.denoiser) | (asdict(config.nerf) if kind == "viewset" else {})
    settings = {name: value for name, value in given.items() if name in taken}
    denoiser: JointModel = network(latent_channels=channels, latent_size=latent_size, features=features, **settings)
    return denoiser


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a training run, oldest first. Unfinished ones have a temporary name and do not count."""
    return sorted(p for p in run.glob(f"{CHECKPOINT_PREFIX}*") if p.name.removeprefix(CHECKPOINT_PREFIX).isdecimal())


def find_pipeline(path: Path) -> Path:
    """The pipeline folder that `path` means: itself, the one in a checkpoint, or the newest one of a training run."""
    newest = checkpoints(path)
    for folder in (path, path / "pipeline", *([newest[-1] / "pipeline"] if newest else [])):
        if (folder / "model_index.json").exists():
            return folder
    raise UserError(f"found no mvgenvs pipeline in {path}: give a pipeline, checkpoint or run folder")


def find_checkpoint(start: str) -> Path:
    """The pipeline folder of `run.init_from`: "bundled", or as in `find_pipeline`."""
    return find_pipeline(BUNDLED if start == "bundled" else Path(start))


def checkpoint_sha256(folder: Path) -> str:
    """A hash of the names and contents of all weights and settings of a pipeline.

    The network that estimates cameras lies beside the bundled pipeline, and is no part of it.
    """
    digest = hashlib.sha256()
    for path in sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.json")]):
        if path.is_relative_to(CAMERA_NETWORK):
            continue
        digest.update(f"{path.relative_to(folder).as_posix()}\n{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def resolve_checkpoint(name: str, **hub: Any) -> Path:
    """The pipeline folder of "bundled", of a folder (see `find_pipeline`), or of a hub id, which is downloaded.

    `hub` goes to `snapshot_download`: revision, cache_dir, local_files_only, force_download, token.
    """
    if name == "bundled":
        return find_pipeline(BUNDLED)
    if Path(name).exists():
        return find_pipeline(Path(name))
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return find_pipeline(Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"], **hub)))
    except (OSError, HFValidationError) as error:
        raise UserError(f"checkpoint '{name}' is neither a folder nor a model that the hub offers") from error


def load_parts(folder: Path, variant: str | None = None) -> Parts:
    """The parts saved in a pipeline folder, in fp32, only from safetensors; `variant` as in diffusers, such as fp16.

    Raises `UserError` if the folder is not one of ours or a part does not load.
    """
    loaded = {}
    for name in PARTS:
        try:
            class_name = json.loads((folder / name / "config.json").read_text())["_class_name"]
            loaded[name], report = part_class(class_name).from_pretrained(
                folder / name, low_cpu_mem_usage=False, output_loading_info=True, use_safetensors=True, variant=variant
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(_unreadable(folder, name, variant, error)) from error
        if report["missing_keys"]:  # diffusers leaves these uninitialised
            raise UserError(f"the '{name}' of {folder} lacks weights, {report['missing_keys'][0]} first: train it anew")
    index = json.loads((folder / "model_index.json").read_text())
    return Parts(**loaded, defaults={name: index[name] for name in DEFAULTS if name in index})


def _unreadable(folder: Path, name: str, variant: str | None, error: Exception) -> str:
    """Why a part does not load, and which variants there are if another one was asked for."""
    stem = "diffusion_pytorch_model"
    files = [re.sub(SHARD, "", path.name) for path in (folder / name).glob(f"{stem}*.safetensors")]
    wanted = f"{stem}.safetensors" if variant is None else f"{stem}.{variant}.safetensors"
    if files and wanted not in files:
        others = sorted({file.removeprefix(stem).removesuffix(".safetensors").strip(".") or "None" for file in files})
        return f"there is no variant {variant} of the '{name}' of {folder}: choose one of {', '.join(others)}"
    return f"{folder} is not an mvgenvs pipeline: cannot read its '{name}' ({type(error).__name__})"


def load_scheduler(folder: Path) -> Any:
    """The noise levels saved in a pipeline folder. Raises `UserError` if they cannot be read or would be misread."""
    try:
        kind = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
        scheduler_class = getattr(diffusers, kind)
        if not issubclass(scheduler_class, diffusers.SchedulerMixin):
            raise ValueError(f"{kind} is no scheduler")
        scheduler = scheduler_class.from_pretrained(folder / "scheduler")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} is not an mvgenvs pipeline: cannot read its 'scheduler'") from error
    check_scheduler(scheduler)
    return scheduler
