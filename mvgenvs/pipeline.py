"""The pipeline: known views and target cameras in, new views out. A diffusers pipeline, safetensors only."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, EDMEulerScheduler
from diffusers.utils import BaseOutput
from jaxtyping import Float
from torch import Tensor

from attention import resolve_backend
from mvgenvs.cameras import Cameras, concatenate
from mvgenvs.diffusion.codec import IdentityCodec, PatchCodec, encode_rendering
from mvgenvs.diffusion.denoiser import Conditions, JointDenoiser, concatenate_conditions
from mvgenvs.diffusion.plans import Block, make_plan
from mvgenvs.diffusion.renoising import CLEAN_SIGMA, SamplerOptions, sample
from mvgenvs.errors import UserError
from mvgenvs.nerf.field import Scene
from mvgenvs.nerf.model import Rendering, ViewNeRF
from mvgenvs.parts import Parts, load_parts, resolve_checkpoint

SIGMA_MAX = 8.0  # 10 x the latents' deviation from the rendering


@dataclass
class MultiViewOutput(BaseOutput):
    """All target views."""

    images: Float[Tensor, "batch view 3 h w"]  # in [0, 1]
    renders: Float[Tensor, "batch view 3 h w"]  # the NeRF's RGB alone
    depth: Float[Tensor, "batch view 1 h w"]  # the NeRF's z-depth in world units; 0 where nothing is hit


@dataclass(frozen=True, eq=False, slots=True)
class Frames:
    """The views of one finished block, as in `MultiViewOutput`."""

    images: Float[Tensor, "batch view 3 h w"]
    renders: Float[Tensor, "batch view 3 h w"]
    depth: Float[Tensor, "batch view 1 h w"]
    indices: list[int]  # among the targets


@dataclass(frozen=True, eq=False, slots=True)
class StepState:
    """The state of a sequence after one sampler step, for progress bars and previews."""

    block: int
    num_blocks: int
    step: int
    num_steps: int
    sigma: float
    denoised: Callable[[], Float[Tensor, "batch view 3 h w"]]  # decodes the current estimate of the block's views


@dataclass(frozen=True, eq=False, slots=True)
class _View:
    """What the sequence keeps of one view while some block needs it."""

    rendering: Rendering
    conditions: Conditions
    dropped: Conditions  # the same without the rendering, for guidance


class MultiViewPipeline(DiffusionPipeline):
    """Novel views by multi-view joint denoising, each view conditioned on a NeRF lifted from the known views."""

    def __init__(
        self,
        codec: IdentityCodec | PatchCodec,
        nerf: ViewNeRF,
        denoiser: JointDenoiser,
        scheduler: EDMEulerScheduler,
        default_steps: int = 20,
        default_guidance: float = 1.5,
    ) -> None:
        """`scheduler` holds the noise levels; the solver is chosen with each call. The defaults are those of calls
        that do not choose: they belong to the checkpoint, as few steps suit a model that has trained little.
        """
        super().__init__()
        self.register_to_config(default_steps=default_steps, default_guidance=default_guidance)
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
        defaults = {name: index[name] for name in ("default_steps", "default_guidance") if name in index}
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
        return self.denoiser.config.latent_size * self.codec.downscale

    def __call__(
        self,
        images: Float[Tensor, "batch known 3 h w"] | None,
        cameras: Cameras | None,
        target_cameras: Cameras,
        **options: Any,
    ) -> MultiViewOutput:
        """All target views at once; takes the options of `stream`."""
        blocks = list(self.stream(images, cameras, target_cameras, **options))
        order = torch.tensor([i for block in blocks for i in block.indices]).argsort()

        def gather(name: str) -> Tensor:
            return torch.cat([getattr(block, name) for block in blocks], dim=1)[:, order]

        return MultiViewOutput(images=gather("images"), renders=gather("renders"), depth=gather("depth"))

    @torch.no_grad()
    def stream(
        self,
        images: Float[Tensor, "batch known 3 h w"] | None,
        cameras: Cameras | None,
        target_cameras: Cameras,
        plan: str = "sliding",
        block: int = 4,
        anchors: int | None = None,
        renoise: str = "fresh",
        anchor_level: str = "matched",
        sampler: str = "euler",
        num_inference_steps: int | None = None,
        churn: float = 0.0,
        guidance_scale: float | None = None,
        joint: bool = True,
        unconditional: bool = False,
        generator: torch.Generator | None = None,
        on_step: Callable[[StepState], None] | None = None,
    ) -> Iterator[Frames]:
        """Yields the target views block by block, as they are finished. Memory does not grow with their number.

        `images` in [0, 1] and `cameras` are the known views, (batch, known); `target_cameras` are (batch, view).
        `joint=False` denoises every view alone and without anchors: a baseline. `unconditional=True` takes no known
        views. Raises `UserError` for options that do not go together.
        """
        steps = self.config.default_steps if num_inference_steps is None else num_inference_steps
        guidance = self.config.default_guidance if guidance_scale is None else guidance_scale
        options = SamplerOptions(sampler, steps, churn, renoise, anchor_level)
        weight = 0.0 if unconditional else guidance
        scene, known, cameras = self._lift(images, cameras, target_cameras, unconditional)
        num_known = known.shape[1]
        blocks = make_plan(plan, num_known, target_cameras.num_views, block, anchors)
        if not joint:
            blocks = [Block(b.new, ()) for b in blocks]
        latents = dict(enumerate(known.split(1, dim=1)))
        views: dict[int, _View] = {}
        for number, current in enumerate(blocks):
            members = [*current.new, *current.anchors]
            views = {v: views[v] if v in views else self._look(scene, cameras.select([v])) for v in members}
            conditions = concatenate_conditions([views[v].conditions for v in members], dim=1)
            dropped = concatenate_conditions([views[v].dropped for v in members], dim=1)
            states = sample(
                partial(self._denoise, conditions=conditions, dropped=dropped, weight=weight, joint=joint),
                self.scheduler,
                options,
                len(current.new),
                torch.cat([known[:, :0], *(latents[v] for v in current.anchors)], dim=1),
                generator,
            )
            renders = torch.cat([views[v].rendering.rgb for v in current.new], dim=1)
            detail = renders if scene is not None and self.denoiser.config.render_prior else None
            for state in states:
                if on_step is not None:
                    decoded = partial(self._decode, state.denoised, detail)
                    on_step(StepState(number, len(blocks), state.step, state.num_steps, state.sigma, decoded))
            needed = {v for later in blocks[number + 1 :] for v in later.anchors}
            latents |= {v: state.latents[:, i : i + 1] for i, v in enumerate(current.new)}
            latents = {v: x for v, x in latents.items() if v in needed}
            renderings = [views[v].rendering for v in current.new]
            yield Frames(
                images=self._decode(state.latents, detail),
                renders=renders.clamp(0, 1),
                depth=torch.cat([r.depth * (r.opacity > 0.5) for r in renderings], dim=1),
                indices=[v - num_known for v in current.new],
            )

    def _lift(
        self,
        images: Float[Tensor, "batch known 3 h w"] | None,
        cameras: Cameras | None,
        target_cameras: Cameras,
        unconditional: bool,
    ) -> tuple[Scene | None, Float[Tensor, "batch known c lh lw"], Cameras]:
        """The NeRF of the known views, their latents, and the cameras of known views and targets in one sequence."""
        device, dtype = self.device, self.denoiser.dtype
        target_cameras = target_cameras.to(device)
        if unconditional:
            batch = target_cameras.c2w.shape[0]
            shape = self.codec.latent_shape((self.size, self.size))
            return None, torch.empty(batch, 0, *shape, device=device, dtype=dtype), target_cameras
        if images is None or cameras is None:
            raise UserError("known views are needed: give images and their cameras, or ask for unconditional views")
        if images.shape[-2:] != (self.size, self.size):
            raise UserError(f"images must be {self.size} x {self.size} pixels, not {tuple(images.shape[-2:])}")
        images, cameras = images.to(device, dtype), cameras.to(device)
        known = self.codec.encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return self.nerf.encode(images, cameras), known, concatenate([cameras, target_cameras])

    def _look(self, scene: Scene | None, camera: Cameras) -> _View:
        """Renders one view, and makes the denoiser's conditions of it. Without a scene it sees nothing."""
        camera = camera.resized((self.size, self.size))  # finer than in training: the prior gains, the maps are pooled
        if scene is None:
            zeros = torch.zeros(camera.c2w.shape[0], 1, 1, *camera.hw, device=self.device, dtype=self.denoiser.dtype)
            features = zeros.expand(-1, -1, self.denoiser.config.features, -1, -1)
            rendering = Rendering(features, depth=zeros, opacity=zeros)
        else:
            rendering = self.nerf.render(scene, camera)
        drop = torch.ones(rendering.opacity.shape[:2], dtype=torch.bool, device=self.device)
        latents = encode_rendering(self.codec, rendering.rgb, self.denoiser.config.latent_size)
        conditions = self.denoiser.conditions(rendering, latents, camera)
        return _View(rendering, conditions, self.denoiser.conditions(rendering, latents, camera, drop))

    def _denoise(
        self,
        xt: Float[Tensor, "batch view c h w"],
        sigma: Float[Tensor, "batch view"],
        conditions: Conditions,
        dropped: Conditions,
        weight: float,
        joint: bool,
    ) -> Float[Tensor, "batch view c h w"]:
        """Classifier-free guidance, D_dropped + weight (D - D_dropped), both in one batch (Ho & Salimans 2022).

        The branch without renderings keeps the joint attention.
        """
        if weight in (0.0, 1.0):
            return self.denoiser(xt, sigma, conditions if weight else dropped, joint)
        both = concatenate_conditions([conditions, dropped], dim=0)
        guided, free = self.denoiser(xt.repeat(2, 1, 1, 1, 1), sigma.repeat(2, 1), both, joint).chunk(2)
        return free + weight * (guided - free)

    def _decode(
        self, latents: Float[Tensor, "batch view c lh lw"], renders: Float[Tensor, "batch view 3 h w"] | None
    ) -> Float[Tensor, "batch view 3 h w"]:
        """Decodes the latents, and adds the detail of the renderings that the codec cannot carry.

        Where the preconditioning is centred on the rendering, the latents correct it; what the codec loses of it needs
        no correction, and would be lost for nothing.
        """
        images = self.codec.decode(latents.flatten(0, 1))
        if renders is not None:
            flat = renders.flatten(0, 1)
            images = images + flat - self.codec.decode(self.codec.encode(flat))
        return images.unflatten(0, latents.shape[:2]).clamp(0, 1)
