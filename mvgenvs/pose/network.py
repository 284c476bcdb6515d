"""The network that reads azimuth, elevation, distance and framing off a crop, each with its doubt."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from mvgenvs.modules import Module

ELEVATION_UNIT = 30.0  # degrees in which elevations are stated
BINS = 72  # of azimuth, 5 degrees each; bin 0 is centred at azimuth 0
FRAME = 3  # logarithm of the crop's side by the image's, and the crop's x and y of the origin, in sides from its centre


@dataclass(frozen=True, eq=False, slots=True)
class Prediction:
    """Of a batch of crops. Angles are in degrees, the distance in world units; deviations are those of a normal law."""

    azimuth_logits: Float[Tensor, "batch bins"]
    elevation: Float[Tensor, "batch 2"]  # mean and logarithm of the deviation, in units of ELEVATION_UNIT
    distance: Float[Tensor, "batch 2"]  # the same of the distance's logarithm
    frame: Float[Tensor, "batch 3"]  # see FRAME

    def float(self) -> "Prediction":
        return Prediction(*(getattr(self, name).float() for name in self.__slots__))


class CameraNet(Module):
    """A residual network of four resolutions. All of the last one is kept, since the place of parts tells the pose."""

    @register_to_config
    def __init__(self, widths: Sequence[int] = (24, 48, 96, 160), squeezed: int = 32, hidden: int = 256) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv2d(4, widths[0], 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(Block(before, after) for before, after in pairwise(widths)))
        side = 64 // 2 ** len(widths)
        self.squeeze = nn.Sequential(nn.Conv2d(widths[-1], squeezed, 1), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(squeezed * side * side, hidden), nn.ReLU(), nn.Dropout(0.1))
        self.leave = nn.Linear(hidden, BINS + 2 + 2 + FRAME)

    def forward(self, crops: Float[Tensor, "batch 4 side side"]) -> Prediction:
        """Crops in [0, 1] on white, with their mattes."""
        x = self.leave(self.head(self.squeeze(self.blocks(self.enter(2 * crops - 1)))))
        return Prediction(*x.split([BINS, 2, 2, FRAME], dim=1))


class Block(nn.Module):
    """Two convolutions around which the input is passed on; they halve the resolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        self.two = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm_one, self.norm_two = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.around = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(before, after, 1, bias=False))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch d h2 w2"]:
        y = F.relu(self.norm_one(self.one(x)))
        return F.relu(self.norm_two(self.two(y)) + self.around(x))


def azimuth_centers(device: torch.device | None = None) -> Float[Tensor, " bins"]:
    """The middle of each azimuth bin in degrees, in [0, 360)."""
    return torch.arange(BINS, device=device) * (360.0 / BINS)
