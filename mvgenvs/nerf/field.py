"""The radiance field: fuses the features of the known views at a point into density and 16 features."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mvgenvs.cameras import Cameras
from mvgenvs.nerf.mlp import blockwise_mlp
from mvgenvs.nerf.occupancy import Occupancy
from mvgenvs.nerf.volume import frustum_coordinates, sample_images, sample_volumes

OCTAVES = 4  # of the encoded position
UNSEEN = 0.01  # weight of a view for points that are hidden from it; a view that sees them has weight 1
LOGIT_SLOPE = 2.0  # of the log density with respect to the world volume's logit of matter
PAINT_CHANNELS = 4  # of the world volume, its first: a colour, and how much of the object's mean colour to take instead
MAX_LOG_DENSITY = 8.0  # a surface that absorbs 95% of the light within a thousandth of the object's size


@dataclass(frozen=True, eq=False, slots=True)
class Scene:
    """What the field knows of the known views: their volumes, images and cameras, and the world volume.

    The views are the known ones, followed by their mirror images if there are any.
    """

    volumes: Float[Tensor, "batch view c d h w"]
    images: Float[Tensor, "batch view i ih iw"]  # RGB, and the matte if the model sees it
    cameras: Cameras
    num_mirrored: int = 0
    world: Float[Tensor, "batch k wd wh ww"] | None = None
    occupancy: Occupancy | None = None  # only outside training
    paint: Float[Tensor, "batch 3"] | None = None  # the object's mean colour, for points that no view sees

    @property
    def world_logits(self) -> Float[Tensor, "batch wd wh ww"]:
        """Logits of matter, if the world volume has a density of its own."""
        assert self.world is not None
        return self.world[:, -2]


class Field(nn.Module):
    """Samples every known view's volume at a point, fuses the samples over the views, and runs one small MLP.

    Fusing features BEFORE the MLP needs one MLP evaluation per point, however many views are known [GeNVS]. The last
    channel of a volume is the logit of the view's weight in the fusion (`fusion="softmax"`); `"mean"` ignores it.
    """

    frequencies: Tensor

    def __init__(
        self,
        channels: int = 16,
        features: int = 16,
        hidden: int = 64,
        near: float = 0.8,
        far: float = 1.8,
        fusion: str = "softmax",
        world_coordinates: bool = True,
        source_colour: bool = True,
        world_channels: int = 0,
        world_extent: Sequence[float] = (0.32, 0.32, 0.52),
        density: str = "softplus",
        world_density: bool = False,
        matte: bool = False,
        visibility: bool = False,
        world_paint: bool = False,
    ) -> None:
        """The arguments are those of `ViewNeRF`, whose configuration they are part of.

        `world_coordinates` gives the MLP the encoded position, which departs from GeNVS and helps posed data.
        `source_colour` lets the field copy the known pixels that a point projects to; with `matte` it also sees their
        mattes. The world volume, if it has channels, spans the box of half sides `world_extent`. Its last channel says
        how far to trust mirror images; with `world_density`, the channel before is a logit of matter, to which the MLP
        adds. With `visibility`, the last channel but one of the frustum volumes says what each view sees: views are
        weighted by it, and points that no view sees get the object's mean colour instead of a pixel. With
        `world_paint` they get the colour that the world volume's first four channels say: see `painted`. `density` is
        the activation of the density: "softplus", or "exp", which reaches a hard surface sooner [Müller et al. 2022,
        arXiv 2201.05989].
        """
        super().__init__()
        self.channels, self.features, self.near, self.far = channels, features, near, far
        self.fusion, self.world_coordinates, self.source_colour = fusion, world_coordinates, source_colour
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(OCTAVES), persistent=False)
        self.density, self.world_density = density, world_density
        self.visibility, self.world_paint = visibility, world_paint
        self.world_channels, self.world_extent = world_channels, tuple(world_extent)
        of_views = channels + visibility + (3 + matte) * source_colour
        of_world = max(0, world_channels - 1 - PAINT_CHANNELS * world_paint)
        inputs = of_views + (3 + 6 * OCTAVES) * world_coordinates + of_world
        self.mlp = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, 1 + features + source_colour),
        )  # fmt: skip

    @property
    def volume_channels(self) -> int:
        """Channels that the encoder must provide: the features and the fusion logit."""
        return self.channels + 1

    def forward(
        self, scene: Scene, points: Float[Tensor, "batch n 3"]
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n f"]]:
        """Density (1 / world unit) and features, the first three of which are RGB in [0, 1]."""
        coordinates = frustum_coordinates(scene.cameras, points, self.near, self.far)
        sampled = sample_volumes(scene.volumes, coordinates)  # (batch, view, n, channels + 1 or 2)
        values, logits = sampled[..., :-1], sampled[..., -1]
        if self.visibility:
            logits = logits + (values[..., -1] + UNSEEN).log()
        world = None if scene.world is None else self._sample_world(scene.world, points)  # (batch, n, k)
        if world is not None and scene.num_mirrored:
            trust = torch.zeros_like(logits)
            trust[:, -scene.num_mirrored :] = world[:, None, :, -1]
            logits = logits + trust
        weights = logits.softmax(dim=1) if self.fusion == "softmax" else torch.full_like(logits, 1 / logits.shape[1])
        fused = _weighted_sum(weights[..., None], values)
        rows = []  # (channels, batch, n)
        if self.world_coordinates:
            rows.append(self._encoded(points))
        if self.source_colour:
            pixel = _weighted_sum(weights[:, :, None], sample_images(scene.images, coordinates)).transpose(0, 1)
            shown = fused[..., -1] if self.visibility else torch.ones_like(fused[..., -1])  # (batch, n), of the point
            rows.append(torch.cat([pixel[:3] * shown, pixel[3:]]))
        told = None if world is None else world[..., PAINT_CHANNELS * self.world_paint : -1]
        columns = fused if told is None else torch.cat([fused, told], dim=-1)
        beside = torch.cat(rows) if rows else points.new_zeros(0, *points.shape[:2])
        out = blockwise_mlp(self.mlp, columns.flatten(0, 1), beside.flatten(1))
        out = out.unflatten(1, points.shape[:2])
        # The shifts make the object start out thin rather than solid.
        level = out[0]
        if world is not None and self.world_density:
            level = level + LOGIT_SLOPE * world[..., -2]
        density = level.clamp(max=MAX_LOG_DENSITY).exp() if self.density == "exp" else 10 * F.softplus(level - 1)
        colour = out[1:4].sigmoid()
        if self.source_colour:
            gate = out[-1].sigmoid()
            if self.visibility:
                assert scene.paint is not None
                hidden = (1 - shown).square()  # even a visible surface is reached by less than all light
                paint = scene.paint.T[:, :, None].expand_as(colour)
                if self.world_paint:
                    assert world is not None
                    paint = painted(world[..., :PAINT_CHANNELS].movedim(-1, 0), paint)
                colour = torch.lerp(colour, paint, hidden if self.world_paint else gate * hidden)
            colour = torch.lerp(colour, pixel[:3], gate * shown)
        return density, torch.cat([colour, out[4 : 1 + self.features]]).permute(1, 2, 0)

    def _sample_world(
        self, world: Float[Tensor, "batch k d h w"], points: Float[Tensor, "batch n 3"]
    ) -> Float[Tensor, "batch n k"]:
        """The world volume at the points; outside its box, the nearest border voxel."""
        coordinates = points / points.new_tensor(self.world_extent)
        return sample_volumes(world[:, None], coordinates[:, None])[:, 0]

    def _encoded(self, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "c batch n"]:
        """Positions, and their sines and cosines at all frequencies, octave by octave by doubling the angles."""
        position = points.permute(2, 0, 1)
        octaves = len(self.frequencies)
        out = torch.empty(3 + 6 * octaves, *position.shape[1:], dtype=points.dtype, device=points.device)
        out[:3] = position
        sine, cosine = out[3:].view(2, 3, octaves, *position.shape[1:]).unbind(dim=0)
        angle = position * self.frequencies[0]
        torch.sin(angle, out=sine[:, 0])
        torch.cos(angle, out=cosine[:, 0])
        for octave in range(1, octaves):
            torch.mul(sine[:, octave - 1], cosine[:, octave - 1], out=sine[:, octave]).mul_(2)
            torch.square(sine[:, octave - 1], out=cosine[:, octave]).mul_(-2).add_(1)
        return out


def painted(logits: Float[Tensor, "4 *shape"], mean: Float[Tensor, "3 *shape"]) -> Float[Tensor, "3 *shape"]:
    """Colours of points, seen or not: between ones of their own and the object's `mean`, as the last channel says."""
    return torch.lerp(logits[:3].sigmoid(), mean, logits[3:].sigmoid())


def _weighted_sum(weights: Float[Tensor, "batch view ..."], values: Float[Tensor, "batch view ..."]) -> Tensor:
    """Over the views, one after the other: all products at once would be written to memory and read back."""
    total = weights[:, 0] * values[:, 0]
    for view in range(1, values.shape[1]):
        total = torch.addcmul(total, weights[:, view], values[:, view])
    return total
