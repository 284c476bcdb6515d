"""Which weights, data and code a figure came from."""

import hashlib
import importlib.metadata
from pathlib import Path

from mvgenvs.media import to_uint8
from mvgenvs.runtime import versions
from mvgenvs.views import ViewSet

PACKAGES = ("accelerate", "lpips", "numpy", "opencv-python-headless", "scikit-image", "scipy", "torchvision")


def checkpoint_sha256(folder: Path) -> str:
    """One hash of the names and contents of all weights of a pipeline."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(f"{path.relative_to(folder).as_posix()}\n{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def truth_sha256(views: ViewSet) -> str:
    """One hash of the images, rounded to 8 bits, in their order."""
    return hashlib.sha256(to_uint8(views.images).tobytes()).hexdigest()


def all_versions() -> dict[str, str | None]:
    """Versions of what decides a figure, and the commit; None for a package that is not installed."""

    def installed(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return versions() | {package: installed(package) for package in PACKAGES}
