"""Cuts the object out of a photo: by its alpha, a mask file, a plain background, a segmentation network, or grabCut."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from mvgenvs.errors import UserError
from mvgenvs.mattes.grabcut import grabcut_matte
from mvgenvs.mattes.learned import installed_matte
from mvgenvs.mattes.plain import plain_matte
from mvgenvs.photos import read_image

AUTO, NONE = "auto", "none"
CLEAR_SHARE = 0.01  # of the picture: an alpha channel with fewer clear pixels is no cut but a defect
SMALLEST, LARGEST = 0.002, 0.97  # shares of the picture that an object may have

Matte = Float[np.ndarray, "h w"]  # 1 on the object, 0 on the background


@dataclass(frozen=True, eq=False, slots=True)
class Cut:
    """A photo and its object's matte."""

    image: Image.Image  # RGBA; the colours are the object's own, with no background mixed in where that is known
    notes: tuple[str, ...]  # sentences on how it was cut


def cut_out(image: Image.Image, matte: str = AUTO, path: str | os.PathLike[str] = "the image") -> Cut:
    """Cuts the object out of an upright RGBA photo.

    matte: "auto", "none", or the file of a grey mask of the photo's size, white on the object. `path` is the photo's,
        for messages. With "none", alpha is composited on white, and the result is opaque.

    Raises `UserError` if the mask is empty, covers the whole picture, or its file does not fit.
    """
    if matte == NONE:
        return Cut(_opaque(image), ("matte: none",))
    if matte != AUTO:
        return _with_matte(_opaque(image), read_mask_file(matte, image.size), f"from {matte}", path)
    if has_alpha(image):
        return _described(image, "alpha", path)
    flat = _opaque(image)
    rgb = np.array(flat)[..., :3]
    found = plain_matte(rgb)
    if found is not None:
        return _with_matte(Image.fromarray(found.colours).convert("RGBA"), found.matte, "plain background", path)
    notes: list[str] = []
    ways: list[tuple[str, Callable[[UInt8[np.ndarray, "h w 3"]], Matte | None]]] = [
        ("rembg", lambda rgb: installed_matte(rgb, notes)),
        ("grabcut", grabcut_matte),
    ]
    name, cut = next((name, cut) for name, way in ways if (cut := way(rgb)) is not None)
    done = _with_matte(flat, cut, name, path)
    return Cut(done.image, (*notes, *done.notes))


def has_alpha(image: Image.Image) -> bool:
    """Whether an RGBA image's alpha tells an object from its background."""
    alpha = np.asarray(image.getchannel("A"))
    return bool((alpha < 128).mean() >= CLEAR_SHARE)


def read_mask_file(path: str | os.PathLike[str], size: tuple[int, int]) -> Matte:
    """A grey mask of an image of `size` (width, height), in [0, 1]. Raises `UserError`."""
    mask = read_image(path, smallest=1)
    pixels = np.asarray(mask)
    if pixels[..., 3].min() < 255 or (pixels[..., :3] != pixels[..., :1]).any():
        raise UserError(f"--matte {path} must be a grey image without alpha, white on the object and black elsewhere.")
    if mask.size != size:
        raise UserError(
            f"--matte {path} has {mask.width}x{mask.height} pixels, but its image {size[0]}x{size[1]}: make them equal."
        )
    return pixels[..., 0].astype(np.float32) / 255


def _with_matte(image: Image.Image, matte: Matte, way: str, path: str | os.PathLike[str]) -> Cut:
    result = image.copy()
    result.putalpha(Image.fromarray((matte * 255).round().astype(np.uint8)))
    return _described(result, way, path)


def _described(image: Image.Image, way: str, path: str | os.PathLike[str]) -> Cut:
    """Checks the cut and says what it is. Raises `UserError`."""
    there = np.asarray(image.getchannel("A")) > 127
    share = float(there.mean())
    advice = "use --matte none for the picture as it is, or --matte FILE with a mask of your own"
    if share < SMALLEST:
        raise UserError(f"no object was found in {path} (matte: {way}): {advice}.")
    if share > LARGEST:
        raise UserError(f"the cut of {path} is the whole picture (matte: {way}): {advice}.")
    notes = [f"matte: {way}, {100 * share:.0f}% of the picture"]
    edges = {"left": there[:, 0], "right": there[:, -1], "top": there[0], "bottom": there[-1]}
    cut_off = [name for name, edge in edges.items() if edge.mean() > 0.02]
    if cut_off:
        notes.append(f"Warning: the object touches the picture's {' and '.join(cut_off)}, it may be cut off there.")
    return Cut(image, tuple(notes))


def _opaque(image: Image.Image) -> Image.Image:
    """Composited on white."""
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
