"""The pipeline: known views and target cameras in, new views out. A diffusers pipeline, safetensors only."""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, EDMEulerScheduler
from diffusers.utils import BaseOutput
from jaxtyping import Float
from torch import Tensor

from attention import resolve_backend
from mvgenvs.cameras import Cameras, concatenate
from mvgenvs.diffusion.codec import Codec
from mvgenvs.diffusion.flags import takes_sampling_options
from mvgenvs.diffusion.joint_model import JointModel
from mvgenvs.diffusion.networks import Networks
from mvgenvs.diffusion.options import (
    CLEAN_SIGMA,
    DEFAULT_GUIDANCE,
    DEFAULT_STEPS,
    SamplingOptions,
)
from mvgenvs.diffusion.renoising import Generators, check_generators, check_levels
from mvgenvs.diffusion.sequence import OnStep, SequenceSampler, plan_sequence
from mvgenvs.diffusion.state import Frames, SequenceState
from mvgenvs.errors import UserError
from mvgenvs.known import check_known
from mvgenvs.nerf.model import ViewNeRF
from mvgenvs.parts import Parts, load_parts, resolve_checkpoint
from mvgenvs.precision import low_precision_norms

SIGMA_MAX = 8.0  # 10 x the latents' deviation from the rendering
DEFAULTS = ("default_steps", "default_guidance", "default_render_sigma")  # of calls that do not choose


@dataclass
class MultiViewOutput(BaseOutput):
    """All target views."""

    images: Float[Tensor, "batch view 3 h w"]  # in [0, 1]
    renders: Float[Tensor, "batch view 3 h w"]  # the NeRF's RGB alone
    depth: Float[Tensor, "batch view 1 h w"]  # the NeRF's z-depth in world units; 0 where nothing is hit


class MultiViewPipeline(DiffusionPipeline):
    """Novel views by multi-view joint denoising, each view conditioned on a NeRF lifted from the known views."""

    def __init__(
        self,
        codec: Codec,
        nerf: ViewNeRF,
        denoiser: JointModel,
        scheduler: EDMEulerScheduler,
        default_steps: int = DEFAULT_STEPS,
        default_guidance: float = DEFAULT_GUIDANCE,
        default_render_sigma: float | None = None,
    ) -> None:
        """`scheduler` holds the noise levels; the solver is chosen with each call. The defaults are those of calls
        that do not choose: they belong to the checkpoint, as few steps suit a model that has trained little. With a
        `default_render_sigma`, sampling starts from the rendering with so much noise, and not from noise alone.
        """
        super().__init__()
        self.precision = torch.float32
        self.register_to_config(
            default_steps=default_steps, default_guidance=default_guidance, default_render_sigma=default_render_sigma
        )
        self.register_modules(codec=codec, nerf=nerf, denoiser=denoiser, scheduler=scheduler)

    @classmethod
    def from_pretrained(
        cls, checkpoint: str | Path = "bundled", attention_backend: str | None = None
    ) -> "MultiViewPipeline":
        """Loads "bundled", a pipeline, checkpoint or run folder, or a hub id, in fp32.

        Raises `UserError` where there is no such checkpoint or it is of another kind.
        """
        folder = resolve_checkpoint(str(checkpoint))
        parts = load_parts(folder)
        if attention_backend is not None:
            try:
                parts.denoiser.set_attention_backend(resolve_backend(attention_backend))
            except ValueError as error:
                raise UserError(str(error)) from None
        try:
            scheduler = EDMEulerScheduler.from_pretrained(folder / "scheduler")
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} is not an mvgenvs pipeline: cannot read its 'scheduler'") from error
        index = json.loads((folder / "model_index.json").read_text())
        defaults = {name: index[name] for name in DEFAULTS if name in index}
        return cls(parts.codec, parts.nerf, parts.denoiser, scheduler, **defaults)

    @classmethod
    def from_parts(cls, parts: Parts, **defaults: Any) -> "MultiViewPipeline":
        """A pipeline of parts in training, with the usual noise levels; `defaults` as in the constructor."""
        return cls(
            parts.codec,
            parts.nerf,
            parts.denoiser,
            scheduler=EDMEulerScheduler(sigma_min=CLEAN_SIGMA, sigma_max=SIGMA_MAX),
            **defaults,
        )

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.networks.size

    @property
    def defaults(self) -> dict[str, Any]:
        """The sampling settings of calls that do not choose, as the constructor takes them."""
        return {name: self.config[name] for name in DEFAULTS}

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

    @property
    def networks(self) -> Networks:
        """Codec, NeRF and denoiser in the chosen number format."""
        return Networks(self.codec, self.nerf, self.denoiser, self.precision)

    @takes_sampling_options
    def __call__(
        self,
        images: Any,
        cameras: Cameras | None,
        target_cameras: Cameras,
        generator: Generators | None = None,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> MultiViewOutput:
        """All target views at once; see `stream`."""
        stream = self.stream(images, cameras, target_cameras, generator=generator, on_step=on_step, **options)
        return MultiViewOutput(**gathered(list(stream)))

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
        sampler = self.sequence(images, cameras, target_cameras, SamplingOptions.of(**options), generator)
        return sampler.frames(on_step, resume)

    def sequence(
        self,
        images: Any,
        cameras: Cameras | None,
        target_cameras: Cameras,
        options: SamplingOptions,
        generator: Generators | None = None,
    ) -> SequenceSampler:
        """What `stream` samples with, its arguments checked. Raises `UserError`."""
        unconditional = options.unconditional
        options = self.resolved(options, not unconditional and options.plan != "unconditional")
        check_levels(self.scheduler, options)
        images = check_known(images, cameras, target_cameras, self.size, unconditional)
        batch, hw = target_cameras.c2w.shape[0], (self.size, self.size)
        check_generators(generator, batch)
        if images is None:
            images = torch.zeros(batch, 0, 3, *hw)
        both = concatenate([c.to(self.device).resized(hw) for c in (cameras, target_cameras) if c is not None])
        first = generator if isinstance(generator, torch.Generator | None) else generator[0]
        seed = 0 if first is None else first.initial_seed()
        blocks = plan_sequence(options, both, images.shape[1], seed)
        images = images.to(self.device)
        return SequenceSampler(self.networks, self.scheduler, options, blocks, images, both, generator)


def gathered(blocks: Sequence[Frames]) -> dict[str, Tensor]:
    """The views of all blocks in their order, as `MultiViewOutput` has them; of views made twice the later ones."""
    places = {view: (block, i) for block in blocks for i, view in enumerate(block.indices)}

    def gather(name: str) -> Tensor:
        return torch.stack([getattr(places[view][0], name)[:, places[view][1]] for view in sorted(places)], dim=1)

    return {name: gather(name) for name in ("images", "renders", "depth")}
