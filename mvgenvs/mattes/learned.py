"""Mattes by `rembg`'s segmentation networks, if the extra `matte` is installed. It fetches its weights itself, once."""

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

MODEL = "isnet-general-use"  # under Apache-2.0; rembg's default model is not free for commercial use


def installed_matte(rgb: UInt8[np.ndarray, "h w 3"], notes: list[str]) -> Float[np.ndarray, "h w"] | None:
    """The matte by rembg; None if it is not installed, or its weights cannot be had, which is added to `notes`."""
    if find_spec("rembg") is None:
        return None
    try:
        session = _session(MODEL)
    except (OSError, ValueError, RuntimeError) as error:  # no network: requests' errors are OSErrors
        reason = str(error).strip().partition("\n")[0]
        notes.append(f"Warning: rembg cannot load its model ({type(error).__name__}: {reason[:200]}).")
        return None
    return rembg_matte(rgb, session)


def rembg_matte(rgb: UInt8[np.ndarray, "h w 3"], session: Any) -> Float[np.ndarray, "h w"]:
    """The matte that a session of rembg (see its `new_session`) finds."""
    from rembg import remove

    mask = remove(Image.fromarray(rgb), session=session, only_mask=True)
    return np.asarray(mask.convert("L"), dtype=np.float32) / 255


@lru_cache(maxsize=1)
def _session(model: str) -> Any:
    from rembg import new_session

    return new_session(model)
