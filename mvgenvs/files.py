"""Files that appear whole or not at all, and errors of writing in one sentence."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mvgenvs.errors import UserError

UMASK = os.umask(0)  # it can be read only by setting it
os.umask(UMASK)


def share(path: Path) -> None:
    """Makes a file readable to others like any new file: safetensors gives its files to their owner alone."""
    path.chmod(0o666 & ~UMASK)


def atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write` with a temporary name and renames the file: even after a crash, `path` is whole or absent.

    Raises `UserError` if it cannot be written, and leaves nothing behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        share(partial)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder may be one where no such file can exist
            partial.unlink()
        raise UserError(f"cannot write {path} ({error.strerror}): free some space or choose another folder") from error


def below(folder: Path, path: str, told_by: str) -> Path:
    """`folder / path`, for a path that a file of others holds, `told_by`. Raises `UserError` if it leads elsewhere."""
    if Path(path).is_absolute() or Path(os.path.normpath(path)).parts[:1] == (os.pardir,):
        raise UserError(f"{told_by}: '{path}' leads out of the folder: put it below {folder}")
    return folder / path


def write_text(path: Path, text: str) -> None:
    """Writes atomically."""
    atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
