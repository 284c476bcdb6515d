"""Settings of the model: they say what is built, and are saved with it."""

from dataclasses import dataclass

from mvgenvs.config.ranges import WIDEST, Checked, named, ranged
from mvgenvs.errors import UserError


@dataclass(frozen=True)
class ModelConfig(Checked):
    kind: str = named("latent", "latent", "stable-diffusion")
    """latent: the codec and denoiser described below; stable-diffusion: those of a checkpoint, in the same pipeline"""
    init_from: str = ""
    """checkpoint to take VAE, UNet and prompt embedding from: a folder in diffusers' layout, or a hub id"""
    conditioner: str = named(
        "controlnet", "controlnet", "t2i-adapter", "concat", "zero123", "zero123-rendering", "camera"
    )
    """what its UNet sees: controlnet, t2i-adapter or concat (the rendering), zero123, zero123-rendering, or camera"""
    prompt: str = "a car"
    """prompt for every view"""


@dataclass(frozen=True)
class CodecConfig(Checked):
    kind: str = named("patch", "patch", "identity")
    """patch: closed-form encoder and trained decoder; identity: the denoiser sees pixels"""
    patch: int = ranged(8, 1, 256)
    """pixels per latent along each side"""
    channels: int = ranged(16, 1, WIDEST)
    """latent channels"""
    whitening: float = ranged(0.7, 0, 1)
    """patch: how far strong components are brought down to weak ones; 0 keeps noise of pixels white"""
    refiner_width: int = ranged(48, 1, WIDEST)
    """channels of the refiner, the network that refines the linear reconstruction"""
    refiner_blocks: int = ranged(6, 0, 64)
    """residual blocks of the refiner"""
    refiner_cell: int = ranged(0, 0, 256)
    """side in pixels of the cells that the refiner works on; 0: a quarter of the patch's"""


@dataclass(frozen=True)
class NerfConfig(Checked):
    encoder_widths: tuple[int, ...] = ranged((64, 128, 192), 1, WIDEST, count=(3, 3))
    """channels of the encoder's three stages"""
    volume_depth: int = ranged(16, 1, 512)
    """depth of the frustum volume in voxels; its sides are a quarter of the image's"""
    num_coarse: int = ranged(16, 1, 1024)
    """stratified samples per ray"""
    num_fine: int = ranged(16, 0, 1024)
    """importance samples per ray"""
    fusion: str = named("softmax", "softmax", "mean")
    """how known views are fused: softmax of learned weights, or mean, as in GeNVS"""
    world_coordinates: bool = True
    """give the field the position in the world: for posed data; departs from GeNVS"""
    source_colour: bool = True
    """let the field copy the known pixels that a point projects to"""
    mirror_known: bool = True
    """add the mirror image of each known view: for objects symmetric in x, such as cars"""
    density: str = named("softplus", "softplus", "exp")
    """activation of the density: softplus, or exp, which reaches hard surfaces sooner"""
    world_channels: int = ranged(0, 0, WIDEST)
    """channels of the world volume, a voxel grid made by 3-D convolutions; 0: no such volume"""
    world_widths: tuple[int, ...] = ranged((48, 96, 192), 1, WIDEST, count=(3, 3))
    """channels of the levels of its 3-D U-Net, finest first"""
    world_grid: tuple[int, ...] = ranged((20, 20, 32), 4, 256, multiple=4, count=(3, 3))
    """voxels of the U-Net's finest level along x, y and z, multiples of 4; the volume has twice as many"""
    world_extent: tuple[float, ...] = ranged((0.32, 0.32, 0.52), 0, 100, above=True, count=(3, 3))
    """half the sides of the world volume's box, in world units; nothing outside it is rendered"""
    world_density: bool = False
    """give the world volume a density of its own, to which the field adds; loss.carving supervises it directly"""
    world_detail: int = ranged(0, 0, WIDEST, multiple=4)
    """channels of convolutions over the world volume's fine voxels, a multiple of 4; 0: none"""
    zoom_known: bool = False
    """crop known views to their object, so that all their pixels show it"""
    matte: bool = False
    """let the field see the mattes of known views, which tell white paint from the background"""
    visibility: bool = False
    """tell the field what each known view sees and what is hidden from it, according to world_density"""
    world_paint: bool = False
    """let four of world_channels be colours, for what no known view sees; loss.paint supervises them directly"""


@dataclass(frozen=True)
class DenoiserConfig(Checked):
    network: str = named("unet", "unet", "transformer", "viewset")
    """unet; transformer: over the tokens near the object, of single pixels; viewset: renders a scene of noisy views"""
    render_size: int = ranged(64, 1, 4096)
    """side of the NeRF's feature renderings in training, in pixels; sampling renders at the image size"""
    condition_scale: int = ranged(2, 1, 64)
    """side of the denoiser's feature maps divided by that of the latents; renderings are pooled to it"""
    rendering: bool = True
    """unet: show the denoiser the NeRF's rendering; false: cameras and the other views of a set alone, as in 3DiM"""
    plucker: bool = True
    """also condition on the Plücker map of the target camera"""
    render_prior: bool = True
    """centre the preconditioning on the encoded rendering instead of on zero"""
    block_out_channels: tuple[int, ...] = ranged((144, 128), 1, WIDEST, count=(1, 8))
    """channels of the UNet's levels, finest first"""
    attention_levels: tuple[bool, ...] = (True, True)
    """which levels attend across the views"""
    layers_per_block: int = ranged(1, 1, 64)
    """residual blocks per level"""
    transformer_layers: int = ranged(1, 1, 64)
    """transformer blocks after each residual block of an attention level"""
    patch: int = ranged(8, 1, 256)
    """transformer: side of a token in latents"""
    width: int = ranged(192, 1, WIDEST)
    """transformer: channels of a token"""
    layers: int = ranged(6, 1, 256)
    """transformer: blocks"""
    reproject: bool = True
    """transformer: let the prior know what the other views of a set show of the same surface"""
    num_heads: int = ranged(4, 1, 256)
    """attention heads"""
    qk_norm: bool = True
    """normalise queries and keys of the joint attention"""
    attention: str = named("joint", "joint", "block-causal", "independent")
    """joint: the views of a set see each other; block-causal: known views see no new ones; independent: no view does"""
    show_prior: bool = False
    """also give the network the encoded rendering itself, not only its pooled features"""
    rotary_points: bool = False
    """rotate queries and keys by the 3-D point that each token shows, so that views find each other's surfaces"""
    shared_volume: int = ranged(0, 0, 128)
    """unet: side in voxels of a volume that the noisy views of a set share, as in SyncDreamer; 0: none"""
    std_floor: float = ranged(0.05, 0, 100)
    """standard deviation of the latents from the encoded rendering where its opacity is almost 0"""
    std_slope: float = ranged(0.9, 0, 100)
    """growth of that deviation with the square root of the opacity"""
    std_ceiling: float = ranged(0.8, 0, 100, above=True)
    """largest such deviation"""
    std_air: float = ranged(0.004, 0, 100)
    """that deviation far from any object"""
    air_distance: int = ranged(2, 0, 256)
    """distance in latents from the nearest object beyond which std_air holds"""
    fit_prior: bool = False
    """measure std_floor, std_slope, std_ceiling, and a factor per channel, on training sets before the first step"""
    trainable: str = named("all", "all", "conditioner", "attention", "lora")
    """all; conditioner: only its ControlNet or adapter; attention, lora: also the joint attention, or LoRA on it"""
    lora_rank: int = ranged(8, 1, WIDEST)
    """rank of LoRA's updates of the attention projections, for trainable: lora"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.attention_levels) != len(self.block_out_channels):
            raise UserError(
                "settings 'denoiser.attention_levels' and 'denoiser.block_out_channels' must have one length"
            )
