"""Texture images in the form that every mesh loader returns: RGBA, 8 bits, top row first."""

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mvgenvs.errors import UserError
from mvgenvs.limits import check_pixels


def read_texture(
    source: str | Path | bytes, name: str | None = None, max_size: int | None = None
) -> UInt8[np.ndarray, "h w 4"]:
    """Reads an image (PNG, JPEG, SGI .rgb, TGA, …) from a path, or from the bytes of a member of an archive.

    `name` is what errors call the image; a path names itself. If `max_size` is given, the longer side is reduced to it:
    a 2048-pixel texture adds nothing to a picture of 128 pixels.

    Raises `UserError` if the image is missing, damaged, or of a kind that Pillow does not know.
    """
    label = name or ("a texture" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise UserError(f"there is no texture {label}")
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            check_pixels(image.width, image.height, f"texture {label}")
            texture = image.convert("RGBA")
    except UserError:
        raise
    # For a damaged file, Pillow's decoders raise almost anything: IndexError, struct.error, SyntaxError …
    except Exception as error:
        raise UserError(f"cannot read texture {label} as an image: is the file whole?") from error
    if max_size is not None and max(texture.size) > max_size:
        texture.thumbnail((max_size, max_size), Image.Resampling.BOX)
    return np.asarray(texture)
