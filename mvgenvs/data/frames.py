"""The pictures that a camera file names: decoded, cut out, straightened, and checked against their cameras."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Shaped, UInt8, UInt16

from mvgenvs.data.images import read_colour, read_depth, read_mask
from mvgenvs.errors import UserError
from mvgenvs.files import below
from mvgenvs.transforms import Frame, image_file

STEPS = 65535  # of a 16-bit depth map

# On white, alpha, depth in steps of the file's unit (0 where unknown).
Picture = tuple[
    UInt8[np.ndarray, "h w 3"],
    UInt8[np.ndarray, "h w"] | None,
    Shaped[np.ndarray, "h w"] | None,
]


def read_frames(folder: Path, cameras_from: str, frames: Iterable[Frame], hw: tuple[int, int]) -> Iterator[Picture]:
    """Decodes frames at their own size, which must be `hw`, as `cameras_from` says, a file or the like.

    A mask cuts the object out like alpha; a frame that has both shows what is in both. Raises `UserError` if a frame
    has no path, its path leads out of the folder, or its file is not as it should be.
    """
    where = str(folder / cameras_from)
    for frame in frames:
        if not frame.file_path:
            raise UserError(f"{where}: every frame needs a 'file_path', the name of its image")
        path = image_file(folder, frame.file_path, where)
        image, alpha = read_colour(path)
        if image.shape[:2] != hw:
            theirs, ours = (f"{size[1]}x{size[0]}" for size in (image.shape[:2], hw))
            raise UserError(f"{path} has {theirs} pixels, but {cameras_from} says {ours}")
        if frame.mask_path:
            mask = read_mask(below(folder, frame.mask_path, where), hw)
            image, alpha = _cut(image, alpha, mask)
        depth = read_depth(below(folder, frame.depth_path, where), hw) if frame.depth_path else None
        if (straight := frame.rectification) is not None:
            image, alpha = straight(image), None if alpha is None else straight(alpha)
            depth = None if depth is None else straight(depth, nearest=True)
        yield image, alpha, depth


def check_all_or_none(folder: Path, count: int, masks: Sequence[np.ndarray], depths: Sequence[np.ndarray]) -> None:
    """Raises `UserError` if only some of the `count` frames have a mask, or a depth map."""
    for kind, found in (("an alpha channel or a mask", masks), ("a depth map", depths)):
        if len(found) not in (0, count):
            raise UserError(f"only {len(found)} of the {count} frames of {folder} have {kind}: all or none")


def in_one_unit(
    depths: Sequence[Shaped[np.ndarray, "h w"]], units: Sequence[float]
) -> tuple[list[UInt16[np.ndarray, "h w"]], float]:
    """Depth maps in 16 bits with one unit for all of them.

    Maps that are so stay as they are; others get the finest steps in which the farthest of their points still fits.
    """
    if len(set(units)) <= 1 and all(depth.dtype == np.uint16 for depth in depths):
        return list(depths), (units or [1.0])[0]
    scaled: list[Float32[np.ndarray, "h w"]] = [
        depth.astype(np.float32) * np.float32(unit) for depth, unit in zip(depths, units, strict=True)
    ]
    unit = max(float(depth.max()) for depth in scaled) / STEPS or 1.0
    return [np.round(depth / np.float32(unit)).clip(0, STEPS).astype(np.uint16) for depth in scaled], unit


def _cut(
    image: UInt8[np.ndarray, "h w 3"], alpha: UInt8[np.ndarray, "h w"] | None, mask: UInt8[np.ndarray, "h w"]
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """The image on white outside the mask, and the share of each pixel that is left."""
    share = mask.astype(np.float32)[..., None] / 255
    on_white = np.round(image * share + 255 * (1 - share)).astype(np.uint8)
    kept = mask if alpha is None else np.round(alpha * share[..., 0]).astype(np.uint8)
    return on_white, kept
