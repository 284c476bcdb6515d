"""The pipeline: known views and target cameras in, new views out. A diffusers pipeline, safetensors only."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, EDMEulerScheduler
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from attention import AnchorCache, resolve_backend
from mvgenvs.cameras import Cameras, concatenate
from mvgenvs.diffusion.codec import Codec, decode_with_detail, encode_rendering
from mvgenvs.diffusion.denoiser import Conditions, concatenate_conditions
from mvgenvs.diffusion.joint_model import JointModel
from mvgenvs.diffusion.options import CLEAN_SIGMA, DEFAULT_GUIDANCE, DEFAULT_STEPS, STARTS, SamplingOptions
from mvgenvs.diffusion.plans import Block, check_plan, independent, last_uses, make_plan
from mvgenvs.diffusion.renoising import Generators, check_levels, sample
from mvgenvs.errors import UserError
from mvgenvs.known import check_known
from mvgenvs.nerf.field import Scene
from mvgenvs.nerf.model import Rendering, ViewNeRF
from mvgenvs.parts import Parts, load_parts, resolve_checkpoint
from mvgenvs.precision import low_precision_norms
from mvgenvs.sequence import Frames, Memory, SequenceState, StepState, View
from mvgenvs.views import with_matte

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
        return self.denoiser.config.latent_size * self.codec.downscale

    @property
    def defaults(self) -> dict[str, Any]:
        """The sampling settings of calls that do not choose, as the constructor takes them."""
        return {name: self.config[name] for name in DEFAULTS}

    def resolved(self, options: SamplingOptions, has_known: bool) -> SamplingOptions:
        """The options with the checkpoint's choices where the caller has made none.

        Without known views there is no rendering to start from.
        """
        config, levels = self.config, self.scheduler.config
        start, sigma_max = options.start, options.sigma_max
        if start is None:
            default = config.default_render_sigma
            start = "noise" if default is None or sigma_max is not None or not has_known else "render"
            sigma_max = default if start == "render" else sigma_max
        steps, guidance = options.num_inference_steps, options.guidance_scale
        return replace(
            options,
            num_inference_steps=config.default_steps if steps is None else steps,
            guidance_scale=config.default_guidance if guidance is None else guidance,
            start=start,
            sigma_max=levels.sigma_max if sigma_max is None else sigma_max,
            rho=levels.rho if options.rho is None else options.rho,
        )

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

    def computing(self) -> torch.autocast:
        """Within, networks compute in the format that was chosen, or else in that of the weights."""
        dtype = self.denoiser.dtype if self.precision == torch.float32 else self.precision
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def __call__(
        self,
        images: Any,
        cameras: Cameras | None,
        target_cameras: Cameras,
        **options: Any,
    ) -> MultiViewOutput:
        """All target views at once; takes the options of `stream`."""
        blocks = list(self.stream(images, cameras, target_cameras, **options))
        places = {view: (block, i) for block in blocks for i, view in enumerate(block.indices)}  # the last made counts

        def gather(name: str) -> Tensor:
            return torch.stack([getattr(places[view][0], name)[:, places[view][1]] for view in sorted(places)], dim=1)

        return MultiViewOutput(images=gather("images"), renders=gather("renders"), depth=gather("depth"))

    def stream(
        self,
        images: Any,
        cameras: Cameras | None,
        target_cameras: Cameras,
        plan: str | Sequence[Block] = "sliding",
        block: int | None = None,
        anchors: int | None = None,
        close_loop: bool = False,
        renoise: str = "fresh",
        anchor_level: str | float | tuple[str | float, ...] = "matched",
        sampler: str = "euler",
        num_inference_steps: int | None = None,
        churn: float = 0.0,
        start: str | None = None,
        sigma_max: float | None = None,
        rho: float | None = None,
        guidance_scale: float | None = None,
        joint: bool = True,
        unconditional: bool = False,
        generator: Generators | None = None,
        on_step: Callable[[StepState], None] | None = None,
        resume: SequenceState | None = None,
    ) -> Iterator[Frames]:
        """Yields the target views block by block, as they are finished; views made again replace the earlier ones.

        `images`, (batch, known, 3 or 4, h, w) in [0, 1] on white, and `cameras`, (batch, known), are the known views;
        a fourth channel is the matte, 1 on the object, for models that see it (`nerf.config.matte`).
        `target_cameras` are (batch, view). `generator` is one, or a sequence of one for each entry of the batch.
        `plan` is a name, which goes to `make_plan` with `block`, `anchors` and `close_loop`, or your own blocks.
        Memory does not grow with the number of views, but under plan "joint". `joint=False` denoises every view alone,
        from the known views alone: a baseline. `unconditional=True` takes no known views.
        `sigma_max` and `rho` stand in for the checkpoint's noise levels; `start="render"` adds the first noise to the
        encoded rendering of each view, so that a `sigma_max` too low for a start from noise alone can be used. Without
        either the checkpoint chooses both.
        With `resume`, the `state` of some block of the same call, the blocks after it come out as they would have.
        Raises `UserError` at once, before anything is computed, for options that do not go together.
        """
        options = SamplingOptions(
            plan=plan, block=block, anchors=anchors, close_loop=close_loop, renoise=renoise, anchor_level=anchor_level,
            sampler=sampler, num_inference_steps=num_inference_steps, churn=churn, start=start, sigma_max=sigma_max,
            rho=rho, guidance_scale=guidance_scale, joint=joint, unconditional=unconditional,
        )  # fmt: skip
        options = self.resolved(options, not unconditional and plan != "unconditional")
        guidance, start = options.guidance, options.start or "noise"
        check_levels(self.scheduler, options)
        images = check_known(images, cameras, target_cameras, self.size, unconditional)
        generators = [generator] if isinstance(generator, torch.Generator) else generator or []
        batch = target_cameras.c2w.shape[0]
        if not isinstance(generator, torch.Generator | None) and len(generators) != batch:
            raise UserError(f"{len(generators)} generators cannot serve {batch} sets: give one for each")
        device, hw = self.device, (self.size, self.size)
        num_known = 0 if images is None else images.shape[1]
        all_cameras = concatenate([c.to(device).resized(hw) for c in (cameras, target_cameras) if c is not None])
        if isinstance(plan, str):
            centers = all_cameras.centers[0].float().cpu().numpy()
            seed = generators[0].initial_seed() if generators else 0
            sizes = (num_known, target_cameras.num_views, block, anchors)
            blocks = make_plan(plan, *sizes, centers=centers, seed=seed, close_loop=close_loop)
        else:
            blocks = list(plan)
            check_plan(blocks, num_known, target_cameras.num_views)
        if not joint:
            blocks = independent(blocks, num_known)
        _check_start(start, blocks)
        if images is None:
            images = torch.zeros(batch, 0, 3, *hw)
        known = images.to(device)
        return self._blocks(known, all_cameras, blocks, options, guidance, start, joint, generator, on_step, resume)

    @torch.no_grad()
    def _blocks(
        self,
        images: Float[Tensor, "batch known c h w"],
        cameras: Cameras,
        blocks: Sequence[Block],
        options: SamplingOptions,
        guidance: float,
        start: str,
        joint: bool,
        generator: Generators | None,
        on_step: Callable[[StepState], None] | None,
        resume: SequenceState | None,
    ) -> Iterator[Frames]:
        """`stream`, after its options are checked; `cameras` are those of the known views and of the targets."""
        last_use, num_known = last_uses(blocks), images.shape[1]
        none = images.new_zeros(images.shape[0], 0, *self.codec.latent_shape((self.size, self.size)))
        if resume is None:
            finished, memory = 0, Memory()
            for v in range(num_known):
                memory.images[v] = images[:, v : v + 1]
                with self.computing():
                    memory.latents[v] = self.codec.encode(images[:, v, :3]).float()[:, None]
        else:
            finished, memory = resume.finished, Memory.of(resume, images.device, generator)
        scene: Scene | None = None
        lifted: tuple[int, ...] | None = None
        for number, current in list(enumerate(blocks))[finished:]:
            if current.known != lifted:
                scene = self._lift([memory.images[v] for v in current.known], cameras.select(current.known))
            lifted = None if current.again else current.known  # what is made again is not what was lifted
            members = [*current.new, *current.anchors]
            for v in members:
                if v in current.new or v not in memory.views:  # an anchor is seen as it was when it was made
                    memory.views[v] = self._look(scene, cameras.select([v]), guidance != 1, start == "render")
            views = [memory.views[v] for v in members]
            new = views[: len(current.new)]
            dropped = [view.dropped for view in views if view.dropped is not None]
            guesses = [view.latents for view in new if view.latents is not None]
            anchor_noise = None
            if options.renoise == "fixed" and current.anchors:
                for v in [v for v in current.anchors if v not in memory.noise]:
                    x0 = memory.latents[v]
                    memory.noise[v] = randn_tensor(x0.shape, _listed(generator), device=x0.device, dtype=x0.dtype)
                anchor_noise = torch.cat([memory.noise[v] for v in current.anchors], dim=1)
            states = sample(
                partial(
                    self._denoise,
                    conditions=concatenate_conditions([view.conditions for view in views], dim=1),
                    dropped=concatenate_conditions(dropped, dim=1) if dropped and scene is not None else None,
                    weight=guidance,
                    joint=joint,
                    num_anchors=len(current.anchors),
                    cache=AnchorCache() if joint and self._recalls(options) else None,
                ),
                self.scheduler,
                options,
                len(new),
                torch.cat([none, *(memory.latents[v] for v in current.anchors)], dim=1),
                generator,
                anchor_noise,
                torch.cat(guesses, dim=1) if guesses else None,
            )
            renders = torch.cat([view.render for view in new], dim=1)
            detail = renders if scene is not None and self.denoiser.render_prior else None
            for state in states:
                if on_step is not None:
                    decoded = partial(self._decode, state.denoised, detail)
                    on_step(StepState(number, len(blocks), state.step, state.num_steps, state.sigma, decoded))
            made = self._decode(state.latents, detail)
            for i, v in enumerate(current.new):
                memory.latents[v] = state.latents[:, i : i + 1].clone()
                memory.images[v] = made[:, i : i + 1].clone()
            memory.forget(last_use, number)
            yield Frames(
                images=made,
                renders=renders.clamp(0, 1),
                depth=torch.cat([view.depth for view in new], dim=1),
                indices=[v - num_known for v in current.new],
                state=memory.state(number + 1, generator),
            )

    def _recalls(self, options: SamplingOptions) -> bool:
        """Whether anchors come to the network as they did before: the same noise, at the same level, seen by no other.

        The level repeats below the highest that anchors are brought to, and where Heun's correction ends a step at
        the level from which the next begins. A cache lives for one block, so that blocks do not depend on earlier ones.
        """
        levels = options.anchor_level if isinstance(options.anchor_level, tuple) else (options.anchor_level,)
        repeat = "matched" not in levels or options.sampler == "heun"
        return self.denoiser.config.attention == "block-causal" and options.renoise == "fixed" and repeat

    def _lift(self, images: list[Float[Tensor, "batch 1 _ h w"]], cameras: Cameras) -> Scene | None:
        """The NeRF of these views, which have mattes or not; None of none."""
        if not images:
            return None
        with self.computing():
            return self.nerf.encode(torch.cat([with_matte(x) for x in images], dim=1), cameras, find_empty=True)

    def _look(self, scene: Scene | None, camera: Cameras, guided: bool, start: bool) -> View:
        """Renders one view, and makes the denoiser's conditions of it. Without a scene it sees nothing.

        It is rendered at the image size, finer than in training: the prior gains, and the maps are pooled.
        """
        if scene is None:
            zeros = torch.zeros(camera.c2w.shape[0], 1, 1, *camera.hw, device=self.device)
            features = zeros.expand(-1, -1, self.denoiser.config.features, -1, -1)
            rendering = Rendering(features, depth=zeros, opacity=zeros)
        else:
            with self.computing():
                rendering = self.nerf.render(scene, camera)
        needed = start or self.denoiser.sees_render_latents
        with self.computing():
            latents = encode_rendering(self.codec, rendering.rgb, self.denoiser.config.latent_size, needed).float()
        drop = torch.ones(rendering.opacity.shape[:2], dtype=torch.bool, device=self.device)
        conditions = self.denoiser.conditions(rendering, latents, camera, drop if scene is None else None)
        dropped = conditions
        if guided and scene is not None:
            dropped = self.denoiser.conditions(rendering, latents, camera, drop)
        return View(
            render=rendering.rgb.clone(),  # so that the other features can go
            depth=rendering.depth * (rendering.opacity > 0.5),
            conditions=conditions,
            dropped=dropped if guided else None,
            latents=latents if start else None,
        )

    def _denoise(
        self,
        xt: Float[Tensor, "batch view c h w"],
        sigma: Float[Tensor, "batch view"],
        conditions: Conditions,
        dropped: Conditions | None,
        weight: float,
        joint: bool,
        num_anchors: int,
        cache: AnchorCache | None,
    ) -> Float[Tensor, "batch shown c h w"]:
        """Classifier-free guidance, D_dropped + weight (D - D_dropped), both in one batch (Ho & Salimans 2022).

        The branch without renderings keeps the joint attention. Without `dropped` there is no guidance.
        """

        def denoise(xt: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
            with self.computing():
                return self.denoiser(xt, sigma, conditions, joint=joint, num_anchors=num_anchors, cache=cache).float()

        if dropped is None or weight == 0:
            return denoise(xt, sigma, conditions if dropped is None else dropped)
        both = concatenate_conditions([conditions, dropped], dim=0)
        guided, free = denoise(xt.repeat(2, 1, 1, 1, 1), sigma.repeat(2, 1), both).chunk(2)
        return free + weight * (guided - free)

    def _decode(
        self, latents: Float[Tensor, "batch view c lh lw"], renders: Float[Tensor, "batch view 3 h w"] | None
    ) -> Float[Tensor, "batch view 3 h w"]:
        with self.computing():
            return decode_with_detail(self.codec, latents, renders).float().clamp(0, 1)


def _listed(generator: Generators | None) -> torch.Generator | list[torch.Generator] | None:
    """As diffusers wants them."""
    return list(generator) if isinstance(generator, Sequence) else generator


def _check_start(start: str, blocks: Sequence[Block]) -> None:
    """Raises `UserError` where there is no such start, or nothing to start from."""
    if start not in STARTS:
        raise UserError(f"there is no start '{start}': choose one of {', '.join(STARTS)}")
    if start == "render" and not all(block.known for block in blocks):
        raise UserError("start 'render' needs a rendering of every view, and without an input there is none: use noise")
