"""The NeRF's rendering by its plain definition. Tests compare the fast renderer with it; the benchmark times both.

It works as genvs_unofficial does. Every ray of the image is rendered, whether or not it can hit the object. All samples
of a pass are held in memory at once. The field is evaluated three times: for the coarse pass, which places the fine
samples; for the fine pass, which gives the weights of all samples; and for the colours. Each known view is sampled
separately, by `grid_sample`.

`fuse="features"` averages the features of the known views before the MLP: this is what `ViewNeRF.render` computes if
empty space is not skipped. `fuse="outputs"` runs the MLP once for each known view and averages its outputs, as
genvs_unofficial does. The two agree only for a single known view without its mirror image.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.cameras import Cameras
from mvgenvs.nerf.field import LOGIT_SLOPE, MAX_LOG_DENSITY, PAINT_CHANNELS, UNSEEN, Field, Scene
from mvgenvs.nerf.model import ViewNeRF


def render_plainly(
    nerf: ViewNeRF, scene: Scene, cameras: Cameras, num_coarse: int, num_fine: int, fuse: str = "features"
) -> Float[Tensor, "view features_and_opacity h w"]:
    """Features and opacity of one scene, the only one in its batch."""
    views = [cameras.select([v]) for v in range(cameras.num_views)]
    return torch.stack([_render_view(nerf, scene, view, num_coarse, num_fine, fuse) for view in views])


def _render_view(
    nerf: ViewNeRF, scene: Scene, camera: Cameras, num_coarse: int, num_fine: int, fuse: str
) -> Float[Tensor, "features_and_opacity h w"]:
    origins, directions = (x.reshape(-1, 3) for x in camera.rays())
    near, far, hits = _sphere(origins, directions, nerf.config.scene_radius)
    if nerf.extent is not None:
        near, far, hits = _within_box(origins, directions, origins.new_tensor(nerf.extent), near, far, hits)

    def evaluate(t: Tensor) -> tuple[Tensor, Tensor]:
        points = origins[:, None] + t[..., None] * directions[:, None]
        density, features = _field(nerf.field, scene, points.reshape(-1, 3), fuse)
        return density.reshape(t.shape) * hits[:, None], features.reshape(*t.shape, -1)

    strata = (torch.arange(num_coarse, device=near.device) + 0.5) / num_coarse
    t_coarse = near[:, None] + (far - near)[:, None] * strata
    density, _ = evaluate(t_coarse)  # 1. where is anything?
    t_fine = _inverse_transform(near, far, _weights(density, t_coarse, far).detach(), num_fine)
    t = torch.cat([t_coarse, t_fine], dim=1).sort(dim=1).values
    density, _ = evaluate(t)  # 2. how much does each sample count?
    weights = _weights(density, t, far)
    _, features = evaluate(t)  # 3. what does it look like?
    opacity = weights.sum(dim=1)
    white = torch.tensor([1.0] * 3 + [0.0] * (features.shape[-1] - 3), device=near.device)
    rendered = (weights[..., None] * features).sum(dim=1) + (1 - opacity)[:, None] * white
    return torch.cat([rendered, opacity[:, None]], dim=1).T.reshape(-1, *camera.hw)


def _field(field: Field, scene: Scene, points: Float[Tensor, "n 3"], fuse: str) -> tuple[Tensor, Tensor]:
    """Density and features of the points."""
    world = None
    if scene.world is not None:
        world = _sampled(scene.world[:1], points / points.new_tensor(field.world_extent))
    values, logits, pixels = [], [], []
    num_views = scene.volumes.shape[1]
    for v in range(num_views):
        grid = _volume_coordinates(scene.cameras, v, points, field.near, field.far)
        sampled = _sampled(scene.volumes[:1, v], grid)
        logit = sampled[:, -1:]
        if world is not None and v >= num_views - scene.num_mirrored:
            logit = logit + world[:, -1:]  # how far the mirror image may be trusted here
        if field.visibility:
            logit = logit + (sampled[:, -2:-1] + UNSEEN).log()
        values.append(sampled[:, :-1])
        logits.append(logit)
        pixels.append(_sampled(scene.images[:1, v], grid[:, :2]))
    if fuse == "outputs":
        each = [
            _mlp(field, points, value, pixel, world, scene.paint) for value, pixel in zip(values, pixels, strict=True)
        ]
        densities, features = zip(*each, strict=True)
        return torch.stack(densities).mean(dim=0), torch.stack(features).mean(dim=0)
    weights = torch.stack(logits)
    weights = weights.softmax(dim=0) if field.fusion == "softmax" else torch.full_like(weights, 1 / num_views)
    value, pixel = ((weights * torch.stack(x)).sum(dim=0) for x in (values, pixels))
    return _mlp(field, points, value, pixel, world, scene.paint)


def _mlp(
    field: Field, points: Tensor, value: Tensor, pixel: Tensor, world: Tensor | None, paint: Tensor | None
) -> tuple[Tensor, Tensor]:
    inputs = [value] if world is None else [value, world[:, PAINT_CHANNELS * field.world_paint : -1]]
    if field.world_coordinates:
        angles = (points[:, :, None] * field.frequencies).reshape(len(points), -1)
        inputs += [points, angles.sin(), angles.cos()]
    seen = value[:, -1:] if field.visibility else torch.ones_like(value[:, -1:])
    if field.source_colour:
        inputs.append(torch.cat([pixel[:, :3] * seen, pixel[:, 3:]], dim=1))
    out = field.mlp(torch.cat(inputs, dim=1))
    level, features = out[:, 0], out[:, 1 : 1 + field.features]
    if world is not None and field.world_density:
        level = level + LOGIT_SLOPE * world[:, -2]
    density = level.clamp(max=MAX_LOG_DENSITY).exp() if field.density == "exp" else 10 * F.softplus(level - 1)
    colour = features[:, :3].sigmoid()
    if field.source_colour:
        gate = out[:, -1:].sigmoid()
        if paint is not None:
            fill = gate * (1 - seen).square()
            if field.world_paint and world is not None:
                fill, mean = (1 - seen).square(), world[:, 3:4].sigmoid()
                paint = mean * paint + (1 - mean) * world[:, :3].sigmoid()
            colour = fill * paint + (1 - fill) * colour
        colour = gate * seen * pixel[:, :3] + (1 - gate * seen) * colour
    return density, torch.cat([colour, features[:, 3:]], dim=1)


def _sampled(grid: Float[Tensor, "1 c *size"], places: Float[Tensor, "n axes"]) -> Float[Tensor, "n c"]:
    """A volume at (x, y, z), or an image at (x, y), each in [-1, 1]."""
    between = (1,) * (grid.ndim - 3)
    out = F.grid_sample(grid, places.reshape(1, *between, *places.shape), padding_mode="border", align_corners=False)
    return out.reshape(grid.shape[1], len(places)).T


def _volume_coordinates(cameras: Cameras, view: int, points: Tensor, near: float, far: float) -> Float[Tensor, "n 3"]:
    c2w, K = cameras.c2w[0, view], cameras.K[0, view]
    local = (points - c2w[:3, 3]) @ c2w[:3, :3]
    x = (K[0, 0] * local[:, 0] + K[0, 1] * local[:, 1]) / local[:, 2] + K[0, 2]
    y = K[1, 1] * local[:, 1] / local[:, 2] + K[1, 2]
    height, width = cameras.hw
    return torch.stack([x / width, y / height, (local[:, 2] - near) / (far - near)], dim=1) * 2 - 1


def _sphere(origins: Tensor, directions: Tensor, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """|o + t d| = r: entry and exit, and whether the ray hits the sphere in front of the camera."""
    middle = -(origins * directions).sum(dim=1)
    squared = radius**2 - origins.square().sum(dim=1) + middle.square()
    half = squared.clamp(min=1e-6).sqrt()
    return (middle - half).clamp(min=1e-3), middle + half, (squared > 0) & (middle + half > 0)


def _within_box(
    origins: Tensor, directions: Tensor, half: Tensor, near: Tensor, far: Tensor, hits: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The part of each ray between `near` and `far` for which |o + t d| <= half along every axis."""
    entry, leave = near, far
    for axis in range(3):
        o, d = origins[:, axis], directions[:, axis]
        d = torch.where(d.abs() < 1e-6, 1e-6, d)
        sides = torch.stack([(-half[axis] - o) / d, (half[axis] - o) / d])
        entry, leave = entry.maximum(sides.amin(dim=0)), leave.minimum(sides.amax(dim=0))
    hits = hits & (entry < leave)
    return torch.where(hits, entry, near), torch.where(hits, leave, far), hits


def _weights(density: Tensor, t: Tensor, far: Tensor) -> Tensor:
    """T_i alpha_i, the transmittance as a running product."""
    delta = torch.cat([t[:, 1:], far[:, None]], dim=1) - t
    alpha = 1 - torch.exp(-density * delta.clamp(min=0))
    transmittance = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], dim=1), dim=1)[:, :-1]
    return transmittance * alpha


def _inverse_transform(near: Tensor, far: Tensor, weights: Tensor, count: int) -> Tensor:
    """Quantiles of the histogram of the coarse weights, of which a thousandth is spread evenly over the ray."""
    bins = weights.shape[1]
    pdf = weights + 1e-3 / bins
    cdf = torch.cumsum(pdf / pdf.sum(dim=1, keepdim=True), dim=1)
    edges = torch.cat([torch.zeros_like(cdf[:, :1]), cdf], dim=1)
    u = ((torch.arange(count, device=near.device) + 0.5) / count).expand(len(near), count).contiguous()
    right = torch.searchsorted(edges, u, right=True).clamp(1, bins)
    low, high = edges.gather(1, right - 1), edges.gather(1, right)
    fraction = (right - 1 + (u - low) / (high - low).clamp(min=1e-8)) / bins
    return near[:, None] + (far - near)[:, None] * fraction.clamp(0, 1)
