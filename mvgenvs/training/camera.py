"""Trains the network that estimates a photo's camera, on views of training objects as photos would show them.

A view is moved back or forth along its axis with the focal length that keeps the object's size: its pixels, at the
depth that the data set has for them, are thrown into the new image. So distances vary, and with them the perspective.
"""

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Dataset
from tqdm import tqdm

from mvgenvs.data.augment import hue_rotation, turned
from mvgenvs.data.mixture import Mixture
from mvgenvs.data.stored import CachedScenes
from mvgenvs.errors import UserError
from mvgenvs.files import reason_of, share
from mvgenvs.pose.crops import SIDE, Window, crop, window_around
from mvgenvs.pose.network import ELEVATION_UNIT, CameraNet, Prediction, azimuth_centers
from mvgenvs.precision import cpu_computes_bf16
from mvgenvs.trajectories import RADIUS, angles_of
from mvgenvs.views import ViewSet

NEAREST, FARTHEST = 1.1, 3.0  # distances in world units
BLUR = 4.0  # degrees: the deviation of the azimuth's labels
RECOLOURED, ROLL, SHIFT, ZOOM = 0.4, 3.0, 0.05, 0.12  # probability; degrees; sides; logarithm
CAMERA_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
BATCH, LEARNING_RATE, WARMUP, AVERAGING = 64, 2e-3, 0.06, 0.995
LEAST_PIXELS = 60  # of an object


@dataclass(frozen=True, eq=False, slots=True)
class Labels:
    """The truth of a batch of crops."""

    azimuth: Float[Tensor, " batch"]  # degrees
    elevation: Float[Tensor, " batch"]  # degrees
    distance: Float[Tensor, " batch"]  # world units
    frame: Float[Tensor, "batch 3"]  # as in `Prediction`


class PosedCrops(Dataset[tuple[Float[Tensor, "4 s s"], Float[Tensor, "6"]]]):
    """An endless sequence of crops with their labels in a row: item `i` is a function of (seed, i) alone."""

    def __init__(self, scenes: CachedScenes, seed: int) -> None:
        """Raises `UserError` if no object has a known front."""
        self.scenes, self.seed = scenes, seed
        self.usable = [index for index, item in enumerate(scenes.objects) if item.has_front]
        if not self.usable:
            raise UserError("no object of these data has a known front: azimuths cannot be learned from them")
        weights = scenes.weights if isinstance(scenes, Mixture) else [1.0]
        sources = np.array([scenes.objects[index].source for index in self.usable])
        of_each = np.array(weights)[sources] / np.bincount(sources)[sources]
        self.probabilities = of_each / of_each.sum()  # of each usable object

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "4 s s"], Float[Tensor, "6"]]:
        for attempt in range(20):
            rng = np.random.default_rng((self.seed, index, attempt))
            found = self._draw(rng)
            if found is not None:
                return found
        raise UserError("the data's objects are hardly to be seen in their views")

    def _draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor] | None:
        """A random view of a random object; None if it shows nearly nothing."""
        place = self.usable[int(rng.choice(len(self.usable), p=self.probabilities))]
        view = int(rng.integers(len(self.scenes.objects[place].view_ids)))
        views = self.scenes.load(place, [view])
        if views.mask is None or views.depth is None:
            raise UserError(f"{self.scenes.objects[place].folder} lacks masks or depths, which are needed here")
        if rng.random() < RECOLOURED:
            views = views.with_images(turned(views.images, hue_rotation(rng.uniform(0, 2 * math.pi))))
        distance = math.exp(rng.uniform(math.log(NEAREST), math.log(FARTHEST)))
        rgba = moved_along_axis(views, distance)
        there = rgba[..., 3] > 0.5
        if there.sum() < LEAST_PIXELS:
            return None
        box, size = window_around(there), rgba.shape[0]
        side = box.side * math.exp(rng.uniform(-ZOOM / 2, ZOOM))
        shift = rng.uniform(-SHIFT, SHIFT, 2) * side
        window, roll = Window(box.x + shift[0], box.y + shift[1], side), rng.uniform(-ROLL, ROLL)
        pixels = lit(crop(rgba, window, roll), rng)
        azimuth, elevation = angles_of(views.cameras.centers[0])
        frame = framing(window, size)
        labels = torch.tensor([azimuth.item(), elevation.item(), distance, *frame])
        return torch.from_numpy(pixels).movedim(-1, 0).contiguous(), labels.float()


def framing(window: Window, size: int) -> tuple[float, float, float]:
    """`Prediction.frame` of a window of a view of `size` pixels, in whose middle the origin lies."""
    return math.log(window.side / size), (size / 2 - window.x) / window.side, (size / 2 - window.y) / window.side


def moved_along_axis(views: ViewSet, distance: float) -> Float[np.ndarray, "h w 4"]:
    """The first view, on white with its matte, as seen from `distance`; the origin keeps its place and scale."""
    assert views.mask is not None and views.depth is not None
    matte, depth = views.mask[0, 0].numpy(), views.depth[0, 0].numpy()
    image = views.images[0].movedim(0, -1).numpy()
    rgba = np.concatenate([image, matte[..., None]], axis=-1)
    now = float(views.cameras.centers[0].norm())
    v, u = np.nonzero((depth > 0) & (matte > 0.5))
    z = depth[v, u]
    cx, cy = (float(x) for x in views.cameras.K[0, :2, 2])
    # x/z f becomes x/(z + move) f (distance / now).
    scale = z / (z + distance - now) * distance / now
    height, width = matte.shape
    x = np.floor((u + 0.5 - cx) * scale + cx).astype(int)
    y = np.floor((v + 0.5 - cy) * scale + cy).astype(int)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    order = np.argsort(-z[inside], kind="stable")  # the nearest is written last
    x, y, u, v = (values[inside][order] for values in (x, y, u, v))
    thrown = np.zeros((height, width, 4), np.float32)
    thrown[y, x, :3], thrown[y, x, 3] = rgba[v, u, :3], 1
    sums = cv2.blur(np.concatenate([thrown[..., :3] * thrown[..., 3:], thrown[..., 3:]], axis=-1), (3, 3))
    gap = (thrown[..., 3] == 0) & (sums[..., 3] > 4.5 / 9)  # between pixels that were drawn apart
    thrown[gap, :3], thrown[gap, 3] = sums[gap, :3] / sums[gap, 3:], 1
    thrown[thrown[..., 3] == 0, :3] = 1
    return thrown


def lit(pixels: Float[np.ndarray, "s s 4"], rng: np.random.Generator) -> Float[np.ndarray, "s s 4"]:
    """The crop under another exposure and contrast, with noise, where the object is; the background stays white."""
    colours, matte = pixels[..., :3], pixels[..., 3:]
    own = colours ** math.exp(rng.uniform(-0.4, 0.4)) * math.exp(rng.uniform(-0.35, 0.25))
    own = own * (1 + rng.uniform(-0.08, 0.08, 3)) + rng.normal(0, rng.uniform(0, 0.03), colours.shape)
    if rng.random() < 0.3:
        own = np.asarray(cv2.GaussianBlur(own, (0, 0), rng.uniform(0.3, 1.2)), dtype=np.float64)
    mixed = np.clip(own, 0, 1) * matte + (1 - matte)
    return np.concatenate([mixed, matte], axis=-1).astype(np.float32)


def losses(prediction: Prediction, labels: Labels) -> dict[str, Float[Tensor, ""]]:
    """Cross-entropy of the azimuth, the likelihoods of elevation and distance, and the framing's error."""
    gap = (azimuth_centers(labels.azimuth.device) - labels.azimuth[:, None] + 180) % 360 - 180
    target = torch.softmax(-0.5 * (gap / BLUR) ** 2, dim=1)

    def likelihood(mean_and_spread: Tensor, truth: Tensor) -> Tensor:
        mean, spread = mean_and_spread.unbind(dim=1)
        spread = spread.clamp(-4, 2)
        return (0.5 * ((truth - mean) / spread.exp()) ** 2 + spread).mean()

    return {
        "azimuth": F.cross_entropy(prediction.azimuth_logits, target),
        "elevation": likelihood(prediction.elevation, labels.elevation / ELEVATION_UNIT),
        "distance": likelihood(prediction.distance, (labels.distance / RADIUS).log()),
        "frame": 10 * F.smooth_l1_loss(prediction.frame, labels.frame, beta=0.05),
    }


class Pool:
    """Crops that are used several times, since making one costs more than learning from it; some are new each time."""

    def __init__(self, data: PosedCrops, first: int = 2048, most: int = 24576, fresh: int = 8) -> None:
        """Starts with `first` crops; every batch adds `fresh` ones, which replace the oldest if there are `most`."""
        self.data, self.most, self.fresh, self.made = data, most, fresh, 0
        self.crops = torch.empty(most, 4, SIDE, SIDE, dtype=torch.uint8)
        self.rows = torch.empty(most, 6)
        for _ in tqdm(range(first), desc="first crops", unit="crop", leave=False):
            self._add()

    def batch(self, size: int, generator: torch.Generator) -> tuple[Float[Tensor, "size 4 s s"], Labels]:
        """Random crops of the pool, half of them mirrored."""
        for _ in range(self.fresh):
            self._add()
        chosen = torch.randint(min(self.made, self.most), (size,), generator=generator)
        crops, rows = self.crops[chosen].float() / 255, self.rows[chosen]
        mirrored = torch.rand(size, generator=generator) < 0.5
        crops = torch.where(mirrored[:, None, None, None], crops.flip(-1), crops)
        sign = torch.where(mirrored, -1.0, 1.0)
        frame = torch.stack([rows[:, 3], sign * rows[:, 4], rows[:, 5]], dim=1)
        return crops, Labels(sign * rows[:, 0], rows[:, 1], rows[:, 2], frame)

    def _add(self) -> None:
        pixels, row = self.data[self.made]
        self.crops[self.made % self.most] = (pixels * 255).round().byte()
        self.rows[self.made % self.most] = row
        self.made += 1


def train_camera(scenes: CachedScenes, steps: int, minutes: float | None = None, seed: int = 0) -> CameraNet:
    """The trained network, with averaged weights, after so many steps or minutes, whichever are over first.

    The learning rate follows what is over of them. Without `minutes`, the result is a function of data and `seed`.
    """
    torch.manual_seed(seed)
    pool, net = Pool(PosedCrops(scenes, seed)), CameraNet().to(memory_format=torch.channels_last)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING), use_buffers=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    generator = torch.Generator().manual_seed(seed)
    begun, half = time.monotonic(), cpu_computes_bf16()
    with tqdm(total=steps, desc="training", unit="step") as bar:
        for step in range(steps):
            progress = step / steps if minutes is None else max(step / steps, (time.monotonic() - begun) / 60 / minutes)
            if progress >= 1:
                break
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1, progress / WARMUP, 1.05 * (1 - progress**2))
            crops, labels = pool.batch(BATCH, generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                prediction = net(crops.contiguous(memory_format=torch.channels_last))
            found = losses(prediction.float(), labels)
            optimizer.zero_grad()
            torch.stack(list(found.values())).sum().backward()
            optimizer.step()
            average.update_parameters(net)
            if step % 20 == 0:
                bar.set_postfix({name: f"{loss.item():.2f}" for name, loss in found.items()}, refresh=False)
            bar.update()
    net.load_state_dict(average.module.state_dict())
    return net.eval()


def save_camera(net: CameraNet, folder: Path) -> None:
    """Writes config.json and fp16 weights as safetensors, both or none. Raises `UserError` if it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as staged:
            net.half().save_pretrained(staged)
            for name in CAMERA_FILES:
                share(Path(staged) / name)
                (Path(staged) / name).replace(folder / name)
    except (OSError, SafetensorError) as error:
        reason = reason_of(error)
        raise UserError(f"cannot write {folder} ({reason}): free some space or choose another folder") from error
