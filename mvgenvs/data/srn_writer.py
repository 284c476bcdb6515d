"""Writes rendered objects in the SRN layout that `mvgenvs.data.srn` reads, with mattes, depth and metadata."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mvgenvs.cameras import Cameras
from mvgenvs.data.srn import DEPTH_SCALE
from mvgenvs.errors import UserError
from mvgenvs.folders import foreign_file, replace_folder, sweep
from mvgenvs.meshes.renderer import RenderedViews

FORMATS = ("png", "webp")  # both lossless here
ENCODING = {".webp": [cv2.IMWRITE_WEBP_QUALITY, 101], ".png": [cv2.IMWRITE_PNG_COMPRESSION, 9]}
FILES = re.compile(r"intrinsics\.txt|metadata\.json|(rgb|depth|mask)/\d{6}\.(png|webp)|pose/\d{6}\.txt")
PARTIAL = ".partial"  # the usual folder for objects that are being written, beside those of the splits


def write_object(
    folder: Path, partial_root: Path, views: RenderedViews, cameras: Cameras, form: str, metadata: dict[str, Any]
) -> None:
    """Writes `folder`, which appears only when it is complete; `partial_root` is for unfinished files.

        intrinsics.txt, metadata.json, rgb/NNNNNN.<form>, pose/NNNNNN.txt,
        depth/NNNNNN.png    uint16, z-depth times `DEPTH_SCALE`, 0 on the background
        mask/NNNNNN.png     uint8, the object's share of the pixel

    An existing folder is replaced. All cameras must share one K. Raises `UserError` if the disk is full or cannot be
    written, or `folder` was not written by this function.
    """
    check_object(folder)
    partial = partial_root / folder.name
    clear_partial(partial)
    try:
        for kind in ("rgb", "pose", "depth", "mask"):
            (partial / kind).mkdir(parents=True)
        (partial / "intrinsics.txt").write_text(_intrinsics(cameras))
        depths = np.round(views.depth.astype(np.float64) * DEPTH_SCALE).clip(0, 65535).astype(np.uint16)
        for number, c2w in enumerate(cameras.c2w.numpy()):
            stem = f"{number:06d}"
            _write_image(partial / "rgb" / f"{stem}.{form}", views.images[number][..., ::-1])
            _write_image(partial / "depth" / f"{stem}.png", depths[number])
            _write_image(partial / "mask" / f"{stem}.png", views.mask[number])
            (partial / "pose" / f"{stem}.txt").write_text(" ".join(f"{value:.8f}" for value in c2w.ravel()) + "\n")
        (partial / "metadata.json").write_text(json.dumps(metadata, indent=1, ensure_ascii=False) + "\n", "utf-8")
        replace_folder(folder, partial, partial_root / f"{folder.name}.old", _is_ours)
    except OSError as error:
        sweep(partial, _is_ours)
        raise UserError(f"cannot write {folder} ({error.strerror}): free space or choose another folder") from error


def check_object(folder: Path) -> None:
    """Raises `UserError` if the folder exists and holds anything that `write_object` did not write."""
    if not folder.exists():
        return
    try:
        known = json.loads((folder / "metadata.json").read_text("utf-8"))["id"] == folder.name
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    other = foreign_file(folder, _is_ours) if known else folder
    if other is not None:
        raise UserError(f"{other} was not written by this program: move it away, or choose another --output")


def clear_partial(folder: Path) -> None:
    """Deletes what killed runs have left of objects in `folder`. Raises `UserError` if it holds other files."""
    sweep(folder, lambda name: bool(re.fullmatch(rf"([^/]+/)?({FILES.pattern})", name)))
    if folder.exists():
        raise UserError(f"{folder} holds what this program did not write: move it away, or choose another --output")


def _is_ours(name: str) -> bool:
    return bool(FILES.fullmatch(name))


def _intrinsics(cameras: Cameras) -> str:
    """SRN's three blocks: focal length and principal point, grid centre and scale (unused), height and width."""
    K, (height, width) = cameras.K[0], cameras.hw
    return f"{K[0, 0]:.6f} {K[0, 2]:.6f} {K[1, 2]:.6f} 0.\n0. 0. 0.\n1.\n{height} {width}\n"


def _write_image(path: Path, pixels: np.ndarray) -> None:
    encoded, data = cv2.imencode(path.suffix, np.ascontiguousarray(pixels), ENCODING[path.suffix])
    if not encoded:
        raise OSError(0, f"cannot encode {path.name}")
    path.write_bytes(data.tobytes())
