"""The pipeline: known views and target cameras in, new views out. A diffusers pipeline, safetensors only."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, EDMEulerScheduler, ModelMixin

from mvgenvs.cameras import Cameras
from mvgenvs.diffusion.codec import IdentityCodec, PatchCodec
from mvgenvs.diffusion.denoiser import JointDenoiser
from mvgenvs.diffusion.distillation import Distillation, DistillationOptions
from mvgenvs.diffusion.flags import takes_sampling_options
from mvgenvs.diffusion.options import CLEAN_SIGMA, DEFAULT_GUIDANCE, DEFAULT_STEPS
from mvgenvs.diffusion.renoising import EDMScheduler, Generators, check_scheduler
from mvgenvs.diffusion.sequence import OnStep
from mvgenvs.diffusion.stable.codec import VaeCodec
from mvgenvs.diffusion.stable.denoiser import StableDenoiser
from mvgenvs.diffusion.state import Frames, StepState
from mvgenvs.diffusion.transformer import ViewTransformer
from mvgenvs.diffusion.viewset import ViewsetDenoiser
from mvgenvs.errors import UserError
from mvgenvs.known import check_known
from mvgenvs.model import ViewSampler
from mvgenvs.model_card import describe
from mvgenvs.nerf.model import ViewNeRF
from mvgenvs.outputs import Callback, MultiViewOutput, check_output_type, gather_views, step_callback
from mvgenvs.parts import DEFAULTS, MODULES, PARTS, Parts, load_parts, load_scheduler, resolve_checkpoint

SIGMA_MAX = 8.0  # 10 x the latents' deviation from the rendering

# diffusers' `DiffusionPipeline.from_pretrained` looks for a part's base class in the module of the part.
for _module in MODULES.values():
    vars(sys.modules[_module])["ModelMixin"] = ModelMixin


class MultiViewPipeline(ViewSampler, DiffusionPipeline):
    """Novel views by multi-view joint denoising, each view conditioned on a NeRF lifted from the known views."""

    # The denoiser comes last: blocks alternate between all three, and it stays where it computes until a call ends.
    model_cpu_offload_seq = "nerf->codec->denoiser"

    def __init__(
        self,
        codec: IdentityCodec | PatchCodec | VaeCodec,  # each by its name, by which diffusers' from_pipe compares
        nerf: ViewNeRF,
        denoiser: JointDenoiser | ViewTransformer | ViewsetDenoiser | StableDenoiser,
        scheduler: EDMScheduler,
        default_steps: int = DEFAULT_STEPS,
        default_guidance: float = DEFAULT_GUIDANCE,
        default_render_sigma: float | None = None,
        default_temperature: float = 1.0,
    ) -> None:
        """`scheduler` holds the noise levels; the solver is chosen with each call. The defaults are those of calls
        that do not choose: they belong to the checkpoint, as few steps suit a model that has trained little. With a
        `default_render_sigma`, sampling starts from the rendering with so much noise, times the
        `default_temperature`, and not from noise alone.
        """
        super().__init__()
        check_scheduler(scheduler)
        self.precision = torch.float32
        self._num_timesteps, self._interrupt = 0, False
        self.register_to_config(
            default_steps=default_steps,
            default_guidance=default_guidance,
            default_render_sigma=default_render_sigma,
            default_temperature=default_temperature,
        )
        self.register_modules(codec=codec, nerf=nerf, denoiser=denoiser, scheduler=scheduler)
        if not list(codec.parameters()):  # nothing to move, and accelerate asks where the first one is
            self.model_cpu_offload_seq, self._exclude_from_cpu_offload = "nerf->denoiser", ["codec"]

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path = "bundled",
        attention_backend: str | None = None,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        variant: str | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        token: str | bool | None = None,
        use_safetensors: bool | None = True,
        **components: Any,
    ) -> "MultiViewPipeline":
        """Loads a pipeline from safetensors, ready to sample.

        checkpoint: "bundled", a pipeline, checkpoint or run folder, or a hub id.
        attention_backend: auto, sdpa, xformers or flex.
        torch_dtype, dtype: format of the weights: float32, bfloat16 or float16. See also `set_precision`.
        variant: of the weights' files, such as "fp16", as `save_pretrained` writes them.
        revision, cache_dir, local_files_only, force_download, token: as in diffusers, for a hub id.
        use_safetensors: only False is refused, since weights are read from nothing else.
        components: codec, nerf, denoiser or scheduler, in place of the saved one.

        Raises `UserError` where there is no such checkpoint, it is of another kind, or a keyword is not among these.
        """
        for name in components.keys() - {*PARTS, "scheduler"}:
            raise UserError(f"from_pretrained takes no '{name}' here: see its help for what it takes")
        if use_safetensors is False:
            raise UserError("weights are read from safetensors alone: leave out use_safetensors=False")
        torch_dtype = dtype if torch_dtype is None else torch_dtype
        if torch_dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
            raise UserError(f"torch_dtype must be torch.float32, bfloat16 or float16, not {torch_dtype}")
        hub = {
            "revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only,
            "force_download": force_download, "token": token,
        }  # fmt: skip
        folder = resolve_checkpoint(str(checkpoint), **hub)
        parts, scheduler = load_parts(folder, variant), load_scheduler(folder)
        if attention_backend is not None:
            parts.denoiser.set_attention_backend(attention_backend)
        loaded: dict[str, Any] = {**parts.modules(), "scheduler": scheduler, **components}
        pipeline = cls(**loaded, **parts.defaults)
        return pipeline if torch_dtype is None else pipeline.to(torch_dtype)

    @classmethod
    def from_parts(cls, parts: Parts, **defaults: Any) -> "MultiViewPipeline":
        """A pipeline of parts in training, with the usual noise levels; `defaults` stand in for those of the parts."""
        return cls(
            parts.codec,
            parts.nerf,
            parts.denoiser,
            scheduler=EDMEulerScheduler(sigma_min=CLEAN_SIGMA, sigma_max=SIGMA_MAX),
            **{**parts.defaults, **defaults},
        )

    def save_pretrained(self, save_directory: str | Path, *arguments: Any, **options: Any) -> None:
        """As diffusers' own, and beside the parts a model card, unless there is one, and the file `pipeline.py`.

        By that `DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)` finds this
        class.
        """
        describe(self, Path(save_directory))
        super().save_pretrained(save_directory, *arguments, **options)

    def _upload_folder(self, working_dir: str | Path, *arguments: Any, **options: Any) -> Any:
        """What diffusers' `push_to_hub` ends with; the empty card that it has written by then becomes ours."""
        describe(self, Path(working_dir))
        return super()._upload_folder(working_dir, *arguments, **options)

    @property
    def defaults(self) -> dict[str, Any]:
        """The sampling settings of calls that do not choose, as the constructor takes them."""
        return {name: self.config[name] for name in DEFAULTS}

    @property
    def num_timesteps(self) -> int:
        """Steps of the last call, over all its blocks: what a callback counts up to."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set `pipe._interrupt`, as diffusers' users stop a call; each call begins anew."""
        return self._interrupt

    @takes_sampling_options
    def __call__(
        self,
        images: Any,
        cameras: Cameras | None,
        target_cameras: Cameras,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generators | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        on_step: OnStep | None = None,
        **options: Any,
    ) -> MultiViewOutput | Any:
        """All target views at once: `images`, and the NeRF's own `renders` and `depth`.

        Each option is an argument, as diffusers' users expect, and `help` shows them.

        images: (batch, known, 3 or 4, h, w) in [0, 1] on white, the known views. A fourth channel is the matte, 1 on
            the object, for models that see it (`nerf.config.matte`). None for `unconditional` views.
        cameras: (batch, known), those of the images.
        target_cameras: (batch, view).
        num_inference_steps, guidance_scale: those that suit the checkpoint unless given; a guidance of 1 is none.
        generator: of all noise; one for all sets, or a sequence of one for each entry of the batch.
        output_type: "pt" for tensors (batch, view, channel, h, w); "np" for arrays (batch, view, h, w, channel); "pil"
            for a list of views for each set, where the depth is an array.
        return_dict: whether to return a `MultiViewOutput`; else a tuple of images, renders and depth.
        callback_on_step_end: called as in diffusers, `callback(pipe, step, timestep, {"latents": ...})`, after each
            step, with the latents (batch, view, c, h, w) of the block at work, or what else is named in
            `callback_on_step_end_tensor_inputs`; what it returns takes their place. Steps count over all blocks.
            A callback that sets `pipe._interrupt = True` stops the call: its block is left at the network's estimate,
            and the views of later blocks at their renderings.
        on_step: called after each step with its `StepState`, which can also decode what there is by then.

        See `stream` for options that may be more than their names. Raises `UserError` for what is out of range, or does
        not go together, before anything is computed.
        """
        check_output_type(output_type)
        callbacks = [] if on_step is None else [on_step]
        if callback_on_step_end is not None:
            callbacks.append(step_callback(self, callback_on_step_end, callback_on_step_end_tensor_inputs))
        given = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, **options}
        sampler = self._sampler(images, cameras, target_cameras, generator, given)
        self._num_timesteps, self._interrupt = len(sampler.blocks) * sampler.options.num_steps, False

        def after_step(state: StepState) -> None:
            for callback in callbacks:
                callback(state)

        out = gather_views(list(self._checked(sampler.frames(after_step))), output_type)
        return out if return_dict else out.to_tuple()

    def distill(
        self,
        images: Any,
        cameras: Cameras,
        target_cameras: Cameras,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> MultiViewOutput:
        """The NeRF's own renderings, before (`renders`) and after (`images`) it was tuned, for these known views alone,
        to what the denoiser makes of them. `options` are those of `DistillationOptions`. Raises `UserError`.
        """
        known = check_known(images, cameras, target_cameras, self.size, unconditional=False)
        assert known is not None
        device, hw = self.device, (self.size, self.size)
        known, seen, targets = known.to(device), cameras.to(device), target_cameras.to(device).resized(hw)
        chosen = DistillationOptions.of(**options)
        distillation = Distillation(self.networks, known, seen, targets, chosen, generator)
        before, after = distillation.before_and_after(targets)
        return MultiViewOutput(after.rgb.clamp(0, 1), before.rgb.clamp(0, 1), after.depth * (after.opacity > 0.5))

    def _checked(self, frames: Iterator[Frames]) -> Iterator[Frames]:
        """The same frames; parts that were brought from the CPU for them go back at their end."""
        try:
            yield from super()._checked(frames)
        finally:
            self.maybe_free_model_hooks()

    def _make_ready(self) -> None:
        if getattr(self, "_all_hooks", None):  # offloaded: all tensors follow the denoiser
            self.denoiser._hf_hook.pre_forward(self.denoiser)
