"""The kinds of files that views can be exported to, and what each needs. Imports nothing heavy, for --help."""

import importlib.util
from collections.abc import Sequence

from mvgenvs.errors import UserError

FILES = {"glb": "mesh.glb", "ply": "points.ply", "splats": "splats.ply"}
FEWEST_VIEWS = 3
_MESH_MODULES = ("skimage", "scipy", "xatlas", "trimesh")


def check_export(formats: Sequence[str], num_views: int) -> None:
    """Raises `UserError` if these formats cannot be made of so many views, or without a package that is missing."""
    if formats and num_views < FEWEST_VIEWS:
        raise UserError(f"--export needs at least {FEWEST_VIEWS} views, and this trajectory has {num_views}")
    if "glb" in formats:
        require_mesh_packages("--export glb")


def require_mesh_packages(purpose: str) -> None:
    """Raises `UserError` if a package of the extra `mesh` is missing; `purpose` is what needs it."""
    missing = [name for name in _MESH_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{purpose} needs {' and '.join(missing)}: run `pip install 'mvgenvs[mesh]'`")
