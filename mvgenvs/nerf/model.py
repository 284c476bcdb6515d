"""The view-conditioned NeRF as one diffusers model: known views in, feature renderings of any camera out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras, concatenate
from mvgenvs.nerf.chunks import map_chunks, threads_on
from mvgenvs.nerf.encoder import ImageEncoder
from mvgenvs.nerf.field import Field, Scene
from mvgenvs.nerf.renderer import RayRendering, background_features, render_rays, sphere_bounds
from mvgenvs.precision import without_autocast

CHUNK, CHUNK_ON_GPU = 2**17, 2**20  # samples; what they need stays in the third-level cache of a CPU
KEPT_SAMPLES = 2**21  # whose intermediate results are kept for the backward pass: about 1 GB for two volumes


@dataclass(frozen=True, eq=False, slots=True)
class Rendering:
    """The NeRF seen by some cameras."""

    features: Float[Tensor, "batch view f h w"]  # the first three are RGB in [0, 1] on white
    depth: Float[Tensor, "batch view 1 h w"]  # z-depth in world units; the far side of the scene where nothing is hit
    opacity: Float[Tensor, "batch view 1 h w"]

    @property
    def rgb(self) -> Float[Tensor, "batch view 3 h w"]:
        return self.features[:, :, :3]

    def repeat(self, times: int) -> "Rendering":
        """Every scene of the batch `times` times in a row."""
        return Rendering(*(x.repeat_interleave(times, dim=0) for x in (self.features, self.depth, self.opacity)))


class ViewNeRF(ModelMixin, ConfigMixin):
    """GeNVS' first two parts: an encoder that lifts known views to volumes, and a field rendered from them."""

    @register_to_config
    def __init__(
        self,
        encoder_widths: Sequence[int] = (64, 128, 192),
        volume_channels: int = 16,
        volume_depth: int = 32,
        features: int = 16,
        hidden: int = 64,
        near: float = 0.8,
        far: float = 1.8,
        scene_radius: float = 0.52,
        num_coarse: int = 16,
        num_fine: int = 16,
        fusion: str = "softmax",
        world_coordinates: bool = True,
        source_colour: bool = True,
        mirror_known: bool = True,
    ) -> None:
        """`mirror_known` adds the mirror image of every known view, seen by its mirrored camera, to the known views:
        a prior for objects symmetric in x, as cars are, which shows the field a guess of the unseen side.
        """
        super().__init__()
        self.field = Field(
            volume_channels, features, hidden, near, far, fusion, world_coordinates, source_colour
        )  # fmt: skip
        self.encoder = ImageEncoder(tuple(encoder_widths), self.field.volume_channels, volume_depth)

    def encode(self, images: Float[Tensor, "batch view 3 h w"], cameras: Cameras) -> Scene:
        """Lifts 1-3 known views, images in [0, 1]."""
        if self.config.mirror_known:
            images, cameras = torch.cat([images, images.flip(-1)], dim=1), concatenate([cameras, cameras.mirrored()])
        volumes = self.encoder(rearrange(images, "b v c h w -> (b v) c h w")).to(images.dtype)  # also under autocast
        return Scene(rearrange(volumes, "(b v) c d h w -> b v c d h w", b=images.shape[0]), images, cameras)

    def render_rays(
        self,
        scene: Scene,
        origins: Float[Tensor, "batch ray 3"],
        directions: Float[Tensor, "batch ray 3"],
        jitter: Float[Tensor, "batch ray"] | None = None,
        chunk: int | None = None,
    ) -> RayRendering:
        """Renders any rays of the scenes, each thread some with about `chunk` samples in all at a time.

        That bounds the memory, whatever the number of rays: the backward pass renders those chunks again that lie
        beyond `KEPT_SAMPLES`. Gradients flow to the volumes and the field's weights, not to rays, cameras and images.
        """
        config, threads = self.config, threads_on(origins.device)
        chunk = (CHUNK_ON_GPU if origins.is_cuda else CHUNK) if chunk is None else chunk
        num_samples = origins[..., 0].numel() * (config.num_coarse + config.num_fine)
        num_chunks = max(1, threads * math.ceil(num_samples / (chunk * threads)))  # so that no thread waits at the end
        rays = [origins, directions, *([] if jitter is None else [jitter])]
        chunks = list(zip(*(x.chunk(num_chunks, dim=1) for x in rays), strict=True))
        num_kept = len(chunks) * KEPT_SAMPLES // max(num_samples, 1)

        @without_autocast
        def render(origins: Tensor, directions: Tensor, jitter: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
            out = render_rays(
                lambda points: self.field(scene, points),
                origins, directions, config.scene_radius, config.num_coarse, config.num_fine, jitter,
            )  # fmt: skip
            return out.features, out.distance, out.opacity

        parts = map_chunks(render, chunks, [scene.volumes, *self.field.parameters()], num_kept)
        return RayRendering(*(torch.cat(each, dim=1) for each in zip(*parts, strict=True)))

    def render(
        self, scene: Scene, cameras: Cameras, jitter: Float[Tensor, "batch ray"] | None = None, chunk: int | None = None
    ) -> Rendering:
        """Renders whole images of size `cameras.hw`, `chunk` as in `render_rays`.

        Rays that miss the scene's sphere see the background and cost nothing. `jitter` has one entry per pixel.
        """
        origins, directions = (rearrange(x, "b v h w xyz -> b (v h w) xyz") for x in cameras.rays())
        hits = sphere_bounds(origins, directions, self.config.scene_radius)[2]
        order = hits.argsort(dim=1, descending=True, stable=True)[:, : int(hits.sum(dim=1).max())]

        def pick(x: Tensor) -> Tensor:
            return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))

        of_rays = None if jitter is None else pick(jitter[..., None])[..., 0]
        rays = self.render_rays(scene, pick(origins), pick(directions), of_rays, chunk)
        height, width = cameras.hw

        def images(seen: Tensor, background: Tensor) -> Tensor:
            seen = seen if seen.ndim == 3 else seen[..., None]
            full = background.to(seen).expand(*hits.shape, -1).clone()
            seen = torch.where(pick(hits[..., None]) > 0, seen, background.to(seen))  # rays that only fill up the batch
            full = full.scatter(1, order[..., None].expand_as(seen), seen)
            return rearrange(full, "b (v h w) f -> b v f h w", h=height, w=width)

        far = torch.full((1,), self.config.far)
        forward = cameras.c2w[..., None, None, :3, 2]  # z-depth = distance x cosine to the optical axis
        cosine = (cameras.rays()[1] * forward).sum(dim=-1)[:, :, None]
        return Rendering(
            images(rays.features, background_features(self.config.features, hits)),
            images(rays.distance, far) * cosine,
            images(rays.opacity, torch.zeros(1)),
        )
