"""The plain way to render the NeRF: what the fast way must equal, and what it is timed against.

As the earlier code does it: every ray of the image, whether it can hit the object or not; every sample of a pass
materialised at once; the field evaluated for the coarse pass (to place the fine samples), for the fine pass (to get
the weights of all samples), and again for the colours; each known view sampled on its own by `grid_sample`, its pixels
too. With `fuse="features"` it is the same function as `mvgenvs.nerf`. With `fuse="outputs"` the MLP runs once per
known view and its outputs are averaged, as in genvs_unofficial: that is the same function for one known view without
its mirror image only, as a mean of MLPs is no MLP of a mean.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mvgenvs.cameras import Cameras
from mvgenvs.nerf.field import Field, Scene
from mvgenvs.nerf.model import ViewNeRF


def render(
    nerf: ViewNeRF, scene: Scene, cameras: Cameras, num_coarse: int, num_fine: int, fuse: str = "features"
) -> Tensor:
    """Features and opacity, (view, features + 1, h, w), of one scene."""
    return torch.stack(
        [_render_view(nerf, scene, cameras.select([v]), num_coarse, num_fine, fuse) for v in range(cameras.num_views)]
    )


def _render_view(nerf: ViewNeRF, scene: Scene, camera: Cameras, num_coarse: int, num_fine: int, fuse: str) -> Tensor:
    origins, directions = (x.reshape(-1, 3) for x in camera.rays())
    near, far, hits = _sphere(origins, directions, nerf.config.scene_radius)

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


def _field(field: Field, scene: Scene, points: Tensor, fuse: str) -> tuple[Tensor, Tensor]:
    """Density and features of (n, 3) points."""
    values, logits, pixels = [], [], []
    for v in range(scene.volumes.shape[1]):
        grid = _volume_coordinates(scene.cameras, v, points, field.near, field.far)
        sampled = F.grid_sample(
            scene.volumes[:1, v], grid[None, None, None], padding_mode="border", align_corners=False
        )[0, :, 0, 0].T
        pixel = F.grid_sample(
            scene.images[:1, v], grid[None, None, :, :2], padding_mode="border", align_corners=False
        )[0, :, 0].T  # fmt: skip
        values.append(sampled[:, :-1])
        logits.append(sampled[:, -1:])
        pixels.append(pixel)
    if fuse == "outputs":
        each = [_mlp(field, points, value, pixel) for value, pixel in zip(values, pixels, strict=True)]
        densities, features = zip(*each, strict=True)
        return torch.stack(densities).mean(dim=0), torch.stack(features).mean(dim=0)
    weights = torch.stack(logits)
    weights = weights.softmax(dim=0) if field.fusion == "softmax" else torch.full_like(weights, 1 / len(logits))
    return _mlp(field, points, (weights * torch.stack(values)).sum(dim=0), (weights * torch.stack(pixels)).sum(dim=0))


def _mlp(field: Field, points: Tensor, values: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
    inputs = [values]
    if field.world_coordinates:
        angles = (points[:, :, None] * field.frequencies).reshape(len(points), -1)
        inputs += [points, angles.sin(), angles.cos()]
    if field.source_colour:
        inputs.append(pixel)
    out = field.mlp(torch.cat(inputs, dim=1))
    density, features = 10 * F.softplus(out[:, 0] - 1), out[:, 1 : 1 + field.features]
    colour = features[:, :3].sigmoid()
    if field.source_colour:
        gate = out[:, -1:].sigmoid()
        colour = gate * pixel[..., :3] + (1 - gate) * colour
    return density, torch.cat([colour, features[:, 3:]], dim=1)


def _volume_coordinates(cameras: Cameras, view: int, points: Tensor, near: float, far: float) -> Tensor:
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


def _weights(density: Tensor, t: Tensor, far: Tensor) -> Tensor:
    """T_i alpha_i, the transmittance as a running product."""
    delta = torch.cat([t[:, 1:], far[:, None]], dim=1) - t
    alpha = 1 - torch.exp(-density * delta.clamp(min=0))
    transmittance = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], dim=1), dim=1)[:, :-1]
    return transmittance * alpha


def _inverse_transform(near: Tensor, far: Tensor, weights: Tensor, count: int) -> Tensor:
    """Quantiles of the histogram that the coarse weights are, with a thousandth spread evenly."""
    bins = weights.shape[1]
    pdf = weights + 1e-3 / bins
    cdf = torch.cumsum(pdf / pdf.sum(dim=1, keepdim=True), dim=1)
    edges = torch.cat([torch.zeros_like(cdf[:, :1]), cdf], dim=1)
    u = ((torch.arange(count, device=near.device) + 0.5) / count).expand(len(near), count).contiguous()
    right = torch.searchsorted(edges, u, right=True).clamp(1, bins)
    low, high = edges.gather(1, right - 1), edges.gather(1, right)
    fraction = (right - 1 + (u - low) / (high - low).clamp(min=1e-8)) / bins
    return near[:, None] + (far - near)[:, None] * fraction.clamp(0, 1)
