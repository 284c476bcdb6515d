"""Which weights and which code a figure came from."""

import hashlib
import subprocess
from pathlib import Path

from mvgenvs.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent


def checkpoint_folder(checkpoint: str) -> Path:
    """The folder of a pipeline: a path, or the bundled one. Raises `UserError` where it holds no weights."""
    folder = REPOSITORY / "mvgenvs" / "pretrained" if checkpoint == "bundled" else Path(checkpoint)
    if next(folder.rglob("*.safetensors"), None) is None:
        raise UserError(f"found no weights (*.safetensors) under {folder}: give a pipeline folder as --checkpoint")
    return folder


def checkpoint_sha256(folder: Path) -> str:
    """One hash of the names and contents of all weights of a pipeline."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(f"{path.relative_to(folder).as_posix()}\n{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def commit() -> str | None:
    """The repository's commit, with "-dirty" behind it where files have changed since; None outside git."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
