"""Losses of the NeRF: its renderings, whole or of random rays, against the true views; its density, by carving."""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.config import LossConfig
from mvgenvs.nerf.field import PAINT_CHANNELS, Scene, painted
from mvgenvs.nerf.model import Rendering, ViewNeRF
from mvgenvs.training.draws import Draws
from mvgenvs.training.losses.carving import carve, carving_loss, paint_loss
from mvgenvs.views import ViewSet

SHELL = 1.5  # voxels behind a surface that carving labels solid
SURROUNDINGS = 4  # pixels around the object that count as near it


def render_images(nerf: ViewNeRF, scene: Scene, views: ViewSet, draws: Draws, size: int) -> tuple[Rendering, ViewSet]:
    """Whole renderings of this size, and the views scaled down to it."""
    hw = (size, size)
    jitter = draws.uniform(views.num_views * hw[0] * hw[1]) if nerf.training else None

    def shrink(x: Tensor) -> Tensor:
        return F.interpolate(x.flatten(0, 1), hw, mode="area").unflatten(0, x.shape[:2])

    def shrink_depth(depth: Tensor) -> Tensor:
        """The mean depth over the object's part of each pixel: the background's 0 is no depth."""
        return shrink(depth) / shrink((depth > 0).to(depth.dtype)).clamp(min=1e-6)

    cameras = views.cameras.resized(hw)
    targets = ViewSet(
        shrink(views.images),
        cameras,
        mask=None if views.mask is None else shrink(views.mask),
        depth=None if views.depth is None else shrink_depth(views.depth),
    )
    return nerf.render(scene, cameras, jitter), targets


def render_rays(
    nerf: ViewNeRF, scene: Scene, views: ViewSet, draws: Draws, weights: LossConfig
) -> tuple[Rendering, ViewSet]:
    """Random rays of full-size views, as images of one row, with the true pixels to compare them with."""
    rays = weights.rays
    chosen = chosen_pixels(views, draws.uniform(views.num_views, rays), weights.object_rays)  # (b, v, r)

    def pick(x: Tensor) -> Tensor:  # (b, v, c, h, w) -> (b, v, c, 1, r)
        return x.flatten(-2).gather(-1, chosen[:, :, None].expand(-1, -1, x.shape[2], -1))[:, :, :, None]

    origins, directions = (rearrange(x, "b v h w d -> b v d h w") for x in views.cameras.rays())
    forward = views.cameras.c2w[..., :3, 2]
    cosine = (pick(directions) * forward[..., :, None, None]).sum(dim=2, keepdim=True)
    mask = None if views.mask is None else pick(views.mask)
    depth = None if views.depth is None else pick(views.depth)

    def flat(x: Tensor) -> Tensor:
        return rearrange(x, "b v d 1 r -> b (v r) d")

    def image(x: Tensor) -> Tensor:
        return rearrange(x if x.ndim == 3 else x[..., None], "b (v r) f -> b v f 1 r", r=rays)

    flat_origins = flat(pick(origins))
    out = nerf.render_rays(
        scene,
        flat_origins,
        flat(pick(directions)),
        draws.uniform(flat_origins.shape[1]),
        true_distance=flat(depth / cosine)[..., 0] if depth is not None and weights.distance else None,
    )
    rendering = Rendering(
        image(out.features),
        image(out.distance) * cosine,
        image(out.opacity),
        None if out.distance_error is None else image(out.distance_error),
    )
    return rendering, ViewSet(pick(views.images), views.cameras, mask, depth)


def chosen_pixels(
    views: ViewSet, uniform: Float[Tensor, "batch view ray"], share: float
) -> Int64[Tensor, "batch view ray"]:
    """Random pixels of each view: a `share` of them on the object and a few pixels around it."""
    height, width = views.cameras.hw
    if views.mask is None or not share:
        return (uniform * (height * width)).long().clamp(max=height * width - 1)
    near = F.max_pool2d(views.mask.flatten(0, 1), 2 * SURROUNDINGS + 1, stride=1, padding=SURROUNDINGS)
    near = (near > 0).float().flatten(1)
    odds = share * near / near.sum(dim=1, keepdim=True).clamp(min=1) + (1 - share) / near.shape[1]
    cumulative = odds.double().cumsum(dim=1)
    places = uniform.flatten(0, 1).double() * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, places.contiguous(), right=True).clamp(max=height * width - 1)
    return chosen.unflatten(0, uniform.shape[:2])


def rendering_losses(
    weights: LossConfig, rendering: Rendering, targets: ViewSet, draws: Draws
) -> dict[str, Float[Tensor, ""]]:
    """Losses by name, of those that have a weight, of renderings against their targets."""
    losses = {}
    if weights.rgb:
        error = rendering.rgb - targets.images
        if weights.random_background and targets.mask is not None:
            change = draws.uniform(3)[:, None, :, None, None] - 1  # from white
            error = error + (targets.mask - rendering.opacity) * change
        losses["rgb"] = error.square().mean()
    if weights.mask and targets.mask is not None:
        losses["mask"] = (rendering.opacity - targets.mask).square().mean()
    if weights.depth and targets.depth is not None:
        on_object = (targets.depth > 0).to(targets.depth.dtype)
        error = (rendering.depth - targets.depth).abs() * on_object
        losses["depth"] = error.sum() / on_object.sum().clamp(min=1)
    if weights.distance and targets.depth is not None and rendering.distance_error is not None:
        on_object = (targets.depth > 0).to(targets.depth.dtype)
        losses["distance"] = (rendering.distance_error * on_object).sum() / on_object.sum().clamp(min=1)
    if weights.opacity:
        losses["opacity"] = rendering.opacity.mean()
    return losses


def world_losses(nerf: ViewNeRF, scene: Scene, views: ViewSet, weights: LossConfig) -> dict[str, Float[Tensor, ""]]:
    """Losses of the world volume's own density and colours, at every voxel, of those that have a weight."""
    assert nerf.world is not None and scene.world is not None
    voxels = nerf.world.fine_centers.flatten(1).T
    side = (math.prod(2 * half for half in nerf.world.extent) / len(voxels)) ** (1 / 3)
    carved = carve(voxels, views, SHELL * side)
    losses = {}
    if weights.carving:
        losses["carving"] = carving_loss(scene.world_logits.flatten(1), carved)
    if weights.paint:
        assert scene.paint is not None
        logits = scene.world[:, :PAINT_CHANNELS].flatten(2).movedim(1, 0)
        colours = painted(logits, scene.paint.T[:, :, None].expand(-1, -1, logits.shape[-1]))
        losses["paint"] = paint_loss(colours.movedim(0, -1), carved)
    return losses
