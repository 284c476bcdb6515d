"""The weights, data and code that a result came from."""

import hashlib
import importlib.metadata

from mvgenvs.media import to_uint8
from mvgenvs.versions import versions
from mvgenvs.views import ViewSet

PACKAGES = ("accelerate", "lpips", "numpy", "opencv-python-headless", "scikit-image", "scipy", "torchvision")


def truth_sha256(views: ViewSet) -> str:
    """A hash of the images, rounded to 8 bits, in their order."""
    return hashlib.sha256(to_uint8(views.images).tobytes()).hexdigest()


def all_versions() -> dict[str, str | None]:
    """Versions of the packages that influence a result, and the commit; None for a package that is not installed."""

    def installed(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return versions() | {package: installed(package) for package in PACKAGES}
