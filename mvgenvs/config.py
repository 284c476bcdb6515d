"""Configuration: nested frozen dataclasses with defaults in code and a help string under each field.

A YAML file holds only what differs from the defaults; `--section.field VALUE` on the command line overrides both.
"""

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, Union

import yaml

from mvgenvs.errors import UserError
from mvgenvs.field_texts import field_texts

T = TypeVar("T")


class ConfigLoader(yaml.SafeLoader):
    """YAML in which only true and false are booleans, as in version 1.2: no is a word, and a kind of precision."""


ConfigLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True)
class DataConfig:
    root: str = "data/opencars"
    """data set: the SRN layout (cars_train/<object>/rgb/…), its packed form, or captures with a transforms.json"""
    sources: tuple[str, ...] = ()
    """several data sets instead of root, each FOLDER=WEIGHT; training sets are drawn from them by their weights"""
    category: str = ""
    """one of the data set's categories, such as cars; empty takes all"""
    fit_captures: bool = True
    """move captures into the model's world: what the cameras look at to the origin, they at a distance of 1.3"""
    size: int = 128
    """image side in pixels"""
    num_views: int = 4
    """views in one training set"""
    min_known: int = 1
    """fewest known views of a set"""
    max_known: int = 2
    """most known views of a set"""
    known_odds: tuple[float, ...] = ()
    """odds of 1, 2, … known views, where they are not all the same; replaces min_known and max_known"""
    recolour: float = 0.8
    """probability that a set's hue is turned or its channels are permuted"""
    expose: float = 0.0
    """probability that a set is exposed for too long, up to four times, so that bright paint turns white"""
    mirror: bool = True
    """mirror half of the sets left to right, cameras and all"""
    renderings: int = 0
    """training sets that a frozen NeRF renders once, for the disk, to be met again with new noise; 0: each set anew"""
    renderings_share: float = 0.3
    """of run.minutes, for making them: the most, at which fewer are made"""
    on_device: bool = False
    """keep all data on the GPU and draw the same sets there: for data that fit, and GPUs that wait for their loader"""
    workers: int = 0
    """processes that prepare batches; 0 prepares them in the training process"""


@dataclass(frozen=True)
class ModelConfig:
    kind: str = "latent"
    """latent: the codec and denoiser described below; stable-diffusion: those of a checkpoint, by the same pipeline"""
    init_from: str = ""
    """checkpoint whose VAE, UNet and prompt embedding are the start: a folder in diffusers' layout, or a hub id"""
    conditioner: str = "controlnet"
    """how its UNet sees the rendering: controlnet, t2i-adapter, or concat (of the encoded colours)"""
    prompt: str = "a car"
    """what it is told that every view shows"""


@dataclass(frozen=True)
class CodecConfig:
    kind: str = "patch"
    """patch: closed-form encoder and trained decoder; identity: the denoiser sees pixels"""
    patch: int = 8
    """pixels per latent, along each side"""
    channels: int = 16
    """latent channels"""
    refiner_width: int = 48
    """channels of the network that refines the linear reconstruction"""
    refiner_blocks: int = 6
    """its residual blocks"""
    refiner_cell: int = 0
    """side in pixels of the cells that it works on; 0: a quarter of the patch's"""


@dataclass(frozen=True)
class NerfConfig:
    encoder_widths: tuple[int, ...] = (64, 128, 192)
    """channels of the encoder's three stages"""
    volume_depth: int = 16
    """depth of the frustum volume in voxels; its sides are a quarter of the image's"""
    num_coarse: int = 16
    """stratified samples per ray"""
    num_fine: int = 16
    """importance samples per ray"""
    fusion: str = "softmax"
    """how known views are fused: softmax of learned weights, or mean as in GeNVS"""
    world_coordinates: bool = True
    """feed the position in the world to the field: for posed data, departs from GeNVS"""
    source_colour: bool = True
    """let the field copy the known pixels that a point projects to"""
    mirror_known: bool = True
    """add the mirror image of each known view: for objects symmetric in x, such as cars"""
    density: str = "softplus"
    """how the field's output becomes a density: softplus, or exp, which reaches hard surfaces sooner"""
    world_channels: int = 0
    """channels of the volume in the world, made by 3-D convolutions; 0 does without"""
    world_widths: tuple[int, ...] = (48, 96, 192)
    """channels of its network's levels, finest first"""
    world_grid: tuple[int, ...] = (20, 20, 32)
    """voxels of its finest level along x, y and z, multiples of 4; it has twice as many"""
    world_extent: tuple[float, ...] = (0.32, 0.32, 0.52)
    """half sides of the box that it spans, in world units; nothing beyond is rendered"""
    world_density: bool = False
    """give it a density of its own, which the field adds to and loss.carving teaches directly"""
    world_detail: int = 0
    """channels of convolutions over its fine voxels, a multiple of 4; 0 does without"""
    zoom_known: bool = False
    """crop known views to their object, so that all their pixels show it"""
    matte: bool = False
    """see the mattes of known views, which tell white paint from the background"""
    visibility: bool = False
    """tell the field what each known view sees and what is hidden from it, by world_density"""


@dataclass(frozen=True)
class DenoiserConfig:
    render_size: int = 64
    """side of the NeRF's feature renderings in training, in pixels; sampling renders at the image size"""
    condition_scale: int = 2
    """side of the feature maps that the denoiser sees, over that of the latents; renderings are pooled to it"""
    plucker: bool = True
    """condition on the Plücker map of the target camera besides the rendering"""
    render_prior: bool = True
    """centre the preconditioning on the encoded rendering instead of on zero"""
    block_out_channels: tuple[int, ...] = (144, 128)
    """channels of the UNet's levels, finest first"""
    attention_levels: tuple[bool, ...] = (True, True)
    """which levels attend across the views"""
    layers_per_block: int = 1
    """residual blocks per level"""
    transformer_layers: int = 1
    """transformer blocks after each residual block of an attention level"""
    num_heads: int = 4
    """attention heads"""
    qk_norm: bool = True
    """normalise queries and keys of the joint attention"""
    attention: str = "joint"
    """joint: views of a set see one another; block-causal: known ones see no new ones; independent: each sees itself"""
    show_prior: bool = False
    """show the network the encoded rendering itself, besides its pooled features"""
    rotary_points: bool = False
    """turn queries and keys by the 3-D point that each token shows, so that views find each other's surfaces"""
    std_floor: float = 0.05
    """deviation of the latents from the encoded rendering where its opacity is almost 0"""
    std_slope: float = 0.9
    """what the square root of the opacity adds to it"""
    std_ceiling: float = 0.8
    """its largest value"""
    std_air: float = 0.004
    """its value where nothing is near"""
    air_distance: int = 2
    """how many latents away the nearest thing is there, at least"""
    fit_prior: bool = False
    """measure floor, slope and ceiling, and a factor for each channel, on training sets before the first step"""
    trainable: str = "all"
    """all; conditioner: its ControlNet or adapter alone; attention, lora: also the joint attention, or LoRA on it"""
    lora_rank: int = 8
    """rank of the updates of the attention's projections under trainable: lora"""


@dataclass(frozen=True)
class LossConfig:
    reconstruction: float = 0.0
    """weight of the codec's reconstruction error (L1)"""
    rgb: float = 0.0
    """weight of the NeRF's colour error (MSE)"""
    mask: float = 0.0
    """weight of the NeRF's opacity against the object mask (MSE)"""
    depth: float = 0.0
    """weight of the NeRF's depth error on the object (L1); only for data with depth"""
    distance: float = 0.0
    """weight of the expected |distance - true distance| along rays of the object, which wants thin surfaces"""
    carving: float = 0.0
    """weight of the cross-entropy between nerf.world_density and what the depth maps of a set say of every voxel"""
    opacity: float = 0.0
    """weight of the mean opacity, which keeps the field from filling the frustum"""
    denoise: float = 0.0
    """weight of the denoising loss"""
    perceptual: float = 0.0
    """weight of LPIPS-VGG between the decoded denoised latents, or refined views, and the true images"""
    perceptual_trunk: str = ""
    """folder with the VGG weights of that loss, whole or the first stages; empty looks where evaluation does"""
    perceptual_crop: int = 64
    """side in pixels of the random crop of one view of each set that it compares, and of those that are refined"""
    rays: int = 0
    """random rays per view for the NeRF's losses; 0 renders whole images at denoiser.render_size"""
    object_rays: float = 0.0
    """share of these rays that is drawn from the object and its surroundings, where there is a mask"""
    random_background: bool = False
    """compare colours on a random background for each set, so that white surfaces are no air; needs masks"""
    noise_law: str = "latent"
    """distribution of training noise levels: high, mid, low, latent, wide, high-to-low"""
    offset_noise: float = 0.0
    """amplitude of noise that is constant over each channel of a view; 0.1 is usual with Stable Diffusion"""
    min_snr: float = 0.0
    """gamma of Min-SNR weighting, 5 in its paper; 0 weighs noise levels as EDM does"""
    drop_condition: float = 0.1
    """probability that the renderings of a set are dropped, of all its views at once, as guidance does"""
    noise_draws: int = 1
    """noise levels and noises drawn for each rendered set; rendering costs more than denoising"""
    clean_known: float = 0.5
    """probability that a set's known views enter almost clean, as anchors, instead of at the set's noise level"""
    clean_views: float = 0.0
    """probability that each view of a set, known or not, enters almost clean with even odds: anchors to look at"""
    input_noise: float = 0.5
    """largest amplitude of noise on the known images, added to half of the sets"""
    drop_matte: float = 0.3
    """probability that the known views of a set come without their mattes, as a photo may"""
    latent_noise: float = 0.0
    """noise on the latents when the codec's decoder is trained, which makes it forgive the denoiser's errors"""
    refine: float = 0.0
    """weight of the error (L1) of the codec's refiner on views that the model itself has made: a stage of its own"""

    @property
    def of_field(self) -> tuple[float, ...]:
        """The weights of all losses of the NeRF."""
        return self.rgb, self.mask, self.depth, self.distance, self.carving, self.opacity


@dataclass(frozen=True)
class RefineConfig:
    """The views that the refiner learns from, made before its first step."""

    sets: int = 120
    """the most training sets to make views of"""
    views: int = 6
    """views of each, made from one known view"""
    share: float = 0.4
    """of run.minutes, for making them: the most, at which fewer sets are made"""
    steps: int = 0
    """sampler steps; 0, as for the two below: what the checkpoint chooses"""
    guidance: float = 0.0
    """classifier-free guidance"""
    render_sigma: float = 0.0
    """start from the rendering with so much noise"""


@dataclass(frozen=True)
class OptimConfig:
    steps: int = 1000
    """optimisation steps"""
    batch: int = 8
    """sets per optimisation step, over all processes and accumulation steps"""
    accumulation: int = 1
    """backward passes per optimisation step"""
    lr: float = 3e-4
    """peak learning rate of AdamW; linear warm-up, then a cosine to zero"""
    warmup: int = 100
    """warm-up steps"""
    weight_decay: float = 0.01
    """AdamW weight decay"""
    betas: tuple[float, ...] = (0.9, 0.99)
    """AdamW's decay rates of the gradients' mean and square"""
    kind: str = "adamw"
    """adamw, or adamw8bit: its state in 8 bits, through bitsandbytes"""
    clip: float = 1.0
    """largest gradient norm of the trained parts"""
    ema: float = 0.995
    """decay of the averaged weights, reached through the warm-up min(decay, (1 + n) / (10 + n))"""


@dataclass(frozen=True)
class RunConfig:
    output: str = "runs/default"
    """folder for checkpoints, logs and validation sheets"""
    train: tuple[str, ...] = ("nerf", "denoiser")
    """the parts that learn, out of codec, nerf, denoiser; the others stay frozen"""
    init_from: str = ""
    """pipeline folder, or run folder, whose weights are the start; empty starts from scratch"""
    init_parts: tuple[str, ...] = ("codec", "nerf", "denoiser")
    """the parts to take from init_from; the others start from scratch"""
    minutes: float = 0.0
    """how long to train: steps follow from the throughput of the first ones, in place of optim.steps; 0: by steps"""
    seed: int = 0
    """seed of weights, sets, noise"""
    checkpoint_every: int = 200
    """steps between checkpoints"""
    keep: int = 2
    """newest checkpoints to keep"""
    validate_every: int = 0
    """steps between validation sheets; 0 makes one at the end only, -1 none"""
    validate_objects: int = 2
    """objects in a validation sheet"""
    log_every: int = 10
    """steps between lines in the tracker"""
    tracker: str = "tensorboard"
    """accelerate tracker, or none"""
    mixed_precision: str = "no"
    """no, bf16, fp16, or auto: bf16 where the processor has it and a short trial finds it faster"""
    gradient_checkpointing: bool = False
    """compute the denoiser's activations twice instead of keeping them: less memory, same gradients"""
    compile: bool = False
    """torch.compile the denoiser's UNet and the NeRF's encoders: minutes at the first step, and a C++ compiler"""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice"""
    max_nonfinite: int = 20
    """consecutive steps with a non-finite loss after which the run stops"""


@dataclass(frozen=True)
class TrainConfig:
    """One training stage."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    nerf: NerfConfig = field(default_factory=NerfConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)


def load_config(path: Path | None, overrides: dict[str, str] | None = None) -> TrainConfig:
    """Defaults, then the YAML file, then overrides such as {"optim.lr": "1e-4"}.

    Raises `UserError` with one sentence for a missing or malformed file, an unknown key (naming the nearest one), or
    a value of the wrong type.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = yaml.load(Path(path).read_text(), ConfigLoader) or {}
        except OSError as error:
            raise UserError(f"cannot read the configuration {path}") from error
        except yaml.YAMLError as error:
            raise UserError(f"{path} is not valid YAML") from error
        if not isinstance(values, dict):
            raise UserError(f"{path} must hold sections such as 'optim:' with fields below them")
    for key, text in (overrides or {}).items():
        section, _, name = key.partition(".")
        if not isinstance(values.setdefault(section, {}), dict):
            raise UserError(f"section '{section}' of {path} must hold fields")
        values[section][name] = yaml.load(text, ConfigLoader)
    return build(TrainConfig, values)


def build(cls: type[T], values: Any, where: str = "") -> T:
    """A dataclass from nested dictionaries, checked key by key."""
    if not isinstance(values, dict):
        raise UserError(f"'{where}' must hold fields, not {values!r}")
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.0)
            raise UserError(f"there is no setting '{name}': did you mean '{name.removesuffix(str(key))}{near[0]}'?")
        is_section = dataclasses.is_dataclass(hints[key])
        arguments[key] = build(hints[key], value, name) if is_section else _convert(hints[key], value, name)
    return cls(**arguments)


def _convert(hint: Any, value: Any, name: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(hint)[0]
        return tuple(_convert(inner, item, name) for item in value)
    if origin in (Union, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
        return None if value is None else _convert(hint, value, name)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-4 as a string
        except ValueError:
            pass
    elif hint is str and value is None:
        return ""
    elif isinstance(hint, type) and type(value) is hint:
        return value
    expected = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise UserError(f"setting '{name}' must be {expected}, not {value!r}")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dictionaries, as YAML and JSON want them."""
    return {
        key: to_dict(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for key, value in (config if isinstance(config, dict) else dataclasses.asdict(config)).items()
    }


def fields_help(cls: type) -> dict[str, tuple[str, Any]]:
    """{"section.field": (the string under the field, its default)} of nested dataclasses, for `--help`."""
    out: dict[str, tuple[str, Any]] = {}
    for section in dataclasses.fields(cls):
        section_cls = typing.get_type_hints(cls)[section.name]
        texts = field_texts(section_cls)
        for item in dataclasses.fields(section_cls):
            out[f"{section.name}.{item.name}"] = (texts[item.name], item.default)
    return out
