"""Which code made a result: versions of the packages that influence it, and the commit of this checkout."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

import mvgenvs


def versions() -> dict[str, str | None]:
    """Versions of the packages that influence a result, and the commit of this checkout, if it is one."""
    return {
        "mvgenvs": mvgenvs.__version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": importlib.metadata.version("diffusers"),
    }


def git_commit() -> str | None:
    """The commit that the code was imported from, with "+" if tracked files differ; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
