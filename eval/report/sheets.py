"""The sheet of one object: input, ground truth, the views by each method, and the error of the last one."""

from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.media import contact_sheet, write_png
from mvgenvs.trajectories import evenly_spread

COLUMNS = 12  # views shown, evenly spaced over the sequence
WHITE_ERROR = 0.5  # of 1; mean absolute difference of the channels that has the brightest colour


def write_object_sheet(
    path: Path,
    known: Float[Tensor, "known 3 h w"] | None,
    truth: Float[Tensor, "view 3 h w"] | None,
    predicted: dict[str, Float[Tensor, "view 3 h w"]],
) -> None:
    """Writes one picture; `predicted` is shown in its order, and the error is that of its last entry."""
    count = len(truth if truth is not None else next(iter(predicted.values())))
    shown = evenly_spread(count, COLUMNS)
    rows = [] if known is None else [("input", known[:COLUMNS])]
    rows += [] if truth is None else [("truth", truth[shown])]
    rows += [(name, images[shown]) for name, images in predicted.items()]
    if predicted and truth is not None:
        name, images = list(predicted.items())[-1]
        rows.append(
            (f"error of {name}: 0 black, {WHITE_ERROR:g} and more bright", error_map(images[shown], truth[shown]))
        )
    write_png(path, contact_sheet(rows, COLUMNS))


def error_map(images: Float[Tensor, "view 3 h w"], truth: Float[Tensor, "view 3 h w"]) -> Float[Tensor, "view 3 h w"]:
    """The mean absolute difference over the channels, in colours that grow brighter with it."""
    error = (images - truth).abs().mean(dim=1)
    levels = ((error / WHITE_ERROR).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    colours = cv2.applyColorMap(levels.reshape(-1, 1), cv2.COLORMAP_INFERNO)[:, 0, ::-1]
    return torch.from_numpy(np.ascontiguousarray(colours)).reshape(*levels.shape, 3).movedim(-1, 1).float() / 255
