"""What the benchmarks share with the tests: plain reference implementations, and the views of a real object."""

import importlib.util
from pathlib import Path
from types import ModuleType

from mvgenvs.data.scenes import open_scenes
from mvgenvs.errors import UserError
from mvgenvs.views import ViewSet

TESTS = Path(__file__).resolve().parents[2] / "tests"


def plain_reference(name: str) -> ModuleType:
    """The module `tests/<name>.py`. Raises `UserError` where mvgenvs was installed without its tests."""
    path = TESTS / f"{name}.py"
    if not path.is_file():
        raise UserError(f"there is no {path}: the benchmarks compare with code of the tests and need a checkout")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # it is a .py file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sample_views() -> ViewSet:
    """Six views all around a car, 128 x 128."""
    return open_scenes(TESTS / "data" / "opencars_sample", "val", 128).read(0).view_set()
