"""Estimates the camera of a photo whose object is cut out: azimuth, elevation, distance, each with its doubt."""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError
from mvgenvs.parts import CAMERA_NETWORK
from mvgenvs.pose.crops import Window, crop, window_around
from mvgenvs.pose.network import BINS, ELEVATION_UNIT, CameraNet, azimuth_centers
from mvgenvs.trajectories import RADIUS, cameras_at, centers_at

MODE = 30.0  # degrees from a peak of the azimuth's distribution that belong to it
SECOND = 0.1  # the least probability of another peak that is worth telling


@dataclass(frozen=True, slots=True)
class Estimate:
    """A camera, in degrees and world units. Spreads are standard deviations as the network sees them."""

    azimuth: float  # in (-180, 180]
    azimuth_spread: float  # about the peak alone
    probability: float  # of that peak
    other: float | None  # the azimuth of the second peak, if it is probable enough
    elevation: float
    elevation_spread: float
    distance: float
    distance_spread: float
    window: Window  # of the photo: what a camera of training shows, at its distance and focal length

    @property
    def camera(self) -> Cameras:
        """The camera of `window`, at the distance that models know."""
        return cameras_at(centers_at(torch.tensor([self.azimuth]), torch.tensor([self.elevation])))

    def describe(self) -> str:
        """One sentence."""
        doubt = f", {100 * self.probability:.0f}% sure"
        doubt += "" if self.other is None else f", else {self.other:.0f}"
        return (
            f"Camera estimated: azimuth {self.azimuth:.0f} ± {self.azimuth_spread:.0f} degrees{doubt}; "
            f"elevation {self.elevation:.0f} ± {self.elevation_spread:.0f}; "
            f"distance {self.distance:.1f} ± {self.distance_spread:.1f} object lengths."
        )


@torch.no_grad()
def estimate_camera(image: Image.Image, network: CameraNet | None = None) -> Estimate:
    """The camera of a photo, RGBA, by its object; by default with the bundled network. Raises `UserError` if empty."""
    network = load_network() if network is None else network
    rgba = np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image), dtype=np.float32) / 255
    rgba = np.concatenate(
        [rgba[..., :3], np.asarray(image.getchannel("A"), dtype=np.float32)[..., None] / 255], axis=-1
    )
    there = rgba[..., 3] > 0.5
    if not there.any():
        raise UserError("the image shows nothing but background, use a picture of a car.")
    window = window_around(there)
    pixels = torch.from_numpy(crop(rgba, window)).movedim(-1, 0)
    found = network(torch.stack([pixels, pixels.flip(-1)])).float()
    logits, mirrored = found.azimuth_logits
    distribution = torch.softmax((logits + mirrored[(-torch.arange(BINS)) % BINS]) / 2, dim=0)
    azimuth, spread, probability, other = peaks(distribution)
    elevation, distance = found.elevation.mean(dim=0), found.distance.mean(dim=0)
    away = RADIUS * math.exp(distance[0].item())
    return Estimate(
        azimuth,
        spread,
        probability,
        other,
        elevation=(elevation[0] * ELEVATION_UNIT).clamp(-85, 85).item(),
        elevation_spread=(elevation[1].exp() * ELEVATION_UNIT).item(),
        distance=away,
        distance_spread=away * math.exp(distance[1].item()),
        window=_framed(window, found.frame),
    )


def peaks(distribution: Float[Tensor, " bins"]) -> tuple[float, float, float, float | None]:
    """Mean, spread and probability of an azimuth distribution's main peak, and the mean of the second, if any.

    A peak is what lies within `MODE` degrees of the densest direction; angles in degrees, in (-180, 180].
    """
    azimuth, spread, probability, rest = _peak(distribution)
    second, _, share, _ = _peak(rest)
    return azimuth, spread, probability, second if share >= SECOND else None


def framed(image: Image.Image, window: Window) -> Image.Image:
    """The window of an RGBA image as a square image, transparent white beyond it."""
    side = max(1, round(window.side))
    left, top = round(window.x - side / 2), round(window.y - side / 2)
    canvas = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    part = image.crop((max(left, 0), max(top, 0), min(left + side, image.width), min(top + side, image.height)))
    canvas.paste(part, (max(-left, 0), max(-top, 0)))
    return canvas


@lru_cache(maxsize=2)
def load_network(folder: Path = CAMERA_NETWORK) -> CameraNet:
    """A network that `train_multiview.py camera` wrote, in fp32. Raises `UserError` if it cannot be read."""
    try:
        network = CameraNet.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"cannot read the camera network in {folder}: train it anew, or reinstall mvgenvs") from error
    return network.float().eval()


def _peak(distribution: Float[Tensor, " bins"]) -> tuple[float, float, float, Float[Tensor, " bins"]]:
    """The densest peak's mean, spread and mass, and the distribution without it."""
    smooth = sum(distribution.roll(shift) for shift in (-2, -1, 0, 1, 2))
    top = azimuth_centers()[int(torch.as_tensor(smooth).argmax())]
    gap = (azimuth_centers() - top + 180) % 360 - 180
    near = torch.where(gap.abs() <= MODE, distribution, 0)
    mass = near.sum().clamp(min=1e-8)
    mean = (near * gap).sum() / mass
    spread = ((near * (gap - mean) ** 2).sum() / mass).sqrt()
    azimuth = float((top + mean + 180) % 360 - 180)
    return azimuth, spread.item(), mass.item(), distribution - near


def _framed(window: Window, frames: Float[Tensor, "2 3"]) -> Window:
    """The training camera's image in the photo, from the network's answers for a crop and its mirror image."""
    scale = frames[:, 0].mean().exp().item()
    aside, down = ((frames[0, 1] - frames[1, 1]) / 2).item(), frames[:, 2].mean().item()
    return Window(window.x + aside * window.side, window.y + down * window.side, window.side / scale)
