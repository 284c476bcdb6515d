"""Files that appear whole or not at all, and failures of writing told in one sentence."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mvgenvs.errors import UserError

UMASK = os.umask(0)  # which can only be read by setting it
os.umask(UMASK)


def share(path: Path) -> None:
    """Lets others read a file as they may read any new one: safetensors writes for its owner alone."""
    path.chmod(0o666 & ~UMASK)


def atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Has `write` fill a file under a temporary name; after a crash the file at `path` is whole or absent.

    Raises `UserError` where it cannot be written, and leaves nothing behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        share(partial)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # where there can be no such file
            partial.unlink()
        raise UserError(f"cannot write {path} ({error.strerror}): free some space or choose another folder") from error


def write_text(path: Path, text: str) -> None:
    """Writes atomically."""
    atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
