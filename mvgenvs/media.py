"""Pictures and videos: PNG, H.264, contact sheets, colours for depth. A file appears whole or not at all."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from mvgenvs.files import atomically

NEAR, FAR = 0.8, 1.8  # the depths that the field covers, in world units
_LABEL_HEIGHT, _GAP = 18, 4  # pixels in a contact sheet


def to_uint8(images: Float[Tensor, "*batch 3 h w"]) -> UInt8[np.ndarray, "*batch h w 3"]:
    """Images in [0, 1], clipped to it, as rounded 8-bit values with channels last."""
    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()


def write_png(path: str | os.PathLike[str], image: UInt8[np.ndarray, "h w 3"] | Float[Tensor, "3 h w"]) -> None:
    """Writes an RGB image, 8-bit or in [0, 1], atomically. Raises `UserError` if it cannot be written."""
    pixels = to_uint8(image) if isinstance(image, Tensor) else image
    encoded, data = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))
    if not encoded:
        raise ValueError(f"an image of shape {pixels.shape} cannot be written as PNG")
    atomically(Path(path), lambda partial: partial.write_bytes(data.tobytes()))


def read_png(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an RGB image that `write_png` wrote."""
    pixels = cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f"{path} is not an image")
    return np.asarray(pixels[..., ::-1], dtype=np.uint8)


def color_depth(depth: Float[Tensor, "*batch 1 h w"]) -> Float[Tensor, "*batch 3 h w"]:
    """Colours z-depths, near bright and far dark; values outside (NEAR, FAR) are background, and white."""
    depth = depth.detach().float().cpu()
    closeness = ((FAR - depth) / (FAR - NEAR)).clamp(0, 1)
    levels = (closeness * 255).round().to(torch.uint8).numpy()
    colors = cv2.applyColorMap(levels.reshape(-1, 1), cv2.COLORMAP_INFERNO)[..., ::-1]
    rgb = torch.from_numpy(colors.copy()).reshape(*levels.shape, 3).transpose(-1, -4).squeeze(-1).float() / 255
    return torch.where((depth > NEAR) & (depth < FAR), rgb, torch.ones_like(rgb))


def contact_sheet(
    rows: Sequence[tuple[str, Float[Tensor, "_ 3 _ _"]]],
    columns: int = 8,
    numbers: Sequence[int] | None = None,
    min_side: int = 96,
) -> UInt8[np.ndarray, "height width 3"]:
    """One readable picture of several labelled rows of images, those of a row of one size.

    The longest rows are sequences over the same views: they wrap together after `columns` views, so that the same view
    is always in the same column; `numbers`, if given, are these views' numbers for the labels. Shorter rows, such as
    the input, are above them. Images smaller than `min_side` are enlarged by a whole factor.
    """
    longest = max(len(images) for _, images in rows)
    blocks = [_strip(label, images, None, columns, min_side) for label, images in rows if len(images) < longest]
    sequences = [(label, images) for label, images in rows if len(images) == longest]
    for start in range(0, longest, columns):
        part = slice(start, start + columns)
        for label, images in sequences:
            blocks.append(_strip(label, images[part], numbers[part] if numbers else None, columns, min_side))
    width = max(block.shape[1] for block in blocks)
    padded = [np.pad(b, ((0, _GAP), (0, width - b.shape[1]), (0, 0)), constant_values=255) for b in blocks]
    return np.concatenate(padded)


def _strip(
    label: str, images: Float[Tensor, "view 3 h w"], numbers: Sequence[int] | None, columns: int, min_side: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Images side by side below a line of text."""
    scale = max(1, -(-min_side // min(images.shape[-2:])))
    pixels = to_uint8(images[:columns]).repeat(scale, axis=1).repeat(scale, axis=2)
    tiles = [np.pad(image, ((0, 0), (0, _GAP), (0, 0)), constant_values=255) for image in pixels]
    body = np.concatenate(tiles, axis=1)
    text = label if numbers is None else f"{label}  {numbers[0]}" + (f"-{numbers[-1]}" if len(numbers) > 1 else "")
    (text_width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)
    body = np.pad(body, ((0, 0), (0, max(0, text_width + 8 - body.shape[1])), (0, 0)), constant_values=255)
    head = np.full((_LABEL_HEIGHT, body.shape[1], 3), 255, np.uint8)
    cv2.putText(head, text, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    return np.concatenate([head, body])


def tile(images: Float[Tensor, "view 3 h w"], columns: int = 8) -> Float[Tensor, "3 height width"]:
    """Images side by side in rows of at most `columns`, the rest white."""
    columns = min(columns, len(images))
    white = images.new_ones(-len(images) % columns, *images.shape[1:])
    return rearrange(torch.cat([images, white]), "(row column) c h w -> c (row h) (column w)", column=columns)
