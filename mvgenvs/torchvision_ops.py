"""Makes a torchvision compiled for CUDA importable beside a CPU build of torch.

PyPI's torchvision is compiled for CUDA. Beside CPU torch its extension cannot be loaded, its import then fails with
"operator torchvision::nms does not exist", and diffusers, transformers and lpips fail with it. Nothing here needs the
two operators that its import asks for: declaring them without an implementation is enough.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: Any = None  # operators live as long as the torch.library.Library that declares them


class _BeforeTorchvision:  # importlib.abc's base class would take as long to import as the rest of --help
    """A finder of modules that finds nothing; being asked for torchvision, it declares what that misses."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            declare_missing_torchvision_ops()


def mend_torchvision_on_import() -> None:
    """Declares them when torchvision is imported, and imports torch no earlier."""
    sys.meta_path.insert(0, _BeforeTorchvision())


def declare_missing_torchvision_ops() -> bool:
    """Declares torchvision's `nms` and `qnms` where its own extension is there but cannot be loaded.

    Must run before torchvision is imported. Returns whether anything was declared; does nothing where torchvision is
    absent, works, or has been dealt with before.
    """
    import torch

    global _declared
    if _declared is not None:
        return False
    extension = _extension()
    if extension is None or _loads(extension) or hasattr(torch.ops.torchvision, "nms"):
        return False
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        _declared.define(name + _SCHEMA)
    return True


def _extension() -> Path | None:
    """The compiled extension of the installed torchvision, found without importing torchvision."""
    import importlib.util

    try:
        spec = importlib.util.find_spec("torchvision")
    except ValueError:  # a stand-in module without a spec
        return None
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((path for folder in folders for path in sorted(Path(folder).glob("_C*.so"))), None)


def _loads(extension: Path) -> bool:
    """Whether the extension can be loaded; if so it now is, and torchvision's own loading finds it done."""
    import torch

    try:
        torch.ops.load_library(extension)
    except (ImportError, OSError):
        return False
    return True
