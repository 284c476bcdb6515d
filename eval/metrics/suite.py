"""The metrics of a run: one object that holds their networks, and evaluates the images of a row of the table."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from eval.metrics.consistency import sequence_figures
from eval.metrics.features import FeatureExtractor, effnet_lite0, inception
from eval.metrics.figures import Figures
from eval.metrics.image import psnr, ssim
from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError
from mvgenvs.perceptual import PerceptualDistance, find_trunk
from mvgenvs.views import ViewSet

FD, CONSISTENCY, THREE_D = METRICS = ("fd", "consistency", "3d")
DEFAULT_METRICS = (FD, CONSISTENCY)  # a radiance field for each row of each object takes long

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class MetricSuite:
    """The requested metrics, and the networks that could be loaded. PSNR and SSIM are always included."""

    metrics: tuple[str, ...] = ()  # of `METRICS`
    distances: tuple[PerceptualDistance, ...] = ()
    extractors: tuple[FeatureExtractor, ...] = ()
    device: torch.device | str = "cpu"

    def quality(self, samples: Float[Tensor, "sample view 3 h w"], truth: Float[Tensor, "view 3 h w"]) -> Figures:
        """One value for each view of the first sample; of several samples also the best, and the PSNR of their mean.

        The best is taken separately for each view and each metric.
        """
        measures: dict[str, Callable[[Tensor], Tensor]] = {
            "psnr": lambda images: psnr(images, truth),
            "ssim": lambda images: ssim(images, truth),
        }
        for distance in self.distances:
            measures[f"lpips-{distance.net}"] = partial(self._lpips, distance, truth)
        per_sample = {name: torch.stack([measure(images) for images in samples]) for name, measure in measures.items()}
        figures: Figures = {name: values[0].tolist() for name, values in per_sample.items()}
        if len(samples) > 1:
            for name, values in per_sample.items():
                best = values.amin(dim=0) if name.startswith("lpips") else values.amax(dim=0)
                figures[f"{name}-best"] = best.tolist()
            figures["psnr-of-mean"] = psnr(samples.mean(dim=0), truth).tolist()
        return figures

    def consistency(self, images: Float[Tensor, "view 3 h w"], truth: ViewSet | Cameras, closed: bool) -> Figures:
        """Metrics of a sequence of views: how well they agree with each other. See `sequence_figures`."""
        if CONSISTENCY not in self.metrics and THREE_D not in self.metrics:
            return {}
        distance = partial(self._lpips, self.distances[0]) if self.distances else None
        return sequence_figures(images, truth, distance, closed, THREE_D in self.metrics)

    def _lpips(self, distance: PerceptualDistance, truth: Tensor, images: Tensor) -> Float[Tensor, " view"]:
        return distance(images.to(self.device), truth.to(self.device))

    def features(self, row: str, images: Float[Tensor, "view 3 h w"]) -> dict[str, Float[Tensor, "view feature"]]:
        """Features by "<distance>/<row>"."""
        return {f"{extractor.frechet_name}/{row}": extractor(images) for extractor in self.extractors}

    def hashes(self) -> dict[str, str]:
        """The sha256 of each network's weights."""
        perceptual = {f"lpips-{distance.net}": distance.sha256 for distance in self.distances}
        return perceptual | {extractor.frechet_name: extractor.sha256 for extractor in self.extractors}

    def sources(self) -> dict[str, str]:
        """Where each network's weights come from."""
        perceptual = {f"lpips-{distance.net}": distance.source for distance in self.distances}
        return perceptual | {extractor.frechet_name: extractor.source for extractor in self.extractors}


def load_suite(
    metrics: Sequence[str],
    lpips_nets: Sequence[str],
    lpips_trunks: Path | None = None,
    inception_weights: Path | None = None,
    device: torch.device | str = "cpu",
) -> MetricSuite:
    """The `metrics`, and LPIPS with the given networks; a note on stderr says how to get what is missing.

    `lpips_trunks` is a folder with their ImageNet weights; without it, these are searched for. With `inception_weights`
    FID and KID are computed too; raises `UserError` if that is not the right file.
    """
    distances = [_if_there(f"LPIPS-{net}", partial(_perceptual, net, lpips_trunks, device)) for net in lpips_nets]
    extractors = [_if_there("FD-effnet", partial(effnet_lite0, device))] if FD in metrics else []
    if inception_weights is not None:
        extractors.append(inception(inception_weights, device))
    return MetricSuite(tuple(metrics), _present(distances), _present(extractors), device)


def _perceptual(net: str, folder: Path | None, device: torch.device | str) -> PerceptualDistance:
    return PerceptualDistance(net, find_trunk(net, folder), device)


def _if_there(name: str, load: Callable[[], T]) -> T | None:
    try:
        return load()
    except UserError as error:
        print(f"note: {error}; continuing without {name}", file=sys.stderr)
        return None


def _present(loaded: Sequence[T | None]) -> tuple[T, ...]:
    return tuple(one for one in loaded if one is not None)
