"""Limits on what is read from files of others, so that a small file cannot fill the memory."""

import struct
import zipfile
from pathlib import Path, PurePosixPath

from mvgenvs.errors import UserError

PIXELS = 100_000_000  # of a picture: 400 MB as RGBA
FILE_BYTES = 1 << 30  # of a mesh, or of a file with cameras
MEMBER_BYTES = 1 << 29  # of an archive's member, unpacked
ARCHIVE_BYTES = 1 << 33  # of all members that are unpacked
CORNERS = 50_000_000  # of a mesh's polygons


def check_pixels(width: int, height: int, label: str) -> None:
    """Raises `UserError` for a picture with too many pixels; `label` is what the user calls it."""
    if width * height > PIXELS:
        raise UserError(f"{label} is too large ({width}x{height}), scale it down to less than 10,000 pixels a side")


def check_bytes(path: Path) -> None:
    """Raises `UserError` for a file that is too long to be what it should be, `OSError` if there is none."""
    if path.stat().st_size > FILE_BYTES:
        raise UserError(f"{path} is longer than {FILE_BYTES} bytes: is it the right file?")


def open_zip(path: Path) -> zipfile.ZipFile:
    """Raises `BadZipFile` if it is damaged in whatever way, or of an unknown version; `OSError` if it is not there."""
    try:
        return zipfile.ZipFile(path)
    except (NotImplementedError, ValueError, OverflowError, struct.error, EOFError) as error:
        raise zipfile.BadZipFile(str(error)) from error


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member of a zip archive. Raises `KeyError` if there is none, `BadZipFile` if it cannot be unpacked or is large.

    No more than the size that it claims is ever unpacked.
    """
    info = archive.getinfo(name)
    if info.file_size > MEMBER_BYTES:
        raise zipfile.BadZipFile(f"{name} has {info.file_size} bytes")
    try:
        return archive.read(info)
    except (RuntimeError, ValueError, OverflowError, struct.error) as error:  # encrypted, or packed in an unknown way
        raise zipfile.BadZipFile(str(error)) from error


def leads_out(path: str) -> bool:
    """Whether a path that a file of others holds leads out of its folder, on any system."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    depth = 0
    for part in parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return path.startswith(("/", "\\")) or path[1:2] == ":"
