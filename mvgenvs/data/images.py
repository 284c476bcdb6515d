"""Decoding of image files into 8-bit colour on white, masks and depth maps, and their resizing."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, Shaped, UInt8, UInt16
from PIL import Image

from mvgenvs.errors import UserError
from mvgenvs.limits import check_pixels

_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def read_colour(path: Path) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"] | None]:
    """An image composited on white, and its alpha if it has any. Orientation tags are ignored, as cameras do.

    Raises `UserError` if the file is missing, damaged, truncated, or not of 8 bits.
    """
    image = _open(path)
    if image.mode not in _EIGHT_BIT_MODES:
        raise UserError(f"{path} is not an 8-bit image (its mode is {image.mode}): convert it")
    if image.mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
        return np.array(image.convert("RGB")), None
    rgba = np.array(image.convert("RGBA"))
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.round(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8), rgba[..., 3]


def read_mask(path: Path, hw: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """The object's share of each pixel, 0 to 255; errors as in `read_colour`, and if its size is not `hw`."""
    image = _open(path)
    if image.mode not in ("1", "L"):
        raise UserError(f"{path} is not an 8-bit grey image, as a mask must be (its mode is {image.mode})")
    return _of_size(np.array(image.convert("L")), hw, path)


def read_depth(path: Path, hw: tuple[int, int]) -> UInt16[np.ndarray, "h w"] | Float32[np.ndarray, "h w"]:
    """A 16-bit depth map, or one of any numbers in an .npy file, in which what is not above 0 becomes 0, unknown.

    Errors as in `read_mask`.
    """
    if path.suffix.lower() == ".npy":
        return _read_array(path, hw)
    image = _open(path)
    if not image.mode.startswith("I;16"):
        raise UserError(f"{path} is not a 16-bit grey image or .npy file, as depth maps are: its mode is {image.mode}")
    return _of_size(np.array(image).astype(np.uint16), hw, path)


def _read_array(path: Path, hw: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: its shape is known before it is read
    except FileNotFoundError:
        raise UserError(f"there is no depth map {path}") from None
    except Exception:  # of a damaged header, numpy raises almost anything
        raise UserError(f"{path} is damaged or not an .npy file: write it anew") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise UserError(f"{path} holds no array of numbers, as a depth map must")
    array = array[..., 0] if array.shape == (*hw, 1) else array
    if array.ndim != 2:
        raise UserError(f"{path} has the shape {array.shape}, but a depth map has rows and columns only")
    depth = np.asarray(_of_size(array, hw, path), dtype=np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image; errors as in `read_colour`."""
    try:
        with Image.open(path) as file:
            return file.height, file.width
    except Exception:  # of a damaged header, Pillow raises almost anything
        raise UserError(f"{path} is damaged or not an image: write it anew") from None


def resized(pixels: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """An image or mask at another size, (height, width) or a square's: the mean over each new pixel's area."""
    hw = (size, size) if isinstance(size, int) else size
    if pixels.shape[:2] == hw:
        return pixels
    return cv2.resize(pixels, hw[::-1], interpolation=cv2.INTER_AREA)


def resized_depth(depth: Shaped[np.ndarray, "h w"], size: int | tuple[int, int]) -> Shaped[np.ndarray, "new_h new_w"]:
    """A depth map at another size, (height, width) or a square's: the value nearest to each new pixel's centre.

    Means would put surfaces where there are none: half-way between the object and the background at its edge.
    """
    hw = (size, size) if isinstance(size, int) else size
    if depth.shape == hw:
        return depth
    return cv2.resize(depth, hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            check_pixels(file.width, file.height, str(path))
            file.load()
            return file
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no image {path}") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path} is too large: scale it down, its intrinsics too") from None
    except Exception:  # of a broken file, Pillow's decoders raise almost anything
        raise UserError(f"{path} is damaged or not an image: write it anew") from None


def _of_size(pixels: np.ndarray, hw: tuple[int, int], path: Path) -> np.ndarray:
    if pixels.shape != hw:
        theirs = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise UserError(f"{path} has {theirs} pixels, but its view has {hw[1]}x{hw[0]}: they must be equal")
    return pixels
