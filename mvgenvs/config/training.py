"""Settings of a training stage: data, losses, optimiser, run."""

from dataclasses import dataclass, field

from mvgenvs.config.model import CodecConfig, DenoiserConfig, ModelConfig, NerfConfig
from mvgenvs.config.ranges import MANY, Checked, named, ranged
from mvgenvs.errors import UserError


@dataclass(frozen=True)
class DataConfig(Checked):
    root: str = "data/opencars"
    """data set: SRN layout (cars_train/<object>/rgb/…), its packed form, or captures with a transforms.json"""
    sources: tuple[str, ...] = ()
    """several data sets instead of root, each FOLDER=WEIGHT; training sets are drawn from them by weight"""
    category: str = ""
    """one of the data set's categories, such as cars; empty: all"""
    fit_captures: bool = True
    """move captures into the model's world: their cameras look at the origin, from a distance of 1.3"""
    size: int = ranged(128, 8, 4096)
    """image side in pixels"""
    num_views: int = ranged(4, 1, 256)
    """views in one training set"""
    min_known: int = ranged(1, 1, 256)
    """fewest known views of a set"""
    max_known: int = ranged(2, 1, 256)
    """most known views of a set"""
    known_odds: tuple[float, ...] = ranged((), 0, MANY, count=(0, 256))
    """odds of 1, 2, … known views, if not uniform; replaces min_known and max_known"""
    neighbours: float = ranged(0.0, 0, 1)
    """probability that a set's views, but for the known ones, are neighbours, as they are along a trajectory"""
    recolour: float = ranged(0.8, 0, 1)
    """probability that a set's hue is rotated or its channels are permuted"""
    expose: float = ranged(0.0, 0, 1)
    """probability that a set is overexposed, by up to four times, so that bright paint turns white"""
    mirror: bool = True
    """mirror half of the sets left to right, cameras included"""
    renderings: int = ranged(0, 0, MANY)
    """sets that a frozen NeRF renders once, to disk, and that training reuses with new noise; 0: render all anew"""
    renderings_folder: str = ""
    """folder that keeps them, for stages on the same sets and field to share; empty: one in the run's folder"""
    renderings_share: float = ranged(0.3, 0, 1, above=True)
    """largest share of run.minutes for these renderings; fewer are made if it does not suffice"""
    on_device: bool = False
    """keep all data on the GPU and draw the same sets there: for data that fit, if the GPU would wait for its loader"""
    workers: int = ranged(0, 0, 1024)
    """processes that prepare batches; 0 prepares them in the training process"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.known_odds and not self.min_known <= self.max_known < self.num_views:
            raise UserError("settings 'data.min_known' and 'data.max_known' must rise and leave one of data.num_views")


@dataclass(frozen=True)
class LossConfig(Checked):
    reconstruction: float = ranged(0.0, 0, MANY)
    """weight of the codec's reconstruction error (L1)"""
    rgb: float = ranged(0.0, 0, MANY)
    """weight of the NeRF's colour error (MSE)"""
    mask: float = ranged(0.0, 0, MANY)
    """weight of the NeRF's opacity against the object mask (MSE)"""
    depth: float = ranged(0.0, 0, MANY)
    """weight of the NeRF's depth error on the object (L1); only for data with depth"""
    distance: float = ranged(0.0, 0, MANY)
    """weight of the expected |distance - true distance| along rays of the object, which favours thin surfaces"""
    carving: float = ranged(0.0, 0, MANY)
    """weight of the cross-entropy of nerf.world_density against the voxel labels that a set's depth maps imply"""
    paint: float = ranged(0.0, 0, MANY)
    """weight of the error (L1) of nerf.world_paint against the colours that a set's views show of the voxels"""
    opacity: float = ranged(0.0, 0, MANY)
    """weight of the mean opacity, which keeps the field from filling the frustum"""
    denoise: float = ranged(0.0, 0, MANY)
    """weight of the denoising loss"""
    agreement: float = ranged(0.0, 0, MANY)
    """weight of the difference between the errors of denoised views that show the same surface; for data with depth"""
    perceptual: float = ranged(0.0, 0, MANY)
    """weight of LPIPS-VGG between the decoded denoised latents, or refined views, and the ground truth"""
    perceptual_trunk: str = ""
    """folder with the VGG weights of LPIPS, all or the first stages; empty: where evaluation finds them"""
    perceptual_crop: int = ranged(64, 8, 4096)
    """side in pixels of the crops that LPIPS compares (one random view of each set), and of those that are refined"""
    rays: int = ranged(0, 0, 10**7)
    """random rays per view for the NeRF's losses; 0 renders whole images at denoiser.render_size"""
    object_rays: float = ranged(0.0, 0, 1)
    """share of these rays that is drawn on and around the object, if there is a mask"""
    random_background: bool = False
    """compare colours on a random background for each set, so that white surfaces are not air; needs masks"""
    noise_law: str = named("latent", "high", "mid", "low", "latent", "wide", "high-to-low")
    """distribution of training noise levels: high, mid, low, latent, wide, high-to-low"""
    offset_noise: float = ranged(0.0, 0, 100)
    """amplitude of noise that is constant over each channel of a view; 0.1 is usual with Stable Diffusion"""
    min_snr: float = ranged(0.0, 0, MANY)
    """gamma of Min-SNR weighting (5 in its paper); 0: EDM's weighting"""
    drop_condition: float = ranged(0.1, 0, 1)
    """probability that the renderings of all views of a set are dropped, for classifier-free guidance"""
    noise_draws: int = ranged(1, 1, 4096)
    """draws of noise level and noise for each rendered set; rendering costs more than denoising"""
    render_start: float = ranged(0.0, 0, 1)
    """probability that a set's noisy views are their renderings, noised to render_sigma: what sampling starts from"""
    render_sigma: float = ranged(0.3, 0, 1000, above=True)
    """noise level of those sets"""
    clean_known: float = ranged(0.5, 0, 1)
    """probability that a set's known views enter almost clean, as anchors, instead of at the set's noise level"""
    clean_views: float = ranged(0.0, 0, 1)
    """probability that in a set each view, known or not, enters almost clean with even odds, as an anchor"""
    input_noise: float = ranged(0.5, 0, 100)
    """largest amplitude of noise on the known images, added in half of the sets"""
    drop_matte: float = ranged(0.3, 0, 1)
    """probability that the known views of a set come without their mattes, as a photo may"""
    latent_noise: float = ranged(0.0, 0, 100)
    """noise on the latents when the codec's decoder is trained, so that it tolerates the denoiser's errors"""
    refine: float = ranged(0.0, 0, MANY)
    """weight of the error (L1) of the codec's refiner on views generated by the model itself: a stage of its own"""

    @property
    def field_weights(self) -> tuple[float, ...]:
        """The weights of all losses of the NeRF."""
        return self.rgb, self.mask, self.depth, self.distance, self.carving, self.paint, self.opacity


@dataclass(frozen=True)
class RefineConfig(Checked):
    """The generated views that the refiner learns from, made before its first step."""

    from_scratch: bool = True
    """train a new refiner; false: go on from the one that the model has"""
    sets: int = ranged(120, 1, MANY)
    """most training sets to generate views of"""
    views: int = ranged(6, 1, 1024)
    """views of each set, generated from one known view"""
    share: float = ranged(0.4, 0, 1, above=True)
    """largest share of run.minutes for generating them; fewer sets are used if it does not suffice"""
    steps: int = ranged(0, 0, 10_000)
    """sampler steps; 0, here and in the next two: the checkpoint's default"""
    guidance: float = ranged(0.0, 0, 100)
    """classifier-free guidance"""
    render_sigma: float = ranged(0.0, 0, 1000)
    """start from the rendering with noise of this level"""
    temperature: float = ranged(1.0, 0, 10)
    """deviation of that noise, as a share of what its level says"""


@dataclass(frozen=True)
class OptimConfig(Checked):
    steps: int = ranged(1000, 1, MANY)
    """optimisation steps"""
    batch: int = ranged(8, 1, 10**6)
    """sets per optimisation step, over all processes and accumulation steps"""
    accumulation: int = ranged(1, 1, 10**6)
    """backward passes per optimisation step"""
    lr: float = ranged(3e-4, 0, 10_000)
    """peak learning rate of AdamW; linear warm-up, then a cosine to zero"""
    warmup: int = ranged(100, 0, MANY)
    """warm-up steps"""
    weight_decay: float = ranged(0.01, 0, 1000)
    """AdamW weight decay"""
    betas: tuple[float, ...] = ranged((0.9, 0.99), 0, 1, below=True, count=(2, 2))
    """AdamW's decay rates of the gradients' mean and square"""
    kind: str = named("adamw", "adamw", "adamw8bit")
    """adamw, or adamw8bit: its state in 8 bits, with bitsandbytes"""
    clip: float = ranged(1.0, 0, MANY, above=True)
    """largest gradient norm of the trained parts"""
    ema: float = ranged(0.995, 0, 1, below=True)
    """decay of the averaged weights, reached through the warm-up min(decay, (1 + n) / (10 + n))"""


@dataclass(frozen=True)
class RunConfig(Checked):
    output: str = "runs/default"
    """folder for checkpoints, logs and validation sheets"""
    train: tuple[str, ...] = ("nerf", "denoiser")
    """parts to train: codec, nerf, denoiser; the others stay frozen"""
    init_from: str = ""
    """pipeline folder or run folder to take weights from; empty: from scratch"""
    init_parts: tuple[str, ...] = ("codec", "nerf", "denoiser")
    """parts to take from init_from; the others start from scratch"""
    minutes: float = ranged(0.0, 0, 10**7)
    """how long to train; the throughput of the first steps then sets optim.steps; 0: optim.steps as it stands"""
    seed: int = ranged(0, 0, 2**32 - 1)
    """seed of weights, sets, noise"""
    checkpoint_every: int = ranged(200, 1, MANY)
    """steps between checkpoints"""
    keep: int = ranged(2, 1, MANY)
    """how many of the newest checkpoints to keep"""
    validate_every: int = ranged(0, -1, MANY)
    """steps between validation sheets; 0: one at the end only, -1: none"""
    validate_objects: int = ranged(2, 1, 10**6)
    """objects in a validation sheet"""
    log_every: int = ranged(10, 1, MANY)
    """steps between log entries"""
    tracker: str = "tensorboard"
    """accelerate tracker, or none"""
    mixed_precision: str = named("no", "no", "bf16", "fp16", "auto")
    """no, bf16, fp16, or auto: bf16 where the GPU or CPU has instructions for it, else fp16 on a GPU and no on a CPU"""
    gradient_checkpointing: bool = False
    """recompute the denoiser's activations instead of keeping them: less memory, same gradients"""
    compile: bool = False
    """torch.compile the denoiser's UNet and the NeRF's encoders: takes minutes at the first step, and a C++ compiler"""
    threads: int = ranged(0, 0, 1024)
    """CPU threads; 0: torch's default"""
    max_nonfinite: int = ranged(20, 1, MANY)
    """consecutive steps with a non-finite loss after which the run stops"""


@dataclass(frozen=True)
class TrainConfig(Checked):
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
