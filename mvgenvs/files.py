"""Files that appear whole or not at all, and errors of writing in one sentence."""

import contextlib
import os
import re
import socket
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mvgenvs.errors import UserError
from mvgenvs.limits import leads_out

MACHINE = f"{zlib.crc32(socket.gethostname().encode()):08x}"  # another one numbers its processes by itself
UNFINISHED = re.compile(r"\.(?P<name>.+)\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)\.unfinished")
UMASK = os.umask(0)  # it can be read only by setting it
os.umask(UMASK)


def share(path: Path) -> None:
    """Makes a file readable to others like any new file: safetensors gives its files to their owner alone."""
    path.chmod(0o666 & ~UMASK)


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, and renames it at the block's end: `path` is whole or absent.

    A block that writes nothing leaves nothing. Raises `UserError` if the file cannot be written. However the block
    ends, the temporary file is gone; only a killed process leaves it, until `clear_unfinished`.
    """
    partial = path.with_name(f".{path.name}.{MACHINE}-{os.getpid()}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if partial.exists():
            share(partial)
            partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the folder may be one where no such file can exist
            partial.unlink()
        if (reason := reason_of(error)) is None:
            raise
        raise UserError(f"cannot write {path} ({reason}): free some space or choose another folder") from error


def clear_unfinished(folder: Path) -> None:
    """Deletes temporary files of `written` that killed processes of this machine have left in the folder, if any."""
    for path in folder.glob(".*.unfinished"):
        match = UNFINISHED.fullmatch(path.name)
        if match and match["machine"] == MACHINE and not _is_alive(int(match["process"])):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_alive(process: int) -> bool:
    """Whether there is such a process, as far as the system tells."""
    if os.name == "nt":  # where a signal of 0 is no question
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        pass
    return True


def reason_of(error: BaseException) -> str | None:
    """Why a file could not be written, in the system's words; None if the error is of another kind."""
    if isinstance(error, SafetensorError):  # which hides the system's
        return str(error).strip().partition("\n")[0]
    return (error.strerror or str(error)) if isinstance(error, OSError) else None


def atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write` with a temporary name and renames the file; see `written`."""
    with written(path) as partial:
        write(partial)


def below(folder: Path, path: str, told_by: str) -> Path:
    """`folder / path`, for a path that a file of others holds, `told_by`. Raises `UserError` if it leads elsewhere."""
    if leads_out(path):
        raise UserError(f"{told_by}: '{path}' leads out of the folder: put it below {folder}")
    return folder / path


def write_text(path: Path, text: str) -> None:
    """Writes atomically."""
    atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
