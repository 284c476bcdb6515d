"""NeRF-guided distillation: the field of one object, tuned at test time to what the denoiser makes of its renderings.

[NerfDiff, Gu et al. 2023, arXiv 2302.10109, algorithm 1, in terms of sigma]. For noise levels from high to low, the
virtual views are noised and denoised, and drawn towards the field's present renderings, the more so the higher the
level. Then the field and its volumes learn from random rays of these views. The denoiser stays as it is.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mvgenvs.cameras import Cameras
from mvgenvs.config.ranges import MANY, Checked, ranged
from mvgenvs.diffusion.codec import encode_rendering
from mvgenvs.diffusion.conditions import concatenate_conditions
from mvgenvs.diffusion.networks import Networks
from mvgenvs.diffusion.state import View
from mvgenvs.errors import UserError
from mvgenvs.nerf.model import Rendering
from mvgenvs.nerf.renderer import pick_rays
from mvgenvs.precision import without_autocast
from mvgenvs.trajectories import evenly_spread


def positive(default: Any) -> Any:
    """An option that takes numbers above 0."""
    return ranged(default, 0, MANY, above=True)


@dataclass(frozen=True, kw_only=True)
class DistillationOptions(Checked):
    """How a field is tuned. Raises `UserError` for numbers that are not above 0."""

    rounds: int = positive(6)
    """noise levels, evenly spaced in their logarithm"""
    sigma_max: float = positive(1.0)
    """the first of them"""
    sigma_min: float = positive(0.1)
    """the last of them"""
    gamma: float = positive(1.0)
    """weight of the rendering, times sigma^2, against that of the denoised view"""
    views: int = positive(12)
    """most virtual views: the targets, or so many of them, evenly spread"""
    block: int = positive(4)
    """virtual views that are denoised together"""
    updates: int = positive(30)
    """updates of the field after each round"""
    rays: int = positive(1024)
    """random rays of each update, of all virtual views"""
    field_rate: float = positive(5e-4)
    """learning rate of the field's weights"""
    volume_rate: float = positive(5e-3)
    """learning rate of its volumes"""

    @classmethod
    def of(cls, **options: Any) -> "DistillationOptions":
        """The options of these names. Raises `UserError` for an unknown one."""
        if unknown := options.keys() - {each.name for each in fields(cls)}:
            known = ", ".join(each.name for each in fields(cls))
            raise UserError(f"distillation has no option '{min(unknown)}': its options are {known}")
        return cls(**options)

    def levels(self) -> list[float]:
        """The noise levels, from high to low."""
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return [math.exp(high + i / max(1, self.rounds - 1) * (low - high)) for i in range(self.rounds)]


@dataclass(frozen=True, eq=False, slots=True)
class Round:
    """What the field has learnt from in one round, and how."""

    views: Float[Tensor, "batch view 3 h w"]
    losses: list[float]  # mean squared error of colours, at each update


class Distillation:
    """Distils a denoiser into the field of one set of known views."""

    def __init__(
        self,
        networks: Networks,
        images: Float[Tensor, "batch known c h w"],
        cameras: Cameras,
        targets: Cameras,
        options: DistillationOptions,
        generator: torch.Generator | None = None,
    ) -> None:
        """`images`, with or without mattes, are the known views. Raises `UserError` where no rendering is seen."""
        if not networks.denoiser.sees_rendering:
            raise UserError("this model's denoiser never sees the NeRF, so it cannot guide it")
        hw = (networks.size, networks.size)
        chosen = evenly_spread(targets.num_views, options.views)
        self.networks, self.options, self.generator = networks, options, generator
        self.cameras = targets.resized(hw).select(chosen)
        with torch.no_grad():
            scene = networks.lift(list(images.split(1, dim=1)), cameras.resized(hw))
            assert scene is not None
            views = self.cameras.select
            seen = networks.reference(images, cameras.resized(hw))
            self.views = [networks.render_view(scene, views([v]), False, True, seen) for v in range(len(chosen))]
        self.nerf = copy.deepcopy(networks.nerf).requires_grad_(False)
        self.nerf.field.requires_grad_(True)
        volumes = scene.volumes.float().clone().requires_grad_(True)
        world = None if scene.world is None else scene.world.float().clone().requires_grad_(True)
        self.light = volumes.detach()[:, :, -2].clone()  # if the field has visibility: what each known view sees
        self.scene = replace(scene, volumes=volumes, world=world, occupancy=None)
        self.optimizer = torch.optim.Adam(
            [
                {"params": list(self.nerf.field.parameters()), "lr": options.field_rate},
                {"params": [x for x in (volumes, world) if x is not None], "lr": options.volume_rate},
            ]
        )

    @torch.no_grad()
    def rounds(self) -> Iterator[Round]:
        """Tunes the field, and yields each round when it is done."""
        renders = torch.cat([view.render for view in self.views], dim=1)
        latents, detail = self.latents_of(renders), self.networks.detail(self.scene, renders)
        for sigma in self.options.levels():
            denoised = torch.cat([self.denoise(sigma, *part) for part in self.blocks(latents)], dim=1)
            weight = self.options.gamma * sigma**2
            latents = (denoised + weight * self.latents_of(self.render(self.cameras).rgb)) / (1 + weight)
            images = self.networks.decode(latents, detail)
            yield Round(images, self.learn(images))

    def before_and_after(self, targets: Cameras) -> tuple[Rendering, Rendering]:
        """The field's renderings of these cameras, before any round and after the last."""
        before = self.render(targets)
        for _ in self.rounds():
            pass
        return before, self.render(targets)

    @torch.no_grad()
    def render(self, cameras: Cameras) -> Rendering:
        """As the field is now."""
        return self.nerf.render(replace(self.scene, occupancy=self.nerf.occupancy(self.scene)), cameras)

    def latents_of(self, renders: Float[Tensor, "batch view 3 h w"]) -> Float[Tensor, "batch view c lh lw"]:
        with self.networks.computing():
            return encode_rendering(self.networks.codec, renders, self.networks.denoiser.config.latent_size).float()

    def blocks(self, latents: Tensor) -> Iterator[tuple[Tensor, list[View]]]:
        """The views in sets that are denoised together."""
        for start in range(0, len(self.views), self.options.block):
            end = start + self.options.block
            yield latents[:, start:end], self.views[start:end]

    def denoise(
        self, sigma: float, latents: Float[Tensor, "batch view c h w"], views: list[View]
    ) -> Float[Tensor, "batch view c h w"]:
        """D(x + sigma eps), under the conditions of the renderings before distillation, as the denoiser knows them."""
        noise = randn_tensor(latents.shape, self.generator, device=latents.device, dtype=latents.dtype)
        conditions = concatenate_conditions([view.conditions for view in views], dim=1)
        levels = latents.new_full(latents.shape[:2], sigma)
        return self.networks.denoise(latents + sigma * noise, levels, conditions)

    @without_autocast
    def learn(self, images: Float[Tensor, "batch view 3 h w"]) -> list[float]:
        """Updates the field on random rays of the views; returns the losses."""
        origins, directions = (rearrange(x, "b v h w d -> b (v h w) d") for x in self.cameras.rays())
        colours = rearrange(images, "b v c h w -> b (v h w) c")
        hits = self.nerf.bounds(origins, directions).hits.cpu().float()
        losses = []
        for _ in range(self.options.updates):
            drawn = torch.multinomial(hits + 1e-9, self.options.rays, replacement=True, generator=self.generator)
            rays = [pick_rays(x, drawn.to(x.device)) for x in (origins, directions)]
            with torch.enable_grad():
                rendered = self.nerf.render_rays(self.scene, *rays).features[..., :3]
                loss = nn.functional.mse_loss(rendered, pick_rays(colours, drawn.to(colours.device)))
                self.optimizer.zero_grad()
                loss.backward()
            self.optimizer.step()
            if self.nerf.config.visibility:  # it is a share of light, not a feature
                self.scene.volumes.detach()[:, :, -2].copy_(self.light)
            losses.append(loss.item())
        return losses
