"""A sequence of views, sampled block by block: what is lifted, rendered and kept for the blocks that follow."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from attention import AnchorCache
from mvgenvs.cameras import Cameras, concatenate
from mvgenvs.diffusion.conditions import Reference, concatenate_conditions
from mvgenvs.diffusion.networks import Networks
from mvgenvs.diffusion.options import SamplingOptions
from mvgenvs.diffusion.plans import Block, check_plan, independent, last_uses, make_plan
from mvgenvs.diffusion.renoising import (
    Denoise,
    EDMScheduler,
    Generators,
    SamplerState,
    check_levels,
    initial_seed,
    listed,
    sample,
)
from mvgenvs.diffusion.state import Frames, Memory, SequenceState, StepState, View
from mvgenvs.diffusion.stochastic import OneAnchor
from mvgenvs.errors import UserError
from mvgenvs.nerf.field import Scene

OnStep = Callable[[StepState], None]


def plan_sequence(options: SamplingOptions, cameras: Cameras, num_known: int, seed: int) -> list[Block]:
    """The blocks that the options ask for. `cameras` are those of the known views, then those of the targets.

    Raises `UserError` where they cannot be made.
    """
    plan, num_targets = options.plan, cameras.num_views - num_known
    if isinstance(plan, str):
        centers = cameras.centers[0].float().cpu().numpy()
        sizes = (num_known, num_targets, options.block, options.anchors)
        close_loop, resample = options.close_loop, options.resample
        blocks = make_plan(plan, *sizes, centers=centers, seed=seed, close_loop=close_loop, resample=resample)
    else:
        blocks = list(cast(Sequence[Block], plan))  # mypy keeps str, which is a sequence too
        check_plan(blocks, num_known, num_targets)
    if not options.joint:
        blocks = independent(blocks, num_known)
    if options.start == "render" and not all(block.known for block in blocks):
        raise UserError("start 'render' needs a rendering of every view, and without an input there is none: use noise")
    return blocks


class SequenceSampler:
    """Samples the blocks of one sequence, one after another. It keeps what later blocks need, and nothing else."""

    def __init__(
        self,
        networks: Networks,
        scheduler: EDMScheduler,
        options: SamplingOptions,
        images: Float[Tensor, "batch known c h w"] | None,
        cameras: Cameras | None,
        target_cameras: Cameras,
        generator: Generators | None = None,
    ) -> None:
        """`images` of the image size and their `cameras` are the known views; `options` are resolved, so that nothing
        is left to a checkpoint. Computes nothing yet. Raises `UserError` where there is no such plan.
        """
        device, hw = networks.denoiser.device, (networks.size, networks.size)
        if options.start == "render" and not networks.denoiser.sees_rendering:
            raise UserError("start 'render' is for denoisers that see a rendering, and this one never does: use noise")
        if images is None:
            images = torch.zeros(target_cameras.c2w.shape[0], 0, 3, *hw)
        self.networks, self.scheduler, self.options, self.generator = networks, scheduler, options, generator
        # Known views first, then the targets, as in the blocks.
        self.cameras = concatenate([c.to(device).resized(hw) for c in (cameras, target_cameras) if c is not None])
        self.blocks = plan_sequence(options, self.cameras, images.shape[1], initial_seed(generator))
        if not networks.denoiser.sees_other_views:  # anchors would cost, and change nothing
            self.blocks = [replace(block, anchors=(), stochastic=False) for block in self.blocks]
        for sigma in {block.sigma for block in self.blocks if block.sigma is not None}:
            check_levels(scheduler, replace(options, sigma_max=sigma), "the level to resample from")
        self.images = images.to(device)
        self.reference: Reference | None = None
        self.last_use = last_uses(self.blocks)
        self.finished = 0  # blocks
        self.memory = Memory()
        self.stopped = False
        self._scene: Scene | None = None
        self._lifted: tuple[int, ...] | None = None  # the views that it was lifted from, while they stay the same

    @torch.no_grad()
    def frames(self, on_step: OnStep | None = None, resume: SequenceState | None = None) -> Iterator[Frames]:
        """Yields each block as it is finished; with `resume`, the state after some block, those that follow it.

        `on_step` is called after each sampler step, and may replace the state's latents, or stop: then the block at
        work is left at the network's estimate, and the views of later blocks at their renderings.
        """
        self.reference = self.networks.reference(self.images, self.cameras)
        if resume is None:
            for v in range(self.images.shape[1]):
                self.memory.images[v] = self.images[:, v : v + 1]
                self.memory.latents[v] = self.networks.encode(self.images[:, v, :3])
        else:
            self.finished, self.memory = resume.finished, Memory.of(resume, self.images.device, self.generator)
        while self.finished < len(self.blocks):
            yield self.next_block(on_step)

    def next_block(self, on_step: OnStep | None = None) -> Frames:
        """Makes the views of the next block, and forgets what no later block needs."""
        block = self.blocks[self.finished]
        self.lift(block)
        views = self.render_views(block)
        new = views[: len(block.new)]
        renders = torch.cat([view.render for view in new], dim=1)
        decode = partial(self.networks.decode, renders=self.networks.detail(self._scene, renders))
        if self.stopped:
            seen = renders.clamp(0, 1)
            encoded = torch.cat([self.networks.encode(seen[:, i]) for i in range(len(new))], dim=1)
            return self.finished_block(block, views, encoded, seen)
        for state in self.sample_block(block, views):
            latents = state.latents
            if on_step is not None:
                step = StepState(
                    self.finished, len(self.blocks), state.step, state.num_steps, state.sigma,
                    denoised=partial(decode, state.denoised), timestep=state.timestep, latents=state.latents,
                )  # fmt: skip
                on_step(step)
                latents = state.latents = step.latents
                if step.stop:
                    self.stopped, latents = True, state.denoised
                    break
        return self.finished_block(block, views, latents, decode(latents))

    def finished_block(
        self,
        block: Block,
        views: Sequence[View],
        latents: Float[Tensor, "batch new c lh lw"],
        images: Float[Tensor, "batch new 3 h w"],
    ) -> Frames:
        """What is yielded of a block with these latents and images; its views are kept for later blocks."""
        for i, v in enumerate(block.new):
            self.memory.latents[v] = latents[:, i : i + 1].clone()
            self.memory.images[v] = images[:, i : i + 1].clone()
        new = views[: len(block.new)]
        self.memory.forget(self.last_use, self.finished)
        self.finished += 1
        return Frames(
            images=images,
            renders=torch.cat([view.render for view in new], dim=1).clamp(0, 1),
            depth=torch.cat([view.depth for view in new], dim=1),
            indices=[v - self.images.shape[1] for v in block.new],
            state=self.memory.state(self.finished, self.generator),
        )

    def lift(self, block: Block) -> None:
        """Lifts the NeRF of a block from its known views, unless they are those of the block before."""
        if block.known != self._lifted:
            images = [self.memory.images[v] for v in block.known]
            self._scene = self.networks.lift(images, self.cameras.select(block.known))
        self._lifted = block.known

    def render_views(self, block: Block) -> list[View]:
        """The block's new views, then its anchors; these, and what is resampled, are as when they were first made."""
        views, guided, start = self.memory.views, self.options.guidance != 1, self.options.start == "render"
        members = [*block.new, *block.anchors]
        for v in members:
            if (v in block.new and block.sigma is None) or v not in views:
                camera = self.cameras.select([v])
                views[v] = self.networks.render_view(self._scene, camera, guided, start, self.reference)
        return [views[v] for v in members]

    def sample_block(self, block: Block, views: Sequence[View]) -> Iterator[SamplerState]:
        """Samples the block's new views with its anchors; yields the state after each step."""
        latents, num_new = self.memory.latents, len(block.new)
        none = self.images.new_zeros(self.images.shape[0], 0, *self.networks.latent_shape)
        anchors = torch.cat([none, *(latents[v] for v in block.anchors)], dim=1)
        dropped = [view.dropped for view in views if view.dropped is not None]
        guesses = [view.latents for view in views[:num_new] if view.latents is not None]
        anchor_noise = self.anchor_noise(block)  # drawn before any other noise of the block
        conditions = concatenate_conditions([view.conditions for view in views], dim=1)
        blind = self._scene is None and self.reference is None
        free = concatenate_conditions(dropped, dim=1) if dropped and not blind else None
        options, start = self.options, torch.cat(guesses, dim=1) if guesses else None
        if block.sigma is not None:
            options, start = replace(options, sigma_max=block.sigma), torch.cat([latents[v] for v in block.new], dim=1)
        denoise: Denoise = partial(self.networks.denoise, guidance=options.guidance, joint=options.joint)
        if block.stochastic:
            options = replace(options, anchor_level="clean")
            denoise = OneAnchor(denoise, conditions, free, num_new, self.generator)
        else:
            cache = AnchorCache() if options.joint and self.anchors_repeat else None
            told = {"conditions": conditions, "dropped": free, "num_anchors": len(block.anchors), "cache": cache}
            denoise = partial(denoise, **told)
        return sample(denoise, self.scheduler, options, num_new, anchors, self.generator, anchor_noise, start)

    def anchor_noise(self, block: Block) -> Float[Tensor, "batch anchor c h w"] | None:
        """The noise of the block's anchors where it is fixed: drawn once for each of them."""
        if self.options.renoise != "fixed" or not block.anchors:
            return None
        noise = self.memory.noise
        for v in block.anchors:
            if v not in noise:
                x0 = self.memory.latents[v]
                noise[v] = randn_tensor(x0.shape, listed(self.generator), device=x0.device, dtype=x0.dtype)
        return torch.cat([noise[v] for v in block.anchors], dim=1)

    @property
    def anchors_repeat(self) -> bool:
        """Whether anchors come to the network as they did before: the same noise, at the same level, seen by no other.

        The level repeats below the highest that anchors are brought to, and where Heun's correction ends a step at
        the level from which the next begins. A cache lives for one block, so that blocks do not depend on earlier ones.
        """
        options = self.options
        levels = options.anchor_level if isinstance(options.anchor_level, tuple) else (options.anchor_level,)
        repeat = "matched" not in levels or options.sampler == "heun"
        return self.networks.denoiser.config.attention == "block-causal" and options.renoise == "fixed" and repeat
