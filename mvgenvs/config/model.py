"""Settings of the model: what is built, and saved with it."""

from dataclasses import dataclass


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
