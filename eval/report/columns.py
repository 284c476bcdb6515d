"""The columns of the table: the name of each metric, how it is formatted, and over what it is averaged."""

from dataclasses import dataclass
from typing import Literal

Per = Literal["view", "pair", "object", "run"]
Best = Literal["high", "low", "zero", "neither"]
ARROWS = {"high": " ↑", "low": " ↓", "zero": " →0", "neither": ""}


@dataclass(frozen=True)
class Column:
    """One metric.

    `per` says what one value is of: a target view, two neighbouring targets of the sequence, an object, or all images
    of the run at once. All but the last are averaged within an object first, then over objects.
    """

    key: str  # the name in every file
    label: str  # the heading in tables and plots
    per: Per
    best: Best
    digits: int  # after the decimal point
    meaning: str

    @property
    def heading(self) -> str:
        return f"{self.label}{ARROWS[self.best]}"

    def better(self, first: float, second: float) -> Literal["first", "second", "neither"]:
        """Which of two different values is better."""
        if self.best == "neither":
            return "neither"
        gain = abs(first) - abs(second) if self.best == "zero" else second - first
        return "second" if (gain > 0) != (self.best == "low") else "first"

    def format(self, figure: float | None) -> str:
        """The value as shown in tables; a dash if there is none."""
        return "–" if figure is None else f"{figure:.{self.digits}f}"


QUALITY = (
    Column("psnr", "PSNR", "view", "high", 2, "peak signal-to-noise ratio, dB, on 8-bit images"),
    Column("ssim", "SSIM", "view", "high", 3, "structural similarity, uniform 7 x 7 window, range 1"),
    Column("lpips-alex", "LPIPS-alex", "view", "low", 3, "perceptual distance, AlexNet"),
    Column("lpips-vgg", "LPIPS-vgg", "view", "low", 3, "perceptual distance, VGG-16"),
    Column("fd-effnet", "FD-effnet", "run", "low", 1, "Fréchet distance of EfficientNet-Lite0's features; not FID"),
    Column("kd-effnet", "KD-effnet", "run", "low", 3, "kernel distance of the same; unbiased for few images; not KID"),
    Column("fid", "FID", "run", "low", 2, "Fréchet distance of torch-fidelity's Inception features"),
    Column("kid", "KID", "run", "low", 4, "kernel distance of torch-fidelity's Inception features"),
)
CONSISTENCY = (
    Column("tsed", "TSED", "pair", "high", 3, "share of neighbouring views that obey the epipolar geometry"),
    Column("tsed-matches", "matches", "pair", "neither", 1, "SIFT matches of neighbouring views, which TSED rests on"),
    Column("warp-psnr", "warp PSNR", "pair", "high", 2, "of a view and its neighbour, warped to it by the true depth"),
    Column("warp-lpips", "warp LPIPS", "pair", "low", 3, "of the same; by AlexNet where that is measured"),
    Column("flicker", "flicker", "pair", "zero", 4, "LPIPS of neighbours minus that of the true ones; blur is below 0"),
    Column("neighbour-lpips", "neighbours' LPIPS", "pair", "neither", 4, "what flicker compares with the truth's"),
    Column("loop-lpips", "loop LPIPS", "object", "low", 3, "LPIPS of the last and the first view"),
    Column("loop-warp", "loop warp", "object", "low", 4, "RMSE of the last view against the first, after the warp"),
    Column("3d-psnr", "3-D PSNR", "object", "high", 2, "of held-out views and a radiance field fitted to the others"),
)
SAMPLES = (  # of several samples: a table of their own, never beside values of one sample
    Column("psnr-best", "best PSNR", "view", "high", 2, "the highest of the samples of each view"),
    Column("ssim-best", "best SSIM", "view", "high", 3, "the highest of the samples of each view"),
    Column("lpips-alex-best", "best LPIPS-alex", "view", "low", 3, "the lowest of the samples of each view"),
    Column("lpips-vgg-best", "best LPIPS-vgg", "view", "low", 3, "the lowest of the samples of each view"),
    Column("psnr-of-mean", "PSNR of the mean", "view", "high", 2, "of the mean image of the samples of each view"),
)
COLUMNS = {column.key: column for column in (*QUALITY, *CONSISTENCY, *SAMPLES)}
