"""A loaded model and how it samples views: what `MultiViewPipeline` adds diffusers' interface to.

Scripts use it as it is. diffusers' pipelines import every kind of model and whatever of transformers and peft is there,
which takes seconds.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from mvgenvs.cameras import Cameras
from mvgenvs.diffusion.codec import Codec
from mvgenvs.diffusion.flags import takes_sampling_options
from mvgenvs.diffusion.joint_model import JointModel
from mvgenvs.diffusion.networks import Networks
from mvgenvs.diffusion.options import DEFAULT_GUIDANCE, DEFAULT_STEPS, SamplingOptions
from mvgenvs.diffusion.renoising import EDMScheduler, Generators, check_generators, check_levels, check_scheduler
from mvgenvs.diffusion.sequence import OnStep, SequenceSampler
from mvgenvs.diffusion.state import Frames, SequenceState
from mvgenvs.known import check_known
from mvgenvs.nerf.model import ViewNeRF
from mvgenvs.outputs import check_shown
from mvgenvs.parts import PARTS, load_parts, load_scheduler, resolve_checkpoint
from mvgenvs.precision import low_precision_norms


class ViewSampler:
    """What has a codec, a NeRF, a denoiser and noise levels, and samples with them."""

    codec: Codec
    nerf: ViewNeRF
    denoiser: JointModel
    scheduler: EDMScheduler
    config: Mapping[str, Any]  # the sampling defaults, by the names in `parts.DEFAULTS`
    precision: torch.dtype

    if TYPE_CHECKING:

        @property
        def device(self) -> torch.device:
            """Where the networks are."""

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.networks.size

    @property
    def networks(self) -> Networks:
        """Codec, NeRF and denoiser in the chosen number format."""
        return Networks(self.codec, self.nerf, self.denoiser, self.precision)

    def resolved(self, options: SamplingOptions, has_known: bool) -> SamplingOptions:
        """The options, with the checkpoint's choices where nobody has made one."""
        return options.resolved(self.config, self.scheduler.config, has_known)

    def set_precision(self, dtype: torch.dtype) -> None:
        """Networks compute in this format from now on: float32, bfloat16 or float16.

        The weights stay as they are, and geometry, sums along rays, latents and noise stay in fp32. It may be used
        with weights of another format as well, such as `pipe.to(torch.float16)` makes, which need half the memory.
        """
        self.precision = dtype
        if dtype == torch.bfloat16:  # as in training
            for part in (self.codec, self.nerf, self.denoiser):
                low_precision_norms(part)
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # which is what is wanted

    @takes_sampling_options
    def stream(
        self,
        images: Any,
        cameras: Cameras | None,
        target_cameras: Cameras,
        generator: Generators | None = None,
        on_step: OnStep | None = None,
        resume: SequenceState | None = None,
        **options: Any,
    ) -> Iterator[Frames]:
        """Yields the target views block by block, as they are finished; views made again replace the earlier ones.

        Memory does not grow with the number of views, but under plan "joint".

        images: (batch, known, 3 or 4, h, w) in [0, 1] on white, the known views. A fourth channel is the matte, 1 on
            the object, for models that see it (`nerf.config.matte`). None for `unconditional` views.
        cameras: (batch, known), those of the images.
        target_cameras: (batch, view).
        generator: of all noise; one for all sets, or a sequence of one for each entry of the batch.
        on_step: called after each sampler step of each block, with its `StepState`.
        resume: the `state` of some block of the same call; the blocks after it come out as they would have.

        `plan` may also be a list of `Block`s, and `anchor_level` a noise level, or a tuple of one for each anchor.
        A `sigma_max` too low for a start from noise alone goes with `start="render"`, which adds the first noise to the
        encoded rendering of each view [SDEdit, Meng et al. 2022]. Without either the checkpoint chooses both.
        Raises `UserError` at once, before anything is computed, for what is out of range or does not go together.
        """
        sampler = self._sampler(images, cameras, target_cameras, generator, options)
        return self._checked(sampler.frames(on_step, resume))

    def _checked(self, frames: Iterator[Frames]) -> Iterator[Frames]:
        """The same frames; `UserError` for the first that shows nothing."""
        for finished in frames:
            check_shown(finished)
            yield finished

    def _make_ready(self) -> None:
        """Called before anything is computed or asks where the networks are."""

    def _sampler(
        self,
        images: Any,
        cameras: Cameras | None,
        target_cameras: Cameras,
        generator: Generators | None,
        options: dict[str, Any],
    ) -> SequenceSampler:
        """What samples these views, its arguments checked. Raises `UserError`."""
        check_scheduler(self.scheduler)
        self.denoiser.check_attention()
        chosen = SamplingOptions.of(**options)
        resolved = self.resolved(chosen, not chosen.unconditional and chosen.plan != "unconditional")
        check_levels(self.scheduler, resolved)
        known = check_known(images, cameras, target_cameras, self.size, chosen.unconditional)
        check_generators(generator, target_cameras.c2w.shape[0])
        self._make_ready()
        return SequenceSampler(self.networks, self.scheduler, resolved, known, cameras, target_cameras, generator)


class MultiViewModel(ViewSampler):
    """The model of a checkpoint, and nothing of diffusers' pipelines."""

    def __init__(self, codec: Codec, nerf: ViewNeRF, denoiser: JointModel, scheduler: EDMScheduler, **defaults: Any):
        """`defaults` are those of calls that do not choose, as in `MultiViewPipeline`."""
        self.codec, self.nerf, self.denoiser, self.scheduler = codec, nerf, denoiser, scheduler
        usual: dict[str, Any] = {"default_steps": DEFAULT_STEPS, "default_guidance": DEFAULT_GUIDANCE}
        usual |= {"default_render_sigma": None, "default_temperature": 1.0}
        self.config, self.precision = usual | defaults, torch.float32

    @classmethod
    def from_pretrained(cls, checkpoint: str = "bundled", attention_backend: str | None = None) -> "MultiViewModel":
        """Loads "bundled", a pipeline, checkpoint or run folder, or a hub id. Raises `UserError`."""
        folder = resolve_checkpoint(checkpoint)
        parts, scheduler = load_parts(folder), load_scheduler(folder)
        if attention_backend is not None:
            parts.denoiser.set_attention_backend(attention_backend)
        return cls(parts.codec, parts.nerf, parts.denoiser, scheduler, **parts.defaults)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.denoiser.device

    def to(self, device: torch.device) -> "MultiViewModel":
        """Moves the networks, and returns the model itself."""
        for name in PARTS:
            getattr(self, name).to(device)
        return self
