"""The view-conditioned NeRF as one diffusers model: known views in, feature renderings of any camera out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras, concatenate
from mvgenvs.modules import Module
from mvgenvs.nerf.chunks import map_chunks, threads_on
from mvgenvs.nerf.encoder import DECODER_WIDTH, ImageEncoder
from mvgenvs.nerf.field import Field, Scene
from mvgenvs.nerf.occupancy import Occupancy, find_occupancy
from mvgenvs.nerf.renderer import Bounds, RayRendering, background_features, box_bounds, pick_rays, render_rays
from mvgenvs.nerf.visibility import visibility, with_visibility
from mvgenvs.nerf.world import WorldVolume
from mvgenvs.nerf.zoom import mean_colour, zoom
from mvgenvs.offload import on_its_device
from mvgenvs.precision import without_autocast
from mvgenvs.views import with_matte

CHUNK, CHUNK_ON_GPU = 2**17, 2**22  # samples; their tensors stay in a CPU's third-level cache
CHUNK_IN_TRAINING = 2**19  # on a CPU, where each chunk costs a gradient of the size of all volumes
CELL = 0.016  # side of a cell of the occupancy grid, in world units: a voxel of the world volume
# Of a ray's coarse and fine samples: what its occupied part needs, about half of its length in the box. There, even
# samples miss little, and say more of what lies between them than many close to a guess.
SHARES = (0.625, 0.25)
KEPT_SAMPLES, KEPT_ON_GPU = 2**21, 2**24  # whose intermediate results are kept for the backward pass: .5 GB per 2**20


@dataclass(frozen=True, eq=False, slots=True)
class Rendering:
    """The NeRF rendered by some cameras."""

    features: Float[Tensor, "batch view f h w"]  # the first three are RGB in [0, 1] on white
    depth: Float[Tensor, "batch view 1 h w"]  # z-depth in world units; the far side of the scene where nothing is hit
    opacity: Float[Tensor, "batch view 1 h w"]
    distance_error: Float[Tensor, "batch view 1 h w"] | None = None  # see `RayRendering`; only in training

    @property
    def rgb(self) -> Float[Tensor, "batch view 3 h w"]:
        return self.features[:, :, :3]

    @classmethod
    def blank(cls, cameras: Cameras, features: int) -> "Rendering":
        """What cameras (batch, view) see where there is no NeRF: zeros."""
        zeros = torch.zeros(*cameras.c2w.shape[:2], 1, *cameras.hw, device=cameras.c2w.device)
        return cls(zeros.expand(-1, -1, features, -1, -1), depth=zeros, opacity=zeros)

    def repeat(self, times: int) -> "Rendering":
        """Each scene of the batch repeated `times` times in a row."""
        return Rendering(*(x.repeat_interleave(times, dim=0) for x in (self.features, self.depth, self.opacity)))


class ViewNeRF(Module):
    """GeNVS' first two parts: an encoder that lifts known views to volumes, and a field that is rendered from them."""

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
        density: str = "softplus",
        world_channels: int = 0,
        world_widths: Sequence[int] = (48, 96, 192),
        world_grid: Sequence[int] = (20, 20, 32),
        world_extent: Sequence[float] = (0.32, 0.32, 0.52),
        world_density: bool = False,
        world_detail: int = 0,
        zoom_known: bool = False,
        matte: bool = False,
        visibility: bool = False,
        world_paint: bool = False,
    ) -> None:
        """The arguments are this many because they are the model's saved configuration: diffusers asks for one of each.

        `mirror_known` adds the mirror image of every known view, with its mirrored camera, to the known views: a
        prior for objects symmetric in x, such as cars, which gives the field a guess of the unseen side.
        `world_channels` adds a volume in the world, see `WorldVolume`; nothing outside its box is rendered then. For
        `density` and `world_density` see `Field`, for `world_detail` see `WorldVolume`. `zoom_known` crops known views
        to their object. With `matte` the networks also see the mattes of known views, which tell white from air.
        `visibility` tells the field which points a known view sees, according to `world_density`; with `world_paint`
        the world volume has a colour for the others.
        """
        super().__init__()
        self.field = Field(
            volume_channels, features, hidden, near, far, fusion, world_coordinates, source_colour,
            world_channels=world_channels, world_extent=world_extent, density=density, world_density=world_density,
            matte=matte, visibility=visibility, world_paint=world_paint,
        )  # fmt: skip
        pixel_channels = 4 if matte else 3
        self.encoder = ImageEncoder(
            tuple(encoder_widths), self.field.volume_channels, volume_depth, in_channels=pixel_channels
        )
        self.world = None
        if world_channels:
            self.world = WorldVolume(
                DECODER_WIDTH, world_channels, world_widths, world_grid, world_extent,
                detail=world_detail, pixel_channels=pixel_channels,
            )  # fmt: skip

    @property
    def extent(self) -> Sequence[float] | None:
        """Half sides of the box that is rendered; None if it is only the sphere."""
        return None if self.world is None else self.config.world_extent

    @on_its_device
    def encode(
        self,
        images: Float[Tensor, "batch view c h w"],
        cameras: Cameras,
        find_empty: bool = False,
        noise: Float[Tensor, "batch view 3 h w"] | None = None,
    ) -> Scene:
        """Lifts 1-3 known views, images in [0, 1] on white, with or without mattes as a fourth channel (`with_matte`).

        `find_empty` also finds where the scene is empty, so that rendering skips air: not for training. `noise` is
        added to the colours after cropping.
        """
        images = with_matte(images)
        if self.config.zoom_known:
            images, cameras = zoom(images, cameras)
        paint = mean_colour(images) if self.config.visibility else None
        images = images if noise is None else torch.cat([images[:, :, :3] + noise, images[:, :, 3:]], dim=2)
        images = images if self.config.matte else images[:, :, :3]
        num_mirrored = images.shape[1] if self.config.mirror_known else 0
        if num_mirrored:
            images, cameras = torch.cat([images, images.flip(-1)], dim=1), concatenate([cameras, cameras.mirrored()])
        features, volumes = self.encoder(images.flatten(0, 1))
        volumes = volumes.to(images.dtype).unflatten(0, images.shape[:2])  # also under autocast
        world = None
        if self.world is not None:
            near, far = self.config.near, self.config.far
            seen = features.unflatten(0, images.shape[:2])
            world = self.world(seen, images, cameras, num_mirrored, near, far).to(images.dtype)
            if self.config.visibility:
                logits, shape = world[:, -2].float(), volumes.shape[-3:]
                light = visibility(logits, self.config.world_extent, cameras, near, far, shape)
                volumes = with_visibility(volumes, light)
        scene = Scene(volumes, images, cameras, num_mirrored, world, paint=paint)
        return replace(scene, occupancy=self.occupancy(scene)) if find_empty else scene

    def bounds(self, origins: Float[Tensor, "batch ray 3"], directions: Float[Tensor, "batch ray 3"]) -> Bounds:
        """The part of each ray inside the scene's sphere, and inside the world volume's box if there is one."""
        return box_bounds(origins, directions, self.config.scene_radius, self.extent)

    @without_autocast
    def occupancy(self, scene: Scene) -> Occupancy:
        """Where the scene is empty. Not for training."""
        radius = self.config.scene_radius
        x, y, z = (radius, radius, radius) if self.extent is None else self.extent
        extent, cells = (x, y, z), (round(2 * x / CELL), round(2 * y / CELL), round(2 * z / CELL))
        batch, device = scene.images.shape[0], scene.images.device
        return find_occupancy(lambda points: self.field(scene, points)[0], batch, cells, extent, device)

    def compile_encoders(self) -> None:
        """Compiles in place, at their next call, the two networks that lift views."""
        self.encoder.compile(dynamic=False)
        if self.world is not None:
            self.world.unet.compile(dynamic=False)

    def render_rays(
        self,
        scene: Scene,
        origins: Float[Tensor, "batch ray 3"],
        directions: Float[Tensor, "batch ray 3"],
        jitter: Float[Tensor, "batch ray"] | None = None,
        chunk: int | None = None,
        true_distance: Float[Tensor, "batch ray"] | None = None,
        bounds: Bounds | None = None,
        shares: tuple[float, float] = (1.0, 1.0),
    ) -> RayRendering:
        """Renders any rays of the scenes; all threads together process about `chunk` samples at a time.

        That bounds the memory for any number of rays: the backward pass renders chunks beyond `KEPT_SAMPLES` again.
        Rays have these `shares` of the configured numbers of coarse and fine samples. Gradients flow to the volumes and
        the field's weights, not to rays, cameras and images.
        """
        config, threads = self.config, threads_on(origins.device)
        numbers = (config.num_coarse, config.num_fine)
        num_coarse, num_fine = (math.ceil(share * number) for share, number in zip(shares, numbers, strict=True))
        if chunk is None:
            chunk = CHUNK_ON_GPU if origins.is_cuda else CHUNK_IN_TRAINING if scene.volumes.requires_grad else CHUNK
        num_samples = origins[..., 0].numel() * (num_coarse + num_fine)
        num_chunks = max(1, threads * math.ceil(num_samples / (chunk * threads)))  # so that no thread waits at the end
        bounds = self.bounds(origins, directions) if bounds is None else bounds
        given = {
            "origins": origins, "directions": directions, "near": bounds.near, "far": bounds.far, "hits": bounds.hits,
            "jitter": jitter, "true_distance": true_distance,
        }  # fmt: skip
        rays = {name: x for name, x in given.items() if x is not None}
        chunks = list(zip(*(x.chunk(num_chunks, dim=1) for x in rays.values()), strict=True))
        num_kept = len(chunks) * (KEPT_ON_GPU if origins.is_cuda else KEPT_SAMPLES) // max(num_samples, 1)

        @without_autocast
        def render(*chunk: Tensor) -> tuple[Tensor, ...]:
            part = dict(zip(rays, chunk, strict=True))
            within = Bounds(part.pop("near"), part.pop("far"), part.pop("hits"))
            out = render_rays(
                lambda points: self.field(scene, points),
                **part, bounds=within, num_coarse=num_coarse, num_fine=num_fine,
            )  # fmt: skip
            error = () if out.distance_error is None else (out.distance_error,)
            return out.features, out.distance, out.opacity, *error

        volumes = [scene.volumes, *([] if scene.world is None else [scene.world])]
        parts = map_chunks(render, chunks, [*volumes, *self.field.parameters()], num_kept)
        return RayRendering(*(torch.cat(each, dim=1) for each in zip(*parts, strict=True)))

    @on_its_device
    def render(
        self, scene: Scene, cameras: Cameras, jitter: Float[Tensor, "batch ray"] | None = None, chunk: int | None = None
    ) -> Rendering:
        """Renders whole images of size `cameras.hw`; `chunk` as in `render_rays`.

        Rays that hit nothing see the background and cost nothing. `jitter` has one entry per pixel.
        """
        origins, directions = (rearrange(x, "b v h w xyz -> b (v h w) xyz") for x in cameras.rays())
        bounds, shares = self.bounds(origins, directions), (1.0, 1.0)
        if scene.occupancy is not None:
            bounds, shares = scene.occupancy.tightened(bounds, origins, directions), SHARES
        hits = bounds.hits
        order = hits.argsort(dim=1, descending=True, stable=True)[:, : int(hits.sum(dim=1).max())]

        of_rays = None if jitter is None else jitter.gather(1, order)
        picked = pick_rays(origins, order), pick_rays(directions, order)
        rays = self.render_rays(scene, *picked, of_rays, chunk, bounds=bounds.pick(order), shares=shares)
        height, width = cameras.hw

        def images(seen: Tensor, background: Tensor) -> Tensor:
            seen = seen if seen.ndim == 3 else seen[..., None]
            full = background.to(seen).expand(*hits.shape, -1).clone()
            hit = hits.gather(1, order)[..., None] > 0  # not so of rays that pad the batch
            seen = torch.where(hit, seen, background.to(seen))
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
