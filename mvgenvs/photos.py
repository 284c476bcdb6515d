"""Photos as users have them, turned into the model's input: square, on white, the object framed as in training.

In training, a camera with a focal length of 131.25/128 image widths is 1.3 from an object whose bounding box has a
diagonal of 1. Measured on the 1,074 OpenCars training views at elevations of 14 to 26 degrees: seen from three quarters
in front, the diagonal of the silhouette's bounding box is 0.77 +- 0.04 of the image's side, and the middle of the box
lies at (0.50, 0.56) of the image; over all azimuths the diagonal spans 0.55 to 0.85.
"""

import math
import os
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from mvgenvs.errors import UserError
from mvgenvs.limits import check_pixels
from mvgenvs.views import with_matte

MIN_SIDE = 32  # pixels; below this no car is recognisable
WHITE_FROM = 245  # JPEG's noise on a white background stays above this
DIAGONAL, CENTER_X, CENTER_Y = 0.77, 0.50, 0.56
FRAMED_DIAGONALS, FRAMED_OFFSET = (0.50, 0.90), 0.10


@dataclass(frozen=True, eq=False, slots=True)
class Photo:
    """A photo in the form that the model takes."""

    image: Float[Tensor, "3 h w"]  # RGB in [0, 1] on white
    matte: Float[Tensor, "1 h w"] | None  # its alpha, if it has one
    notes: tuple[str, ...]  # sentences on what was done to the photo, and what was assumed

    @property
    def rgba(self) -> Float[Tensor, "4 h w"]:
        """The image with its matte, see `with_matte`."""
        return with_matte(self.image, self.matte)


def read_image(path: str | os.PathLike[str], smallest: int = MIN_SIDE) -> Image.Image:
    """A photo as an upright 8-bit RGBA image; the first frame of an animation.

    16-bit greys are scaled down; floating-point images are taken to lie in [0, 1]. Raises `UserError` if the image is
    missing, broken, too large, or has a side of fewer than `smallest` pixels.
    """
    try:
        with Image.open(path) as file:
            check_pixels(file.width, file.height, f"image {path}")
            file.load()
            image = ImageOps.exif_transpose(file)
            if image.mode[0] in "IF":
                image = _grey_from_wide(image)
            image = image.convert("RGBA")
    except FileNotFoundError:
        raise UserError(f"no such image: {path}.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, name an image in it.") from None
    except PermissionError:
        raise UserError(f"image {path} cannot be read, check its permissions.") from None
    except Image.DecompressionBombError:
        raise UserError(f"image {path} is too large, scale it down to less than 10,000 pixels a side.") from None
    except UserError:
        raise
    except Exception:  # of a broken file, Pillow's decoders raise almost anything
        raise UserError(f"{path} is not an image that can be read, or is truncated: use a PNG or JPEG file.") from None
    if min(image.size) < smallest:
        raise UserError(
            f"image {path} is too small ({image.width}x{image.height}), it needs {smallest} pixels on each side."
        )
    return image


def frame_photo(image: Image.Image, size: int, reframe: bool = True) -> Photo:
    """Turns an RGBA image into a square of `size` pixels on white.

    An object with alpha or on a white background is cropped and scaled into the frame as in training, unless it is
    already framed like that. `reframe=False` keeps the framing, as a known camera requires. An image that is not square
    is then cropped to its middle square. Raises `UserError` if it shows nothing.
    """
    alpha = np.asarray(image.getchannel("A"))
    has_alpha = bool(alpha.min() < 255)
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    flat.putalpha(image.getchannel("A"))
    alpha_mask = alpha > 12 if has_alpha else None
    mask = _object_mask(np.asarray(flat)[..., :3], alpha_mask)
    notes = ["The background was replaced by white."] if has_alpha else []
    if mask is not None and not mask.any():
        raise UserError("the image shows nothing but background, use a picture of a car.")
    if reframe and mask is not None:
        box = _bounding_box(mask)
        if not _is_framed(box, image.size):
            flat = _reframed(flat, box)
            notes.append("The object was cropped and scaled into the frame as in training.")
    elif reframe:
        notes.append(
            "Warning: the photo has neither transparency nor a white background, cut the object out for better results."
        )
    if flat.width != flat.height:
        notes.append(f"The photo was cropped to its middle square ({min(flat.size)} pixels).")
        flat = _middle_square(flat)
    if flat.width != size:
        flat = Image.merge("RGBA", [band.resize((size, size), Image.Resampling.LANCZOS) for band in flat.split()])
    pixels = torch.from_numpy(np.array(flat)).permute(2, 0, 1).float() / 255
    return Photo(pixels[:3], pixels[3:] if has_alpha else None, tuple(notes))


def _grey_from_wide(image: Image.Image) -> Image.Image:
    """8-bit grey from 16-bit integers (full scale 65535) or floats (full scale 1)."""
    full_scale = 1.0 if image.mode == "F" else 65535.0
    grey = np.nan_to_num(np.asarray(image, dtype=np.float64) / full_scale)
    return Image.fromarray((grey.clip(0, 1) * 255).round().astype(np.uint8))


def _object_mask(rgb: UInt8[np.ndarray, "h w 3"], alpha: Bool[np.ndarray, "h w"] | None) -> np.ndarray | None:
    """Where the object is, or None if there is neither alpha nor a uniformly white border."""
    if alpha is not None:
        return alpha
    white: np.ndarray = rgb.min(axis=-1) >= WHITE_FROM
    border = np.concatenate([white[0], white[-1], white[:, 0], white[:, -1]])
    return ~white if border.mean() > 0.98 else None


def _bounding_box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of a mask; a single stray pixel in a row or column does not count."""
    columns, rows = mask.sum(axis=0), mask.sum(axis=1)
    stray = 1 if min(columns.max(), rows.max()) > 4 else 0
    (x,), (y,) = np.nonzero(columns > stray), np.nonzero(rows > stray)
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1


def _is_framed(box: tuple[int, int, int, int], size: tuple[int, int]) -> bool:
    """Whether a bounding box has about the place and size in a square image that it has in training."""
    if size[0] != size[1]:
        return False
    left, top, right, bottom = (edge / size[0] for edge in box)
    centered = abs((left + right) / 2 - CENTER_X) < FRAMED_OFFSET and abs((top + bottom) / 2 - CENTER_Y) < FRAMED_OFFSET
    return centered and FRAMED_DIAGONALS[0] < math.hypot(right - left, bottom - top) < FRAMED_DIAGONALS[1]


def _reframed(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """The square crop in which the bounding box lies as in training, white beyond the image."""
    left, top, right, bottom = box
    side = max(round(math.hypot(right - left, bottom - top) / DIAGONAL), right - left, bottom - top)
    x, y = round((left + right) / 2 - CENTER_X * side), round((top + bottom) / 2 - CENTER_Y * side)
    canvas = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    # Only the object: the rest of the photo's background may be a shade darker than the canvas.
    left, top = max(left - 2, 0), max(top - 2, 0)
    canvas.paste(
        image.crop((left, top, min(right + 2, image.width), min(bottom + 2, image.height))), (left - x, top - y)
    )
    return canvas


def _middle_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
